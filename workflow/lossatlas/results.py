"""Results that show themselves in a notebook: a labelled dataset, its figures, its video, and a file to keep it in.

Figures are those of the workflow (``render.registry``). ``open`` reads what ``Result.save`` wrote and any store of the
workflow.
"""

import base64
import io
import os
import shutil
import warnings
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from lossatlas import config, krylov
from lossatlas.config.models import Video as VideoDefaults
from lossatlas.config.run import STORES
from lossatlas.drivers.evaluation import UNITS
from lossatlas.errors import LossAtlasError, room_for
from lossatlas.io import owner, store
from lossatlas.render import registry

if TYPE_CHECKING:
    from matplotlib.figure import Figure

SAVED_AS = "lossatlas_result"
"""Attribute of a saved dataset that says what it is: a kind of ``config.run.STORES``."""

MATRIX = "matrix"
"""Dimension of the spectrum of one matrix alone, where stores have iterations or positions."""

ASIDE = ("sample_", "other_")
"""How dimensions begin that are not worth a word."""

VIDEO = VideoDefaults()
DPI = 100


class Result:
    """A dataset as the workflow's stores hold it, which shows itself in Jupyter.

    ``data`` is the ``xarray.Dataset``; arrays are found by ``result["loss"]`` as well.

    Args:
        data: as ``data``.
        kind: what it is, a key of ``config.run.STORES``.
        title: what stands above its figures.
        beside: stores of the same run that some figures need besides, by kind.
    """

    kind, title = "", ""
    _beside: Mapping[str, Path] = MappingProxyType({})

    def __init__(self, data: xr.Dataset, kind: str, title: str = "", beside: dict[str, Path] | None = None):
        self._data, self.kind, self.title = data, kind, title
        self._beside = beside or {}

    @property
    def data(self) -> xr.Dataset:
        """The labelled arrays."""
        return self._data

    def __getitem__(self, name: str) -> xr.DataArray:
        return self.data[name]

    @property
    def attrs(self) -> dict[str, Any]:
        """What the dataset says of itself."""
        return self.data.attrs

    @property
    def sizes(self) -> dict[str, int]:
        """The lengths of the dimensions."""
        return {str(name): size for name, size in self.data.sizes.items()}

    def __repr__(self) -> str:
        sizes = ", ".join(f"{name} {size:,}" for name, size in self.sizes.items() if not name.startswith(ASIDE))
        return f"<{self.kind}: {sizes}; plot: {', '.join(self.kinds) or 'nothing'}>"

    @property
    def kinds(self) -> list[str]:
        """The kinds of figures that ``plot`` can draw, the first by default."""
        needs = {name: figure.needs for name, figure in registry.figures().items()}
        return [name for name, of in needs.items() if of[0] not in self._beside and all(map(self._holds, of))]

    def _holds(self, need: str) -> bool:
        return need in (self.kind, *self._beside)

    def _needed(self, need: str) -> xr.Dataset:
        return store.open_dataset(self._beside[need]) if need in self._beside else self.data

    def plot(self, kind: str | None = None, title: str | None = None, **choices: Any) -> "Figure":
        """Return a Matplotlib figure, which Jupyter shows where it is a cell's last line.

        Args:
            kind: one of ``kinds``.
            title: what stands above it.
            choices: keys of the config's ``figures``: ``scale``, ``maximum``, ``levels``, ``elevation``, ``azimuth``,
                ``kernel_width``, ``epsilon``.

        Raises:
            LossAtlasError: there is no figure of this kind, or a choice is unknown or wrong.
        """
        kind = kind or next(iter(self.kinds), "")
        if kind not in self.kinds:
            known = ", ".join(self.kinds) or "none"
            raise LossAtlasError(f"plot: kind: {kind!r} cannot be drawn of {self.kind}; figures: {known}")
        drawn = registry.figures()[kind]
        choices = self._choices(choices, "plot")
        import matplotlib.pyplot as plt  # takes longer than all the rest

        from lossatlas.render.style import style

        plt.draw_if_interactive()  # loads Jupyter's backend, whose own settings would otherwise end with the style
        with plt.ioff(), style():
            datasets = map(self._needed, drawn.needs)
            figure = drawn.function(*datasets, choices=choices, title=self.title if title is None else title)
        plt.close(figure)  # or Jupyter shows it a second time
        return figure

    def _choices(self, given: dict[str, Any], where: str) -> dict[str, Any]:
        return config.check(given, "figures", where).model_dump()

    def _repr_png_(self) -> bytes | None:
        """Return the first figure as Jupyter shows it."""
        if not self.kinds:
            return None
        from lossatlas.render.style import style

        figure, picture = self.plot(), io.BytesIO()
        with style():
            figure.savefig(picture, format="png", dpi=DPI)
        return picture.getvalue()

    def save(self, path: str | os.PathLike) -> None:
        """Write the data as a Zarr store, which ``lossatlas.open`` reads; what was saved there before is replaced.

        Raises:
            LossAtlasError: the name does not end in .zarr, something else lies there, or the disk is full.
        """
        path = Path(path)
        if path.suffix != ".zarr":
            raise LossAtlasError(f"save: {path}: the name must end in .zarr; other formats: result.data.to_netcdf(...)")
        if path.exists() and SAVED_AS not in _attributes(path):
            raise LossAtlasError(f"save: {path}: there is something else already; choose another name")
        temporary = path.with_name(f".{path.name}.{owner.mark()}")
        content = self.data.drop_encoding().assign_attrs({SAVED_AS: self.kind})
        try:
            with warnings.catch_warnings(), room_for(path):
                warnings.simplefilter("ignore")  # of Zarr, that texts are not in its specification yet
                content.to_zarr(temporary, mode="w", zarr_format=3, consolidated=True)
            shutil.rmtree(path, ignore_errors=True)
            os.replace(temporary, path)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)


