"""When a scale is logarithmic, and how losses become heights and colours."""

from dataclasses import dataclass

import numpy as np
import xarray as xr
from matplotlib.ticker import MaxNLocator

from lossatlas.drivers.adaptive_grid import LOG_FROM


def logarithmic(low: float, high: float, choice: str = "auto") -> bool:
    """Return whether values from ``low`` to ``high`` are drawn on a logarithmic scale.

    Args:
        choice: ``log``, ``linear``, or ``auto``: log where all are positive and span more than a factor ``LOG_FROM``.
    """
    return choice == "log" or (choice == "auto" and low > 0 and high / low > LOG_FROM)


@dataclass(frozen=True)
class LossScale:
    """How losses become heights and colours: linear or log10, clipped at ``maximum`` when drawing."""

    log: bool
    low: float
    high: float
    clipped: bool = False

    @classmethod
    def of(cls, low: float, high: float, choices: dict, clipped: bool = False) -> "LossScale":
        """Return the scale of an interval of losses by the config's ``figures.scale``; the interval is never empty."""
        log = logarithmic(low, high, choices["scale"])
        if log and low <= 0:
            low = max(high * 1e-12, 1e-300)
        return cls(log, low, high if high > low else low + max(abs(low), 1.0) * 1e-6, clipped)

    def __call__(self, loss: np.ndarray) -> np.ndarray:
        """Return drawing heights; NaN and inf become NaN, what exceeds the maximum is clipped."""
        loss = np.where(np.isfinite(loss), loss, np.nan)
        clipped = np.clip(loss, self.low, self.high)
        return np.log10(clipped) if self.log else clipped

    def loss(self, height: float) -> float:
        """Return the loss that a height stands for."""
        return 10**height if self.log else height

    @property
    def limits(self) -> tuple[float, float]:
        low, high = self(np.array([self.low, self.high]))
        return float(low), float(high)

    def levels(self, count: int) -> np.ndarray:
        return np.linspace(*self.limits, count)

    def ticks(self) -> tuple[np.ndarray, list[str]]:
        """Return tick heights and the losses that they stand for."""
        if not self.log:
            values = MaxNLocator(5, steps=[1, 2, 5, 10]).tick_values(self.low, self.high)
        else:
            decades = np.arange(np.floor(np.log10(self.low)), np.ceil(np.log10(self.high)) + 1)
            steps = (1, 2, 5) if len(decades) < 4 else (1,)
            values = np.array([s * 10**d for d in decades for s in steps])
            values = values[:: max(1, round(len(values) / 8))]
        values = values[(values >= self.low * (1 - 1e-9)) & (values <= self.high * (1 + 1e-9))]
        return self(values), [f"{value:g}" for value in values]

    @property
    def label(self) -> str:
        return "loss (log scale)" if self.log else "loss"


def loss_scale(landscape: xr.Dataset, choices: dict, split: str = "train") -> LossScale:
    """Choose the scale of one landscape from its finite losses, those of projected paths included."""
    names = ("loss", "path_projected_loss", "other_projected_loss")
    losses = [landscape[name].sel(split=split).values for name in names if name in landscape]
    finite = np.concatenate([values[np.isfinite(values)] for values in losses])
    low, high = (float(finite.min()), float(finite.max())) if finite.size else (0.0, 1.0)
    maximum = choices.get("maximum", np.inf)
    return LossScale.of(min(low, maximum), min(high, maximum), choices, clipped=high > maximum)
