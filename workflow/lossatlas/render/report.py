"""report.html: everything about one run in one file that needs no other, no server and no network."""

import base64
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
import yaml
from jinja2 import Environment, PackageLoader, StrictUndefined

from lossatlas.config.run import STORES, Run
from lossatlas.krylov import Spectrum
from lossatlas.render import registry
from lossatlas.render.figures.line_scans import mean_with_error
from lossatlas.render.style import percent
from lossatlas.render.targets import REPORTED, videos

_MEDIA = {".png": "image/png", ".mp4": "video/mp4"}
_WORKS = {
    "landscape": "H. Li, Z. Xu, G. Taylor, C. Studer, T. Goldstein. Visualizing the Loss Landscape of Neural Nets. "
    "NeurIPS 2018. (planes, filter normalisation, PCA of the path, "
    "convexity)",
    "gradvis": "A. Chatzimichailidis, F.-J. Pfreundt, N. R. Gauger, J. Keuper. GradVis: Visualization and Second Order "
    "Analysis of Optimization Surfaces during the Training of Deep Neural Networks. MLHPC 2019. (eigenvector planes, "
    "spectra along training)",
    "mining": "X.-C. Li, L. Li, D.-C. Zhan. Visualizing, Rethinking, and Mining the Loss Landscape of Deep Neural "
    "Networks. 2024. (kinds of curves, stationary points)",
    "interpolation": "I. J. Goodfellow, O. Vinyals, A. M. Saxe. Qualitatively Characterizing Neural Network "
    "Optimization Problems. ICLR 2015. (linear interpolation)",
    "products": "B. A. Pearlmutter. Fast Exact Multiplication by the Hessian. Neural Computation 6(1), 1994.",
    "quadrature": "L. Lin, Y. Saad, C. Yang. Approximating Spectral Densities of Large Matrices. SIAM Review 58(1), "
    "2016. (stochastic Lanczos quadrature)",
    "eigen": "K. Wu, H. Simon. Thick-Restart Lanczos Method for Large Symmetric Eigenvalue Problems. SIAM Journal on "
    "Matrix Analysis and Applications 22(2), 2000.",
    "nearest": "G. L. G. Sleijpen, H. A. van der Vorst. A Jacobi-Davidson Iteration Method for Linear Eigenvalue "
    "Problems. SIAM Journal on Matrix Analysis and Applications 17(2), 1996.",
    "subspace": "G. Gur-Ari, D. A. Roberts, E. Dyer. Gradient Descent Happens in a Tiny Subspace. arXiv:1812.04754, "
    "2018. (gradient, step and the top subspace)",
    "walk": "J. M. Antognini, J. Sohl-Dickstein. PCA of High Dimensional Random Walks with Comparison to Neural "
    "Network Training. NeurIPS 2018.",
    "fashion-mnist": "H. Xiao, K. Rasul, R. Vollgraf. Fashion-MNIST: a Novel Image Dataset for Benchmarking Machine "
    "Learning Algorithms. arXiv:1708.07747, 2017.",
}


@dataclass
class Materials:
    """What a report is made from.

    Args:
        datasets: opened stores by kind (``targets.REPORTED``) and name; one without a name is ``""``.
        jobs: (job, seconds, peak MB) of each.
        timings: what the ranks of each MPI job did.
    """

    run: Run
    datasets: dict[str, dict[str, xr.Dataset]]
    jobs: list[tuple[str, float, float]] = field(default_factory=list)
    timings: list[dict] = field(default_factory=list)

    def all(self, kind: str) -> dict[str, xr.Dataset]:
        """Return the stores of a kind by name."""
        return self.datasets.get(kind, {})

    @property
    def recorded(self) -> int:
        """The number of recorded iterations."""
        return self.datasets["trajectory"][""].sizes["iteration"]

    def only(self, kind: str) -> xr.Dataset | None:
        """Return the store of a kind of which a run has one or none."""
        return self.all(kind).get("")


