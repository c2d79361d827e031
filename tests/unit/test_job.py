"""What every job does: plan, then create; a store that is found is resumed as it was begun, or left alone."""

from dataclasses import dataclass, field

import numpy as np
import pytest
from lossatlas.drivers.base import Job, Order, Plan
from lossatlas.io.store import Store, add_array, publish
from lossatlas.parallel import Timing, World, work_units


@dataclass
class Powers(Job):
    """Powers of 0 ... 9; which is planned anew each time, as a clock would have it."""

    power: int = 2
    did: list[str] = field(default_factory=list)
    kind = "landscape"

    @classmethod
    def read(cls, args, world):
        return cls(args.spec)

    def plan(self):
        self.did.append("plan")
        return Plan({"power": self.power}, f"power {self.power}")

    def build(self, group):
        self.did.append("build")
        add_array(group, "values", ("x",), shape=(10,))
        work_units.add_rows(group, "one row per value", 10, ["value"], 4)

    def evaluator(self, store):
        return lambda unit: self.did.append("unit") or np.array(unit, float)[:, None] ** store.attrs["power"]

    @staticmethod
    def conclude(store: Store):
        store["values"][...] = work_units.results(store)[:, 0]
        return {"values": 10}


@pytest.fixture
def order(tmp_path):
    return Order(tmp_path / "powers.zarr", tmp_path, "powers")


def begun(job, order, size=1, rank=0):
    return job.prepare(order, World(rank=rank, size=size), Timing())


def test_a_job_plans_before_it_creates_and_resumes_as_it_was_begun(order, capsys):
    first = Powers({"n": 1}, power=2)
    store = begun(first, order)
    assert first.did == ["plan", "build"]
    assert capsys.readouterr().out == "powers: power 2\n"
    store["work/rows"][:4] = np.column_stack([np.arange(4.0) ** 2, np.ones(4)])
    second = Powers({"n": 1}, power=3)
    store = begun(second, order)
    assert second.compute(store, order, World(), Timing()) == 0
    assert second.did == ["unit", "unit"], "what is found is not planned, built or computed again"
    assert second.finish(store, {"ranks": 1}) == {"values": 10}
    assert store["values"][:].tolist() == [n**2 for n in range(10)]
    publish(order.output, order.run_dir)
    third = Powers({"n": 1}, power=3)
    assert begun(third, order).finished
    assert third.did == []


def test_only_the_first_rank_plans_and_creates(order):
    first, second = Powers({"n": 1}), Powers({"n": 1})
    begun(first, order, size=2, rank=0)
    assert begun(second, order, size=2, rank=1).attrs["power"] == 2
    assert (first.did, second.did) == (["plan", "build"], [])


def test_other_settings_inputs_or_a_fresh_start_are_computed_anew(order):
    begun(Powers({"n": 1}), order)
    for job in (Powers({"n": 2}), Powers({"n": 1}, inputs={"trajectory": ["a", "b"]})):
        begun(job, order)
        assert job.did == ["plan", "build"]
    fresh = Powers({"n": 1}, inputs={"trajectory": ["a", "b"]})
    begun(fresh, Order(order.output, order.run_dir, "powers", fresh=True))
    assert fresh.did == ["plan", "build"]


def test_a_plan_that_fails_leaves_no_store(order):
    job = Powers({"n": 1})
    job.plan = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        begun(job, order)
    assert list(order.run_dir.rglob("*.zarr*")) == []
