"""Render the video of one plane, or its frames as PNG files."""

import lossatlas.parallel.listen  # noqa: F401

import argparse
import json
import time
from pathlib import Path

from lossatlas.drivers import command_line
from lossatlas.io import owner
from lossatlas.io.store import open_dataset
from lossatlas.render import report, video
from lossatlas.render.frame import FrameRenderer


def main(args, _world) -> None:
    started = time.monotonic()
    landscape, trajectory = open_dataset(args.landscape), open_dataset(args.trajectory)
    spectra = open_dataset(args.spectra) if args.spectra else None
    renderer = FrameRenderer(landscape, trajectory, args.choices, args.title, spectra)
    if args.frames:
        args.frames.mkdir(parents=True, exist_ok=True)
        for number, frame in enumerate(renderer.frames(args.label)):
            video.write_png(args.frames / f"{number:05d}.png", frame)
        return
    held = round(args.hold_seconds * args.fps)
    video.write_video(args.output, renderer.frames(args.label, held), args.fps)
    if args.player:
        owner.write(args.player, report.player(args.output, args.title).encode())
    seconds, count = time.monotonic() - started, len(renderer) + held
    print(f"{args.label}: {count} frames in {seconds:.1f} s, {count / seconds:.0f} frames/s")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--landscape", type=Path, required=True)
    parser.add_argument("--trajectory", type=Path, required=True)
    parser.add_argument("--spectra", type=Path, help="spectra store; with it the frame has a density panel")
    parser.add_argument("--choices", type=json.loads, required=True, help="the config's `figures`, as JSON")
    parser.add_argument("--title", required=True)
    parser.add_argument("--label", required=True)
    group = parser.add_mutually_exclusive_group(required=True)
    group.add_argument("--output", type=Path, help="the video to write")
    group.add_argument("--frames", type=Path, help="a folder for PNG files instead")
    parser.add_argument("--player", type=Path, help="a page that holds and plays the video; with --output")
    parser.add_argument("--fps", type=int, default=15)
    parser.add_argument("--hold-seconds", type=float, default=0.0)
    parsed = parser.parse_args()
    command_line.run(lambda world: main(parsed, world), label=parsed.label)