def render(m: Materials) -> str:
    """Return the page."""
    settings = {"sort_keys": True, "allow_unicode": True, "width": 110, "default_flow_style": None}
    stores = {STORES[kind].format(name): one for kind in REPORTED for name, one in m.all(kind).items()}
    versions = {k: v for s in stores.values() for a in s.attrs["attempts"] for k, v in a.get("software", {}).items()}
    return _template("report.html.j2").render(
        run=m.run.name,
        summary=_summary(m),
        planes=[_plane(name, m) for name in m.all("landscape")],
        curves=[_curve(name, m) for name in m.all("curves")],
        overlaps=[_overlap(name, m) for name in m.all("overlaps")],
        perturbations=[_perturbation(name, m) for name in m.all("perturbations")],
        spectra=_spectra(m),
        nulls=[_null(name, m) for name in m.run.names("pca")],
        lines=[_line(name, m) for name in m.all("spectra_between")],
        tracking=_tracking(m),
        settings=yaml.safe_dump(m.run.config_alone(), **settings),
        stores=[_store(name, dataset) for name, dataset in stores.items()],
        jobs=m.jobs,
        ranks=[row for record in m.timings for row in _ranks(record)],
        versions=list(versions.items()),
        works=_works(m, versions["lossatlas"]),
    )


def player(video: Path, title: str) -> str:
    """Return a page that plays one video, which it holds."""
    return _template("player.html.j2").render(video=embed(video), title=title)


def embed(file: Path) -> str:
    """Return a file's contents as a data URI."""
    return f"data:{_MEDIA[file.suffix]};base64,{base64.b64encode(file.read_bytes()).decode()}"


def _template(name: str) -> Any:
    return Environment(
        loader=PackageLoader("lossatlas", "render"), autoescape=True, undefined=StrictUndefined, trim_blocks=True
    ).get_template(name)


def _summary(m: Materials) -> str:
    model, data = (one.name or one.import_ for one in (m.run.settings.model, m.run.settings.data))
    trajectory = m.datasets["trajectory"][""]
    iterations = trajectory["iteration"].values
    return (
        f"{model} with {trajectory.sizes['parameter']:,} parameters on {data}: "
        f"{len(iterations)} recorded checkpoints, iterations {iterations[0]} to {iterations[-1]}. "
        f"{_end(m.all('landscape'))}"
    )


def _end(landscapes: dict[str, xr.Dataset]) -> str:
    """Say how good the last checkpoint is on the evaluation subsets."""
    if not landscapes:
        return ""
    last, said = next(iter(landscapes.values())).isel(iteration=-1), []
    for split in last["split"].values:
        at = last.sel(split=split)
        accuracy = f" at {percent(float(at['path_true_accuracy']))} accuracy" if "path_true_accuracy" in at else ""
        said.append(
            f"{float(at['path_true_loss']):.4g}{accuracy} on {last.attrs['samples'][str(split)]} {split} samples"
        )
    return f"The last one has a loss of {', '.join(said)}."


def _figures(thing: str, m: Materials) -> list[dict]:
    """Return the figures of a plane, a curve, the spectra, ... with their captions."""
    known, files = registry.figures(), [Path(file) for file in registry.figure_files(m.run)[thing]]
    return [{"source": embed(file), "caption": known[file.stem.rsplit("_", 1)[1]].caption} for file in files]


