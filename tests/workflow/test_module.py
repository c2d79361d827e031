"""The workflow as others use it: as a module of another project, and from any folder."""

import re
from collections import Counter
from pathlib import Path

import pytest
import yaml
from lossatlas.io.trajectory import Trajectory

from tests.conftest import BIN, ROOT, _run
from tests.workflow.conftest import test_config, write_config

pytestmark = pytest.mark.workflow

OTHER = """
configfile: "own.yaml"


module lossatlas:
    snakefile:
        "{root}/workflow/Snakefile"
    config:
        config["atlas"]


use rule * from lossatlas as atlas_*


rule size:
    default_target: True
    input:
        "results/tiny/trajectory.zarr",
    output:
        "size.txt",
    shell:
        "ls {{input}}/parameters/c > {{output}}"


use rule train from lossatlas as atlas_train with:
    message:
        "My own words"
"""


def run(folder: Path, *arguments: str, check: bool = True):
    """Run snakemake where the package is not installed."""
    return _run([str(BIN / "snakemake"), *arguments], folder, check, {"PYTHONPATH": ""})


def planned(done) -> Counter:
    """Return how often each rule is planned."""
    table = re.search(r"^job +count\n[- ]+\n(.+?)\ntotal", done.stdout + done.stderr, re.M | re.S)[1]
    return Counter({name: int(count) for name, count in map(str.split, table.splitlines())})


@pytest.fixture
def other(tmp_path) -> Path:
    """Another project, which has rules and keys of its own."""
    (tmp_path / "Snakefile").write_text(OTHER.format(root=ROOT))
    settings = test_config(train={"epochs": 0.05, "batch_size": 50})
    write_config(tmp_path, {"mine": 3, "atlas": settings}, "own.yaml")
    return tmp_path


def test_another_project_uses_the_rules_as_a_module(other):
    done = run(other, "--cores", "1", "size.txt")
    assert "My own words" in done.stdout + done.stderr
    trajectory = Trajectory(other / "results/tiny/trajectory.zarr")
    assert len(trajectory) == 5  # the beginning, and after each of 4 steps
    assert (other / "size.txt").read_text() == "0\n"


def test_a_module_plans_what_the_workflow_itself_plans(other):
    write_config(other, yaml.safe_load((other / "own.yaml").read_text())["atlas"], "itself.yaml")
    as_module = planned(run(other, "-n", "atlas_all"))
    itself = planned(run(other, "-n", "-s", str(ROOT / "workflow/Snakefile"), "--configfile", "itself.yaml"))
    assert as_module == {f"atlas_{name}": count for name, count in itself.items()}
    assert {"train", "landscape", "spectra", "report", "all"} <= itself.keys()


def test_a_profile_may_name_rules_of_the_project_around_the_module(other):
    resources = ["--set-resources", "size:runtime=5", "atlas_train:runtime=5"]
    assert planned(run(other, "-n", *resources)) == {"size": 1, "atlas_train": 1}


def test_a_prefix_is_refused(other):
    snakefile = (other / "Snakefile").read_text()
    (other / "Snakefile").write_text(snakefile.replace("module lossatlas:\n", 'module lossatlas:\n    prefix: "x"\n'))
    done = run(other, "-n", check=False)
    assert done.returncode != 0
    assert "set `results` in the module's config" in done.stdout + done.stderr


def test_both_snakefiles_plan_the_same_from_any_folder():
    found = [
        planned(run(ROOT, "-n", "--forceall", "--directory", ".test", "--snakefile", name))
        for name in ("Snakefile", "workflow/Snakefile")
    ]
    assert found[0] == found[1]
    assert (ROOT / ".test/config/config.yaml").samefile(ROOT / "config/test.yaml")
