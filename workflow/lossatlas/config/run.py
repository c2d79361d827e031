"""One run of a resolved config: which stores it has, where they lie, what determines them, and what they need."""

import os
import re
from functools import cached_property
from glob import glob
from operator import attrgetter
from typing import Any

from lossatlas.config import checkpoints, imports, models, sizes
from lossatlas.config.model import Model
from lossatlas.config.references import axes_of, ends_of, sets_in_use, sets_of, split_axis
from lossatlas.config.value_checks import plain_path
from lossatlas.errors import LossAtlasError

LOCAL_DATA = ("fashion-mnist-mini", "image-folder")
"""Datasets that are not downloaded into ``data_root``."""

NOT_IN_CURVATURE = ("points", "points_per_chunk", "paths_losses", "grid", "strategy", "precision")
"""Keys of a plane that say how its losses are computed, not where it lies."""

STORES = {
    "trajectory": "trajectory",
    "landscape": "landscape/{}",
    "metrics": "landscape/{}",
    "curvature": "curvature/{}",
    "curves": "curves/{}",
    "overlaps": "overlaps/{}",
    "perturbations": "perturbations/{}",
    "spectra": "spectra",
    "variants": "spectra/{}",
    "spectra_between": "spectra_between/{}",
    "tracking": "tracking",
    "directions": "directions/{}",
    "pca": "directions/{}",
}
"""Kinds of stores and where they lie in the folder of a run, by name where a run may have several.

``metrics`` are planes that hold the user's own metrics, ``pca`` direction sets that are principal components.
"""


def runs_of(config: models.Config) -> dict[str, "Run"]:
    """Return the runs of a config by name, once all files that they refer to are found.

    Raises:
        LossAtlasError: a file or the user's code is missing, or a number is too large; names the key.
    """
    runs = {name: Run(name, config) for name in config.runs}
    for run in runs.values():
        _ = run.problem
        data = run.settings.data
        if data.name == "image-folder" and not os.path.isdir(folder := data.kwargs["folder"]):
            raise LossAtlasError(f"config: runs.{run.name}.data.kwargs.folder: no folder {folder!r}")
    sizes.check_sizes(config, {name: run.iterations for name, run in runs.items() if not run.is_trained})
    for run in runs.values():
        for name, directions in run.settings.directions.items():
            if directions.kind == "file":
                _require_file(f"runs.{run.name}.directions.{name}.path", directions.path)
        _ = run.measured
    return runs