def _plane(name: str, m: Materials) -> dict:
    plane = m.all("landscape")[name]
    loss, share = plane["loss"].sel(split="train").values, plane.attrs["variance_share"]
    finite = loss[np.isfinite(loss)]
    gap = abs(plane["path_true_loss"] - plane["path_projected_loss"]).sel(split="train").values
    nonfinite = ", ".join(f"{count} on {split}" for split, count in plane.attrs["nonfinite_points"].items())
    samples = ", ".join(f"{count} {split}" for split, count in plane.attrs["samples"].items())
    facts = [
        ("axes", f"x: {plane.attrs['x_label']}, {percent(share[0])} of the path's variance; "
                 f"y: {plane.attrs['y_label']}, {percent(share[1])}"),
        ("grid", f"{plane.sizes['x']} x {plane.sizes['y']} points about the {plane.attrs['center']} checkpoint"),
        ("samples", samples),
        ("loss on the plane", f"{finite.min():.4g} to {finite.max():.4g}" if finite.size else "nowhere finite"),
        ("points that are NaN or inf", nonfinite),
        ("checkpoint against its projection", f"losses differ by up to {np.nanmax(gap):.3g}; distance from the plane "
                                              f"up to {plane['path_residual'].values.max():.3g}"),
        ("BatchNorm", plane.attrs["batchnorm"]),
    ]  # fmt: skip
    if "other_run" in plane:
        count, runs = plane.attrs["other_evaluations"], ", ".join(dict.fromkeys(plane["other_run"].values.tolist()))
        apart = f"up to {plane['other_residual'].values.max():.3g} from the plane"
        facts.append(("paths of other runs", f"{runs}; {apart}; {count:,} evaluations"))
    facts += _curvature_facts(m.all("curvature")[name]) if name in m.all("curvature") else []
    return {
        "name": name,
        "video": embed(Path(videos(m.run)[name])),
        "facts": facts,
        "figures": _figures(f"plane {name}", m),
    }


def _null(name: str, m: Materials) -> dict:
    """Return the section of one set of principal components."""
    pca = m.all("directions")[name]
    shown = slice(0, pca.sizes["direction"])
    similar, compared = pca.attrs["walk_similarity"], (pca[key].values[shown] for key in _COMPARED)
    facts = [
        (f"component {k + 1}", f"{percent(share)} of the {pca.attrs['share_of']}, {percent(walks)} in a random walk; "
                               f"coordinates correlate with the walk's at {alike:.3f}")
        for k, (share, walks, alike) in enumerate(zip(*compared, strict=True))
    ]  # fmt: skip
    if np.isfinite(similar):
        facts.append(("similarity of the paths", f"{similar:.3f}; 1 is a random walk up to rotation and scale"))
    wide = f"{pca.attrs['walk_spread']:.3g} times the random walk's; more than 1 where steps go on in one direction"
    facts.append(("spread of the path", wide))
    return {"name": name, "facts": facts, "figures": _figures(f"directions {name}", m)}


_COMPARED = ("path_share", "walk_share", "walk_correlation")


def _curvature_facts(curvature: xr.Dataset) -> list[tuple]:
    """Return what the extreme eigenvalues on a plane are of, their ranges, and what is missing."""
    values = {name: curvature[name].values[np.isfinite(curvature[name].values)] for name in ("largest", "smallest")}
    said = [f"{name} {found.min():.4g} to {found.max():.4g}" for name, found in values.items() if found.size]
    return [
        ("extreme eigenvalues", ", ".join(said) or "nowhere finite"),
        ("of the matrix", f"{curvature.attrs['operator']} of {curvature.attrs['parameters']:,} parameters over "
                          f"{curvature.attrs['samples']} training samples, at {curvature.sizes['x']} x "
                          f"{curvature.sizes['y']} points"),
        ("BatchNorm of the matrix", curvature.attrs["batchnorm"]),
        ("negative curvature", f"at {int((values['smallest'] < 0).sum())} points; NaN or inf at "
                               f"{curvature.attrs['nonfinite_points']}, not converged at "
                               f"{curvature.attrs['unconverged_points']}"),
    ]  # fmt: skip


_CURVE_HEAD = ["curve", "samples", "family", "smallest loss", "at α", "stationary points", "above noise", "barrier",
               "above the chord",
               "monotonicity"]  # fmt: skip


