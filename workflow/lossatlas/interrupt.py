"""SIGTERM and SIGUSR1: a job that is told to stop keeps what it has computed and exits so that it is resumed.

Clusters send them before they take a machine away. Outside ``deferred`` a signal ends the job at once (stores
survive that at any instant); inside, the loop is told and ends after its current unit.
"""

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from lossatlas.errors import LossAtlasError

STATUS = 75
"""Exit status of a job that was stopped and can go on ("temporary failure" in BSD's sysexits.h)."""

_deferred = False
_received: str | None = None


class Interrupted(LossAtlasError):
    """The job was told to stop; the same command goes on where it stopped."""


class Dropped(Exception):
    """A unit was given up in good order, because the job was told to stop; its state is saved."""


def listen() -> None:
    """React to SIGTERM and SIGUSR1 from now on."""
    for number in (signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, _receive)


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
    if not _deferred:
        raise Interrupted(f"stopped by {_received}; run the same command again to go on")
