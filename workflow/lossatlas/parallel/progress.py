"""Progress of long loops: a bar on a terminal, a line every few seconds in a log, both with the time left."""

import sys
import time

from tqdm import tqdm


class Progress:
    """Count towards ``total`` units and show how far it is and how long it will still take.

    ``update(done)`` takes the absolute number of finished units, because with several ranks the number
    comes from a shared counter. Units that were found finished count as done but not towards the speed.
    """

    def __init__(self, label: str, total: int, found: int = 0, unit: str = "units", every: float = 2.0):
        self.label, self.total, self.found, self.unit, self.every = label, total, found, unit, every
        self._start = self._last = time.monotonic()
        self._bar = None
        if sys.stderr.isatty():
            self._bar = tqdm(total=total, initial=found, desc=label, unit=unit, dynamic_ncols=True)

    def update(self, done: int) -> None:
        """Show that ``done`` of ``total`` units are finished (at most every few seconds in a log)."""
        done = min(done, self.total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last >= self.every and done < self.total:
            self._last = now
            print(f"{self.label}: {done}/{self.total} {self.unit}, {self._left(done, now)}", flush=True)

    def close(self, done: int | None = None) -> None:
        """Show the end of the loop."""
        seconds = time.monotonic() - self._start
        if self._bar is not None:
            self._bar.update((self.total if done is None else done) - self._bar.n)
            self._bar.close()
        done = self.total if done is None else done
        print(f"{self.label}: {done}/{self.total} {self.unit} in {seconds:.1f} s", flush=True)

    def _left(self, done: int, now: float) -> str:
        computed = done - self.found
        if computed <= 0:
            return "time left unknown yet"
        seconds = (self.total - done) * (now - self._start) / computed
        return f"{_duration(seconds)} left"


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"
