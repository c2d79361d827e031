"""Compute Hessian eigenvectors at a checkpoint as a set of directions."""

import time
from pathlib import Path

from lossatlas import backends, cli, store
from lossatlas.data import evaluation_subsets, load_dataset
from lossatlas.directions import DirectionSet, complete
from lossatlas.directions.eigen import eigen
from lossatlas.trajectory import Trajectory


def main(args, _world) -> None:
    started, spec = time.monotonic(), args.spec
    choices, path = spec["directions"], Trajectory(args.trajectory)
    subsets = evaluation_subsets(load_dataset(spec["data"]), {**spec["evaluation"], "test_samples": 0})
    inputs = {"trajectory": path.store.identity, "subset/train": subsets["train"].digest}
    fingerprint = store.Fingerprint("directions", spec, inputs)
    made = store.find(args.output, args.run_dir, fingerprint, args.fresh)
    if made is not None and made.finished:
        print(f"{args.label}: found finished, nothing to compute", flush=True)
    else:
        if made is None:
            directions = compute(args, path, subsets)
            made = store.create(
                args.output, args.run_dir, fingerprint, lambda group: directions.build(group, path.layout, choices)
            )
        made.finish({"ranks": 1, "threads": args.threads, "wall_seconds": time.monotonic() - started})
        pairs = (made[name][:] for name in ("eigenvalue", "residual", "converged"))
        for value, residual, converged in zip(*pairs, strict=True):
            state = "converged" if converged else "NOT converged; raise max_products or tolerance"
            print(f"{args.label}: eigenvalue {value:.6g}, residual {residual:.1e}, {state}")
    store.publish(args.output, args.run_dir)


def compute(args, path: Trajectory, subsets: dict) -> DirectionSet:
    """Search the eigenvectors and normalise them as asked."""
    spec, choices = args.spec, args.spec["directions"]
    backend = backends.backend(spec["backend"])
    device = backend.set_up(args.device, spec["dtype"], args.threads)
    chunks = choices["batch_size"], choices["batchnorm"]
    problem = backends.problems_of_run(backend, device, spec, path, subsets, *chunks)["train"]
    raw = eigen(problem, path, path.row_of(choices["center"], "directions.center"), choices)
    print(f"{args.label}: Hessian products: {raw.notes['strategy_note']}", flush=True)
    raw.notes["device"] = device.description
    return complete(raw, choices, path)


if __name__ == "__main__":
    parser = cli.arguments(__doc__)
    parser.add_argument("--trajectory", type=Path, required=True)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    parsed = parser.parse_args()
    cli.run(lambda world: main(parsed, world), label=parsed.label)
