"""The whole DAG: what it makes, what it reuses, what it refuses."""

import json
import re
import shutil

import imageio_ffmpeg
import lossatlas
import numpy as np
import pytest
import torch
import xarray as xr
from lossatlas import zoo
from lossatlas.drivers import store_docs
from lossatlas.io import store

from tests.conftest import ROOT, contents, snakemake
from tests.helpers.jobs import CLOSED_FORM
from tests.workflow.conftest import all_contents, run_config, test_config, write_config

pytestmark = pytest.mark.workflow


@pytest.fixture
def poisoned_torch(tmp_path):
    """A folder for PYTHONPATH in which importing torch fails."""
    (tmp_path / "poison" / "torch").mkdir(parents=True)
    (tmp_path / "poison" / "torch" / "__init__.py").write_text("raise ImportError('a dry run must not import torch')")
    return str(tmp_path / "poison")


def jobs(done) -> dict[str, int]:
    """Return the job counts of a dry run."""
    table = (done.stdout + done.stderr).split("Job stats:")[-1]
    return {name: int(count) for name, count in re.findall(r"^(\w+)\s+(\d+)$", table, re.MULTILINE)}


RULES = ("landscape", "curves", "spectra", "curvature", "tracking")
DRAWN = {"video", "figures", "curve_figure", "spectra_figures", "line_figure", "curvature_figure", "tracking_figure"}
DRAWN |= {"null_figure", "report"}


def test_dry_run_plans_the_demo_without_torch(poisoned_torch):
    planned = jobs(snakemake("-n", "--forceall", PYTHONPATH=poisoned_torch))
    assert planned == {
        "train": 1,
        "pca": 1,
        "directions": 1,
        "eigen": 1,
        "landscape": 3,
        "spectra": 1,
        "figures": 3,
        "null_figure": 1,
        "spectra_figures": 1,
        "video": 3,
        "report": 1,
        "all": 1,
        "total": 18,
    }


@pytest.mark.parametrize("option", ["--dag", "--rulegraph"])
def test_graphs_are_drawn(option):
    assert "digraph" in snakemake(option, "--forceall").stdout


def test_every_target_is_made_and_opens(undisturbed, recwarn):
    run = undisturbed / "results" / "tiny"
    expected = [
        "trajectory",
        "directions/pca",
        "directions/random",
        "directions/eigen",
        "spectra",
        "spectra_between/training",
        "curvature/random",
        "tracking",
        "curves/gaussian",
        "curves/training",
        "landscape/pca",
        "landscape/random",
    ]
    for name in expected:
        dataset = xr.open_zarr(run / f"{name}.zarr", chunks=None)
        assert {"title", "summary", "fingerprint", "provenance", "attempts"} <= dataset.attrs.keys()
        for variable in dataset.variables.values():
            assert variable.attrs["long_name"]
    assert not [w for w in recwarn if "onsolidated" in str(w.message)]
    kinds = {name: lossatlas.open(run / f"{name}.zarr").kinds for name in expected}
    assert [name for name, drawn in kinds.items() if not drawn] == [
        "trajectory",
        "directions/random",
        "directions/eigen",
    ]
    assert kinds["landscape/pca"] == ["contour", "surface", "loss", "metrics"]
    assert kinds["curvature/random"] == ["curvature"]
    assert lossatlas.open(run / "spectra_between/training.zarr").at(0.0).plot().axes
    for plane in ("pca", "random", "eigen"):
        reader = imageio_ffmpeg.read_frames(str(run / "video" / f"{plane}.mp4"))
        assert next(reader)["size"] == (1280, 720)
        assert sum(1 for _ in reader) == 11 + 5
        for kind in ("contour", "surface", "loss"):
            assert (run / "figures" / f"{plane}_{kind}.pdf").stat().st_size > 5000
            assert (run / "figures" / f"{plane}_{kind}.png").stat().st_size > 5000


