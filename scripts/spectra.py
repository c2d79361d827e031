"""Compute Hessian spectra along training or on a line between two checkpoints, by MPI ranks that share one queue."""

import lossatlas.parallel.listen  # noqa: F401

import argparse

from lossatlas.drivers import hessian_job, spectra
from lossatlas.geometry.segments import AlongTraining, Line, Sites
from lossatlas.io.trajectory import Trajectory


def where(args: argparse.Namespace, trajectory: Trajectory, others: dict[str, Trajectory]) -> Sites:
    """Return where the spectra are computed: on the line of the spec, else along training."""
    if "line" in args.spec:
        return Line(args.spec["line"], trajectory, others, f"spectra_between.{args.output.stem}")
    return AlongTraining(trajectory, args.spec["spectra"]["stride"])


if __name__ == "__main__":
    hessian_job.run(__doc__, "spectra", spectra, where)
