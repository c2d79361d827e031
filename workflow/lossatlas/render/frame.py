"""The composite frame: drawn once, then only the path, the markers and the caption change."""

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from lossatlas.render import contour, curve, surface
from lossatlas.render.style import DPI, HEIGHT, WIDTH, loss_scale, style


class FrameRenderer:
    """Renders frame ``row`` of a plane's video as RGBA pixels, shape (720, 1280, 4), uint8.

    Surface, contours and curves are drawn once and kept as pixels; each frame restores them and draws the
    moving artists on top (blitting), which is many times faster than drawing the figure anew.
    """

    def __init__(self, landscape: xr.Dataset, trajectory: xr.Dataset, choices: dict, title: str):
        with style():
            self.figure = Figure(figsize=(WIDTH / DPI, HEIGHT / DPI), dpi=DPI)
            self.canvas = FigureCanvasAgg(self.figure)
            self._draw_background(landscape, trajectory, choices, title)
            self.canvas.draw()
        self._background = self.canvas.copy_from_bbox(self.figure.bbox)
        self._read_path(landscape)

    def _draw_background(self, landscape: xr.Dataset, trajectory: xr.Dataset, choices: dict, title: str) -> None:
        scale = loss_scale(landscape, choices)
        self._scale = scale
        self._surface = self.figure.add_axes((0.0, 0.04, 0.53, 0.86), projection="3d")
        self._contour = self.figure.add_axes((0.60, 0.55, 0.355, 0.395))
        self._curve = self.figure.add_axes((0.60, 0.085, 0.33, 0.345))
        surface.draw_surface(self._surface, landscape, scale, choices)
        self._surface.set_box_aspect((1, 1, 0.75), zoom=0.9)
        contour.draw_contours(self._contour, landscape, scale, choices)
        curve.draw_curve(self._curve, landscape, trajectory)
        self.figure.text(0.02, 0.955, title, fontsize=14, weight="bold", va="center")
        self._caption = self.figure.text(
            0.02, 0.905, "", fontsize=11, va="center", family="DejaVu Sans Mono", animated=True
        )
        self._lines3d = surface.path_lines(self._surface, animated=True)
        self._lines2d = contour.path_lines(self._contour, animated=True)
        self._now = curve.now_lines(self._curve, animated=True)

    def _read_path(self, landscape: xr.Dataset) -> None:
        self.iterations = landscape["iteration"].values
        self._x, self._y = landscape["path_x"].values, landscape["path_y"].values
        self._z = self._scale(landscape["path_projected_loss"].sel(split="train").values)
        self._loss = landscape["path_true_loss"].sel(split="train").values
        self._accuracy = (
            landscape["path_true_accuracy"].sel(split="train").values if "path_true_accuracy" in landscape else None
        )

    def __len__(self) -> int:
        return len(self.iterations)

    def render(self, row: int) -> np.ndarray:
        """Return the pixels of one frame; the next call overwrites them."""
        self._place(row)
        self.canvas.restore_region(self._background)
        for axes, artists in (
            (self._surface, self._lines3d),
            (self._contour, self._lines2d),
            (self._curve, self._now),
        ):
            for artist in artists:
                axes.draw_artist(artist)
        self.figure.draw_artist(self._caption)
        return np.asarray(self.canvas.buffer_rgba())

    def _place(self, row: int) -> None:
        """Move every animated artist to one iteration."""
        x, y, z, iteration = self._x, self._y, self._z, self.iterations[row]
        (path3d, now3d), (path2d, now2d) = self._lines3d, self._lines2d
        path3d.set_data_3d(x[: row + 1], y[: row + 1], z[: row + 1])
        now3d.set_data_3d(x[row : row + 1], y[row : row + 1], z[row : row + 1])
        path2d.set_data(x[: row + 1], y[: row + 1])
        now2d.set_data(x[row : row + 1], y[row : row + 1])
        line, marker = self._now
        line.set_xdata([iteration, iteration])
        marker.set_data([iteration], [self._loss[row]])
        caption = f"iteration {iteration:>{len(str(self.iterations[-1]))}}   loss {self._loss[row]:.4f}"
        if self._accuracy is not None:
            caption += f"   accuracy {100 * self._accuracy[row]:.1f} %"
        self._caption.set_text(caption)
