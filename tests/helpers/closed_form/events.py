"""Events of a job: evaluations of its loss, and changes of its files; a test may end the job at any of them.

Environment (each optional):
    EVENTS_KILL: "RANK WHAT NUMBER"; kill -9 of this rank before its event of that number, counted from 1.
    EVENTS_HOLD: "RANK WHAT NUMBER FILE"; this rank makes the file FILE-RANK there, and waits until it is told to stop
        or the file is gone.
    EVENTS_COUNT: folder where each rank leaves the number of its events.
RANK may be ``all``. WHAT is ``evaluate`` (in closed form only), ``unit`` (a chunk of results takes its place), an audit
event of Python's such as ``os.symlink``, or ``any``.
"""

import atexit
import os
import re
import signal
import sys
import threading
import time
from collections import Counter
from pathlib import Path

CHANGES = {"os.rename", "os.link", "os.symlink", "os.mkdir", "os.remove", "os.rmdir", "os.truncate"}
RESULTS = re.compile("/(work/rows|parameters)/c/")
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
RANK = int(os.environ.get("PMI_RANK", "0"))

_counts: Counter = Counter()
_lock = threading.RLock()  # Zarr writes from threads of its own


def listen() -> None:
    """Count from now on the changes of files below folders called results."""
    sys.addaudithook(_audit)
    if folder := os.environ.get("EVENTS_COUNT"):
        atexit.register(lambda: Path(folder, str(RANK)).write_text(str(_counts["any"])))


def happens(what: str) -> None:
    """Count an event, and do what the test asks for at this one."""
    with _lock:
        _counts.update((what, "any"))
        counts = {name: _counts[name] for name in (what, "any")}
    if _asked("EVENTS_KILL", counts) is not None:
        os.kill(os.getpid(), signal.SIGKILL)
    if hold := _asked("EVENTS_HOLD", counts):
        _wait(Path(f"{hold[0]}-{RANK}"))


def _audit(event: str, arguments: tuple) -> None:
    if event == "open":
        path, _, flags = arguments
        changed = isinstance(flags, int) and flags & WRITING
    else:
        path, changed = arguments[:2], event in CHANGES
    if changed and "results" in str(path):
        unit = event == "os.rename" and RESULTS.search(str(arguments[1]))
        happens("unit" if unit else event)


def _asked(variable: str, counts: dict[str, int]) -> list[str] | None:
    """Return what follows rank, event and number in a variable that names the present event, else None."""
    if variable not in os.environ:
        return None
    rank, what, number, *rest = os.environ[variable].split()
    return rest if rank in ("all", str(RANK)) and counts.get(what) == int(number) else None


def _wait(mark: Path) -> None:
    from lossatlas.parallel import signals

    mark.touch()
    while mark.exists() and not signals.requested():
        time.sleep(0.01)