def test_stores_are_as_their_page_says(undisturbed):
    told = {name.partition("/")[0]: arrays for name, arrays in store_docs.stores().items()}
    known = {name for names in store_docs.ATTRIBUTES for name in names.split(", ")}
    run, kinds = undisturbed / "results" / "tiny", set()
    for path in sorted(file for file in run.rglob("*.zarr") if ".stores" not in file.parts):
        kind = path.relative_to(run).parts[0].removesuffix(".zarr")
        dataset = xr.open_zarr(path, chunks=None, mask_and_scale=False)
        arrays = {array.name: array for array, _ in told[kind]}
        assert {array.name for array, always in told[kind] if always} <= set(dataset.variables) <= set(arrays), path
        for name, variable in dataset.variables.items():
            assert variable.dims == arrays[name].dims, (path, name)
            text = np.dtype(arrays[name].dtype).kind == "U"
            assert variable.dtype.kind in "OUT" if text else variable.dtype == arrays[name].dtype, (path, name)
            assert variable.attrs.get("units", "") == arrays[name].units, (path, name)
        assert set(dataset.attrs) <= known, path
        kinds.add(kind)
    assert kinds >= {*told} - {"overlaps", "perturbations"}


def test_stores_tell_how_products_were_computed_and_the_memory_of_each_rank(undisturbed):
    for name in ("spectra", "spectra_between/training", "tracking", "curvature/random"):
        attrs = xr.open_zarr(undisturbed / f"results/tiny/{name}.zarr", chunks=None).attrs
        assert attrs["strategy"] == "split"
        assert attrs["strategy_note"].startswith("split, about 0.0")
        peaks = attrs["attempts"][-1]["peak_memory_bytes"]
        assert len(peaks) == attrs["attempts"][-1]["ranks"]
        assert all(attrs["product_bytes"] < peak < 2**32 for peak in peaks), "PyTorch alone takes more"
    eigen = xr.open_zarr(undisturbed / "results/tiny/directions/eigen.zarr", chunks=None)
    assert eigen.attrs["strategy"] == "split"


def test_the_surface_and_the_path_agree_where_they_meet(undisturbed):
    run = undisturbed / "results" / "tiny"
    plane = xr.open_zarr(run / "landscape" / "pca.zarr", chunks=None)
    assert plane["path_x"].values[-1] == pytest.approx(0, abs=1e-9)
    assert plane["path_residual"].values[-1] == pytest.approx(0, abs=1e-9)
    true, projected = plane["path_true_loss"].values, plane["path_projected_loss"].values
    assert np.allclose(true[:, -1], projected[:, -1], rtol=1e-6), "the centre lies on the plane; strategies round"
    eager = xr.open_zarr(run / "landscape" / "eigen.zarr", chunks=None)
    assert np.array_equal(eager["path_true_loss"].values[:, -1], eager["path_projected_loss"].values[:, -1])
    inside = plane["loss"].interp(x=plane["path_x"], y=plane["path_y"], method="cubic")
    assert np.abs(inside - plane["path_projected_loss"]).max() < 2e-3


def test_curves_meet_the_planes_and_the_path(undisturbed):
    run = undisturbed / "results" / "tiny"
    along, line = (xr.open_zarr(run / f"curves/{name}.zarr", chunks=None) for name in ("gaussian", "training"))
    plane = xr.open_zarr(run / "landscape" / "random.zarr", chunks=None)
    assert along["loss"].dims == ("curve", "split", "alpha")
    assert along.sizes == {"curve": 2, "split": 2, "alpha": 13, "other_curve": 2}
    for k, cut in enumerate((plane.sel(y=0), plane.sel(x=0))):
        at = cut["x" if k == 0 else "y"].values  # every second of the curve's positions
        for name in ("loss", "accuracy"):
            # evaluated by another strategy, which differs by rounding
            assert np.allclose(along[name][k].values[:, ::2], cut[name].values, rtol=1e-5), at
    assert np.array_equal(along["loss"].sel(alpha=0).values, np.stack([plane["path_true_loss"].values[:, -1]] * 2))
    ends = line["loss"].sel(alpha=[0, 1]).values[0]
    assert np.allclose(ends, plane["path_true_loss"].values[:, [0, -1]], rtol=1e-6)
    assert along.attrs["random_guess"] == pytest.approx(np.log(10))


def test_what_a_figure_shows_of_a_curve_recomputes_nothing(undisturbed, tmp_path):
    curves = test_config()["runs"]["tiny"]["curves"]
    curves["gaussian"]["view"] = {"loss": [0, 5]}
    file = write_config(tmp_path, test_config(curves=curves))
    planned = jobs(snakemake("-n", "--configfile", str(file), cwd=undisturbed))
    assert planned.keys() - {"all", "total"} == {"curve_figure", "report"}


