"""The files that the workflow makes for a run: what its report shows, and all that a user may look at."""

from lossatlas.config.run import Run
from lossatlas.render.registry import figure_files

REPORTED = (
    "trajectory",
    "directions",
    "landscape",
    "curvature",
    "curves",
    "overlaps",
    "perturbations",
    "spectra",
    "spectra_between",
    "tracking",
)
"""Kinds of stores that a report reads and lists."""


def videos(run: Run) -> dict[str, str]:
    """Return the video of each plane."""
    return {plane: f"{run.folder}/video/{plane}.mp4" for plane in run.names("landscape")}


def reported(run: Run) -> list[str]:
    """Return what the report of a run shows: its stores, videos and figures."""
    stores = [store for kind in REPORTED for store in run.stores(kind)]
    return [*stores, *videos(run).values(), *(file for files in figure_files(run).values() for file in files)]


def everything(run: Run) -> list[str]:
    """Return each file of a run that a user may look at, so that what was deleted is made again.

    Snakemake does not miss the inputs of a report that is there.
    """
    shown, frames = [*reported(run), *run.stores("variants")], run.settings.video.frames
    beside = [file.removesuffix(".png") + ".pdf" for file in shown if file.endswith(".png")]
    players = [f"{run.folder}/video/{plane}.html" for plane in videos(run)]
    folders = [f"{run.folder}/video/{plane}_frames" for plane in videos(run) if frames]
    return [f"{run.folder}/report.html", *shown, *beside, *players, *folders]
