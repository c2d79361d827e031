"""Compute Hessian eigenvectors, or negative gradients, at a checkpoint as a set of directions."""

import lossatlas.parallel.listen  # noqa: F401

import time
from pathlib import Path

from lossatlas import backends
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.drivers import command_line
from lossatlas.drivers.hessian_job import remembered
from lossatlas.geometry.directions import DirectionSet, complete
from lossatlas.geometry.directions.eigen import eigen
from lossatlas.geometry.directions.gradient import batches, gradient
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory


def main(args, _world) -> None:
    started, spec = time.monotonic(), args.spec
    choices, path = spec["directions"], Trajectory(args.trajectory)
    subset = evaluation_subsets(load_dataset(spec["data"]), {**spec["evaluation"], "test_samples": 0})["train"]
    inputs = {"trajectory": path.store.identity, "subset/train": subset.digest}
    fingerprint = store.Fingerprint("directions", spec, inputs)
    made = store.find(args.output, args.run_dir, fingerprint, args.fresh)
    if made is not None and made.finished:
        print(f"{args.label}: found finished, nothing to compute", flush=True)
    else:
        if made is None:
            directions = compute(args, path, subset)
            made = store.create(
                args.output, args.run_dir, fingerprint, lambda group: directions.build(group, path.layout, choices)
            )
        made.finish({"ranks": 1, "threads": args.threads, "wall_seconds": time.monotonic() - started})
        report(args.label, made)
    store.publish(args.output, args.run_dir)


def compute(args, path: Trajectory, subset) -> DirectionSet:
    """Search the eigenvectors, or compute the gradients, and normalise them as asked."""
    spec, choices = args.spec, args.spec["directions"]
    backend = backends.backend(spec["backend"])
    device = backend.set_up(args.device, spec["dtype"], args.threads)
    center = path.row_of(choices["center"], "directions.center")
    subsets = batches(subset, choices) if choices["kind"] == "gradient" else {"train": subset}
    chunks = choices["batch_size"], choices["batchnorm"]
    problems = backends.problems_of_run(backend, device, spec, path, subsets, *chunks)
    if choices["kind"] == "gradient":
        raw = gradient(problems, path, center, choices)
    else:
        raw = eigen(problems["train"], path, center, choices, remembered(args, spec, device.description))
        print(f"{args.label}: Hessian products: {raw.notes['strategy_note']}", flush=True)
    raw.notes["device"] = device.description
    return complete(raw, choices, path)


def report(label: str, made: store.Store) -> None:
    """Print what was found."""
    if made.attrs["kind"] == "gradient":
        for name, norm in zip(made["direction"][:], made["raw_norm"][:], strict=True):
            print(f"{label}: {name} over {made.attrs['samples']} samples: norm {norm:.6g}")
        return
    pairs = (made[name][:] for name in ("eigenvalue", "residual", "converged"))
    for value, residual, converged in zip(*pairs, strict=True):
        state = "converged" if converged else "NOT converged; raise max_products or tolerance"
        print(f"{label}: eigenvalue {value:.6g}, residual {residual:.1e}, {state}")


if __name__ == "__main__":
    parser = command_line.arguments(__doc__)
    parser.add_argument("--trajectory", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label=parsed.label)
