"""Draw the still figures of a plane, of curves, of spectra along training or on a line, of eigenvectors, of a PCA."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
import json
from collections.abc import Callable
from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.io.store import open_dataset
from lossatlas.render.figures import planes, spectrum, tracking
from lossatlas.render.figures.curvature_map import curvature_figure
from lossatlas.render.figures.line_scans import curves_figure
from lossatlas.render.figures.metrics import metrics_figure
from lossatlas.render.figures.random_walk import null_figure


def main(args, _world) -> None:
    with planes.style():
        for name, figure in drawing(args)(args).items():
            planes.save(figure, [Path(f"{args.prefix}_{name}.{suffix}") for suffix in ("pdf", "png")])


def drawing(args) -> Callable[[argparse.Namespace], dict]:
    """Choose what to draw by the stores that are given."""
    if args.landscape:
        return of_curvature if args.curvature else of_metrics if args.metrics else of_plane
    if args.pca:
        return of_pca
    if args.curves:
        return of_curves
    if args.line or args.tracking:
        return of_line if args.line else of_tracking
    return of_variants if args.variants else of_spectra


def of_plane(args) -> dict:
    """Draw the plane as contours and as a surface, and the loss along training."""
    landscape, trajectory = open_dataset(args.landscape), open_dataset(args.trajectory)
    return {
        "contour": planes.contour_figure(landscape, args.choices, args.title),
        "surface": planes.surface_figure(landscape, args.choices, args.title),
        "loss": planes.curve_figure(landscape, trajectory, args.title),
    }


def of_metrics(args) -> dict:
    """Draw accuracy and the user's own metrics on the plane."""
    return {"metrics": metrics_figure(open_dataset(args.landscape), args.metrics, args.title)}


def of_curvature(args) -> dict:
    """Draw the extreme eigenvalues on the plane."""
    curvature, landscape = open_dataset(args.curvature), open_dataset(args.landscape)
    return {"curvature": curvature_figure(curvature, landscape, args.choices, args.title)}


def of_curves(args) -> dict:
    """Draw loss and accuracy on straight lines."""
    return {"curve": curves_figure(open_dataset(args.curves), args.choices, args.view, args.title)}


def of_spectra(args) -> dict:
    """Draw densities, distributions, and extreme eigenvalues and trace along training."""
    spectra = open_dataset(args.spectra)
    return {
        "density": spectrum.density_figure(spectra, args.choices.get("kernel_width"), args.title),
        "distribution": spectrum.distribution_figure(spectra, args.title),
        "evolution": spectrum.evolution_figure(spectra, args.title),
    }


def of_variants(args) -> dict:
    """Draw the last densities of several matrices on one axis."""
    stores = {"spectra": args.spectra} | {path.stem: path for path in args.variants}
    opened = {name: open_dataset(path) for name, path in stores.items()}
    return {"variants": spectrum.variants_figure(opened, args.choices.get("kernel_width"), args.title)}


def of_line(args) -> dict:
    """Draw loss, extreme eigenvalues, trace and densities on a line between two checkpoints."""
    return {"between": spectrum.line_figure(open_dataset(args.line), args.choices.get("kernel_width"), args.title)}


def of_tracking(args) -> dict:
    """Draw eigenvectors followed along training."""
    return {"tracking": tracking.tracking_figure(open_dataset(args.tracking), args.title)}


def of_pca(args) -> dict:
    """Draw the path in its principal components beside a random walk."""
    return {"null": null_figure(open_dataset(args.pca), args.title)}


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    drawn = parser.add_mutually_exclusive_group(required=True)
    drawn.add_argument("--landscape", type=Path, help="a plane; needs --trajectory, --metrics or --curvature")
    drawn.add_argument("--curves", type=Path, help="the loss on straight lines")
    drawn.add_argument("--spectra", type=Path)
    drawn.add_argument("--line", type=Path, help="spectra on a line between two checkpoints")
    drawn.add_argument("--tracking", type=Path)
    drawn.add_argument("--pca", type=Path, help="principal components of the path, to compare with a random walk")
    parser.add_argument("--variants", type=Path, nargs="+", help="spectra of other matrices to compare with --spectra")
    parser.add_argument("--curvature", type=Path, help="extreme eigenvalues on the plane of --landscape")
    parser.add_argument("--metrics", nargs="+", help="the user's own metrics, to draw on the plane of --landscape")
    parser.add_argument("--trajectory", type=Path)
    parser.add_argument("--choices", type=json.loads, required=True, help="the config's `figures`, as JSON")
    parser.add_argument("--view", type=json.loads, default={}, help="what --curves shows, as JSON: x, loss")
    parser.add_argument("--title", required=True)
    parser.add_argument("--prefix", required=True, help="files are PREFIX_contour.pdf and so on")
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world))