class Plane(Result):
    """The loss on a plane, ``loss(split, y, x)``, perhaps with a path on it."""

    def __init__(self, data: xr.Dataset, title: str = "", beside: dict[str, Path] | None = None):
        super().__init__(data, "landscape", title, beside)

    def _holds(self, need: str) -> bool:
        if need == "metrics":
            return "accuracy" in self.data or bool(self._own_metrics())
        return super()._holds(need) or (need == "trajectory" and self.data.sizes["iteration"] > 1)

    def _needed(self, need: str) -> xr.Dataset:
        return self._losses() if need == "trajectory" and need not in self._beside else super()._needed(need)

    def _own_metrics(self) -> list[str]:
        dims = self.data["loss"].dims
        return [str(name) for name, array in self.data.items() if array.dims == dims and name not in UNITS]

    def _choices(self, given: dict[str, Any], where: str) -> dict[str, Any]:
        return {**super()._choices(given, where), "metrics": self._own_metrics()}

    def plot_3d(self, title: str | None = None, **choices: Any) -> "Figure":
        """Return the surface in three dimensions; arguments are those of ``plot``."""
        return self.plot("surface", title, **choices)

    def video(
        self,
        path: str | os.PathLike,
        fps: int = VIDEO.fps,
        hold_seconds: float = VIDEO.hold_seconds,
        title: str | None = None,
        **choices: Any,
    ) -> "Video":
        """Write the path along the surface as an H.264 video, a frame for each of its points; Jupyter plays the result.

        Of a store whose run has spectra it also shows their densities.

        Args:
            path: the file to write, ``.mp4``.
            fps: frames per second when playing.
            hold_seconds: how long the last frame stays.
            title, choices: as for ``plot``.

        Raises:
            LossAtlasError: the plane has no path, or an argument is wrong, or there is no ffmpeg.
        """
        path = Path(path)
        config.check({"fps": fps, "hold_seconds": hold_seconds}, "video", "video")
        if path.suffix != ".mp4":
            raise LossAtlasError(f"video: {path}: the name must end in .mp4")
        if self.data.sizes["iteration"] < 2:
            raise LossAtlasError("video: the plane has no path; give one: lossatlas.plane(..., path=[...])")
        try:
            from lossatlas.render import video
        except ModuleNotFoundError as error:
            raise LossAtlasError(
                f"video: needs the package {error.name!r}; pip install 'lossatlas[workflow]'"
            ) from error
        from lossatlas.render.frame import FrameRenderer

        title, looks = self.title if title is None else title, self._choices(choices, "video")
        spectra = self._needed("spectra") if "spectra" in self._beside else None
        renderer = FrameRenderer(self.data, self._needed("trajectory"), looks, title, spectra)
        path.parent.mkdir(parents=True, exist_ok=True)
        video.write_video(path, renderer.frames("video", round(hold_seconds * fps)), fps)
        return Video(path)

    def _losses(self) -> xr.Dataset:
        """Return the losses of the mini-batches along the path, NaN where they are not known."""
        if "batch_loss" in self.data:
            return self.data[["batch_loss"]]
        return xr.Dataset({"batch_loss": ("iteration", np.full(self.data.sizes["iteration"], np.nan))})


class Video:
    """A video in a file, which Jupyter plays."""

    def __init__(self, path: Path):
        self.path = path

    def __fspath__(self) -> str:
        return str(self.path)

    def __repr__(self) -> str:
        return f"<video {self.path}, {self.path.stat().st_size / 1e6:.1f} MB>"

    def _repr_html_(self) -> str:
        content = base64.b64encode(self.path.read_bytes()).decode()
        return f'<video controls loop width="100%" src="data:video/mp4;base64,{content}"></video>'


