"""Real MPI ranks: every unit once, nobody waits for a busy rank, failures end all."""

import io
import json
import mmap
import os
import re
import sys
from types import SimpleNamespace

import pytest
from lossatlas.parallel import StaticQueue, Timing, World, progress, remove_stale_segments, timing

from tests.conftest import ROOT, mpiexec

CLAIM = str(ROOT / "tests/helpers/claim.py")


def claims(ranks, queues, *done):
    """Return what each rank claimed, for each queue; all on one start of the ranks."""
    ran = mpiexec(ranks, sys.executable, CLAIM, str(ranks), json.dumps(queues), *map(str, done))
    return [json.loads(line) for line in ran.stdout.splitlines() if line.startswith("[")]


@pytest.mark.mpi
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
def test_every_unit_is_claimed_once(ranks):
    queues = [(kind, units) for kind in ("counter", "static") for units in (0, 1, 3, 50)]
    found = claims(ranks, queues)
    assert len(found) == len(queues)
    for (_, units), everyone in zip(queues, found, strict=True):
        assert sorted(u for claimed in everyone for u in claimed) == list(range(units))
        assert [claimed[:1] for claimed in everyone] == [[r] if r < units else [] for r in range(ranks)]


@pytest.mark.mpi
def test_others_go_on_claiming_while_rank_0_computes(tmp_path):
    """Rank 0 computes its first unit until rank 1 has claimed all the others and found no more."""
    ((one, two),) = claims(2, [("counter", 100)], tmp_path / "done")
    assert one == [0]
    assert two == list(range(1, 100))


