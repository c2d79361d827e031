"""Draw the still figures of one plane, of a run's spectra, or of its eigenvectors along training."""

import argparse
import json
from pathlib import Path

from lossatlas import cli
from lossatlas.render import figures, spectrum, tracking
from lossatlas.store import open_dataset


def main(args, _world) -> None:
    with figures.style():
        if args.landscape:
            drawn = of_plane(args)
        elif args.tracking:
            drawn = {"tracking": tracking.tracking_figure(open_dataset(args.tracking), args.title)}
        else:
            drawn = of_variants(args) if args.variants else of_spectra(args)
        for name, figure in drawn.items():
            figures.save(figure, [Path(f"{args.prefix}_{name}.{suffix}") for suffix in ("pdf", "png")])


def of_plane(args) -> dict:
    """Draw the plane as contours and as a surface, and the loss along training."""
    landscape, trajectory = open_dataset(args.landscape), open_dataset(args.trajectory)
    return {
        "contour": figures.contour_figure(landscape, args.choices, args.title),
        "surface": figures.surface_figure(landscape, args.choices, args.title),
        "loss": figures.curve_figure(landscape, trajectory, args.title),
    }


def of_spectra(args) -> dict:
    """Draw densities, and extreme eigenvalues and trace along training."""
    spectra = open_dataset(args.spectra)
    return {
        "density": spectrum.density_figure(spectra, args.choices.get("kernel_width"), args.title),
        "evolution": spectrum.evolution_figure(spectra, args.title),
    }


def of_variants(args) -> dict:
    """Draw the last densities of several matrices on one axis."""
    stores = {"spectra": args.spectra} | {path.stem: path for path in args.variants}
    opened = {name: open_dataset(path) for name, path in stores.items()}
    return {"variants": spectrum.variants_figure(opened, args.choices.get("kernel_width"), args.title)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    drawn = parser.add_mutually_exclusive_group(required=True)
    drawn.add_argument("--landscape", type=Path, help="a plane; needs --trajectory")
    drawn.add_argument("--spectra", type=Path)
    drawn.add_argument("--tracking", type=Path)
    parser.add_argument("--variants", type=Path, nargs="+", help="spectra of other matrices to compare with --spectra")
    parser.add_argument("--trajectory", type=Path)
    parser.add_argument("--choices", type=json.loads, required=True, help="the config's `figures`, as JSON")
    parser.add_argument("--title", required=True)
    parser.add_argument("--prefix", required=True, help="files are PREFIX_contour.pdf and so on")
    parsed = parser.parse_args()
    cli.run(lambda world: main(parsed, world))
