"""Train a run and record its trajectory."""

import lossatlas.parallel.listen  # noqa: F401

import time
from pathlib import Path

import numpy as np
from lossatlas import backends
from lossatlas.data import load_dataset
from lossatlas.drivers import command_line
from lossatlas.drivers.training import record_training, recorded_iterations
from lossatlas.io import store
from lossatlas.io.trajectory import check_disk
from lossatlas.problem.readiness import check_memory
from lossatlas.zoo import weights


def main(args, _world) -> None:
    started, spec = time.monotonic(), args.spec
    backend = backends.backend(spec["backend"])
    device = backend.set_up(args.device, spec["dtype"], args.threads)
    network = backend.FlatNetwork(backend.build_module(spec["model"], spec["seed"]), device)
    if "pretrained" in spec["model"]:
        chosen = spec["model"]
        file = weights.locate(chosen["name"], chosen["pretrained"], Path(chosen["data_root"]))
        backend.read_pretrained(file, network)
    dataset = load_dataset(spec["data"])
    trainer = backend.Trainer(network, backend.build_loss(spec["loss"]), dataset.train, spec["train"], spec["seed"])
    iterations = recorded_iterations(trainer.steps, spec["train"]["record_every"])
    recording = network.recording(iterations, trainer.steps_per_epoch)
    print(check_disk(args.run_dir, recording), flush=True)
    check_memory(backend, network, spec["loss"], dataset.train, args.needs)
    fingerprint = store.Fingerprint("trajectory", spec, {"data": dataset.train.digest})
    found = store.find(args.output, args.run_dir, fingerprint, args.fresh)
    found = found or store.create(args.output, args.run_dir, fingerprint, recording.build)
    if found.finished:
        print(f"{args.label}: found finished, nothing to compute", flush=True)
    else:
        steps = record_training(trainer, found, args.label)
        wall = time.monotonic() - started
        found.finish(
            {
                "ranks": 1,
                "threads": args.threads,
                "device": device.description,
                "wall_seconds": wall,
                "steps": steps,
            }
        )
        losses = found["batch_loss"][:]
        print(f"{args.label}: mini-batch loss {losses[0]:.4f} -> {np.mean(losses[-11:-1]):.4f} (mean of the last ten)")
    store.publish(args.output, args.run_dir)


if __name__ == "__main__":
    parser = command_line.arguments(__doc__)
    parser.add_argument("--threads", type=int, required=True)
    parser.add_argument("--device", required=True)
    command_line.add_needs(parser)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label=parsed.label)
