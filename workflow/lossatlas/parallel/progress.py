"""Progress of long loops: a bar on a terminal and in Jupyter, a line every few seconds in a log, with the time left."""

import sys
import time
import warnings
from typing import Any, Protocol

import numpy as np

DELAY = 1.0
"""Seconds after which a bar appears: what is done before needs none."""


class Progress:
    """Count towards ``total`` units and show how far it is and how long it will still take.

    ``update(done)`` takes the absolute number of finished units, because with several ranks the number
    comes from a shared counter. Units that were found finished count as done but not towards the speed. Where somebody
    looks on nothing is printed.
    """

    def __init__(self, label: str, total: int, found: int = 0, unit: str = "units", every: float = 2.0):
        self.label, self.total, self.found, self.unit, self.every = label, total, found, unit, every
        self._start = self._last = time.monotonic()
        looks = {"desc": label, "unit": f" {unit}", "dynamic_ncols": True, "delay": DELAY}
        self._in_log = not _watched()
        # A single unit would show nothing before its end.
        self._bar = None if self._in_log or total == 1 else _bars()(total=total, initial=found, **looks)

    def begin(self) -> None:
        """Say in a log how much was found finished."""
        self._print(f"{self.found} of {self.total} {self.unit} found finished")

    def update(self, done: int) -> None:
        """Show that ``done`` of ``total`` units are finished (at most every few seconds in a log)."""
        done = min(done, self.total)
        if self._bar is not None:
            self._bar.update(done - self._bar.n)
            return
        now = time.monotonic()
        if now - self._last >= self.every and done < self.total:
            self._last = now
            self._print(f"{done}/{self.total} {self.unit}, {self._left(done, now)}")

    def close(self, done: int | None = None) -> None:
        """Show the end of the loop."""
        seconds = time.monotonic() - self._start
        if self._bar is not None:
            self._bar.update((self.total if done is None else done) - self._bar.n)
            self._bar.close()
        done = self.total if done is None else done
        self._print(f"{done}/{self.total} {self.unit} in {seconds:.1f} s")

    def _print(self, text: str) -> None:
        if self._in_log:
            print(f"{self.label}: {text}", flush=True)

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


def _watched() -> bool:
    """Return whether somebody looks on: at a terminal, or at a notebook."""
    ipython = sys.modules.get("IPython")
    shell = ipython.get_ipython() if ipython else None
    return sys.stderr.isatty() or type(shell).__name__ == "ZMQInteractiveShell"


def _bars() -> Any:
    """Return tqdm's bar: a widget where the notebook has these, else text."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of widgets that are not installed
        from tqdm.auto import tqdm
    return tqdm


class Operator(Protocol):
    """A symmetric operator known by its products."""

    size: int
    dtype: np.dtype

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return the products with every row of ``vectors`` (k, N)."""


class Watched:
    """An operator that shows how many of ``total`` products are done."""

    def __init__(self, operator: Operator, label: str, total: int):
        self.operator, self.size, self.dtype = operator, operator.size, operator.dtype
        self._progress, self._done = Progress(label, total, unit="products"), 0

    def matmat(self, vectors: np.ndarray) -> np.ndarray:
        """Return the products with every row of ``vectors`` (k, N)."""
        products = self.operator.matmat(vectors)
        self._done += len(vectors)
        self._progress.update(self._done)
        return products

    def close(self) -> None:
        """Show the end: how many were needed."""
        self._progress.close(min(self._done, self._progress.total))
