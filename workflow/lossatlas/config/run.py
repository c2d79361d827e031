"""One run of a resolved config: which stores it has, where they lie, what determines them, and what they need."""

import os
import re
from collections.abc import Iterable
from functools import cached_property
from glob import glob

from lossatlas.config import checkpoints, imports, sizes
from lossatlas.config.references import axes_of, split_axis
from lossatlas.config.value_checks import plain_path
from lossatlas.errors import LossAtlasError

EMBEDDED_DATA = "fashion-mnist-mini"
LINE_KEYS = ("from", "to", "points", "extend", "buffers")
"""Where a line of ``spectra_between`` lies; its other keys belong to the quadrature."""

NOT_IN_CURVATURE = ("points", "points_per_chunk", "paths_losses", "grid", "strategy", "precision")
"""Keys of a plane that say how its losses are computed, not where it lies."""

PRODUCT_KEYS = ("operator", "parameters", "memory_gb", "strategy", "batch_size", "batchnorm")
"""What decides how much memory Hessian products take."""

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


def runs_of(config: dict) -> dict[str, "Run"]:
    """Return the runs of a resolved config by name, once all files that they refer to are found.

    Raises:
        LossAtlasError: a file or the user's code is missing, or a number is too large; names the key.
    """
    runs = {name: Run(name, config) for name in config["runs"]}
    for run in runs.values():
        _ = run.problem
    sizes.check_sizes(config, {name: run.iterations for name, run in runs.items() if not run.is_trained})
    for run in runs.values():
        for name, directions in run.settings["directions"].items():
            if "path" in directions:
                _require_file(f"runs.{run.name}.directions.{name}.path", directions["path"])
        _ = run.measured
    return runs