def _curve(name: str, m: Materials) -> dict:
    """Return the section of one store of curves, with a row for each curve and split."""
    curves = m.all("curves")[name]
    attrs, alpha = curves.attrs, curves["alpha"].values
    where = f"from {attrs['from']} to {attrs['to']}, {attrs['length']:.4g} apart" if attrs["ends"] else attrs["center"]
    guess = attrs["random_guess"]
    facts = [
        ("line" if attrs["ends"] else "centre", where),
        ("positions", f"{len(alpha)} points, α from {alpha[0]:.3g} to {alpha[-1]:.3g}"),
        ("samples", ", ".join(f"{count} {split}" for split, count in attrs["samples"].items())),
        ("loss of a random guess", "none" if guess is None else f"log C = {guess:.4g}"),
        ("points that are NaN or inf", ", ".join(f"{n} on {split}" for split, n in attrs["nonfinite_points"].items())),
        *_over_curves(curves),
        ("family", "named from stationary points whose losses differ by more than noise: the standard error of the "
                   "difference over the same samples"),
        ("points with clipped variances", f"{attrs['clipped_points']}, which count for none of these"),
        ("monotonicity", curves["monotonicity"].attrs["long_name"]),
        ("barrier", f"{curves['barrier'].attrs['long_name']}; these are 0 and 1" if attrs["ends"] else
                    f"{curves['barrier'].attrs['long_name']}: the lowest points on either side of the centre"),
        ("BatchNorm", attrs["batchnorm"]),
        *([("alignment", attrs["alignment"])] if "alignment" in attrs else []),
    ]  # fmt: skip
    rows = []
    for one in (
        curves.isel(curve=k).sel(split=split) for k in range(curves.sizes["curve"]) for split in curves["split"]
    ):
        numbers = [f"{float(one[key]):.4g}" for key in ("minimum", "minimum_position", "stationary_points",
                                                        "turning_points", "barrier", "barrier_above_chord",
                                                        "monotonicity")]  # fmt: skip
        family = attrs["families"][int(one["family"])]
        rows.append([str(one["curve"].values), str(one["split"].values), family, *numbers])
    return {"name": name, "facts": facts, "head": _CURVE_HEAD, "rows": rows,
            "figures": _figures(f"curve {name}", m)}  # fmt: skip


def _over_curves(curves: xr.Dataset) -> list[tuple[str, str]]:
    """Return means over the curves of a store, and how many curves are monotonic, by subset."""
    splits = [(str(split), curves.sel(split=split)) for split in curves["split"].values]
    means = (("stationary points", "stationary_points"), ("monotonic steps", "monotonicity"))
    told = [
        (f"{text}, mean over curves", ", ".join(f"{mean_with_error(one, name)} on {split}" for split, one in splits))
        for text, name in means
    ]
    counts = (f"{int(one['monotonic_curves'])} of {curves.sizes['curve']} on {split}" for split, one in splits)
    return [*told, ("monotonic curves", ", ".join(counts))]


def _overlap(name: str, m: Materials) -> dict:
    """Return the section of one store of overlaps, with a row for each direction."""
    overlaps, rows = m.all("overlaps")[name], []
    cosine, gaussian = np.abs(overlaps["cosine"].values), np.abs(overlaps["gaussian_cosine"].values)
    np.fill_diagonal(cosine, -1)
    labels = overlaps["direction"].values
    for k, label in enumerate(labels):
        nearest = f"{cosine[k].max():.4g}, {labels[cosine[k].argmax()]}" if len(labels) > 1 else "none"
        rows.append([str(label), nearest, f"{gaussian[k].max():.4g}" if gaussian.size else "none"])
    size, count = overlaps.attrs["parameters"], overlaps.sizes["gaussian"]
    facts = [("Gaussian vectors", f"{count} of {size:,} entries; chance is {size**-0.5:.3g} (standard deviation)")]
    head = ["direction", "largest |cosine| with another", "largest |cosine| with a Gaussian"]
    return {"name": name, "facts": facts, "head": head, "rows": rows, "figures": _figures(f"overlap {name}", m)}


