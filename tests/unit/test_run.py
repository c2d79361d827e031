"""What determines the stores of a run, where they lie and what makes them, told from its config without Snakemake."""

import json
import subprocess
import sys

import numpy as np
import pytest
from lossatlas.config import load, resolve
from lossatlas.config.run import Run, runs_of
from lossatlas.errors import LossAtlasError
from lossatlas.render import targets

from tests.conftest import ROOT

LENET = {"model": {"name": "lenet"}}
SETTINGS = {
    "train": {"learning_rate": 0.1, "epochs": 1},
    "evaluation": {"train_samples": 100, "test_samples": 0},
    "directions": {
        "pca": {"kind": "pca"},
        "sharp": {"kind": "eigen", "largest": 2, "memory_gb": 3},
        "to-b": {"kind": "difference", "to": [{"run": "b"}, {"iteration": "first"}]},
        "unused": {"kind": "random"},
    },
    "planes": {
        "flat": {"x": "pca/1", "y": "pca/2", "points": [9, 7]},
        "curved": {"x": "sharp/2", "y": "to-b/1", "paths": ["c"], "curvature": {"points": [3, 3]}},
    },
    "curves": {
        "ahead": {"x": ["sharp", "pca/2"], "view": {"loss": [0, 2]}},
        "over": {"from": "first", "to": {"run": "b", "iteration": "last"}},
    },
    "spectra": {"probes": 3, "variants": {"ggn": {"operator": "ggn"}, "head": {"parameters": ["fc3.*"]}}},
    "spectra_between": {"over": {"from": "first", "to": {"run": "b", "iteration": "last"}, "points": 5}},
    "tracking": {"stride": 5},
}


def config_of(**changes):
    """Return a config with a run ``a`` that has everything, and runs ``b`` and ``c``, to which it leads."""
    settings = {**LENET, **SETTINGS, **changes}
    return load({"results": "out/", "runs": {"a": settings, "b": LENET, "c": LENET, "alone": LENET}})


@pytest.fixture
def run() -> Run:
    return Run("a", config_of())


def test_a_run_knows_its_stores(run):
    assert [run.names(kind) for kind in ("landscape", "metrics", "curvature", "curves", "variants", "pca")] == [
        ["flat", "curved"],
        [],
        ["curved"],
        ["ahead", "over"],
        ["ggn", "head"],
        ["pca"],
    ]
    assert run.names("directions") == ["pca", "sharp", "to-b"], "those that no plane and no curve lies in are not made"
    assert run.stores("variants") == ["out/a/spectra/ggn.zarr", "out/a/spectra/head.zarr"]
    assert run.stores("tracking") == ["out/a/tracking.zarr"]
    bare = Run("b", config_of())
    assert bare.stores("spectra") == bare.stores("tracking") == bare.stores("curves") == []


def test_all_targets_of_a_run(run):
    made = targets.everything(run)
    assert len(made) == len(set(made))
    stores = [*("trajectory", "directions/pca", "directions/sharp", "directions/to-b", "landscape/flat"),
              *("landscape/curved", "curvature/curved", "curves/ahead", "curves/over", "spectra", "spectra/ggn"),
              *("spectra/head", "spectra_between/over", "tracking")]  # fmt: skip
    figures = [*(f"{plane}_{kind}" for plane in ("flat", "curved") for kind in ("contour", "surface", "loss")),
               *("curved_curvature", "ahead_curve", "over_curve", "pca_null", "over_between", "spectra_density"),
               *("spectra_distribution", "spectra_evolution", "spectra_counts", "spectra_variants"),
               "spectra_tracking"]  # fmt: skip
    expected = {"report.html", *(f"{store}.zarr" for store in stores)}
    expected |= {f"figures/{figure}.{suffix}" for figure in figures for suffix in ("png", "pdf")}
    expected |= {f"video/{plane}.{suffix}" for plane in ("flat", "curved") for suffix in ("mp4", "html")}
    assert {file.removeprefix("out/a/") for file in made} == expected
    assert not {"out/a/spectra/ggn.zarr", "out/a/report.html"} & set(targets.reported(run))
    framed = Run("a", config_of(video={"frames": True}))
    assert set(targets.everything(framed)) - set(made) == {"out/a/video/flat_frames", "out/a/video/curved_frames"}
    own = Run("a", config_of(metrics={"mine": "m:f"}))
    assert {file for file in targets.reported(own) if "metrics" in file} == {
        "out/a/figures/flat_metrics.png",
        "out/a/figures/curved_metrics.png",
    }


PROBLEM = {
    "seed": 0,
    "backend": "torch",
    "dtype": "float32",
    "model": {"name": "lenet", "kwargs": {}},
    "data": {"name": "fashion-mnist-mini", "kwargs": {}},
    "loss": {"name": "cross-entropy"},
}