@pytest.mark.mpi
@pytest.mark.parametrize(("started", "asked"), [(1, 3), (2, 1), (3, 2)])
def test_a_world_of_another_size_is_refused(started, asked):
    done = mpiexec(started, sys.executable, CLAIM, str(asked), '[["counter", 5]]', check=False)
    assert done.returncode != 0
    assert f"mpi.ranks asks for {asked} rank(s), but this MPI world has {started}" in done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize(
    "how", ["raise ValueError('broken')", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
)
def test_a_rank_that_dies_ends_all(tmp_path, how):
    script = tmp_path / "dies.py"
    script.write_text(
        "from lossatlas.drivers import command_line\n"
        "def main(world):\n"
        f"    if world.rank == 1:\n        {how}\n"
        "    world.barrier()\n"
        "command_line.run(main, ranks=3)\n"
    )
    done = mpiexec(3, sys.executable, str(script), check=False)
    assert done.returncode != 0
    if "ValueError" in how:
        assert "rank 1 of 3 failed" in done.stderr
        assert "ValueError: broken" in done.stderr


def test_static_shares_are_block_cyclic():
    queue = StaticQueue(World(rank=1, size=3), 8)
    assert [queue.claim() for _ in range(4)] == [1, 4, 7, None]


def test_timing_accounts_for_every_second(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(timing.time, "monotonic", lambda: now[0])
    clock = Timing(started=now[0])
    with clock("compute"):
        now[0] += 0.75
    now[0] += 0.25
    record = clock.record(rank=2)
    assert record["rank"] == 2
    assert record["seconds"]["start-up"] >= 0
    assert record["seconds"] == {"start-up": record["seconds"]["start-up"], "compute": 0.75, "other": 0.25}


def test_segments_of_killed_ranks_are_removed_and_those_in_use_are_kept(tmp_path):
    """A leftover under the name of the next job makes MPICH's start wait for ever."""
    names = {"old": "mpich_shm_1_0", "used": "mpich_shm_2_0", "young": "mpich_shm_3_0", "foreign": "other_4"}
    for name in names.values():
        (tmp_path / name).write_bytes(bytes(4096))
    for name in ("old", "used", "foreign"):
        os.utime(tmp_path / names[name], (0, 0))
    with (tmp_path / names["used"]).open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        os.utime(tmp_path / names["used"], (0, 0))
        remove_stale_segments(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[n] for n in ("used", "young", "foreign"))


@pytest.mark.mpi
def test_warnings_say_which_rank_gave_them(tmp_path):
    script = tmp_path / "warn.py"
    script.write_text(
        "import warnings\n"
        "from lossatlas.drivers import command_line\n"
        "command_line.run(lambda world: warnings.warn(f'odd {world.rank}'), ranks=2)\n"
    )
    said = mpiexec(2, sys.executable, str(script)).stderr
    for rank in (0, 1):
        assert re.search(rf"^rank {rank}: .*UserWarning: odd {rank}$", said, re.MULTILINE)


SAMPLES = """
import pathlib, sys
import numpy as np
from lossatlas.drivers import command_line, inputs
from lossatlas.parallel import world as worlds

here = pathlib.Path(sys.argv[1])
(here / "own_data.py").write_text("def load(): return {'train': Noted()}\\n" + '''
class Noted:
    def __len__(self): return 50
    def __getitem__(self, place):
        from mpi4py import MPI
        open(f"{__file__}.{MPI.COMM_WORLD.rank}", "a").write(".")
        return ({"a": [place, 2], "b": place / 4}, place)
''')
spec = {"data": {"import": "own_data:load", "kwargs": {}, "python_path": [str(here)]}}
spec["evaluation"] = {"train_samples": 30, "seed": 0}
worlds.MESSAGE_BYTES = 100  # several messages

def main(world):
    world.barrier()
    found = inputs.read_subsets(spec, world)["train"]
    assert found.digest == found.samples.digest and np.array_equal(found.samples.targets, found.index)
    assert [part[:2] for part in found.samples.parts] == [("a", (2,)), ("b", ())]
    print("digest", found.digest, flush=True)

command_line.run(main, ranks=2)
"""


@pytest.mark.mpi
def test_samples_are_read_by_one_rank_for_all(tmp_path):
    script = tmp_path / "samples.py"
    script.write_text(SAMPLES)
    told = mpiexec(2, sys.executable, str(script), str(tmp_path)).stdout
    digests = re.findall(r"digest (\w+)", told)
    assert len(digests) == 2 and digests[0] == digests[1]
    assert sorted(file.name for file in tmp_path.glob("own_data.py.*")) == ["own_data.py.0"]


class Terminal(io.StringIO):
    def isatty(self):
        return True


class ZMQInteractiveShell:
    """What the shell of a notebook is called."""


@pytest.mark.parametrize("place", ["log", "terminal", "notebook"])
def test_progress_is_a_bar_where_somebody_looks_on_and_lines_in_a_log(monkeypatch, capsys, place):
    error = Terminal() if place == "terminal" else io.StringIO()
    monkeypatch.setattr(sys, "stderr", error)
    monkeypatch.setattr(progress, "DELAY", 0)
    shell = ZMQInteractiveShell() if place == "notebook" else None
    monkeypatch.setitem(sys.modules, "IPython", SimpleNamespace(get_ipython=lambda: shell))
    shown = progress.Progress("spectrum", 8, found=2, unit="products", every=0)
    shown.begin()
    shown.update(5)
    shown.close()
    printed = capsys.readouterr().out.splitlines()
    if place == "log":
        assert error.getvalue() == ""
        assert printed[0] == "spectrum: 2 of 8 products found finished"
        assert printed[1].startswith("spectrum: 5/8 products, ")
        assert printed[2].startswith("spectrum: 8/8 products in ")
    else:
        assert printed == []
        assert "spectrum: 100%" in error.getvalue()
        assert " 8/8 [" in error.getvalue()


def test_what_is_done_at_once_shows_no_bar(monkeypatch):
    monkeypatch.setattr(sys, "stderr", error := Terminal())
    shown = progress.Progress("spectrum", 8)
    shown.update(8)
    shown.close()
    assert error.getvalue() == ""
