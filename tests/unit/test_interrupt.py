"""A job that is told to stop ends with status 75 at any instant, and no library takes that for an error of its own."""

import os
import re
import signal
import subprocess
import sys

import numpy as np
import pytest
from lossatlas.io import store
from lossatlas.parallel import signals

from tests.conftest import BIN, ROOT, environment
from tests.helpers.jobs import shell_prefix

JOB = """
import lossatlas.parallel.listen
import sys, time
from pathlib import Path
from lossatlas.drivers import command_line
from lossatlas.io import store

def main(world):
    import torch
    fingerprint = store.Fingerprint("landscape", {}, {})
    folder = Path(sys.argv[2])
    for number in range(10):
        link = folder / f"{world.rank}-{number}.zarr"
        build = lambda group: store.add_array(group, "values", ("row",), shape=(6,), chunks=(2,))
        made = store.find(link, folder, fingerprint) or store.create(link, folder, fingerprint, build)
        made["values"][:] = 1.0
        made.finish({})
        store.Store(store.hidden_path(link, folder))

ranks = int(sys.argv[1])
command_line.run(main, ranks=ranks if ranks > 1 else None, label="job")
"""


def stopped(command: str, delay: float, number: int) -> tuple[int, str]:
    """Run a rule's command, signal its whole group some seconds after its first line; return status and output."""
    shell = ["bash", "-c", f"{shell_prefix()} echo begun; {command} 2>&1 | logged /dev/null"]
    job = subprocess.Popen(
        shell, stdout=subprocess.PIPE, text=True, env=environment(), start_new_session=True, cwd=ROOT / "workflow"
    )
    assert job.stdout.readline() == "begun\n"
    try:
        rest = job.communicate(timeout=delay)[0]
    except subprocess.TimeoutExpired:
        os.killpg(job.pid, number)
        try:
            rest = job.communicate(timeout=60)[0]
        except subprocess.TimeoutExpired:
            os.killpg(job.pid, signal.SIGKILL)
            raise
    return job.returncode, rest


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_job_ends_with_75_at_any_instant(tmp_path, number):
    script = tmp_path / "job.py"
    script.write_text(JOB)
    for k, delay in enumerate(np.geomspace(0.01, 4, 22)):
        status, text = stopped(f"{sys.executable} {script} 1 {tmp_path / str(k)}", delay, number)
        assert status in (0, 75), f"after {delay:.2f} s: {text}"
        assert "Traceback" not in text
        assert "torn" not in text


@pytest.mark.mpi
def test_ranks_end_with_75_before_mpi_is_up_and_after(tmp_path):
    script = tmp_path / "job.py"
    script.write_text(JOB)
    for k, delay in enumerate((0.3, 1.0, 2.0, 3.5)):
        command = f"{BIN / 'mpiexec'} -n 2 {sys.executable} {script} 2 {tmp_path / str(k)}"
        status, text = stopped(command, delay, signal.SIGTERM)
        assert status in (0, 75), f"after {delay:.2f} s: {text}"


def test_no_except_clause_takes_a_stop_for_an_error(tmp_path):
    """A signal inside a function that turns every exception into another error still ends the process."""
    code = (
        "import lossatlas.parallel.listen, os, signal\n"
        "class Odd:\n"
        "    def __del__(self):\n"
        "        os.kill(os.getpid(), signal.SIGTERM)\n"  # Python prints and forgets exceptions raised here
        "        os.getpid()\n"
        "try:\n"
        "    Odd()\n"
        "except BaseException:\n"
        "    pass\n"
        "print('went on')\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment())
    assert done.returncode == 75
    assert "went on" not in done.stdout
    assert done.stderr == "stopped by SIGTERM; run the same command again to go on\n"


def test_a_store_that_is_opened_when_the_job_is_stopped_is_not_called_torn(tmp_path, monkeypatch):
    def stop(*_args, **_more):
        raise signals.Interrupted("stopped")

    monkeypatch.setattr(store.zarr, "open_group", stop)
    with pytest.raises(signals.Interrupted):
        store.Store(tmp_path)


@pytest.mark.parametrize("name", sorted(path.name for path in (ROOT / "scripts").glob("*.py")))
def test_every_script_listens_before_it_imports_anything_else(name):
    lines = [line for line in (ROOT / "scripts" / name).read_text().splitlines() if re.match(r"import |from ", line)]
    assert name == "config_docs.py" or lines[0].startswith("import lossatlas.parallel.listen")
