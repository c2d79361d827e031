"""Make principal components of the path, by MPI ranks that share its columns, beside those of a random walk."""

import lossatlas.parallel.listen  # noqa: F401

from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.geometry.directions import make_directions
from lossatlas.io import store
from lossatlas.io.trajectory import Trajectory
from lossatlas.parallel import Timing, limit_threads
from lossatlas.parallel.process_group import LEAVES, form_teams


def main(args, world) -> None:
    timing, spec = Timing(), args.spec
    limit_threads(1)  # threads take shares of the columns, with BLAS on one each: their number then changes no bit
    path = Trajectory(args.trajectory)
    fingerprint = store.Fingerprint("directions", spec, {"trajectory": path.store.identity})
    made = store.find(args.output, args.run_dir, fingerprint, args.fresh) if world.rank == 0 else None
    if world.broadcast(made is None):
        team, _ = form_teams(world, min(world.size, LEAVES))
        if world.rank < team.size:
            timing.units, timing.ranks_per_unit = 1, team.size
            with timing("compute"):
                directions = make_directions(spec, path, {}, args.threads, team)
            timing.move("compute", "communication", team.seconds)
        if world.rank == 0:
            build = lambda group: directions.build(group, path.layout, spec)  # noqa: E731
            with timing("write"):
                made = store.create(args.output, args.run_dir, fingerprint, build)
    with timing("idle"):
        world.barrier()
    made = made or store.Store(store.hidden_path(args.output, args.run_dir))
    command_line.conclude(args, world, timing, made, finish, 0, "cpu")


def finish(made: store.Store, attempt: dict) -> dict:
    """Mark the store finished; return what the log says of each direction."""
    made.finish(attempt)
    columns = (made[name][:] for name in ("direction", "variance_share", "bend", "walk_correlation"))
    said = {}
    for label, share, bend, alike in zip(*columns, strict=False):
        said[f"{label}:"] = f"{100 * share:.2f} % of the path's variance, bent by {bend:.1f} degrees"
        said[f"{label}: correlation with a random walk's:"] = f"{alike:.3f}"
    similar, spread = (made.attrs[f"walk_{name}"] for name in ("similarity", "spread"))
    return said | {"similarity to a random walk:": f"{similar:.3f}", "spread in units of its:": f"{spread:.3g}"}


if __name__ == "__main__":
    parser = command_line.arguments(__doc__)
    parser.add_argument("--trajectory", type=Path, required=True)
    parser.add_argument("--timing", type=Path, required=True, help="timing record to write, JSON")
    parser.add_argument("--ranks", type=int, required=True, help="ranks that MPI's world must have")
    parser.add_argument("--threads", type=int, required=True, help="threads of each rank")
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), ranks=parsed.ranks, label=parsed.label)
