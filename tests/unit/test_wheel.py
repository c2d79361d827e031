"""The wheel: what a notebook needs and nothing more, and it works where there is no checkout."""

import os
import re
import shutil
import subprocess
import sys
import venv
import zipfile
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from tests.conftest import ROOT

PROGRAM = """
import lossatlas, numpy, sys, torch
from lossatlas import zoo
from lossatlas.data import load_dataset

assert load_dataset({"name": "fashion-mnist-mini"}).train.inputs.shape == (4000, 3, 32, 32)
assert sum(p.numel() for p in zoo.builder("mobilenet-v2")().parameters()) == 2_236_682

torch.manual_seed(0)
x, y = torch.randn(20, 6, dtype=torch.float64), torch.randn(20, 1, dtype=torch.float64)
model = torch.nn.Linear(6, 1, bias=False).double()
hessian = lossatlas.hessian(model, torch.nn.functional.mse_loss, (x, y))
exact = (x.T @ x / 10).numpy()
assert abs(hessian.matmat(numpy.eye(6)) - exact).max() < 1e-12
assert abs(hessian.eigenpairs(1).values[0] - numpy.linalg.eigvalsh(exact)[-1]) < 1e-9
plane = lossatlas.plane(model, "mse", (x, y), "random", points=(3, 3))
center = torch.nn.functional.mse_loss(model(x), y).item()
assert abs(plane["loss"].sel(split="train").values[1, 1] - center) < 1e-12
plane.plot().savefig("plane.png")
plane.save("plane.zarr")
assert (lossatlas.open("plane.zarr")["loss"] == plane["loss"]).all()
curve = lossatlas.curve(model, "mse", (x, y), "gradient", range=(-1, 1), points=3)
assert abs(curve["loss"].sel(split="train").values.ravel()[1] - center) < 1e-12

strangers = {"snakemake", "mpi4py", "tensorflow", "keras", "pytest"} & {name.split(".")[0] for name in sys.modules}
assert not strangers, strangers
print(lossatlas.__file__)
"""
"""What a notebook does, against closed forms."""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Build the wheel from a copy, so that nothing is left beside the sources."""
    folder = tmp_path_factory.mktemp("wheel")
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, folder)
    ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
    shutil.copytree(ROOT / "workflow/lossatlas", folder / "workflow/lossatlas", ignore=ignore)
    pip("wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(folder), str(folder))
    return next(folder.glob("*.whl"))


def pip(*arguments: str) -> None:
    command = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments]
    subprocess.run(command, check=True)


def base_requirements(lines: list[str]) -> dict[str, Requirement]:
    """Return the requirements that hold without any extra, by name."""
    found = [Requirement(line) for line in lines]
    return {r.name.lower(): r for r in found if r.marker is None or r.marker.evaluate({"extra": ""})}


def requirements_of(wheel: Path) -> list[str]:
    with zipfile.ZipFile(wheel) as archive:
        metadata = next(name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        header = archive.read(metadata).decode().split("\n\n")[0]
    return re.findall(r"^Requires-Dist: (.+)$", header, re.M)


def test_wheel_holds_all_that_the_package_reads(wheel):
    with zipfile.ZipFile(wheel) as archive:
        packed = {name for name in archive.namelist() if name.startswith("lossatlas/")}
    package = ROOT / "workflow" / "lossatlas"
    files = {f for f in package.rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert packed == {str(file.relative_to(package.parent)) for file in files}
    assert {"lossatlas/py.typed", "lossatlas/data/fashion_mnist_mini/images.npz"} < packed


def test_wheel_asks_for_what_notebooks_need(wheel):
    lines = requirements_of(wheel)
    base = base_requirements(lines).keys()
    assert {"torch", "numpy", "scipy", "xarray", "zarr", "matplotlib"} <= base
    assert not [name for name in base if re.match("snakemake|mpi|tensorflow|keras|pytest", name)]
    extras = {extra for line in lines for extra in re.findall(r"extra == [\"'](\w+)", line)}
    assert extras == {"workflow", "mpi", "tensorflow", "examples", "docs", "test"}


def needed(names: list[str]) -> dict[str, Distribution]:
    """Return the installed distributions that these need, and those that they need in turn."""
    found: dict[str, Distribution] = {}
    while names:
        name = names.pop().lower()
        if name not in found:
            found[name] = distribution(name)
            names += base_requirements(found[name].requires or [])
    return found


def link_distribution(one: Distribution, folder: Path) -> None:
    """Make the files of an installed distribution importable in another environment."""
    tops = {file.parts[0] for file in one.files or [] if file.parts[0] not in ("..", "__pycache__")}
    for top in tops:
        if not (folder / top).is_symlink():
            (folder / top).symlink_to(one.locate_file(top))


@pytest.mark.full
def test_wheel_works_in_an_environment_of_its_own(wheel, tmp_path):
    venv.create(tmp_path / "env", with_pip=False)
    python = tmp_path / "env" / "bin" / "python"
    site = next((tmp_path / "env" / "lib").glob("python*/site-packages"))
    for one in needed([*base_requirements(requirements_of(wheel))]).values():
        link_distribution(one, site)
    pip("--python", str(python), "install", "--no-deps", "--no-index", "--ignore-installed", str(wheel))
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    clean = {key: value for key, value in os.environ.items() if not key.startswith("PYTHON")}
    done = subprocess.run([python, "-c", PROGRAM], cwd=elsewhere, env=clean, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.splitlines()[-1]).is_relative_to(site)
    assert (elsewhere / "plane.png").stat().st_size > 1000
    for stranger in ("snakemake", "mpi4py", "tensorflow"):
        assert subprocess.run([python, "-c", f"import {stranger}"], env=clean, capture_output=True).returncode == 1
