"""Draw a plane that is not finished yet, from the points that are evaluated: figures/<plane>_preview_<kind>.png."""

import lossatlas.listen  # noqa: F401

import argparse
import json
from pathlib import Path

from lossatlas import cli, landscape, store
from lossatlas.errors import LossAtlasError
from lossatlas.render import figures
from lossatlas.render.style import CHOICES


def main(args, _world) -> None:
    path = store.hidden_path(args.run_dir / "landscape" / f"{args.plane}.zarr", args.run_dir)
    if not path.exists():
        raise LossAtlasError(f"{path}: no such store; its job has not begun")
    dataset = landscape.preview(store.Store(path))
    title, choices = f"{args.run_dir.name}: plane {args.plane}", CHOICES | args.choices
    with figures.style():
        for name, draw in (("contour", figures.contour_figure), ("surface", figures.surface_figure)):
            file = args.run_dir / "figures" / f"{args.plane}_preview_{name}.png"
            figures.save(draw(dataset, choices, title), [file])
            print(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="results/RUN")
    parser.add_argument("plane", help="its name in the config")
    parser.add_argument("--choices", type=json.loads, default={}, help="keys of the config's `figures`, as JSON")
    parsed = parser.parse_args()
    cli.run(lambda world: main(parsed, world))
