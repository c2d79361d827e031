"""Frames into an H.264 video, streamed to one encoder; or into PNG files."""

import os
from collections.abc import Iterable
from pathlib import Path

import imageio_ffmpeg
import matplotlib.image
import numpy as np

from lossatlas.render.style import HEIGHT, WIDTH


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Encode opaque RGBA frames (720, 1280, 4) uint8 as H.264 in MP4; the file appears only when it is complete."""
    temporary = path.with_name(f".{path.stem}.{os.getpid()}.mp4")
    encoder = imageio_ffmpeg.write_frames(
        os.path.abspath(temporary),  # the encoder takes -x for an option and a:b for a protocol
        (WIDTH, HEIGHT),
        fps=fps,
        codec="libx264",
        pix_fmt_in="rgba",
        pix_fmt_out="yuv420p",
        macro_block_size=16,
        output_params=["-preset", "veryfast", "-crf", "20", "-movflags", "+faststart"],
    )
    encoder.send(None)
    try:
        for frame in frames:
            encoder.send(np.ascontiguousarray(frame))
    finally:
        encoder.close()
    os.replace(temporary, path)


def write_png(path: Path, frame: np.ndarray) -> None:
    """Write one frame as PNG."""
    matplotlib.image.imsave(path, frame)
