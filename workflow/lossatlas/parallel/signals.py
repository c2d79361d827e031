"""SIGTERM, SIGUSR1 and Ctrl-C: a job that is told to stop keeps what it has computed and exits so that it is resumed.

Clusters send the first two before they take a machine away. Outside ``deferred`` a signal ends the process at once,
without an exception, which libraries could swallow or take for an error of theirs; stores survive that at any
instant. Inside, the loop is told and ends after its current unit; only Ctrl-C does not wait for that.
"""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

STATUS = 75
"""Exit status of a job that was stopped and can go on ("temporary failure" in BSD's sysexits.h)."""

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)

_deferred = False
_received: str | None = None


class Interrupted(BaseException):
    """The job was told to stop; the same command goes on where it stopped. No error: ``except Exception`` passes it."""


class Dropped(BaseException):
    """A unit was given up in good order, because the job was told to stop; its state is saved."""


def say(text: str) -> None:
    """Write a line to standard error, unbuffered: a signal may have come while a buffer was being written."""
    with suppress(OSError, RuntimeError):
        sys.stdout.flush()
    with suppress(OSError):
        os.write(2, f"{text}\n".encode())


_leave: Callable[[str], Any] = say


def listen(leave: Callable[[str], Any] | None = None) -> None:
    """React to the signals from now on.

    Args:
        leave: called with what to say before the process ends; by default the text is written to standard error.
    """
    global _leave
    _leave = leave or _leave
    for number in SIGNALS:
        signal.signal(number, _receive)


def ignore() -> None:
    """Ignore the signals from now on: all is done or has failed, and the process is about to end."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


def requested() -> str | None:
    """Return the name of the signal that asked the loop inside ``deferred`` to end, None if none came."""
    return _received


@contextmanager
def deferred() -> Iterator[None]:
    """Let the loop inside ask ``requested`` instead of ending at once."""
    global _deferred
    _deferred = True
    try:
        yield
    finally:
        _deferred = False


def _receive(number: int, _frame: Any) -> None:
    global _received
    _received = signal.Signals(number).name
    if _deferred and number != signal.SIGINT:
        return
    ignore()
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)  # the reader may be gone: that does not change the status
    try:
        _leave(f"stopped by {_received}; run the same command again to go on")
        helpers = sys.modules.get("multiprocessing")
        for child in helpers.active_children() if helpers else []:
            child.kill()
        if _others_would_wait():
            signal.signal(signal.SIGTERM, signal.SIG_DFL)
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        os._exit(STATUS)


def _others_would_wait() -> bool:
    """Return whether this is a rank that MPI does not know yet: MPICH's launcher then ends the others only when this
    one dies of a signal, and they would wait for it in MPI's start."""
    started = hasattr(sys.modules.get("mpi4py.MPI"), "COMM_WORLD")
    return int(os.environ.get("PMI_SIZE", 1)) > 1 and not started
