"""A disk that is full, and an encoder that dies, end a job with one line."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from lossatlas.errors import LossAtlasError
from lossatlas.render import video
from lossatlas.render.style import HEIGHT, WIDTH

from tests.conftest import environment

FULL = """
import resource, signal, sys
from pathlib import Path
import numpy as np
from lossatlas.drivers import command_line, training
from lossatlas.io import owner, store
from lossatlas.render import video

signal.signal(signal.SIGXFSZ, signal.SIG_IGN)

def build(group):
    store.add_array(group, "values", ("row",), shape=(100_000,), compress=False)

def main(world):
    folder = Path(sys.argv[1])
    made = store.create(folder / "p.zarr", folder, store.Fingerprint("landscape", {}, {}), build)
    resource.setrlimit(resource.RLIMIT_FSIZE, (500_000, 500_000))
    if sys.argv[2] == "store":
        made["values"][:] = np.arange(100_000.0)
    if sys.argv[2] == "file":
        owner.write(folder / "report.html", bytes(600_000))
    if sys.argv[2] == "state":
        training.ResumeFile(folder / "t.resume", "tag").write(1, 1, bytes(600_000))
    if sys.argv[2] == "frame":
        video.write_png(folder / "0.png", np.random.default_rng(0).integers(256, size=(720, 1280, 4), dtype=np.uint8))
    if sys.argv[2] == "film":
        noise = np.random.default_rng(0).integers(256, size=(8, 720, 1280, 4), dtype=np.uint8)
        video.write_video(folder / "v.mp4", noise, 5)

command_line.run(main, label="run/plane")
"""


NO_ROOM = r": no room on the disk \(File too large\): "


@pytest.mark.parametrize(
    ("what", "words"),
    [
        (
            "store",
            r"values/c/0" + NO_ROOM + r"0\.800 MB are needed for it, \d+\.\d+ MB are free;",
        ),
        ("file", r"report\.html" + NO_ROOM + r"0\.600 MB are needed for it, "),
        ("state", r"t\.resume" + NO_ROOM + r"0\.600 MB are needed for it, "),
        ("frame", r"0\.png" + NO_ROOM + r"\d+\.\d+ MB are free;"),
        ("film", r"v\.mp4: the encoder \(ffmpeg\) ended .*: killed, or no room: 0\.[45]\d\d MB were written, and "),
    ],
)
def test_a_full_disk_ends_a_job_with_one_line(tmp_path, what, words):
    (tmp_path / ".stores").mkdir()
    command = [sys.executable, "-c", FULL, str(tmp_path), what]
    done = subprocess.run(command, capture_output=True, text=True, env=environment())
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("run/plane: error: ")
    assert re.search(words, done.stderr), done.stderr
    assert "run the same command again" in done.stderr or "run again" in done.stderr


def children() -> list[int]:
    """Return this process's encoders."""
    names = {}
    for child in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
        names[int(child)] = Path(f"/proc/{child}/comm").read_text()
    return [child for child, name in names.items() if "ffmpeg" in name]


@pytest.mark.parametrize("when", [0, 5, 29])
def test_an_encoder_that_dies_is_named_and_leaves_nothing(tmp_path, when):
    def frames():
        for number in range(30):
            if number == when:
                for child in children():
                    os.kill(child, signal.SIGKILL)
            yield np.full((HEIGHT, WIDTH, 4), number, np.uint8)

    with pytest.raises(LossAtlasError, match=r"v\.mp4: the encoder \(ffmpeg\) ended"):
        video.write_video(tmp_path / "v.mp4", frames(), 15)
    assert not list(tmp_path.iterdir())


def test_a_whole_video_is_written(tmp_path):
    video.write_video(tmp_path / "v.mp4", (np.full((HEIGHT, WIDTH, 4), k, np.uint8) for k in range(4)), 15)
    assert [file.name for file in tmp_path.iterdir()] == ["v.mp4"]