class Run:
    """One run of a config that has its defaults; nothing is read before it is asked for.

    Methods that take the name of a plane, curve, direction set or store of spectra raise a ``LossAtlasError`` where
    the config has none of this name.
    """

    def __init__(self, name: str, config: dict):
        self.name, self.config, self.settings = name, config, config["runs"][name]
        self.folder = f"{plain_path(config['results'])}/{name}"

    @property
    def is_trained(self) -> bool:
        """Whether the trajectory is trained here, not read from checkpoints."""
        return "train" in self.settings

    def names(self, kind: str) -> list[str]:
        """Return the names of the run's stores of one kind of ``STORES``; one without a name is ``[""]``."""
        settings, planes, sets = self.settings, self.settings["planes"], self._sets_in_use()
        names = {
            "trajectory": [""],
            "landscape": planes,
            "metrics": planes if settings["metrics"] else [],
            "curvature": [name for name, plane in planes.items() if "curvature" in plane],
            "curves": settings["curves"],
            "overlaps": settings["overlaps"],
            "perturbations": settings["perturbations"],
            "spectra": [""] if "spectra" in settings else [],
            "variants": settings.get("spectra", {}).get("variants", {}),
            "spectra_between": settings["spectra_between"],
            "tracking": [""] if "tracking" in settings else [],
            "directions": sets,
            "pca": [name for name in sets if settings["directions"][name]["kind"] == "pca"],
        }
        return list(names[kind])

    def store(self, kind: str, name: str = "") -> str:
        """Return where a store lies."""
        return f"{self.folder}/{STORES[kind].format(name)}.zarr"

    def stores(self, kind: str) -> list[str]:
        """Return where all stores of one kind lie."""
        return [self.store(kind, name) for name in self.names(kind)]

    def _entry(self, section: str, name: str) -> dict:
        """Return the settings of one of several things of a kind."""
        try:
            found = self.settings
            for key in (*section.split("."), name):
                found = found[key]
        except KeyError:
            raise LossAtlasError(f"config: runs.{self.name}.{section}: no {name!r}") from None
        return found

    def _asked_for(self, key: str) -> dict:
        """Return the settings of spectra or tracking, which a run may do without."""
        if key not in self.settings:
            raise LossAtlasError(f"config: runs.{self.name}: no {key}")
        return self.settings[key]

    def _sets_in_use(self) -> list[str]:
        """Return the direction sets that planes and curves lie in, or whose overlaps are asked for."""
        axes = [plane[axis] for plane in self.settings["planes"].values() for axis in ("x", "y")]
        axes += [
            axis for part in ("curves", "overlaps") for one in self.settings[part].values() for axis in axes_of(one)
        ]
        return sorted({split_axis(axis)[0] for axis in axes})

    # What determines stores: each of these is hashed into a fingerprint.

    @cached_property
    def problem(self) -> dict:
        """What determines the loss as a function of theta."""
        spec = {key: self.settings[key] for key in ("seed", "backend", "dtype")}
        for key in ("model", "data", "loss"):
            spec[key] = self._with_source(f"{key}.import", self.settings[key])
        if spec["data"].get("name", EMBEDDED_DATA) != EMBEDDED_DATA:
            spec["data"] = {**spec["data"], "data_root": self.config["data_root"]}
        if "pretrained" in spec["model"]:
            spec["model"] = {**spec["model"], "data_root": self.config["data_root"]}
        return spec

    def _with_source(self, key: str, choice: dict) -> dict:
        """Return a model, data, loss or metric with the digest of the user's source where it has one."""
        if "import" not in choice:
            return choice
        python_path = self.config["python_path"]
        digest = imports.source_digest(choice["import"], python_path, f"config: runs.{self.name}.{key}")
        return {**choice, "python_path": python_path, "source": digest}

    @cached_property
    def measured(self) -> dict:
        """What determines losses and the user's own metrics as functions of theta."""
        paths = self.settings["metrics"]
        own = {name: self._with_source(f"metrics.{name}", {"import": path}) for name, path in paths.items()}
        return {**self._evaluated(), **({"metrics": own} if own else {})}

    def _evaluated(self) -> dict:
        return {**self.problem, "evaluation": self.settings["evaluation"]}

    def trajectory_spec(self) -> dict:
        """Return what determines the trajectory, besides the contents of checkpoints."""
        if self.is_trained:
            return {**self.problem, "train": self.settings["train"]}
        told = {key: value for key, value in self.settings["checkpoints"].items() if key == "losses"}
        if self.iterations is not None and not self.checkpoints[0].endswith(".zarr"):
            told["iterations"] = self.iterations
        return {**self.problem, **({"checkpoints": told} if told else {})}

    def directions_spec(self, name: str) -> dict:
        """Return what determines directions that need the trajectory alone."""
        return self._entry("directions", name)

    def derivatives_spec(self, name: str) -> dict:
        """Return what determines directions that need the network: eigenvectors and gradients."""
        return {**self._evaluated(), "directions": self.directions_spec(name)}

    def plane_spec(self, name: str) -> dict:
        """Return what determines the losses on a plane."""
        plane = {key: value for key, value in self._entry("planes", name).items() if key != "curvature"}
        return {**self.measured, "plane": plane}

    def curvature_spec(self, name: str) -> dict:
        """Return what determines the curvature on a plane: where the plane lies, and the search of eigenvalues."""
        settings = self._entry("planes", name)
        if "curvature" not in settings:
            raise LossAtlasError(f"config: runs.{self.name}.planes.{name}: no key 'curvature'")
        left_out = ("curvature", *NOT_IN_CURVATURE)
        plane = {key: value for key, value in settings.items() if key not in left_out}
        return {**self._evaluated(), "plane": plane, "curvature": settings["curvature"]}

    def curve_spec(self, name: str) -> dict:
        """Return what determines the losses on straight lines; what their figure shows is no part of it."""
        settings = {key: value for key, value in self._entry("curves", name).items() if key != "view"}
        return {**self.measured, "curve": settings}

    def overlap_spec(self, name: str) -> dict:
        """Return what determines overlaps, besides the directions."""
        return self._entry("overlaps", name)

    def perturbation_spec(self, name: str) -> dict:
        """Return what determines the loss's changes under perturbations."""
        return {**self._evaluated(), "perturbations": self._entry("perturbations", name)}

    def spectra_spec(self, name: str) -> dict:
        """Return what determines the spectra ``spectra``, ``spectra/<variant>`` or ``spectra_between/<line>``."""
        if line := self._line(name):
            where = {key: line[key] for key in LINE_KEYS}
            chosen = {key: value for key, value in line.items() if key not in LINE_KEYS}
            return {**self._evaluated(), "spectra": chosen, "line": where}
        spectra, variant = self._asked_for("spectra"), name.removeprefix("spectra").removeprefix("/")
        chosen = {key: value for key, value in spectra.items() if key != "variants"}
        return {**self._evaluated(), "spectra": chosen | (self._entry("spectra.variants", variant) if variant else {})}

    def _line(self, spectra: str) -> dict:
        """Return the settings of the line that a store of spectra lies on, nothing for spectra along training."""
        folder, _, line = spectra.partition("/")
        return self._entry("spectra_between", line) if folder == "spectra_between" else {}

    def tracking_spec(self) -> dict:
        """Return what determines eigenvectors along training."""
        return {**self._evaluated(), "tracking": self._asked_for("tracking")}

    # What jobs read besides.

    def data_ready(self) -> list[str]:
        """Return the marker of a downloaded dataset, nothing for embedded data and the user's own."""
        name = self.settings["data"].get("name")
        return [] if name in (None, EMBEDDED_DATA) else [f"{plain_path(self.config['data_root'])}/.{name}.ready"]

    def weights_ready(self) -> list[str]:
        """Return the marker of downloaded weights, nothing where training begins with seeded ones."""
        model, root = self.settings["model"], plain_path(self.config["data_root"])
        return [f"{root}/.{model['name']}-{model['pretrained']}.ready"] if "pretrained" in model else []

    @cached_property
    def checkpoints(self) -> list[str]:
        """The files of ``checkpoints``; those of a glob in natural order."""
        wanted, where = self.settings["checkpoints"]["files"], f"runs.{self.name}.checkpoints.files"
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
        return checkpoints.iterations(self.settings["checkpoints"], self.checkpoints, where)

    def directions_file(self, name: str) -> list[str]:
        """Return the user's file of directions, if they come from one."""
        spec = self.directions_spec(name)
        return [spec["path"]] if "path" in spec else []

    def direction_stores(self, curve: str) -> list[str]:
        """Return the direction sets that a curve lies in, none between checkpoints."""
        return self._sets_of(self._entry("curves", curve))

    def overlap_stores(self, name: str) -> list[str]:
        """Return the direction sets whose overlaps are asked for."""
        return self._sets_of(self._entry("overlaps", name))

    def _sets_of(self, entry: dict) -> list[str]:
        names = {split_axis(axis)[0] for axis in axes_of(entry)}
        return [self.store("directions", name) for name in sorted(names)]

    def plane_axes(self, name: str) -> list[str]:
        """Return the direction sets of a plane's axes x and y."""
        plane = self._entry("planes", name)
        return [self.store("directions", split_axis(plane[axis])[0]) for axis in ("x", "y")]

    def others(self, section: str, name: str) -> list[str]:
        """Return the other runs that a direction set, plane, curve or line (by section of the config) leads to."""
        entry = self._entry(section, name)
        ends = entry.get("to", [])
        ends = [ends] if isinstance(ends, dict) else ends
        return [*entry.get("paths", []), *sorted({end["run"] for end in ends if "run" in end})]

    def spectra_others(self, name: str) -> list[str]:
        """Return the other run at the end of a line with spectra, if it is another one."""
        return self.others(*name.split("/")) if self._line(name) else []

    def trajectories(self, others: Iterable[str]) -> list[str]:
        """Return the trajectories of other runs."""
        return [Run(other, self.config).store("trajectory") for other in others]

    # How scripts are called.

    def _other_arguments(self, others: Iterable[str]) -> list[str]:
        """Return the arguments that hand a script the trajectories of other runs."""
        return [f"--other={other}={Run(other, self.config).store('trajectory')}" for other in others]

    def train_threads(self) -> int:
        """Return the threads of training."""
        return self.settings["train"]["threads"]

    def train_arguments(self) -> list[str]:
        """Return the arguments for how training is computed."""
        return ["--device", self.settings["device"], "--threads", str(self.train_threads())]

    def directions_threads(self, name: str) -> int:
        """Return the threads of a job that makes directions."""
        return self.directions_spec(name)["threads"]

    def directions_arguments(self, name: str) -> list[str]:
        """Return the arguments for what directions are made of."""
        return self._other_arguments(self.others("directions", name))

    def derivatives_arguments(self, name: str) -> list[str]:
        """Return the arguments for how eigenvectors and gradients are computed."""
        return ["--device", self.settings["device"], "--threads", str(self.directions_threads(name))]

    def mined_arguments(self, name: str) -> list[str]:
        """Return the arguments for how directions are mined and where they start."""
        how = ["--device", self.settings["device"], "--save-minutes", str(self.config["mpi"]["save_minutes"])]
        return [*self.directions_arguments(name), *how]

    def plane_arguments(self, name: str) -> list[str]:
        """Return the arguments for what a plane is made of."""
        plane = self._entry("planes", name)
        axes = [word for axis in ("x", "y") for word in (f"--{axis}", self._axis_argument(plane[axis]))]
        return [*self._other_arguments(self.others("planes", name)), *axes, *self._device_and_queue()]

    def curve_arguments(self, name: str) -> list[str]:
        """Return the arguments for what a curve is made of; a set without a number is taken whole."""
        axes = self._axis_arguments(self._entry("curves", name))
        return [*axes, *self._other_arguments(self.others("curves", name)), *self._device_and_queue()]

    def overlap_arguments(self, name: str) -> list[str]:
        """Return the arguments for the directions whose overlaps are asked for."""
        return self._axis_arguments(self._entry("overlaps", name))

    def _axis_arguments(self, entry: dict) -> list[str]:
        return [f"--x={self._axis_argument(axis)}" for axis in axes_of(entry)]

    def _axis_argument(self, axis: str) -> str:
        name, number = split_axis(axis)
        return f"{self.store('directions', name)}:{'all' if number is None else number + 1}"

    def perturbation_arguments(self, name: str = "") -> list[str]:
        """Return the arguments for how the loss's changes under perturbations are computed."""
        return self._device_and_queue()

    def spectra_arguments(self, name: str = "spectra") -> list[str]:
        """Return the arguments for how spectra and eigenvectors along training are computed."""
        mpi = self.config["mpi"]
        teams = ["--data-ranks", str(mpi["data_ranks"]), "--save-minutes", str(mpi["save_minutes"])]
        return [*self._other_arguments(self.spectra_others(name)), *self._device_and_queue(), *teams]

    def _device_and_queue(self) -> list[str]:
        return ["--device", self.settings["device"], "--queue", self.config["mpi"]["queue"]]

    def figure_choices(self, kind: str = "", name: str = "") -> dict:
        """Return what decides how figures of one kind of store look: the config's ``figures``, and what is its own."""
        own = {"metrics": list(self.settings["metrics"])} if kind == "metrics" else {}
        own |= {"view": self._entry("curves", name)["view"]} if kind == "curves" else {}
        return {**self.settings["figures"], **own}

    def video_arguments(self) -> list[str]:
        """Return the arguments for the speed of videos."""
        video = self.settings["video"]
        return ["--fps", str(video["fps"]), "--hold-seconds", str(video["hold_seconds"])]

    def product_needs(self) -> dict[str, dict]:
        """Return what tells how much memory the Hessian products of the run take, by key of the config."""
        settings, spectra = self.settings, self.settings.get("spectra", {})
        searches = {"spectra": spectra} if spectra else {}
        searches |= {f"spectra.variants.{name}": {**spectra, **spectra["variants"][name]}
                     for name in self.names("variants")}  # fmt: skip
        searches |= {f"spectra_between.{name}": line for name, line in settings["spectra_between"].items()}
        searches |= {"tracking": settings["tracking"]} if "tracking" in settings else {}
        sets = {name: settings["directions"].get(name, {}) for name in self._sets_in_use()}
        searches |= {f"directions.{name}": one for name, one in sets.items() if one.get("kind") == "eigen"}
        searches |= {f"planes.{name}.curvature": settings["planes"][name]["curvature"]
                     for name in self.names("curvature")}  # fmt: skip
        searches |= {f"perturbations.{name}": one for name, one in settings["perturbations"].items()}
        chunks = {"batch_size": settings["evaluation"]["batch_size"], "batchnorm": "frozen"}
        searches |= {f"curves.{name}.second_order": {**curve["second_order"], **chunks}
                     for name, curve in settings["curves"].items() if "second_order" in curve}  # fmt: skip
        given = {name: {key: one[key] for key in PRODUCT_KEYS if key in one} for name, one in searches.items()}
        return {
            f"runs.{self.name}.{name}": {"operator": "hessian", "parameters": ["*"], **one}
            for name, one in given.items()
        }

    def _leads_to(self) -> set[str]:
        """Return the other runs that direction sets, planes, curves and lines lead to."""
        sections = ("directions", "planes", "curves", "spectra_between")
        return {run for part in sections for name in self.settings[part] for run in self.others(part, name)}

    def config_alone(self) -> dict:
        """Return a config by which this run alone, and those that it leads to, can be made again."""
        names, reached = [self.name], self._leads_to()
        while more := sorted(reached - {*names}):
            names += more
            reached = {other for name in more for other in Run(name, self.config)._leads_to()}
        kept = {key: value for key, value in self.config.items() if key not in ("runs", "fresh")}
        return {**kept, "runs": {name: self.config["runs"][name] for name in names}}


def _natural(name: str) -> list:
    """Sort key by which epoch10 comes after epoch9."""
    return [int(part) if part.isdigit() else part for part in re.split(r"(\d+)", name)]


def _require_file(where: str, file: str) -> None:
    if not (os.path.isfile(file) or (file.endswith(".zarr") and os.path.isdir(file))):
        raise LossAtlasError(f"config: {where}: no file {file!r}")
