"""Draw the still figures of one plane."""

import argparse
import json
from pathlib import Path

from lossatlas import cli
from lossatlas.render import figures
from lossatlas.store import open_dataset


def main(args, _world) -> None:
    landscape, trajectory = open_dataset(args.landscape), open_dataset(args.trajectory)
    with figures.style():
        drawn = {
            "contour": figures.contour_figure(landscape, args.choices, args.title),
            "surface": figures.surface_figure(landscape, args.choices, args.title),
            "loss": figures.curve_figure(landscape, trajectory, args.title),
        }
        for name, figure in drawn.items():
            figures.save(figure, [Path(f"{args.prefix}_{name}.{suffix}") for suffix in ("pdf", "png")])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--landscape", type=Path, required=True)
    parser.add_argument("--trajectory", type=Path, required=True)
    parser.add_argument("--choices", type=json.loads, required=True, help="the config's `figures`, as JSON")
    parser.add_argument("--title", required=True)
    parser.add_argument("--prefix", required=True, help="files are PREFIX_contour.pdf and so on")
    parsed = parser.parse_args()
    cli.run(lambda world: main(parsed, world))