class Run:
    """One run of a config; nothing is read before it is asked for.

    Methods that take the name of a plane, curve, direction set or store of spectra raise a ``LossAtlasError`` where
    the config has none of this name.
    """

    def __init__(self, name: str, config: models.Config):
        self.name, self.config, self.settings = name, config, config.runs[name]
        self.folder = f"{plain_path(config.results)}/{name}"

    @property
    def is_trained(self) -> bool:
        """Whether the trajectory is trained here, not read from checkpoints."""
        return self.settings.train is not None

    def names(self, kind: str) -> list[str]:
        """Return the names of the run's stores of one kind of ``STORES``; one without a name is ``[""]``."""
        settings, sets = self.settings, sets_in_use(self.settings)
        names = {
            "trajectory": [""],
            "landscape": settings.planes,
            "metrics": settings.planes if settings.metrics else [],
            "curvature": [name for name, plane in settings.planes.items() if plane.curvature],
            "curves": settings.curves,
            "overlaps": settings.overlaps,
            "perturbations": settings.perturbations,
            "spectra": [""] if settings.spectra else [],
            "variants": settings.spectra.variants if settings.spectra else [],
            "spectra_between": settings.spectra_between,
            "tracking": [""] if settings.tracking else [],
            "directions": sets,
            "pca": [name for name in sets if settings.directions[name].kind == "pca"],
        }
        return list(names[kind])

    def store(self, kind: str, name: str = "") -> str:
        """Return where a store lies."""
        return f"{self.folder}/{STORES[kind].format(name)}.zarr"

    def stores(self, kind: str) -> list[str]:
        """Return where all stores of one kind lie."""
        return [self.store(kind, name) for name in self.names(kind)]

    def _entry(self, section: str, name: str) -> Any:
        """Return the settings of one of several things of a kind."""
        named = attrgetter(section)(self.settings)
        if name not in named:
            raise LossAtlasError(f"config: runs.{self.name}.{section}: no {name!r}")
        return named[name]

    def _asked_for(self, key: str) -> Any:
        """Return the settings of spectra or tracking, which a run may do without."""
        if (settings := getattr(self.settings, key)) is None:
            raise LossAtlasError(f"config: runs.{self.name}: no {key}")
        return settings

    # What determines stores: each of these is hashed into a fingerprint.

    @cached_property
    def problem(self) -> dict:
        """What determines the loss as a function of theta."""
        settings, root = self.settings, self.config.data_root
        spec: dict[str, Any] = {key: getattr(settings, key) for key in ("seed", "backend", "dtype")}
        for key in ("model", "data", "loss"):
            spec[key] = self._with_source(f"{key}.import", getattr(settings, key).plain())
        spec["data"] |= {"data_root": root} if self._downloaded else {}
        spec["model"] |= {"data_root": root} if settings.model.pretrained else {}
        return spec

    @property
    def _downloaded(self) -> str | None:
        """The name of a dataset that is downloaded, None for embedded data and the user's own."""
        return None if (name := self.settings.data.name) in LOCAL_DATA else name

    def _with_source(self, key: str, choice: dict) -> dict:
        """Return a model, data, loss or metric with the digest of the user's source where it has one."""
        if "import" not in choice:
            return choice
        python_path = self.config.python_path
        digest = imports.source_digest(choice["import"], python_path, f"config: runs.{self.name}.{key}")
        return {**choice, "python_path": python_path, "source": digest}

    @cached_property
    def measured(self) -> dict:
        """What determines losses and the user's own metrics as functions of theta."""
        paths = self.settings.metrics
        own = {name: self._with_source(f"metrics.{name}", {"import": path}) for name, path in paths.items()}
        return {**self._evaluated(), **({"metrics": own} if own else {})}

    def _evaluated(self) -> dict:
        return {**self.problem, "evaluation": self.settings.evaluation.plain()}

    def trajectory_spec(self) -> dict:
        """Return what determines the trajectory, besides the contents of checkpoints."""
        if self.settings.train:
            return {**self.problem, "train": self.settings.train.plain()}
        told = self._asked_for("checkpoints").plain("files", "iterations")
        if self.iterations is not None and not self.checkpoints[0].endswith(".zarr"):
            told["iterations"] = self.iterations
        return {**self.problem, **({"checkpoints": told} if told else {})}

    def directions_spec(self, name: str) -> dict:
        """Return what determines directions that need the trajectory alone."""
        return self._entry("directions", name).plain()

    def derivatives_spec(self, name: str) -> dict:
        """Return what determines directions that need the network: eigenvectors and gradients."""
        return {**self._evaluated(), "directions": self.directions_spec(name)}

    def plane_spec(self, name: str) -> dict:
        """Return what determines the losses on a plane."""
        return {**self.measured, "plane": self._entry("planes", name).plain("curvature")}

    def curvature_spec(self, name: str) -> dict:
        """Return what determines the curvature on a plane: where the plane lies, and the search of eigenvalues."""
        plane = self._entry("planes", name)
        if plane.curvature is None:
            raise LossAtlasError(f"config: runs.{self.name}.planes.{name}: no key 'curvature'")
        where = plane.plain("curvature", *NOT_IN_CURVATURE)
        return {**self._evaluated(), "plane": where, "curvature": plane.curvature.plain()}

    def curve_spec(self, name: str) -> dict:
        """Return what determines the losses on straight lines; what their figure shows is no part of it."""
        return {**self.measured, "curve": self._entry("curves", name).plain("view")}

    def overlap_spec(self, name: str) -> dict:
        """Return what determines overlaps, besides the directions."""
        return self._entry("overlaps", name).plain()

    def perturbation_spec(self, name: str) -> dict:
        """Return what determines the loss's changes under perturbations."""
        return {**self._evaluated(), "perturbations": self._entry("perturbations", name).plain()}

    def spectra_spec(self, name: str) -> dict:
        """Return what determines the spectra ``spectra``, ``spectra/<variant>`` or ``spectra_between/<line>``."""
        if line := self._line(name):
            where = line.plain(*models.Probes.model_fields)
            chosen = {key: value for key, value in line.plain().items() if key not in where}
            return {**self._evaluated(), "spectra": chosen, "line": where}
        spectra, variant = self._asked_for("spectra"), name.removeprefix("spectra").removeprefix("/")
        own = self._entry("spectra.variants", variant).plain() if variant else {}
        return {**self._evaluated(), "spectra": spectra.plain("variants") | own}

    def _line(self, spectra: str) -> models.SpectraBetween | None:
        """Return the settings of the line that a store of spectra lies on, None for spectra along training."""
        folder, _, line = spectra.partition("/")
        return self._entry("spectra_between", line) if folder == "spectra_between" else None

    def tracking_spec(self) -> dict:
        """Return what determines eigenvectors along training."""
        return {**self._evaluated(), "tracking": self._asked_for("tracking").plain()}

    # What jobs read besides.

    def data_ready(self) -> list[str]:
        """Return the marker of a downloaded dataset, nothing for embedded data and the user's own."""
        return [f"{plain_path(self.config.data_root)}/.{self._downloaded}.ready"] if self._downloaded else []

    def weights_ready(self) -> list[str]:
        """Return the marker of downloaded weights, nothing where training begins with seeded ones."""
        model, root = self.settings.model, plain_path(self.config.data_root)
        return [f"{root}/.{model.name}-{model.pretrained}.ready"] if model.pretrained else []

    @cached_property
    def checkpoints(self) -> list[str]:
        """The files of ``checkpoints``; those of a glob in natural order."""
        wanted, where = self._asked_for("checkpoints").files, f"runs.{self.name}.checkpoints.files"
        files = sorted(glob(wanted, recursive=True), key=_natural) if isinstance(wanted, str) else wanted
        files = [os.path.join(".", file) if file.startswith("-") else file for file in files]
        if not files:
            raise LossAtlasError(f"config: {where}: no file matches {wanted!r}")
        for file in files:
            _require_file(where, file)
        return files

    @cached_property
    def iterations(self) -> list[int] | None:
        """The iterations of ``checkpoints``; None where only the files tell."""
        where = f"runs.{self.name}.checkpoints"
        return checkpoints.iterations(self._asked_for("checkpoints"), self.checkpoints, where)

    def directions_file(self, name: str) -> list[str]:
        """Return the user's file of directions, if they come from one."""
        spec = self._entry("directions", name)
        return [spec.path] if spec.kind == "file" else []

    def direction_stores(self, section: str, name: str) -> list[str]:
        """Return the direction sets that a plane, a curve or overlaps (by section of the config) lie in."""
        return [self.store("directions", one) for one in sets_of(self._entry(section, name))]

    def others(self, section: str, name: str) -> dict[str, str]:
        """Return the trajectories of the other runs that directions, a plane, a curve or a line lead to, by run."""
        entry = self._entry(section, name)
        ends = sorted({end.run for end in ends_of(entry).values() if end.run})
        runs = [*(getattr(entry, "paths", None) or []), *ends]
        return {run: Run(run, self.config).store("trajectory") for run in runs}

    def spectra_others(self, name: str) -> dict[str, str]:
        """Return the trajectory of the other run at the end of a line with spectra, if it is another one."""
        return self.others(*name.split("/")) if self._line(name) else {}

    # How scripts are called.

    def train_threads(self) -> int:
        """Return the threads of training."""
        return self._asked_for("train").threads

    def train_arguments(self) -> list[str]:
        """Return the arguments for how training is computed."""
        return ["--device", self.settings.device, "--threads", str(self.train_threads())]

    def directions_threads(self, name: str) -> int:
        """Return the threads of a job that makes directions."""
        return self._entry("directions", name).threads

    def directions_arguments(self, name: str) -> list[str]:
        """Return the arguments for what directions are made of."""
        return _other_arguments(self.others("directions", name))

    def derivatives_arguments(self, name: str) -> list[str]:
        """Return the arguments for how eigenvectors and gradients are computed."""
        return ["--device", self.settings.device, "--threads", str(self.directions_threads(name))]

    def mined_arguments(self, name: str) -> list[str]:
        """Return the arguments for how directions are mined and where they start."""
        how = ["--device", self.settings.device, "--save-minutes", str(self.config.mpi.save_minutes)]
        return [*self.directions_arguments(name), *how]

    def plane_arguments(self, name: str) -> list[str]:
        """Return the arguments for what a plane is made of."""
        pairs = zip(("--x", "--y"), axes_of(self._entry("planes", name)), strict=True)
        axes = [word for key, axis in pairs for word in (key, self._axis_argument(axis))]
        return [*_other_arguments(self.others("planes", name)), *axes, *self._device_and_queue()]

    def curve_arguments(self, name: str) -> list[str]:
        """Return the arguments for what a curve is made of; a set without a number is taken whole."""
        axes = self._axis_arguments(self._entry("curves", name))
        return [*axes, *_other_arguments(self.others("curves", name)), *self._device_and_queue()]

    def overlap_arguments(self, name: str) -> list[str]:
        """Return the arguments for the directions whose overlaps are asked for."""
        return self._axis_arguments(self._entry("overlaps", name))

    def _axis_arguments(self, entry: Model) -> list[str]:
        return [f"--x={self._axis_argument(axis)}" for axis in axes_of(entry)]

    def _axis_argument(self, axis: str) -> str:
        name, number = split_axis(axis)
        return f"{self.store('directions', name)}:{'all' if number is None else number + 1}"

    def perturbation_arguments(self, name: str = "") -> list[str]:
        """Return the arguments for how the loss's changes under perturbations are computed."""
        return self._device_and_queue()

    def spectra_arguments(self, name: str = "spectra") -> list[str]:
        """Return the arguments for how spectra and eigenvectors along training are computed."""
        mpi = self.config.mpi
        teams = ["--data-ranks", str(mpi.data_ranks), "--save-minutes", str(mpi.save_minutes)]
        return [*_other_arguments(self.spectra_others(name)), *self._device_and_queue(), *teams]

    def _device_and_queue(self) -> list[str]:
        return ["--device", self.settings.device, "--queue", self.config.mpi.queue]

    def figure_choices(self, kind: str = "", name: str = "") -> dict:
        """Return what decides how figures of one kind of store look: the config's ``figures``, and what is its own."""
        own: dict[str, Any] = {"metrics": list(self.settings.metrics)} if kind == "metrics" else {}
        own |= {"view": self._entry("curves", name).view.plain()} if kind == "curves" else {}
        return {**self.settings.figures.plain(), **own}

    def video_arguments(self) -> list[str]:
        """Return the arguments for the speed of videos."""
        video = self.settings.video
        return ["--fps", str(video.fps), "--hold-seconds", str(video.hold_seconds)]

    def product_needs(self) -> dict[str, dict]:
        """Return what tells how much memory the Hessian products of the run take, by key of the config."""
        settings, shared = self.settings, {*models.Matrix.model_fields}
        found: dict[str, dict] = {}
        for key, asked in (("spectra", settings.spectra), ("tracking", settings.tracking)):
            found |= {key: asked.plain()} if asked else {}
        for name in self.names("variants"):
            found[f"spectra.variants.{name}"] = found["spectra"] | self._entry("spectra.variants", name).plain()
        found |= {f"spectra_between.{name}": line.plain() for name, line in settings.spectra_between.items()}
        sets = {name: settings.directions[name] for name in sets_in_use(settings)}
        found |= {f"directions.{name}": one.plain() for name, one in sets.items() if one.kind == "eigen"}
        planes = settings.planes.items()
        found |= {f"planes.{name}.curvature": plane.curvature.plain() for name, plane in planes if plane.curvature}
        found |= {f"perturbations.{name}": one.plain() for name, one in settings.perturbations.items()}
        chunks = {"batch_size": settings.evaluation.batch_size, "batchnorm": "frozen"}
        for name, curve in settings.curves.items():
            if isinstance(curve, models.Straight) and curve.second_order:
                found[f"curves.{name}.second_order"] = curve.second_order.plain() | chunks
        return {
            f"runs.{self.name}.{name}": models.Matrix(**{k: one[k] for k in shared & one.keys()}).plain()
            for name, one in found.items()
        }

    def _leads_to(self) -> set[str]:
        """Return the other runs that direction sets, planes, curves and lines lead to."""
        sections = ("directions", "planes", "curves", "spectra_between")
        return {run for part in sections for name in getattr(self.settings, part) for run in self.others(part, name)}

    def config_alone(self) -> dict:
        """Return a config by which this run alone, and those that it leads to, can be made again."""
        names, reached = [self.name], self._leads_to()
        while more := sorted(reached - {*names}):
            names += more
            reached = {other for name in more for other in Run(name, self.config)._leads_to()}
        return self.config.plain("runs", "fresh") | {"runs": {name: self.config.runs[name].plain() for name in names}}


def _other_arguments(others: dict[str, str]) -> list[str]:
    """Return the arguments that hand a script the trajectories of other runs."""
    return [f"--other={run}={trajectory}" for run, trajectory in others.items()]


def _natural(name: str) -> list:
    """Sort key by which epoch10 comes after epoch9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _require_file(where: str, file: str) -> None:
    if not (os.path.isfile(file) or (file.endswith(".zarr") and os.path.isdir(file))):
        raise LossAtlasError(f"config: {where}: no file {file!r}")