def test_nothing_is_done_twice(undisturbed):
    done = run_config(undisturbed, test_config())
    assert "Nothing to be done" in done.stdout + done.stderr


TINY = test_config()["runs"]["tiny"]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"spectra": {**TINY["spectra"], "memory_gb": 3}}, {"spectra", "spectra_figures", "video", "report"}),
        ({"tracking": {**TINY["tracking"], "memory_gb": 3}}, {"tracking", "tracking_figure", "report"}),
        ({"video": {"fps": 5, "hold_seconds": 0.5}}, {"video", "report"}),
        ({"figures": {"levels": 7}}, DRAWN),
        (
            {"evaluation": {"train_samples": 90, "test_samples": 50, "batch_size": 40}},
            {"eigen", "spectra", "landscape", "curves", "curvature", "tracking", *DRAWN} - {"null_figure"},
        ),
        (
            {"seed": 1},
            {"train", "pca", "directions", "eigen", "spectra", "landscape", "curves", "curvature", "tracking", *DRAWN},
        ),
    ],
    ids=["spectra", "tracking", "video", "figures", "evaluation", "seed"],
)
def test_a_change_reruns_what_depends_on_it_and_nothing_else(undisturbed, tmp_path, changes, expected):
    file = write_config(tmp_path, test_config(**changes))
    planned = jobs(snakemake("-n", "--configfile", str(file), cwd=undisturbed))
    assert planned.keys() - {"all", "total"} == expected


def test_what_was_deleted_is_made_again_and_all_else_stays(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "copy", symlinks=True)
    run, before = tmp_path / "copy/results/tiny", all_contents(tmp_path / "copy")
    gone = [run / name for name in ("video/random.mp4", "video/eigen.html", "figures/eigen_loss.pdf", "report.html")]
    for file in (*gone, run / "curves/gaussian.zarr"):  # the last is a link
        file.unlink()
    shutil.rmtree(run / ".stores/landscape/pca.zarr")  # its link dangles
    left = {file: file.stat().st_mtime_ns for file in store.chunk_files(run / ".stores")}
    done = run_config(tmp_path / "copy", test_config())
    made = {"landscape": 1, "curves": 1, "curve_figure": 1, "figures": 2, "video": 3, "report": 1}
    assert jobs(done) == {**made, "all": 1, "total": 10}
    assert "curves/gaussian: found finished, nothing to compute" in done.stdout + done.stderr
    assert all_contents(tmp_path / "copy") == before
    assert len(left) > 100
    assert {file: file.stat().st_mtime_ns for file in left} == left
    assert all(file.stat().st_size > 5000 for file in gone)


@pytest.mark.full
@pytest.mark.mpi
@pytest.mark.parametrize(
    ("ranks", "data_ranks", "queue"), [(1, "auto", "counter"), (3, 3, "counter"), (4, 2, "static")]
)
def test_oracle_14_a_networks_stores_are_equal_on_any_number_of_ranks(undisturbed, tmp_path, ranks, data_ranks, queue):
    """As in ``test_kills``, with a network and through snakemake."""
    mpi = {"ranks": ranks, "data_ranks": data_ranks, "queue": queue}
    run_config(tmp_path, test_config(mpi=mpi), "--until", *RULES)
    assert all_contents(tmp_path) == all_contents(undisturbed)


@pytest.mark.full
def test_variants_of_the_spectra_are_made_and_compared(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "copy", symlinks=True)
    variants = {"ggn": {"operator": "ggn"}, "rest": {"operator": "residual"}, "head": {}}
    names = [slot["name"] for slot in json.loads(open_trajectory(undisturbed).attrs["layout"])]
    variants["head"]["parameters"] = [names[-2], names[-1]]
    spectra = test_config()["runs"]["tiny"]["spectra"]
    config = test_config(spectra={**spectra, "stride": 10, "variants": variants})
    run_config(tmp_path / "copy", config, "results/tiny/figures/spectra_variants.png")
    run = tmp_path / "copy/results/tiny"
    opened = {name: xr.open_zarr(run / f"spectra/{name}.zarr", chunks=None) for name in variants}
    whole = xr.open_zarr(run / "spectra.zarr", chunks=None)
    assert opened["ggn"]["smallest"].values.min() > -1e-5 * opened["ggn"]["largest"].values.max()
    parts = opened["ggn"]["trace"].values + opened["rest"]["trace"].values
    assert np.allclose(parts, whole["trace"].values, rtol=1e-3, atol=1e-3 * np.abs(opened["ggn"]["trace"].values).max())
    assert opened["head"].attrs["parameters"] < 1000 < whole.attrs["parameters"]
    assert (run / "figures/spectra_variants.pdf").stat().st_size > 5000