class Spectrum(krylov.Spectrum, Result):
    """The eigenvalues of one matrix by stochastic Lanczos quadrature, with error bars; it shows its density.

    Estimates are those of ``krylov.Spectrum``: ``density``, ``distribution``, ``count``, ``trace``, ``accuracy``, ...
    """

    kind = "spectra"
    __repr__ = Result.__repr__

    @property
    def kinds(self) -> list[str]:
        """The kinds of figures that ``plot`` can draw; the others need iterations."""
        return ["density", "distribution"]

    @cached_property
    def data(self) -> xr.Dataset:
        """The quadratures, as a store of the workflow holds those of several matrices."""
        runs = {"nodes": self.nodes, "weights": self.weights, "residual_bounds": self.bounds}
        ends = {"smallest": np.nanmin(self.nodes), "largest": np.nanmax(self.nodes)}
        arrays: dict[str, Any] = {name: ((MATRIX, "probe", "node"), [values]) for name, values in runs.items()}
        arrays |= {name: (MATRIX, [value]) for name, value in ends.items()}
        return xr.Dataset(arrays, {MATRIX: ["the matrix"]}, {"parameters": self.size})


class Spectra(Result):
    """Spectra along training, or on a line between two checkpoints."""

    @property
    def axis(self) -> str:
        """What they lie along: ``iteration`` or ``position``."""
        return str(self.data["nodes"].dims[0])

    def at(self, place: float) -> Spectrum:
        """Return the spectrum of one iteration, or at one position on the line.

        Raises:
            LossAtlasError: none was computed there; the message names those that were.
        """
        known = self.data[self.axis].values
        if place not in known:
            raise LossAtlasError(f"at: no spectrum at {self.axis} {place!r}; there are {', '.join(map(str, known))}")
        spectrum = _spectrum(self.data.isel({self.axis: int(np.flatnonzero(known == place)[0])}))
        spectrum.title = f"{self.title}, {self.axis} {place}".removeprefix(", ")
        return spectrum


def _spectrum(data: xr.Dataset) -> Spectrum:
    """Return the spectrum that a dataset holds of one matrix."""
    nodes, weights, bounds = (data[name].values for name in ("nodes", "weights", "residual_bounds"))
    return Spectrum.read(nodes, weights, bounds, data.attrs["parameters"])


def open(path: str | os.PathLike) -> Result:
    """Return what ``save`` wrote, or a finished store of the workflow, such as ``results/lenet/landscape/pca.zarr``.

    The arrays of a store are read when they are needed.

    Raises:
        LossAtlasError: it is neither, or a store that is not finished.
    """
    path = Path(path)
    attributes = _attributes(path)
    if SAVED_AS in attributes:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of Zarr, as when it was written
            data = xr.open_zarr(path, chunks=None).load()
        return _of_kind(data, data.attrs.pop(SAVED_AS))
    data = store.open_dataset(path)
    kind, run, name = _place(path, data)
    title = "" if kind not in registry.THINGS else f"{run.name}: {registry.THINGS[kind]} {name}".strip()
    other = {"landscape": ["trajectory", "spectra"], "curvature": ["landscape"]}.get(kind, [])
    beside = {need: run / f"{STORES[need].format(name)}.zarr" for need in other}
    return _of_kind(data, kind, title, {need: file for need, file in beside.items() if file.exists()})


def _attributes(path: Path) -> dict[str, Any]:
    """Return the attributes of the Zarr store at a path, none where there is no such store."""
    import zarr

    try:
        return dict(zarr.open_group(path, mode="r").attrs)
    except (OSError, ValueError, KeyError):
        return {}


def _place(path: Path, data: xr.Dataset) -> tuple[str, Path, str]:
    """Return of a store of the workflow its kind, the folder of its run and its name."""
    kind = data.attrs["provenance"]["kind"]
    if kind == "directions" and "path_share" in data:
        kind = "pca"
    if kind == "spectra" and "position" in data.dims:
        kind = "spectra_between"
    below = path.absolute()
    variant = kind == "spectra" and below.name != "spectra.zarr"  # those of further matrices lie in a folder
    if variant or "{}" in STORES[kind]:
        return kind, below.parent.parent, below.stem
    return kind, below.parent, ""


def _of_kind(data: xr.Dataset, kind: str, title: str = "", beside: dict[str, Path] | None = None) -> Result:
    if kind == "landscape":
        return Plane(data, title, beside)
    if kind in ("spectra", "spectra_between"):
        return _spectrum(data.isel({MATRIX: 0})) if MATRIX in data.dims else Spectra(data, kind, title, beside)
    return Result(data, kind, title, beside)