def test_specs_hold_what_determines_a_store_and_nothing_else(run):
    settings = run.config_alone()["runs"]["a"]
    assert run.problem == PROBLEM
    assert run.trajectory_spec() == {**PROBLEM, "train": settings["train"]}
    assert run.directions_spec("pca") == settings["directions"]["pca"]
    evaluated = {**PROBLEM, "evaluation": settings["evaluation"]}
    assert run.derivatives_spec("sharp") == {**evaluated, "directions": settings["directions"]["sharp"]}
    assert run.tracking_spec() == {**evaluated, "tracking": settings["tracking"]}
    plane = run.plane_spec("curved")
    assert set(plane) - set(evaluated) == {"plane"}
    assert set(settings["planes"]["curved"]) - set(plane["plane"]) == {"curvature"}
    curvature = run.curvature_spec("curved")
    assert curvature["curvature"] == settings["planes"]["curved"]["curvature"]
    assert not {"points", "grid", "strategy", "precision", "curvature"} & set(curvature["plane"])
    assert {"x", "y", "center", "batchnorm", "paths"} <= set(curvature["plane"])
    curve = run.curve_spec("ahead")["curve"]
    assert set(settings["curves"]["ahead"]) - set(curve) == {"view"}
    json.dumps([plane, curvature, curve])


def test_specs_of_spectra(run):
    along, ggn = (run.spectra_spec(name)["spectra"] for name in ("spectra", "spectra/ggn"))
    assert "variants" not in along
    assert {key for key in along if along[key] != ggn[key]} == {"operator"}
    assert along["operator"] == "hessian" and along["probes"] == ggn["probes"] == 3
    between = run.spectra_spec("spectra_between/over")
    settings = run.config_alone()["runs"]["a"]["spectra_between"]["over"]
    assert between["line"] | between["spectra"] == settings
    assert set(between["line"]) == {"from", "to", "points", "extend", "buffers"}
    assert between["line"]["points"] == 5
    assert not set(between["line"]) & set(between["spectra"])
    assert "line" not in run.spectra_spec("spectra")


def test_own_metrics_and_sources_enter_where_they_matter(tmp_path):
    (tmp_path / "mine.py").write_text("def f(outputs, targets): return outputs\n")
    config = config_of(metrics={"own": "mine:f"})
    config.python_path = [str(tmp_path)]
    run = Run("a", config)
    assert set(run.plane_spec("flat")["metrics"]["own"]) == {"import", "python_path", "source"}
    assert "metrics" in run.curve_spec("ahead")
    assert not any("metrics" in spec for spec in (run.curvature_spec("curved"), run.spectra_spec("spectra")))
    (tmp_path / "mine.py").write_text("def f(outputs, targets): return -outputs\n")
    assert Run("a", config).plane_spec("flat")["metrics"] != run.plane_spec("flat")["metrics"]
    (tmp_path / "mine.py").write_text("def g(outputs, targets): return outputs\n")
    with pytest.raises(LossAtlasError, match=r"config: runs\.a\.metrics\.own: .*mine\.py has no 'f'"):
        runs_of(config)


def test_downloads(run):
    assert run.data_ready() == run.weights_ready() == []
    model = {"name": "mobilenet-v2", "pretrained": "imagenet1k-v1"}
    config = config_of(data={"name": "cifar10"}, model=model, spectra={})
    run = Run("a", config.model_copy(update={"data_root": "-data//x"}))
    assert run.data_ready()[0].endswith("/-data/x/.cifar10.ready") and run.data_ready()[0].startswith("/")
    assert run.weights_ready()[0].endswith("/-data/x/.mobilenet-v2-imagenet1k-v1.ready")
    assert run.problem["data"]["data_root"] == run.problem["model"]["data_root"] == "-data//x"


def test_arguments_of_scripts(run):
    mpi = ["--device", run.settings.device, "--queue", run.config.mpi.queue]
    sets = "out/a/directions"
    assert run.plane_arguments("curved") == [
        *("--other=c=out/c/trajectory.zarr", "--x", f"{sets}/sharp.zarr:2", "--y", f"{sets}/to-b.zarr:1", *mpi)
    ]
    assert run.direction_stores("planes", "curved") == [f"{sets}/sharp.zarr", f"{sets}/to-b.zarr"]
    assert run.curve_arguments("ahead") == [f"--x={sets}/sharp.zarr:all", f"--x={sets}/pca.zarr:2", *mpi]
    assert run.direction_stores("curves", "ahead") == [f"{sets}/pca.zarr", f"{sets}/sharp.zarr"]
    assert run.curve_arguments("over") == ["--other=b=out/b/trajectory.zarr", *mpi]
    assert run.direction_stores("curves", "over") == []
    assert run.directions_arguments("to-b") == ["--other=b=out/b/trajectory.zarr"]
    assert run.directions_arguments("pca") == []
    teams = ["--data-ranks", "auto", "--save-minutes", str(run.config.mpi.save_minutes)]
    assert run.spectra_arguments("spectra/ggn") == run.spectra_arguments() == [*mpi, *teams]
    assert run.spectra_arguments("spectra_between/over") == ["--other=b=out/b/trajectory.zarr", *mpi, *teams]
    assert run.derivatives_arguments("sharp") == [*mpi[:2], "--threads", "2"] == run.train_arguments()
    assert run.others("planes", "curved") == {"c": "out/c/trajectory.zarr"}
    assert run.figure_choices("curves", "ahead")["view"] == {"loss": [0, 2]}
    assert run.figure_choices("metrics")["metrics"] == []
    assert run.figure_choices("spectra") == run.config_alone()["runs"]["a"]["figures"]