def open_trajectory(folder):
    return xr.open_zarr(folder / "results/tiny/trajectory.zarr", chunks=None)


OWN = "tests.workflow.own_code.tiny_transformer"


def own_config() -> dict:
    return {
        "python_path": ["."],
        "mpi": {"ranks": 2},
        "runs": {
            "own": {
                "model": {"import": "own_code.tiny_transformer:build", "kwargs": {"width": 16}},
                "data": {"import": "own_code.tiny_transformer:load", "kwargs": {"samples": 160}},
                "loss": {"import": "own_code.tiny_transformer:loss"},
                "metrics": {"sequences": "own_code.tiny_transformer:right_throughout"},
                "train": {"optimizer": "AdamW", "learning_rate": 0.003, "batch_size": 30, "epochs": 3, "threads": 1},
                "evaluation": {"train_samples": 50, "test_samples": 30},
                "directions": {
                    "pca": {"kind": "pca"},
                    "back": {
                        "kind": "difference",
                        "to": [{"iteration": "first"}, {"iteration": 6}],
                        "normalize": "none",
                    },
                },
                "planes": {"mixed": {"x": "back/1", "y": "pca/2", "points": [4, 3]}},
                "video": {"frames": True, "hold_seconds": 0},
            }
        },
    }


def test_a_users_own_model_data_and_loss(tmp_path):
    shutil.copytree(ROOT / "tests/workflow/own_code", tmp_path / "own_code")
    run_config(tmp_path, own_config())
    run = tmp_path / "results" / "own"
    trajectory = xr.open_zarr(run / "trajectory.zarr", chunks=None)
    layout = json.loads(trajectory.attrs["layout"])
    names = [slot["name"] for slot in layout]
    assert "mix.weight" in names
    assert "unmix.weight" not in names, "tied weights count once"
    assert "embed.weight" not in names, "frozen weights are not part of theta"
    assert trajectory.attrs["frozen_layout"] == [["embed.weight", [10, 16]]]
    assert trajectory.sizes == {
        "iteration": 13,
        "parameter": sum(np.prod(s["shape"]) for s in layout),
        "frozen_parameter": 160,
        "buffer": 0,
    }
    plane = xr.open_zarr(run / "landscape" / "mixed.zarr", chunks=None)
    true = plane["path_true_loss"].sel(split="train").values
    assert true[0] == pytest.approx(np.log(10), abs=0.3)
    assert true[-1] < true[0]
    assert plane.attrs["subset_stratified"] == {"train": False, "test": False}
    assert plane["path_true_accuracy"].values.max() <= 1
    assert plane["sequences"].dims == ("split", "y", "x")
    wholly, tokens = plane["path_true_sequences"].values, plane["path_true_accuracy"].values
    assert (wholly <= tokens).all()
    assert tokens.max() > 0
    assert (run / "figures" / "mixed_metrics.png").stat().st_size > 10_000
    assert "the user&#39;s own metrics" in (run / "report.html").read_text()
    assert len(list((run / "video" / "mixed_frames").glob("*.png"))) == 13
    (tmp_path / "own_code" / "vocabulary.py").write_text("SIZE = 10\nLENGTH = 7\n")
    file = write_config(tmp_path, own_config())
    assert jobs(snakemake("-n", "--configfile", str(file), cwd=tmp_path))["train"] == 1, "changed code retrains"
    config = own_config()
    for path, said in (
        (
            "own_code.tiny_transformer:right_throughot",
            "own_code/tiny_transformer.py has no 'right_throughot'; did you mean 'right_throughout'?",
        ),
        ("no_such_code:metric", "no module 'no_such_code'"),
    ):
        config["runs"]["own"]["metrics"] = {"sequences": path}
        done = snakemake("-n", "--configfile", str(write_config(tmp_path, config)), cwd=tmp_path, check=False)
        assert f"config: runs.own.metrics.sequences: {said}" in done.stdout + done.stderr


