"""What Sphinx makes from the code: the pages of the config's keys and of figures, and pictures of the gallery."""

import re
from itertools import groupby
from pathlib import Path

from lossatlas.config import document
from lossatlas.render import registry
from lossatlas.results import Result
from matplotlib.figure import Figure
from sphinx.application import Sphinx
from sphinx_gallery.scrapers import figure_rst

REFERENCE = Path(__file__).with_name("reference")

CONFIG = """\
# Config

Your config is one YAML file: `snakemake --configfile my.yaml --cores 2`. Keys that are left out take their defaults;
unknown keys are errors, and the dry run (`-n`) names all mistakes it can find. `<name>` stands for a name of your
choice, `[]` for each entry of a list.

This page is written from the models in `workflow/lossatlas/config/models.py`; `config/README.md` has the same keys as
one table.
"""

FIGURES = """\
# Figures

What is drawn from which store, as PDF and PNG into `results/<run>/figures/`. `<plane>` and the like are the names in
your config. In Python, `lossatlas.render.registry.figures()["contour"].function(dataset)` draws any of them.

| figure | drawn from | shows |
|---|---|---|
"""


def section(key: str) -> str:
    """Return the heading under which a key stands: that of its run, and of what it belongs to there."""
    parts = key.split(".")
    if parts[:2] != ["runs", "<name>"] or len(parts) == 2:
        return "mpi" if parts[0] == "mpi" else "The file"
    return parts[2].removesuffix("[]")


def config_page() -> str:
    """Return the page of all keys, a definition list for each section."""
    rows = [(section(key), key, kind, default, text) for key, kind, default, text in document()]
    with_children = {place for place, key, *_ in rows if key.count(".") > 2}
    rows = [(place if place in {*with_children, "mpi", "The file"} else "A run", *rest) for place, *rest in rows]
    order = list(dict.fromkeys(place for place, *_ in rows))
    text = [CONFIG]
    for place, entries in groupby(sorted(rows, key=lambda row: order.index(row[0])), key=lambda row: row[0]):
        text.append(f"\n## {place if place in ('The file', 'A run') else f'`{place}`'}\n")
        for _, key, kind, default, meaning in entries:
            given = f", default `{default}`" if default else ""
            text.append(f"\n`{key}` ({kind.replace('|', 'or')}{given})\n: {meaning}\n")
    return "".join(text)


def figures_page() -> str:
    """Return the table of all kinds of figures."""
    rows = []
    for figure in registry.figures().values():
        name = f"{figure.wildcard.strip('{}')}" or "spectra"
        name = f"<{name}>" if figure.wildcard else name
        stores = ", ".join(f"`{need}`" for need in figure.needs)
        caption = re.sub(r"\s+", " ", figure.caption).replace("|", "\\|")
        rows.append(f"| `{name}_{figure.kind}` | {stores} | {caption} |\n")
    return FIGURES + "".join(rows)


def write_pages(app: Sphinx) -> None:
    """Write the pages, those alone that have changed."""
    for name, text in {"config": config_page(), "figures": figures_page()}.items():
        file = REFERENCE / f"{name}.md"
        if not file.exists() or file.read_text() != text:
            file.write_text(text)


def shown(block: tuple, block_vars: dict, gallery_conf: dict) -> str:
    """Save what ends a block of a script as Jupyter shows it, a figure or a result; return the text of the page."""
    names = block_vars["example_globals"]
    last, names["___"] = names.get("___"), None
    figure = last.plot() if isinstance(last, Result) else last
    if not isinstance(figure, Figure):
        return ""
    file = next(block_vars["image_path_iterator"])
    figure.savefig(file, dpi=100)
    return figure_rst([file], gallery_conf["src_dir"])


def setup(app: Sphinx) -> dict:
    """Called by Sphinx."""
    app.connect("builder-inited", write_pages)
    return {"parallel_read_safe": True}
