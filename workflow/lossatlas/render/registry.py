"""All figures: what each is drawn from, by which job, and its caption. Reading it imports no figure.

Every module in ``render/figures`` has one or several: a function, and above the functions its registration, a
``FigureSpec`` of literals. Rules, reports, scripts and notebooks find figures here.
"""

import ast
import importlib
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from lossatlas.config.run import STORES, Run
from lossatlas.errors import LossAtlasError

THINGS = {
    "landscape": "plane",
    "metrics": "plane",
    "curvature": "plane",
    "curves": "curve",
    "overlaps": "overlap",
    "perturbations": "perturbation",
    "pca": "directions",
    "spectra": "spectra",
    "spectra_between": "line",
    "tracking": "tracking",
}
"""What figures show, by the kind of store that they are drawn from; also the wildcard where a run may have several.

Reports show figures in this order, those of one kind of store by the names of their modules.
"""

VIDEO_CAPTION = (
    "Training of **{run}** on plane **{plane}**, one frame per recorded iteration. The path on the surface lies at the "
    "loss of its projection; the curve shows the loss of the checkpoints themselves and, dashed, of their projections. "
    "(Chromium shows pages inside this report up to 2 MB; download a longer video.)"
)
"""Of the video of a plane in Snakemake's report."""


@dataclass(frozen=True)
class FigureSpec:
    """One kind of figure, drawn by the function ``<kind>_figure`` of its module.

    The function is called as ``function(*datasets, choices=..., title=...)`` and returns a Matplotlib figure. Where
    several stores meet one need, a dict holds their datasets by name.

    Args:
        kind: how its files end: ``<name>_<kind>.png``.
        needs: kinds of stores (``config.run.STORES``), in the order of the function's arguments. It is drawn for each
            store of the first kind for which a run has the others too.
        caption: what it shows, below the figure in report.html.
        details: further sentences in Snakemake's report, in reStructuredText.
        rule: the rule that draws it, together with the figures above it that name this rule.
        log: the name of the rule's log; as the title, of the first figure of a rule.
        title: what stands above it; ``{run}`` and ``{plane}`` (or another of ``THINGS``) are filled in.
        module: where it is registered; known to the registry.
    """

    kind: str
    needs: tuple[str, ...]
    caption: str
    details: str = ""
    rule: str = ""
    log: str = ""
    title: str = ""
    module: str = ""

    @property
    def function(self) -> Callable[..., Any]:
        """The function that draws; its module is imported."""
        return getattr(importlib.import_module(f"lossatlas.render.figures.{self.module}"), f"{self.kind}_figure")

    @property
    def wildcard(self) -> str:
        """The wildcard by which a run's several planes, curves, ... are told apart; empty where there is one."""
        return f"{{{THINGS[self.needs[0]]}}}" if "{}" in STORES[self.needs[0]] else ""

    @property
    def thing(self) -> str:
        """What reports call the thing that it shows, with the wildcard: ``plane {plane}``, ``spectra``."""
        return f"{THINGS[self.needs[0]]} {self.wildcard}".strip()

    @property
    def report_caption(self) -> str:
        """The caption in Snakemake's report: reStructuredText in a Jinja template."""
        where = f", {THINGS[self.needs[0]]} **{self.wildcard}**" if self.wildcard else ""
        caption = self.caption.replace("|", r"\|")
        return _template(f"**{{run}}**{where}. {caption} {self.details}")


class Drawing:
    """The figures that one rule draws of one thing: a plane, a curve, the spectra of a run."""

    def __init__(self, figures: list[FigureSpec]):
        self.figures, first = figures, figures[0]
        self.rule, self.kinds, self.needs = first.rule, [one.kind for one in figures], first.needs
        self.thing, self.wildcard, self.log = first.thing, first.wildcard, f"{first.log}/{first.wildcard}".strip("/")
        self.key = first.wildcard.strip("{}")

    def names(self, run: Run) -> list[str]:
        """Return the names of what a run has to draw, ``[""]`` where that has no name."""
        first, *others = self.needs
        return [name for name in run.names(first) if all(_has(run, need, name) for need in others)]

    def stores(self, run: Run, name: str) -> dict[str, str]:
        """Return the stores to draw from by need; ``variants/ggn`` is one of several that meet a need."""
        found = {}
        for need in dict.fromkeys(need for figure in self.figures for need in figure.needs):
            if "{}" not in STORES[need]:
                found[need] = run.store(need)
            elif name:
                found[need] = run.store(need, name)
            else:
                found |= {f"{need}/{member}": run.store(need, member) for member in run.names(need)}
        return found

    def inputs(self, run: Run, name: str) -> list[str]:
        """Return the stores to draw from."""
        return list(self.stores(run, name).values())

    def arguments(self, run: Run, name: str) -> list[str]:
        """Return the stores as scripts/figures.py takes them."""
        return [f"{need}={store}" for need, store in self.stores(run, name).items()]

    def prefix(self, run: Run, name: str) -> str:
        """Return how the names of its files begin."""
        return f"{run.folder}/figures/{name or 'spectra'}"

    def files(self, folder: str, name: str, suffix: str = "png") -> list[str]:
        """Return the files of the figures of one thing, below the folder of its run."""
        return [f"{folder}/figures/{name or 'spectra'}_{kind}.{suffix}" for kind in self.kinds]

    def title(self, run: Run, name: str) -> str:
        """Return what stands above the figures."""
        return self.figures[0].title.format(run=run.name, **{self.key: name})

    def choices(self, run: Run, name: str) -> dict:
        """Return what decides how the figures look."""
        return run.figure_choices(self.needs[0], name)


