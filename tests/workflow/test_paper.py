"""The papers' configs plan what they say; they are too long to be run in tests, and need downloaded data."""

import re

import pytest
import yaml
from lossatlas import config

from tests.conftest import ROOT, snakemake

pytestmark = pytest.mark.workflow
PLANES = {"li2018-vgg9": 4 + 2, "li2018-resnet56": 8, "ison-morgan": 2 * 2, "li2024": 5 * 2, "mining": 9 * 8,
          "mining-cub": 2}  # fmt: skip


@pytest.mark.parametrize("file", sorted((ROOT / "config/paper").glob("*.yaml")), ids=lambda file: file.stem)
def test_papers_configs_are_planned(file, tmp_path):
    resolved = config.resolve(yaml.safe_load(file.read_text()))
    runs, results = resolved["runs"].values(), resolved["results"]
    (tmp_path / "data/CUB_200_2011").mkdir(parents=True)  # by its user
    done = snakemake("-n", "--configfile", str(file), cwd=tmp_path)
    counts = re.findall(r"^(\w+)\s+(\d+)$", (done.stdout + done.stderr).split("Job stats:")[1], re.MULTILINE)
    planned = {rule: int(count) for rule, count in counts}
    assert planned["train"] == planned["report"] == len(runs)
    assert planned["landscape"] == planned["video"] == PLANES[file.stem]
    assert planned.get("download", 0) == len({run["data"]["name"] for run in runs} - {"image-folder"})
    assert planned.get("weights", 0) == (file.stem in ("li2024", "mining-cub"))
    assert results in (f"results/{file.stem}", f"results/paper-{file.stem}")  # not that of a laptop's config
    assert f"{results}/" in done.stdout + done.stderr
