"""The composite frame: drawn once, then only the path, the markers and the caption change."""

from collections.abc import Iterator

import numpy as np
import xarray as xr
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from lossatlas.parallel.progress import Progress
from lossatlas.render.figures import contour, spectrum, surface, training_curve
from lossatlas.render.scale import loss_scale
from lossatlas.render.style import DPI, HEIGHT, PATH_COLOR, WIDTH, evaluation_note, other_paths, style

THREE_PANELS = {
    "surface": (0.0, 0.04, 0.53, 0.86),
    "contour": (0.62, 0.55, 0.325, 0.395),
    "curve": (0.62, 0.085, 0.315, 0.345),
}
FOUR_PANELS = {
    "surface": (-0.02, 0.355, 0.58, 0.59),
    "contour": (0.62, 0.545, 0.325, 0.41),
    "curve": (0.07, 0.085, 0.43, 0.235),
    "spectrum": (0.62, 0.085, 0.315, 0.335),
}
"""Left, bottom, width and height of each panel as shares of the frame."""


class FrameRenderer:
    """Renders frame ``row`` of a plane's video as RGBA pixels, shape (720, 1280, 4), uint8.

    Surface, contours and curves are drawn once and kept as pixels; each frame restores them and draws the
    moving artists on top (blitting), which is many times faster than drawing the figure anew.
    """

    def __init__(
        self,
        landscape: xr.Dataset,
        trajectory: xr.Dataset,
        choices: dict,
        title: str,
        spectra: xr.Dataset | None = None,
    ):
        self._densities = spectrum.Densities(spectra, choices.get("kernel_width")) if spectra is not None else None
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
        boxes = THREE_PANELS if self._densities is None else FOUR_PANELS
        self._surface = self.figure.add_axes(boxes["surface"], projection="3d")
        self._contour = self.figure.add_axes(boxes["contour"])
        self._curve = self.figure.add_axes(boxes["curve"])
        surface.draw_surface(self._surface, landscape, scale, choices)
        self._surface.set_box_aspect((1, 1, 0.75) if self._densities is None else (1.3, 1.3, 0.75), zoom=0.95)
        contour.draw_contours(self._contour, landscape, scale, choices)
        self._contour.set_title(evaluation_note(landscape), fontsize=8)
        training_curve.draw_curve(self._curve, landscape, trajectory)
        self.figure.text(0.02, 0.955, title, fontsize=14, weight="bold", va="center")
        self._caption = self.figure.text(
            0.02, 0.905, "", fontsize=11, va="center", family="DejaVu Sans Mono", animated=True
        )
        self._lines3d = surface.path_lines(self._surface, animated=True)
        self._lines2d = contour.path_lines(self._contour, animated=True)
        self._others = other_paths(landscape)
        self._others3d = surface.other_lines(self._surface, self._others, animated=True)
        self._others2d = contour.other_lines(self._contour, self._others, animated=True)
        if self._others:
            self._name_paths()
        self._now = training_curve.now_lines(self._curve, animated=True)
        self._moving = [
            *((self._surface, artist) for artist in (*self._others3d, *self._lines3d)),
            *((self._contour, artist) for artist in (*self._others2d, *self._lines2d)),
            *((self._curve, artist) for artist in self._now),
            (self.figure, self._caption),
        ]
        if self._densities is not None:
            axes = self.figure.add_axes(boxes["spectrum"])
            spectrum.draw_frame(axes, self._densities)
            self._spectrum = spectrum.moving_lines(axes, animated=True)
            self._says = axes.text(0.98, 0.94, "", transform=axes.transAxes, ha="right", va="top", animated=True)
            self._moving += [(axes, artist) for artist in (*self._spectrum, self._says)]

    def _name_paths(self) -> None:
        """Write which path is which run's."""
        looks = [Line2D([], [], color=PATH_COLOR, label="this run")]
        looks += [Line2D([], [], color=path.color, label=path.run) for path in self._others]
        self.figure.legend(handles=looks, loc="upper left", bbox_to_anchor=(0.012, 0.885), fontsize=9, ncols=4)

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
        for owner, artist in self._moving:
            owner.draw_artist(artist)
        return np.asarray(self.canvas.buffer_rgba())

    def frames(self, label: str, held: int = 0) -> Iterator[np.ndarray]:
        """Yield the pixels of every frame, the last one ``held`` times more; ``label`` names their progress."""
        progress = Progress(label, len(self), unit="frames")
        for row in range(len(self)):
            frame = self.render(row)
            progress.update(row + 1)
            yield frame
        progress.close()
        for _ in range(held):
            yield frame

    def _place_others(self, row: int) -> None:
        """Let the paths of other runs grow with the iteration; the last frame shows them whole."""
        for path, line3d, line2d in zip(self._others, self._others3d, self._others2d, strict=True):
            shown = path.iterations <= self.iterations[row]
            shown |= row == len(self) - 1
            line3d.set_data_3d(path.x[shown], path.y[shown], self._scale(path.loss[shown]))
            line2d.set_data(path.x[shown], path.y[shown])

    def _place(self, row: int) -> None:
        """Move every animated artist to one iteration."""
        x, y, z, iteration = self._x, self._y, self._z, self.iterations[row]
        (path3d, now3d), (path2d, now2d) = self._lines3d, self._lines2d
        path3d.set_data_3d(x[: row + 1], y[: row + 1], z[: row + 1])
        now3d.set_data_3d(x[row : row + 1], y[row : row + 1], z[row : row + 1])
        path2d.set_data(x[: row + 1], y[: row + 1])
        now2d.set_data(x[row : row + 1], y[row : row + 1])
        self._place_others(row)
        line, marker = self._now
        line.set_xdata([iteration, iteration])
        marker.set_data([iteration], [self._loss[row]])
        caption = f"iteration {iteration:>{len(str(self.iterations[-1]))}}   loss {self._loss[row]:.4f}"
        if self._accuracy is not None:
            caption += f"   accuracy {100 * self._accuracy[row]:.1f} %"
        self._caption.set_text(caption)
        if self._densities is not None:
            self._says.set_text(spectrum.place(self._spectrum, self._densities, iteration))
