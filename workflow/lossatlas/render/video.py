"""Frames into an H.264 video, streamed to one encoder; or into PNG files."""

import os
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path

import imageio_ffmpeg
import matplotlib.image
import numpy as np

from lossatlas.errors import LossAtlasError
from lossatlas.render.style import HEIGHT, WIDTH


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Encode opaque RGBA frames (720, 1280, 4) uint8 as H.264 in MP4; the file appears only when it is complete.

    Raises:
        LossAtlasError: the encoder ended early: it was killed, or the disk is full.
    """
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
    try:
        encoder.send(None)
        for number, frame in enumerate(frames, 1):
            _encode(encoder, frame, path, number)
        encoder.close()
        _check_complete(temporary, path)
    except BaseException:
        encoder.close()
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def _encode(encoder: Generator, frame: np.ndarray, path: Path, number: int) -> None:
    try:
        encoder.send(np.ascontiguousarray(frame))
    except (OSError, StopIteration) as error:
        raise LossAtlasError(_ended_early(path, f"at frame {number}")) from error


def _check_complete(temporary: Path, path: Path) -> None:
    """Check that the index of the film is there, which an encoder writes last."""
    content = temporary.read_bytes() if temporary.exists() else b""
    if b"moov" not in content:
        raise LossAtlasError(_ended_early(path, "before the end"))


def _ended_early(path: Path, when: str) -> str:
    free = shutil.disk_usage(path.parent).free / 1e6
    return f"{path}: the encoder (ffmpeg) ended {when}: killed, or no room ({free:.0f} MB are free); run again"


def write_png(path: Path, frame: np.ndarray) -> None:
    """Write one frame as PNG."""
    matplotlib.image.imsave(path, frame)
