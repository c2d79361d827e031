"""The jobs of a workflow by themselves: the command lines that snakemake would run, run without it."""

import ast
import json
import os
import re
import shlex
import subprocess
from dataclasses import dataclass, replace
from pathlib import Path

from tests.conftest import BIN, ROOT, environment, snakemake

CLOSED_FORM = {"PYTHONPATH": f"{ROOT}/tests/helpers/closed_form:{ROOT}/workflow"}
"""Environment in which scripts work on a loss in closed form."""

SCRIPTS = ("train", "pca", "directions", "derivatives", "mined", "overlaps", "landscape", "curves", "perturbations",
           "spectra", "curvature", "tracking")  # fmt: skip

DRAWING = ("figures", "video", "report")
"""Scripts that draw what is in stores."""


@dataclass(frozen=True)
class Job:
    """One job: its script, the name of what it makes, and the command line without the launcher."""

    script: str
    name: str
    words: tuple[str, ...]

    @property
    def uses_mpi(self) -> bool:
        return "--ranks" in self.words

    def with_spec(self, **changes: object) -> "Job":
        """Return the same job with some keys of its spec changed."""
        words, place = list(self.words), self.words.index("--spec") + 1
        words[place] = json.dumps({**json.loads(words[place]), **changes})
        return replace(self, words=tuple(words))

    def command(self, ranks: int = 2, **changes: str) -> list[str]:
        """Return the whole command line, for some ranks and with other values of some options."""
        words, launcher = list(self.words), []
        if self.uses_mpi:
            changes, launcher = {**changes, "ranks": str(ranks)}, [str(BIN / "mpiexec"), "-n", str(ranks)]
        for option, value in changes.items():
            if f"--{option}" in words:
                words[words.index(f"--{option}") + 1] = value
        return [*launcher, str(BIN / "python"), *words]

    def start(self, folder: Path, ranks: int = 2, changes: dict | None = None, **extra: str) -> subprocess.Popen:
        """Start it in the background in a session of its own; what it says goes to the end of ``folder/output.log``."""
        with (folder / "output.log").open("a") as log:
            how = {"cwd": folder, "env": environment(**extra), "stdout": log, "stderr": log, "start_new_session": True}
            return subprocess.Popen(self.command(ranks, **changes or {}), **how)

    def start_in_shell(self, folder: Path, **extra: str) -> subprocess.Popen:
        """Start it as a rule does, by a shell in a session of its own; what it says goes to ``folder/output.log``."""
        command = f"{shell_prefix()} {shlex.join(self.command())} 2>&1 | logged output.log > /dev/null"
        return subprocess.Popen(["bash", "-c", command], cwd=folder, env=environment(**extra), start_new_session=True)

    def run(self, folder: Path, ranks: int = 2, changes: dict | None = None, check: bool = True, **extra: str) -> str:
        """Run it to its end and return what it said; with ``check`` the end must be good, else bad."""
        before = said(folder)
        status = self.start(folder, ranks, changes, **extra).wait(timeout=300)
        told = said(folder)[len(before) :]
        assert (status == 0) == check, f"{self.name}: exit {status}\n{told}"
        return told

    def link(self, folder: Path) -> Path:
        """Return the link that the workflow knows."""
        return folder / "results/tiny" / f"{self.name}.zarr"

    def store(self, folder: Path) -> Path:
        """Return the real store."""
        return folder / "results/tiny/.stores" / f"{self.name}.zarr"


def run_together(jobs: list[Job], folder: Path, ranks: int = 2, changes: dict | None = None) -> None:
    """Run jobs on the loss in closed form one after the other, all those with MPI on one start of its ranks."""
    for uses_mpi in (False, True):
        if some := [job for job in jobs if job.uses_mpi == uses_mpi]:
            words = [job.command(ranks, **changes or {}) for job in some]
            lists = json.dumps([one[one.index(str(BIN / "python")) + 1 :] for one in words])
            launcher = words[0][: words[0].index(str(BIN / "python"))]
            command = [*launcher, str(BIN / "python"), str(ROOT / "tests/helpers/several.py")]
            done = subprocess.run(
                command,
                cwd=folder,
                env=environment(**CLOSED_FORM, JOBS=lists),
                capture_output=True,
                text=True,
                timeout=300,
            )
            assert done.returncode == 0, done.stdout + done.stderr


def said(folder: Path) -> str:
    """Return all that the jobs in a folder have said."""
    file = folder / "output.log"
    return file.read_text() if file.exists() else ""


def shell_prefix() -> str:
    """Return what the workflow puts before every command, as a shell sees it."""
    text = (ROOT / "workflow" / "rules" / "common.smk").read_text()
    lines = re.search(r"prefix = \(\n(.*?)\n\)", text, re.DOTALL)[1]
    lines = lines.replace("{programs}", ":").replace('f"', '"')
    return ast.literal_eval(f"({lines})")


def planned_jobs(config: Path, folder: Path) -> tuple[dict[str, Job], dict[str, Job]]:
    """Return all jobs of a config's run ``tiny`` that make stores, in an order in which they can run, and that draw."""
    done = snakemake("-n", "-p", "--forceall", "--configfile", str(config), cwd=folder)
    found, drawing = {}, {}
    for line in re.findall(r"^Shell command: (.*)$", done.stdout + done.stderr, re.MULTILINE):
        words = shlex.split(re.sub(r"\s+2>&1 \| logged .*$", "", line))
        words = words[words.index("python") + 1 :] if "python" in words else [""]
        script, words[0] = Path(words[0]).stem, os.path.abspath(words[0])
        if script in SCRIPTS:
            output = words[words.index("--output") + 1]
            name = str(Path(output).relative_to("results/tiny").with_suffix(""))
            found[name] = Job(script, name, tuple(words))
        elif script in DRAWING:
            drawing[script] = Job(script, script, tuple(words))
    return found, drawing