def _perturbation(name: str, m: Materials) -> dict:
    """Return the section of one store of perturbations, with a row for each factor."""
    changes = m.all("perturbations")[name]
    attrs = changes.attrs
    facts = [
        ("centre", attrs["center"]),
        ("draws", f"{attrs['draws']} Gaussian vectors of {attrs['parameters']:,} entries, σ = {attrs['sigma']:.3g}"),
        ("Hessian", f"tr H = {attrs['trace']:.4g} ± {attrs['trace_error']:.2g}, tr H² = {attrs['trace_of_square']:.4g} "
                    f"± {attrs['trace_of_square_error']:.2g}; {attrs['probes']} probes, {attrs['steps']} steps"),
        ("gradient norm", f"{attrs['gradient_norm']:.4g}"),
        ("BatchNorm", attrs["batchnorm"]),
    ]  # fmt: skip
    rows = []
    for one in (changes.isel(factor=k) for k in range(changes.sizes["factor"])):
        at = {name: float(one[name]) for name in one.data_vars if not one[name].dims}
        rows.append([
            f"{float(one['factor']):.4g}", percent(at["increasing"]),
            f"{at['sampled_mean']:.4g} ± {at['sampled_mean_error']:.2g}",
            f"{at['predicted_mean']:.4g} ({at['predicted_mean_low']:.4g} to {at['predicted_mean_high']:.4g})",
            f"{at['sampled_variance']:.4g} ± {at['sampled_variance_error']:.2g}",
            f"{at['predicted_variance']:.4g} ({at['predicted_variance_low']:.4g} to "
            f"{at['predicted_variance_high']:.4g})",
        ])  # fmt: skip
    head = ["λ", "increasing", "mean, sampled", "mean, predicted (95 %)", "variance, sampled",
            "variance, predicted (95 %)"]  # fmt: skip
    return {"name": name, "facts": facts, "head": head, "rows": rows, "figures": _figures(f"perturbation {name}", m)}


def _spectra(m: Materials) -> dict | None:
    spectra = m.only("spectra")
    if spectra is None:
        return None
    chosen = sorted({0, int(np.nanargmax(spectra["largest"].values)), spectra.sizes["iteration"] - 1})
    iterations = f"{spectra.sizes['iteration']} of {m.recorded} recorded ones"
    rows = [_spectrum_row(spectra.isel(iteration=i)) for i in chosen]
    return {"facts": _quadrature_facts(spectra, ("iterations", iterations)), "head": ["iteration", *_SPECTRUM_HEAD],
            "rows": rows, "figures": _figures("spectra", m)}  # fmt: skip


_SPECTRUM_HEAD = ["smallest node", "largest node", "trace", "95 % interval"]


def _quadrature_facts(spectra: xr.Dataset, *where: tuple[str, str]) -> list[tuple]:
    """Return how spectra were computed, and ``where``."""
    size, steps = spectra.attrs["parameters"], np.isfinite(spectra["nodes"].values).sum(axis=-1)
    probes = (steps > 0).sum(axis=-1)
    return [
        ("method", f"stochastic Lanczos quadrature, {_range(probes)} {spectra.attrs['distribution']} probes, "
                   f"{_range(steps[steps > 0])} steps with full reorthogonalisation"),
        *where,
        ("matrix", f"{size:,} x {size:,}, {spectra.attrs['operator']} of the mean loss over "
                   f"{spectra.attrs['samples']} training samples"),
        ("runs that ended early", spectra.attrs["short_runs"]),
        ("where it is least accurate", spectra.attrs["accuracy"]),
    ]  # fmt: skip


def _range(numbers: np.ndarray) -> str:
    """Return the only number, or the smallest and the largest one, in words."""
    least, most = numbers.min(), numbers.max()
    return f"{most}" if least == most else f"{least} to {most}"


def _spectrum_row(one: xr.Dataset) -> list:
    """Return one row of a table of spectra; the position or iteration comes first."""
    nodes, weights, bounds = (one[name].values for name in ("nodes", "weights", "residual_bounds"))
    trace = Spectrum.read(nodes, weights, bounds, one.attrs["parameters"]).trace()
    extremes = (f"{float(one[name]):.4g}" for name in ("smallest", "largest"))
    where = int(one["iteration"]) if "iteration" in one else f"{float(one['position']):.3g}"
    return [where, *extremes, f"{float(trace.value):.4g}", f"{trace.low:.4g} to {trace.high:.4g}"]


