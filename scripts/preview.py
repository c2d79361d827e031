"""Draw a plane that is not finished yet, from the points that are evaluated: figures/<plane>_preview_<kind>.png."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
import json
from pathlib import Path

from lossatlas.drivers import command_line, landscape
from lossatlas.errors import LossAtlasError
from lossatlas.io import store
from lossatlas.render import registry
from lossatlas.render.style import CHOICES, save, style


def main(args, _world) -> None:
    path = store.hidden_path(args.run_dir / "landscape" / f"{args.plane}.zarr", args.run_dir)
    if not path.exists():
        raise LossAtlasError(f"{path}: no such store; its job has not begun")
    dataset = landscape.preview(store.Store(path))
    title, choices = f"{args.run_dir.name}: plane {args.plane}", CHOICES | args.choices
    with style():
        for kind, figure in registry.figures().items():
            if figure.needs == ("landscape",):
                file = args.run_dir / "figures" / f"{args.plane}_preview_{kind}.png"
                save(figure.function(dataset, choices=choices, title=title), [file])
                print(file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run_dir", type=Path, metavar="results/RUN")
    parser.add_argument("plane", help="its name in the config")
    parser.add_argument("--choices", type=json.loads, default={}, help="keys of the config's `figures`, as JSON")
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world))