def test_existing_checkpoints_become_a_trajectory(tmp_path):
    torch.manual_seed(0)
    module, rows = zoo.builder("mlp")(hidden=[8]), []
    for epoch in (0, 1, 2, 9, 10, 11):
        for parameter in module.parameters():
            parameter.data += 0.05 * torch.randn_like(parameter)
        torch.save(module.state_dict(), tmp_path / f"epoch{epoch}.pt")
        rows.append(torch.cat([p.detach().flatten() for p in module.parameters()]).numpy())
    config = test_config(model={"name": "mlp", "kwargs": {"hidden": [8]}}, checkpoints={"files": "epoch*.pt"})
    del config["runs"]["tiny"]["train"]
    run_config(tmp_path, config, "results/tiny/video/pca.mp4")
    trajectory = xr.open_zarr(tmp_path / "results/tiny/trajectory.zarr", chunks=None)
    assert np.array_equal(trajectory["parameters"].values, np.stack(rows)), "natural order: epoch9 before epoch10"
    assert np.isnan(trajectory["batch_loss"]).all()
    assert trajectory.attrs["files"][3] == "epoch9.pt"


def refused(tmp_path, config, *arguments) -> str:
    """Run a config that must fail before any job starts; return what was said."""
    done = run_config(tmp_path, config, *arguments, check=False)
    text = done.stdout + done.stderr
    assert done.returncode != 0
    assert "Traceback" not in text
    return text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"modle": {}}, "config: runs.tiny: unknown key 'modle'; did you mean 'model'?"),
        ({"model": {"name": "lenet5"}}, "config: runs.tiny.model.name: 'lenet5' is not one of"),
        ({"model": {"import": "no_such_module:build"}}, "runs.tiny.model.import: no module 'no_such_module'"),
        ({"planes": {"p": {"x": "pca/1", "y": "missing/1"}}}, "runs.tiny.planes.p.y: no directions 'missing'"),
        (
            {"tracking": {"largest": 0}},
            "config: runs.tiny.tracking: largest and smallest are both 0; ask for at least one eigenvector",
        ),
        ({"mpi": {"ranks": "two"}}, "config: mpi.ranks: 'two' is not of type integer"),
    ],
)
def test_mistakes_in_the_config_end_before_any_job(tmp_path, changes, message):
    text = refused(tmp_path, test_config(**changes))
    assert message in text
    assert not (tmp_path / "results").exists()


def test_checkpoints_that_do_not_exist_end_before_any_job(tmp_path):
    config = test_config(checkpoints={"files": "nowhere/*.pt"})
    del config["runs"]["tiny"]["train"]
    assert "no file matches 'nowhere/*.pt'" in refused(tmp_path, config)


def test_a_directions_file_that_does_not_exist_ends_before_any_job(tmp_path):
    config = test_config(directions={"own": {"kind": "file", "path": "nowhere.npy"}}, curves={})
    config["runs"]["tiny"]["planes"] = {"p": {"x": "own/1", "y": "own/2"}}
    assert "runs.tiny.directions.own.path: no file 'nowhere.npy'" in refused(tmp_path, config)


def test_failing_jobs_say_one_line_and_keep_what_was_computed(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "copy", symlinks=True)
    before = contents(tmp_path / "copy/results/tiny/trajectory.zarr")
    flat = {"kind": "difference", "to": [{"iteration": 0}, {"iteration": 0}], "normalize": "none"}
    config = test_config(directions={"flat": flat}, curves={})
    config["runs"]["tiny"]["planes"] = {"p": {"x": "flat/1", "y": "flat/2"}}
    text = refused(tmp_path / "copy", config, "--keep-going")
    assert "error: plane: the directions 'to iteration 0' and 'to iteration 0' are linearly dependent" in text
    assert contents(tmp_path / "copy/results/tiny/trajectory.zarr") == before


def test_a_renderer_that_is_killed_is_named(undisturbed, tmp_path):
    shutil.copytree(undisturbed, tmp_path / "copy", symlinks=True)
    (tmp_path / "copy/results/tiny/report.html").unlink()
    extra = CLOSED_FORM | {"REAL_NETWORK": "1", "EVENTS_KILL": "0 os.rename 1"}
    done = run_config(tmp_path / "copy", test_config(), check=False, **extra)
    text = done.stdout + done.stderr
    assert done.returncode == 1, text
    killed = "report: ended without a word; it was killed, perhaps for lack of memory"
    assert f"What failed:\n  {killed}  (results/tiny/logs/report.log)\n" in text
    assert not (tmp_path / "copy/results/tiny/report.html").exists()