def _has(run: Run, need: str, name: str) -> bool:
    """Return whether a run has the store of this name or, for what has no name, any of a kind."""
    names = run.names(need)
    return name in names if name and "{}" in STORES[need] else bool(names)


@cache
def figures() -> dict[str, FigureSpec]:
    """Return all kinds of figures by name, in the order in which reports show them.

    Raises:
        LossAtlasError: a registration is not made of literals, or names what there is not.
    """
    modules = [file for file in sorted(Path(__file__).with_name("figures").glob("*.py")) if file.stem != "__init__"]
    found = [figure for file in modules for figure in _registered(file)]
    return {figure.kind: figure for figure in sorted(found, key=lambda figure: [*THINGS].index(figure.needs[0]))}


def _registered(file: Path) -> list[FigureSpec]:
    """Return the registrations in a module, read from its text: each ``NAME = FigureSpec(key=literal, ...)``."""
    above = re.split(r"^(?:@|def |class )", file.read_text(), maxsplit=1, flags=re.M)[0]  # all of it takes too long
    calls = [node.value for node in ast.parse(above).body if isinstance(node, ast.Assign)]
    specs = [call for call in calls if isinstance(call, ast.Call) and ast.unparse(call.func) == "FigureSpec"]
    if not specs:
        raise LossAtlasError(f"render/figures/{file.name}: no FigureSpec stands above the functions")
    return [_figure(spec, file.stem) for spec in specs]


def _figure(spec: ast.Call, module: str) -> FigureSpec:
    """Return what a registration says, with the defaults that its kind and its needs give."""
    where = f"render/figures/{module}.py, line {spec.lineno}"
    try:
        figure = FigureSpec(**{str(key.arg): ast.literal_eval(key.value) for key in spec.keywords}, module=module)
    except (TypeError, ValueError) as error:
        raise LossAtlasError(f"{where}: a FigureSpec of literals with its keys is needed: {error}") from error
    for place, need in enumerate(figure.needs):
        if need not in (known := STORES if place else THINGS):
            raise LossAtlasError(f"{where}: needs: no stores {need!r}; there are {', '.join(known)}")
    return replace(
        figure,
        rule=figure.rule or f"{figure.kind}_figure",
        log=figure.log or figure.kind,
        title=figure.title or f"{{run}}: {figure.thing}",
    )


@cache
def drawings() -> list[Drawing]:
    """Return the figures as rules draw them."""
    together: dict[str, list[FigureSpec]] = {}
    for figure in figures().values():
        together.setdefault(figure.rule, []).append(figure)
    return [Drawing(some) for some in together.values()]


def figure_files(run: Run) -> dict[str, list[str]]:
    """Return the PNG files of a run's figures, by what reports call the things that they show."""
    found: dict[str, list[str]] = {}
    for drawing in drawings():
        for name in drawing.names(run):
            files = found.setdefault(drawing.thing.format(**{drawing.key: name}), [])
            files += drawing.files(run.folder, name)
    return found


def report_captions() -> dict[str, str]:
    """Return the captions in Snakemake's report, which reads them from files, by kind."""
    return {kind: figure.report_caption for kind, figure in figures().items()} | {"video": _template(VIDEO_CAPTION)}


def _template(text: str) -> str:
    """Return a caption in which Snakemake fills in the wildcards."""
    for wildcard in ("run", *THINGS.values()):
        text = text.replace(f"{{{wildcard}}}", f"{{{{ snakemake.wildcards.{wildcard} }}}}")
    return text.strip() + "\n"


if __name__ == "__main__":  # python -m lossatlas.render.registry workflow/report
    for kind, text in report_captions().items():
        Path(sys.argv[1], f"{kind}.rst").write_text(text)
