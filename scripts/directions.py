"""Make a set of directions: random, PCA of the path, differences of checkpoints, or from a file."""

import lossatlas.parallel.listen  # noqa: F401

import hashlib
import time
from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.geometry.directions import make_directions
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import limit_threads


def main(args, _world) -> None:
    started, spec = time.monotonic(), args.spec
    limit_threads(spec["threads"])
    path = Trajectory(args.trajectory)
    others = {name: Trajectory(file) for name, file in args.other}
    inputs = {"trajectory": path.store.identity, **{f"run/{name}": t.store.identity for name, t in others.items()}}
    if spec["kind"] == "file":
        with Path(spec["path"]).open("rb") as stream:
            inputs["file"] = hashlib.file_digest(stream, "sha256").hexdigest()
    fingerprint = store.Fingerprint("directions", spec, inputs)
    made = store.find(args.output, args.run_dir, fingerprint, args.fresh)
    if made is not None and made.finished:
        print(f"{args.label}: found finished, nothing to compute", flush=True)
    else:
        if made is None:
            directions = make_directions(spec, path, others)
            made = store.create(
                args.output, args.run_dir, fingerprint, lambda group: directions.build(group, path.layout, spec)
            )
        made.finish({"ranks": 1, "wall_seconds": time.monotonic() - started})
        for label, share, bend in zip(made["direction"][:], made["variance_share"][:], made["bend"][:], strict=True):
            print(f"{args.label}: {label}: {100 * share:.2f} % of the path's variance, bent by {bend:.1f} degrees")
    store.publish(args.output, args.run_dir)


if __name__ == "__main__":
    parser = command_line.arguments(__doc__)
    command_line.add_trajectories(parser)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label=parsed.label)