def test_memory_is_asked_for_all_that_takes_products(run):
    found = run.product_needs()
    assert set(found) == {
        *("runs.a.spectra", "runs.a.spectra.variants.ggn", "runs.a.spectra.variants.head", "runs.a.tracking"),
        *("runs.a.spectra_between.over", "runs.a.directions.sharp", "runs.a.planes.curved.curvature"),
    }
    assert found["runs.a.spectra.variants.head"]["parameters"] == ["fc3.*"]
    assert found["runs.a.directions.sharp"]["memory_gb"] == 3
    assert found["runs.a.directions.sharp"]["operator"] == "hessian"
    assert Run("b", config_of()).product_needs() == {}


def test_a_config_alone_makes_a_run_again(run):
    alone = run.config_alone()
    assert set(alone["runs"]) == {"a", "b", "c"}
    assert "fresh" not in alone
    assert resolve(alone) == {**alone, "fresh": False}
    assert Run("a", load(alone)).plane_spec("curved") == run.plane_spec("curved")


@pytest.mark.parametrize(
    ("ask", "message"),
    [
        (lambda run: run.plane_spec("no"), "config: runs.a.planes: no 'no'"),
        (lambda run: run.plane_arguments("no"), "config: runs.a.planes: no 'no'"),
        (lambda run: run.curvature_spec("flat"), "config: runs.a.planes.flat: no key 'curvature'"),
        (lambda run: run.directions_spec("no"), "config: runs.a.directions: no 'no'"),
        (lambda run: run.curve_spec("no"), "config: runs.a.curves: no 'no'"),
        (lambda run: run.spectra_spec("spectra/no"), "config: runs.a.spectra.variants: no 'no'"),
        (lambda run: run.spectra_spec("spectra_between/no"), "config: runs.a.spectra_between: no 'no'"),
        (lambda run: Run("b", run.config).spectra_spec("spectra"), "config: runs.b: no spectra"),
        (lambda run: Run("b", run.config).tracking_spec(), "config: runs.b: no tracking"),
    ],
)
def test_names_that_the_config_lacks_are_told_in_one_line(run, ask, message):
    with pytest.raises(LossAtlasError) as told:
        ask(run)
    assert str(told.value) == message


def test_files_that_are_missing_are_told_before_any_job(tmp_path):
    def runs(**settings):
        return runs_of(load({"runs": {"a": {**LENET, "planes": {}, **settings}}}))

    pattern = str(tmp_path / "epoch*.pt")
    with pytest.raises(LossAtlasError, match=r"runs\.a\.checkpoints\.files: no file matches"):
        runs(checkpoints={"files": pattern})
    for number in (10, 9, 1):
        (tmp_path / f"epoch{number}.pt").touch()
    files = runs(checkpoints={"files": pattern})["a"].checkpoints
    assert files == [str(tmp_path / f"epoch{number}.pt") for number in (1, 9, 10)]
    with pytest.raises(LossAtlasError, match=r"runs\.a\.checkpoints\.files: no file 'gone\.pt'"):
        runs(checkpoints={"files": ["gone.pt"]})
    file = {"kind": "file", "path": str(tmp_path / "d.npy")}
    with pytest.raises(LossAtlasError, match=r"runs\.a\.directions\.mine\.path: no file"):
        runs(directions={"mine": file})
    np.save(tmp_path / "d.npy", np.zeros((1, 1)))
    (run,) = runs(directions={"mine": file}).values()
    assert run.directions_file("mine") == [str(tmp_path / "d.npy")]
    assert run.is_trained and run.directions_threads("mine") >= 1


def test_what_rules_import_is_light():
    heavy = "{'numpy', 'xarray', 'zarr', 'matplotlib', 'torch', 'tensorflow', 'snakemake'}"
    code = f"import sys; from lossatlas.render import targets; print(sorted({heavy} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT / "workflow", capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr
