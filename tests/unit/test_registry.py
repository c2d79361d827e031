"""The registry of figures: complete, in agreement with what it is read from, and open to a new module."""

import importlib
import inspect
from pathlib import Path

import lossatlas.render.figures
import pytest
import xarray as xr
from lossatlas.config import load
from lossatlas.config.run import Run
from lossatlas.errors import LossAtlasError
from lossatlas.render import registry

from tests.conftest import ROOT
from tests.unit.test_render import CHOICES, datasets

KINDS = ["contour", "surface", "loss", "metrics", "curvature", "curve", "overlap", "perturbation", "null", "density",
         "distribution", "evolution", "counts", "variants", "between", "tracking"]  # fmt: skip


def test_every_figure_of_the_house_is_registered():
    assert list(registry.figures()) == KINDS
    folder = ROOT / "workflow/lossatlas/render/figures"
    registered = {file.stem for file in folder.glob("*.py") if "FigureSpec(" in file.read_text()}
    drawn = {file.stem for file in folder.glob("*.py") if "_figure(" in file.read_text()}
    assert drawn == registered, "a module that draws a figure registers it"


@pytest.mark.parametrize("kind", KINDS)
def test_what_is_read_is_what_the_module_holds_and_its_function_takes_what_it_needs(kind):
    figure = registry.figures()[kind]
    module = importlib.import_module(f"lossatlas.render.figures.{figure.module}")
    (own,) = [one for one in vars(module).values() if isinstance(one, registry.FigureSpec) and one.kind == kind]
    for key, value in vars(own).items():
        assert value in (vars(figure)[key], ""), key
    names = list(inspect.signature(figure.function).parameters)
    assert names[len(figure.needs) : len(figure.needs) + 2] == ["choices", "title"]


def test_a_registered_function_draws():
    landscape, trajectory = datasets()
    for kind in ("contour", "surface", "loss"):
        figure = registry.figures()[kind]
        given = {"landscape": landscape, "trajectory": trajectory}
        drawn = figure.function(*(given[need] for need in figure.needs), choices=CHOICES, title="a title")
        assert drawn.axes[0].get_title() == "a title"


def test_rules_draw_together_what_has_one_log():
    rules = {drawing.rule: (drawing.log, drawing.kinds) for drawing in registry.drawings()}
    assert rules == {
        "figures": ("planes/{plane}", ["contour", "surface", "loss"]),
        "metrics_figure": ("metrics/{plane}", ["metrics"]),
        "curvature_figure": ("curvature/{plane}", ["curvature"]),
        "curve_figure": ("curves/{curve}", ["curve"]),
        "overlap_figure": ("overlaps/{overlap}", ["overlap"]),
        "perturbation_figure": ("perturbations/{perturbation}", ["perturbation"]),
        "null_figure": ("null/{directions}", ["null"]),
        "spectra_figures": ("spectra", ["density", "distribution", "evolution", "counts"]),
        "variants_figure": ("variants", ["variants"]),
        "line_figure": ("between/{line}", ["between"]),
        "tracking_figure": ("tracking", ["tracking"]),
    }


def test_each_drawing_knows_its_stores_and_its_title():
    model, variants = {"name": "lenet"}, {"ggn": {"operator": "ggn"}}
    planes = {"p": {"x": "pca/1", "y": "pca/2", "curvature": {"points": [2, 2]}}, "q": {"x": "pca/1", "y": "pca/2"}}
    settings = {"model": model, "planes": planes, "spectra": {"variants": variants}}
    run = Run("r", load({"results": "out", "runs": {"r": settings}}))
    drawings = {drawing.rule: drawing for drawing in registry.drawings()}
    names = {rule: drawing.names(run) for rule, drawing in drawings.items() if drawing.names(run)}
    assert names == {
        "figures": ["p", "q"],
        "curvature_figure": ["p"],
        "null_figure": ["pca"],
        "spectra_figures": [""],
        "variants_figure": [""],
    }
    curvature, spectra = drawings["curvature_figure"], drawings["variants_figure"]
    assert curvature.arguments(run, "p") == ["curvature=out/r/curvature/p.zarr", "landscape=out/r/landscape/p.zarr"]
    assert spectra.arguments(run, "") == ["spectra=out/r/spectra.zarr", "variants/ggn=out/r/spectra/ggn.zarr"]
    assert drawings["figures"].inputs(run, "q") == ["out/r/landscape/q.zarr", "out/r/trajectory.zarr"]
    assert drawings["figures"].title(run, "q") == "r: plane q"
    assert curvature.title(run, "p") == "r: curvature on plane p"
    assert drawings["null_figure"].title(run, "pca") == "r: directions pca"
    assert spectra.title(run, "") == "r: spectra of several matrices"
    assert registry.figure_files(run) == {
        "plane p": [f"out/r/figures/p_{kind}.png" for kind in ("contour", "surface", "loss", "curvature")],
        "plane q": [f"out/r/figures/q_{kind}.png" for kind in ("contour", "surface", "loss")],
        "directions pca": ["out/r/figures/pca_null.png"],
        "spectra": [
            f"out/r/figures/spectra_{kind}.png"
            for kind in (*KINDS[KINDS.index("density") : KINDS.index("variants")], "variants")
        ],
    }


def test_snakemakes_captions_are_those_of_the_registry():
    files = {file.stem: file.read_text() for file in (ROOT / "workflow/report").glob("*.rst")}
    assert files.pop("workflow").startswith("LossAtlas follows")
    assert files == registry.report_captions(), "run `make docs`"
    assert set(files) == {*KINDS, "video"}


NEW = '''"""The trace alone."""

import matplotlib.pyplot as plt

from lossatlas.render.registry import FigureSpec

TRACE = FigureSpec(kind="trace", needs=("spectra",), caption="It is " "|tr|.")


def trace_figure(spectra, choices, title):
    figure, axes = plt.subplots()
    axes.plot(spectra["iteration"], spectra["trace"])
    axes.set_title(title)
    return figure
'''


@pytest.fixture
def new_module(tmp_path, monkeypatch):
    """A function that writes the only module of a registry of its own, and returns what is read."""
    (tmp_path / "figures").mkdir()
    monkeypatch.setattr(registry, "__file__", str(tmp_path / "registry.py"))
    paths = [str(tmp_path / "figures"), *lossatlas.render.figures.__path__]
    monkeypatch.setattr(lossatlas.render.figures, "__path__", paths)

    def write(text: str) -> dict[str, registry.FigureSpec]:
        Path(tmp_path, "figures/new_figure_of_a_test.py").write_text(text)
        return registry.figures.__wrapped__()

    return write


def test_a_new_figure_is_one_module(new_module):
    (figure,) = new_module(NEW).values()
    assert (figure.rule, figure.log, figure.title) == ("trace_figure", "trace", "{run}: spectra")
    assert figure.report_caption == r"**{{ snakemake.wildcards.run }}**. It is \|tr\|." + "\n"
    spectra = xr.Dataset({"trace": ("iteration", [3.0, 2.0])}, coords={"iteration": [0, 5]})
    (axes,) = figure.function(spectra, choices={}, title="t").axes
    assert list(axes.lines[0].get_ydata()) == [3.0, 2.0]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('("spectra",)', '("spectre",)', "line 7: needs: no stores 'spectre'; there are landscape, metrics"),
        ('("spectra",)', '("spectra", "x")', "line 7: needs: no stores 'x'; there are trajectory, landscape"),
        ('kind="trace"', "kind=NAME", "line 7: a FigureSpec of literals"),
        ("caption=", "capton=", "line 7: .*capton"),
        ("TRACE = FigureSpec", "TRACE = dict", "new_figure_of_a_test.py: no FigureSpec stands above the functions"),
    ],
)
def test_mistakes_in_a_registration_are_named(new_module, old, new, message):
    with pytest.raises(LossAtlasError, match=message):
        new_module(NEW.replace(old, new))