def _line(name: str, m: Materials) -> dict:
    """Return the section of one line: its two ends and the position of the highest loss."""
    line = m.all("spectra_between")[name]
    position = line["position"].values
    ends = [int(np.abs(position - end).argmin()) for end in (0, 1)]
    chosen = sorted({*ends, int(np.nanargmax(line["loss"].values))})
    facts = _quadrature_facts(
        line,
        ("line", f"from {line.attrs['from']} to {line.attrs['to']}, {line.sizes['position']} points from "
                 f"{position[0]:.3g} to {position[-1]:.3g}; the ends are {line.attrs['length']:.4g} apart"),
        ("BatchNorm", f"{line.attrs['batchnorm']}; variances clipped: {int(line['clipped_variances'].sum())}"),
    )  # fmt: skip
    rows = []
    for one in (line.isel(position=i) for i in chosen):
        at, *quadrature = _spectrum_row(one)
        rows.append([at, *(f"{float(one[key]):.4g}" for key in ("loss", "gradient_norm")), *quadrature])
    return {"name": name, "facts": facts, "head": ["position", "loss", "gradient norm", *_SPECTRUM_HEAD],
            "rows": rows, "figures": _figures(f"line {name}", m)}  # fmt: skip


def _tracking(m: Materials) -> dict | None:
    tracking = m.only("tracking")
    if tracking is None:
        return None
    size = tracking.attrs["parameters"]
    ends = Counter(tracking["end"].values.tolist())
    share = percent(np.nanmedian(tracking["gradient_share"].values))
    facts = [
        ("pairs", ", ".join(f"{count} {end}" for end, count in ends.items())),
        ("iterations", f"{tracking.sizes['iteration']} of {m.recorded} recorded ones, "
                       f"{int(tracking['products'].sum()):,} Hessian products"),
        ("matrix", f"{size:,} x {size:,}, {tracking.attrs['operator']} of the mean loss over "
                   f"{tracking.attrs['samples']} training samples"),
        ("iterations with a pair that did not converge", int((tracking["converged"].values == 0).any(axis=1).sum())),
        ("changes of order", int(tracking["crossing"].sum())),
        ("share of the gradient", f"{share} (median) in the {tracking.attrs['subspace']}"),
    ]  # fmt: skip
    return {"facts": facts, "figures": _figures("tracking", m)}


def _store(name: str, dataset: xr.Dataset) -> list:
    last = dataset.attrs["attempts"][-1]
    digests = (dataset.attrs[key][:12] for key in ("fingerprint", "content"))
    return [name, *digests, *(last.get(key, "") for key in ("ranks", "threads", "device")),
            round(last.get("wall_seconds", 0.0), 1)]  # fmt: skip


def _ranks(record: dict) -> Iterable[list]:
    for rank in record["ranks"]:
        spent = ", ".join(f"{activity} {seconds:.1f}" for activity, seconds in rank["seconds"].items())
        yield [record["label"], rank["rank"], rank["units"], spent]


def _works(m: Materials, version: str) -> list[str]:
    kinds = {dataset.attrs["kind"] for dataset in m.all("directions").values()}
    wanted = ["landscape"] if m.all("landscape") or m.all("curves") else []
    wanted += ["mining"] if m.all("curves") or m.all("overlaps") or m.all("perturbations") else []
    wanted += ["interpolation"] if any(curves.attrs["ends"] for curves in m.all("curves").values()) else []
    quadrature = any(map(m.all, ("spectra", "spectra_between", "perturbations")))
    searched = "eigen" in kinds or bool(m.all("tracking"))
    wanted += ["gradvis"] if quadrature or searched else []
    wanted += ["products"] if quadrature or searched or m.all("curvature") else []
    wanted += ["quadrature"] if quadrature else []
    wanted += ["eigen"] if searched or m.all("curvature") else []
    wanted += ["nearest"] if any("near" in dataset.attrs for dataset in m.all("directions").values()) else []
    wanted += ["subspace"] if m.all("tracking") else []
    wanted += ["walk"] if "pca" in kinds else []
    wanted += ["fashion-mnist"] if str(m.run.settings.data.name).startswith("fashion-mnist") else []
    ours = f"The LossAtlas authors. LossAtlas: an atlas of a training run's loss surface. Version {version}."
    return [ours, *(_WORKS[key] for key in wanted)]
