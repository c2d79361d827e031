"""Real MPI ranks: every unit once, nobody waits for a busy rank, failures end all."""

import json
import mmap
import os
import re
import sys
import time

import pytest
from lossatlas import parallel
from lossatlas.parallel import StaticQueue, Timing, World

from tests.conftest import ROOT, mpiexec

CLAIM = str(ROOT / "tests/helpers/claim.py")


def claims(ranks, kind, units, busy=0.0):
    done = mpiexec(ranks, sys.executable, CLAIM, kind, str(units), str(busy), str(ranks))
    return json.loads(done.stdout.strip().splitlines()[-1])


@pytest.mark.mpi
@pytest.mark.parametrize("kind", ["counter", "static"])
@pytest.mark.parametrize("ranks", [1, 2, 3, 4])
@pytest.mark.parametrize("units", [0, 1, 3, 50])
def test_every_unit_is_claimed_once(kind, ranks, units):
    everyone = claims(ranks, kind, units)
    assert sorted(u for rank in everyone for u in rank["claimed"]) == list(range(units))
    assert [rank["claimed"][:1] for rank in everyone] == [[r] if r < units else [] for r in range(ranks)]


@pytest.mark.mpi
def test_others_go_on_claiming_while_rank_0_computes():
    everyone = claims(2, "counter", 100, busy=3.0)
    assert len(everyone[0]["claimed"]) == 1
    assert len(everyone[1]["claimed"]) == 99
    assert everyone[1]["times"][-1] < 2.5, "rank 1 finished while rank 0 was still computing its first unit"


@pytest.mark.mpi
@pytest.mark.parametrize(("started", "asked"), [(1, 3), (2, 1), (3, 2)])
def test_a_world_of_another_size_is_refused(started, asked):
    done = mpiexec(started, sys.executable, CLAIM, "counter", "5", "0", str(asked), check=False)
    assert done.returncode != 0
    assert f"mpi.ranks asks for {asked} rank(s), but this MPI world has {started}" in done.stderr


@pytest.mark.mpi
@pytest.mark.parametrize(
    "how", ["raise ValueError('broken')", "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"]
)
def test_a_rank_that_dies_ends_all(tmp_path, how):
    script = tmp_path / "dies.py"
    script.write_text(
        "from lossatlas import cli\n"
        "def main(world):\n"
        f"    if world.rank == 1:\n        {how}\n"
        "    world.barrier()\n"
        "cli.run(main, ranks=3)\n"
    )
    start = time.monotonic()
    done = mpiexec(3, sys.executable, str(script), check=False)
    assert done.returncode != 0
    assert time.monotonic() - start < 60
    if "ValueError" in how:
        assert "rank 1 of 3 failed" in done.stderr
        assert "ValueError: broken" in done.stderr


def test_static_shares_are_block_cyclic():
    queue = StaticQueue(World(rank=1, size=3), 8)
    assert [queue.claim() for _ in range(4)] == [1, 4, 7, None]


def test_timing_accounts_for_every_second():
    timing = Timing()
    with timing("compute"):
        time.sleep(0.05)
    record = timing.record(rank=2)
    assert record["rank"] == 2
    assert 0.05 <= record["seconds"]["compute"] < 0.5
    assert record["seconds"]["start-up"] >= 0
    assert record["seconds"]["other"] >= 0


def test_segments_of_killed_ranks_are_removed_and_those_in_use_are_kept(tmp_path):
    """A leftover under the name of the next job makes MPICH's start wait for ever."""
    names = {"old": "mpich_shm_1_0", "used": "mpich_shm_2_0", "young": "mpich_shm_3_0", "foreign": "other_4"}
    for name in names.values():
        (tmp_path / name).write_bytes(bytes(4096))
    for name in ("old", "used", "foreign"):
        os.utime(tmp_path / names[name], (0, 0))
    with (tmp_path / names["used"]).open("r+b") as file, mmap.mmap(file.fileno(), 4096):
        os.utime(tmp_path / names["used"], (0, 0))
        parallel.remove_stale_segments(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == sorted(names[n] for n in ("used", "young", "foreign"))


@pytest.mark.mpi
def test_warnings_say_which_rank_gave_them(tmp_path):
    script = tmp_path / "warn.py"
    script.write_text(
        "import warnings\n"
        "from lossatlas import cli\n"
        "cli.run(lambda world: warnings.warn(f'odd {world.rank}'), ranks=2)\n"
    )
    said = mpiexec(2, sys.executable, str(script)).stderr
    for rank in (0, 1):
        assert re.search(rf"^rank {rank}: .*UserWarning: odd {rank}$", said, re.MULTILINE)
