"""Draw figures of one plane, curve, line or set of principal components, or of a run's spectra, as PDF and PNG."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
import json
from collections.abc import Iterable
from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.io.store import open_dataset
from lossatlas.render import registry
from lossatlas.render.style import save, style


def main(args, _world) -> None:
    datasets = opened(args.stores)
    with style():
        for kind in args.kinds:
            figure = registry.figures()[kind]
            drawn = figure.function(*(datasets[n] for n in figure.needs), choices=args.choices, title=args.title)
            save(drawn, [Path(f"{args.prefix}_{kind}.{suffix}") for suffix in ("pdf", "png")])


def opened(stores: Iterable[str]) -> dict:
    """Open ``need=path`` and ``need/member=path``; the members of one need are a dict of their own."""
    found: dict = {}
    for text in stores:
        key, _, path = text.partition("=")
        need, _, member = key.partition("/")
        if member:
            found.setdefault(need, {})[member] = open_dataset(Path(path))
        else:
            found[need] = open_dataset(Path(path))
    return found


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    known = list(registry.figures())
    parser.add_argument("--kinds", nargs="+", choices=known, required=True, metavar="KIND", help=", ".join(known))
    told = "what they are drawn from; variants/NAME=PATH for each of several"
    parser.add_argument("--stores", nargs="+", required=True, metavar="NEED=PATH", help=told)
    parser.add_argument("--choices", type=json.loads, required=True, help="the config's `figures`, as JSON")
    parser.add_argument("--title", required=True)
    parser.add_argument("--prefix", required=True, help="files are PREFIX_contour.pdf and so on")
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world))
