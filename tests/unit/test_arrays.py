"""Schemas of stores: sizes against files on disk, and names that a metric of the user's must not have."""

import numpy as np
import pytest
import zarr
from lossatlas.drivers import line_scans, own_metrics, store_docs
from lossatlas.drivers.landscape import arrays
from lossatlas.errors import LossAtlasError
from lossatlas.geometry.projection import other_arrays
from lossatlas.io.arrays import Array, create_arrays, unit_store_size
from lossatlas.parallel import work_units

from tests.conftest import ROOT

SCHEMA = (
    Array("x", ("x",), "place", "metres"),
    Array("height", ("x", "kind"), "how high", dtype="int8", fill_value=-1),
    Array("name", ("kind",), "what it is called"),
)


def test_arrays_are_created_as_described_and_take_the_files_and_bytes_that_are_planned(tmp_path):
    group = zarr.open_group(tmp_path / "a.zarr", mode="w", zarr_format=3)
    create_arrays(group, SCHEMA, {"x": np.arange(5.0), "name": ["one", "two"]})
    work_units.add_rows(group, "rows", 10, ["value"], 4)
    assert group["height"].shape == (5, 2)
    assert group["height"].dtype == np.int8
    assert (group["height"][...] == -1).all()
    assert group["height"].metadata.dimension_names == ("x", "kind")
    assert dict(group["x"].attrs) == {"long_name": "place", "units": "metres"}
    assert group["name"][:].tolist() == ["one", "two"]
    group["height"][...], group["work/rows"][...] = 1, 1.0
    files, size = unit_store_size(SCHEMA[:2], {"x": 5, "kind": 2, "row": 10}, 2, 4)
    assert files + 2 == sum(file.is_file() for file in (tmp_path / "a.zarr").rglob("*"))
    assert size == 5 * 8 + 10 * 1 + 10 * 2 * 8


def test_a_metric_may_not_have_the_name_of_an_array():
    metrics = {"mine": "mean over samples"}
    schemas = [arrays(metrics, ("train", "test"), adaptive=True, moving=True), other_arrays(metrics)]
    schemas += [line_scans.arrays(course, metrics) for course in (line_scans.Along, line_scans.Between)]
    names = {array.name for schema in schemas for array in schema} - set(metrics)
    assert {"x", "path_true_mine", "other_x", "stationary", "angle", "clipped_variances"} <= names
    for name in names:
        with pytest.raises(LossAtlasError, match=f"metrics: '{name}' is an array of the stores already"):
            own_metrics.check([name, "mine"], "metrics")


@pytest.mark.parametrize("name", ["loss", "accuracy", "work", "direction", "path_true_loss", "subset_train"])
def test_other_names_that_a_metric_may_not_have(name):
    with pytest.raises(LossAtlasError, match=f"metrics: '{name}' is an array of the stores already"):
        own_metrics.check(["top5", name], "metrics")
    own_metrics.check(["top5", "path_loss", "mine"], "metrics")
    with pytest.raises(LossAtlasError, match=r"runs.a.metrics: 'top-5' must be of lower-case letters, digits and _"):
        own_metrics.check(["top-5"], "runs.a.metrics")


def test_the_page_of_all_stores_is_up_to_date():
    assert (ROOT / "config/STORES.md").read_text() == store_docs.page(), "run `make docs`"
