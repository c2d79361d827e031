"""Frames into an H.264 video, streamed to one encoder; or into PNG files."""

import os
import shutil
from collections.abc import Generator, Iterable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import matplotlib.image
import numpy as np

from lossatlas.errors import LossAtlasError, room_for
from lossatlas.io import owner
from lossatlas.render.style import HEIGHT, WIDTH


def write_video(path: Path, frames: Iterable[np.ndarray], fps: int) -> None:
    """Encode opaque RGBA frames (720, 1280, 4) uint8 as H.264 in MP4; the file appears only when it is complete.

    Raises:
        LossAtlasError: the encoder ended early: it was killed, or the disk is full.
    """
    temporary = path.with_name(f".{path.stem}.{owner.mark()}.mp4")
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
            _encode(encoder, frame, number, path, temporary)
        encoder.close()
        _check_complete(temporary, path)
    except BaseException:
        encoder.close()
        temporary.unlink(missing_ok=True)
        raise
    os.replace(temporary, path)


def _encode(encoder: Generator[None, Any, None], frame: np.ndarray, number: int, path: Path, temporary: Path) -> None:
    try:
        encoder.send(np.ascontiguousarray(frame))
    except (OSError, StopIteration) as error:
        raise LossAtlasError(_ended_early(path, temporary, f"at frame {number}")) from error


def _check_complete(temporary: Path, path: Path) -> None:
    """Check that the index of the film is there, which an encoder writes last."""
    content = temporary.read_bytes() if temporary.exists() else b""
    if b"moov" not in content:
        raise LossAtlasError(_ended_early(path, temporary, "before the end"))


def _ended_early(path: Path, temporary: Path, when: str) -> str:
    written = temporary.stat().st_size / 1e6 if temporary.exists() else 0
    free = shutil.disk_usage(path.parent).free / 1e6
    return (
        f"{path}: the encoder (ffmpeg) ended {when}: killed, or no room: {written:.3f} MB were written, and "
        f"{free:.3f} MB are free besides; run again"
    )


def write_png(path: Path, frame: np.ndarray) -> None:
    """Write one frame as PNG."""
    with room_for(path):
        matplotlib.image.imsave(path, frame)
