"""One undisturbed run of config/test.yaml, shared by the workflow tests."""

from pathlib import Path

import pytest
import yaml

from tests.conftest import ROOT, contents, snakemake


def test_config(**changes) -> dict:
    """Return config/test.yaml with some top-level keys or keys of its run changed."""
    config = yaml.safe_load((ROOT / "config/test.yaml").read_text())
    config["results"] = "results"
    for key, value in changes.items():
        (config["runs"]["tiny"] if key not in ("mpi", "fresh", "python_path") else config)[key] = value
    return config


test_config.__test__ = False


def write_config(folder: Path, config: dict, name: str = "config.yaml") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(yaml.safe_dump(config))
    return folder / name


def run_config(folder: Path, config: dict, *arguments: str, check: bool = True, **environment: str):
    file = write_config(folder, config)
    return snakemake("--configfile", str(file), "--cores", "2", *arguments, cwd=folder, check=check, **environment)


def all_contents(folder: Path) -> dict[str, dict[str, bytes]]:
    """Return the contents of every linked store below a folder, by name."""
    links = sorted(p for p in folder.rglob("*.zarr") if p.is_symlink())
    return {str(link.relative_to(folder)): contents(link) for link in links}


@pytest.fixture(scope="session")
def undisturbed(tmp_path_factory) -> Path:
    """The folder of a run by two ranks that nothing disturbed."""
    folder = tmp_path_factory.mktemp("undisturbed")
    run_config(folder, test_config())
    return folder
