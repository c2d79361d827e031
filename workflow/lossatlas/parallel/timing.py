"""What each rank of a job spends its time on."""

import os
import time
from dataclasses import dataclass, field


@dataclass
class Timing:
    """What one rank did: units, alone or with others, and seconds by activity. ``with timing("compute"): ...``"""

    units: int = 0
    ranks_per_unit: int = 1
    seconds: dict[str, float] = field(default_factory=dict)
    started: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        # What passed before the first line of ours: interpreter, imports, MPI's start.
        self.seconds["start-up"] = max(0.0, time.time() - _process_start())

    def __call__(self, activity: str) -> "_Stopwatch":
        return _Stopwatch(self, activity)

    def move(self, of: str, to: str, seconds: float) -> None:
        """Count some seconds of one activity as another."""
        if seconds:
            self.seconds[of] = self.seconds.get(of, 0.0) - seconds
            self.seconds[to] = self.seconds.get(to, 0.0) + seconds

    def wall(self) -> float:
        """Return the seconds since this rank's first line."""
        return time.monotonic() - self.started

    def record(self, rank: int) -> dict:
        """Return the rank's record; what no activity accounts for is ``other``."""
        wall = self.wall()
        spent = sum(s for name, s in self.seconds.items() if name != "start-up")
        seconds = {**self.seconds, "other": max(0.0, wall - spent)}
        seconds = {activity: round(spent, 4) for activity, spent in seconds.items()}
        return {"rank": rank, "units": self.units, "ranks_per_unit": self.ranks_per_unit, "seconds": seconds}


@dataclass
class _Stopwatch:
    timing: Timing
    activity: str
    start: float = 0.0

    def __enter__(self) -> None:
        self.start = time.monotonic()

    def __exit__(self, *_: object) -> None:
        spent = time.monotonic() - self.start
        self.timing.seconds[self.activity] = self.timing.seconds.get(self.activity, 0.0) + spent


def _process_start() -> float:
    """Return the clock time at which this process began (Linux; elsewhere now)."""
    try:
        with open("/proc/self/stat") as file:
            ticks = int(file.read().rsplit(")", 1)[1].split()[19])
        with open("/proc/stat") as file:
            boot = next(int(line.split()[1]) for line in file if line.startswith("btime"))
        return boot + ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, StopIteration, ValueError):
        return time.time()
