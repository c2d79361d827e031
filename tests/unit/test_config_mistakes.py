"""Mistakes in a config that look like a config: each is one line that names key and value, before any work."""

import copy
import datetime
import math

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from lossatlas import config
from lossatlas.config import imports, models, profile, sizes, value_checks
from lossatlas.data import load_dataset
from lossatlas.drivers.training import recorded_iterations
from lossatlas.errors import LossAtlasError

from tests.conftest import ROOT

LENET = {"model": {"name": "lenet"}}
PLANE = {"x": "pca/1", "y": "pca/2"}


def run(**keys):
    return {"runs": {"a": {**LENET, **keys}}}


def directions(**entry):
    return run(directions={"d": entry}, planes={})


def refusal(settings: dict) -> str:
    with pytest.raises(LossAtlasError) as error:
        config.resolve(settings)
    assert "\n" not in str(error.value)
    return str(error.value)


VALUES = [
    (run(train={"learning_rate": math.nan}), "config: runs.a.train.learning_rate: nan is no finite number"),
    (run(train={"epochs": math.inf}), "runs.a.train.epochs: inf is no finite number"),
    (run(train={"optimizer_kwargs": {"momentum": math.nan}}), "optimizer_kwargs.momentum: nan is no finite number"),
    (run(planes={"p": {**PLANE, "range": {"x": [-math.inf, 1]}}}), "range.x.0: -inf is no finite number"),
    (run(model={"import": "m:f", "kwargs": {"a": [1, {"b": math.nan}]}}), "kwargs.a.1.b: nan is no finite number"),
    (run(train={"learning_rate": "nan"}), "runs.a.train.learning_rate: 'nan' is not of type number"),
    (run(train={"batch_size": 10.5}), "runs.a.train.batch_size: 10.5 is not of type integer"),
    (run(train={"batch_size": True}), "runs.a.train.batch_size: True is not of type integer"),
    (run(train={"epochs": True}), "runs.a.train.epochs: True is not of type number"),
    (run(planes={"p": {**PLANE, "center": False}}), "runs.a.planes.p.center: False does not fit"),
    (run(planes={"p": {**PLANE, "orthogonalize": 1}}), "orthogonalize: 1 is not of type boolean"),
    (run(seed=10**40), "runs.a.seed: a whole number of 41 digits is beyond 64 bits"),
    (run(seed=datetime.date(2024, 1, 1)), "runs.a.seed: '2024-01-01' is a date to YAML"),
    ({"runs": {1: LENET}}, "config: runs: the name 1 is of type int to YAML; put it into quotes"),
    ({"runs": {True: LENET}}, "runs: the name True is of type bool to YAML"),
    ({"runs": {None: LENET}}, "runs: the name None is empty to YAML"),
    ({"runs": {datetime.date(2024, 1, 1): LENET}}, "runs: the name 2024-01-01 is of type date to YAML"),
    ({"runs": {"": LENET}}, "runs: a name is empty"),
    ({"runs": {"a\n": LENET}}, r"runs: the name 'a\n' holds a control character"),
    ({"runs": {"a" * 101: LENET}}, "has 101 characters; at most 100"),
    ({"runs": {".a": LENET}}, "runs: '.a' does not"),
    ({"runs": {"a": 0}}, "runs.a: 0 is not of type object"),
    (run(curves={"c": {"x": []}}), "curves.c.x: [] does not fit: type string or a list of at least 1"),
    ({"runs": {"Run": LENET, "run": LENET}}, "config: runs: 'Run' and 'run' differ only in case"),
    (
        run(planes={"P": {"x": "random/1", "y": "random/2"}, "p": {"x": "random/1", "y": "random/2"}}),
        "config: runs.a.planes: 'P' and 'p' differ only in case",
    ),
    (run(dtype="Float32"), "runs.a.dtype: 'Float32' is not one of float32, float64; did you mean 'float32'?"),
    ({"runs": {"a": {"model": {"name": "LENET"}}}}, "did you mean 'lenet'?"),
    (run(SEED=1), "runs.a: unknown key 'SEED'; did you mean 'seed'?"),
    ({**run(), "results": "a{b}"}, "config: results: 'a{b}' holds '{', which Snakemake cannot take in a path"),
    ({**run(), "results": "a\nb"}, r"config: results: 'a\nb' holds a control character"),
    ({**run(), "data_root": "a\0"}, r"config: data_root: 'a\x00' holds a control character"),
    ({**run(), "results": " "}, "config: results: ' ' names no folder"),
    ({**run(), "results": f"{ROOT}/README.md/x"}, "README.md' is a file"),
    ({**run(), "results": "a" * 256}, "is longer than a file's name may be, 255 bytes"),
    (run(data={"kwargs": {"size": 3}}), "runs.a.data.kwargs: built-in datasets take none"),
]
KINDS = [
    (
        directions(kind="random", solver="gram"),
        "config: runs.a.directions.d.solver: belongs to kind: pca; leave it out",
    ),
    (
        directions(kind="random", to=[{"iteration": 0}]),
        "d.to: belongs to kind: difference or mined or connection; leave it out",
    ),
    (directions(kind="random", largest=2), "d.largest: belongs to kind: eigen; leave it out with kind: random"),
    (
        directions(kind="pca", threads=2),
        "d.threads: belongs to kind: random or difference or eigen or gradient or file",
    ),
    (directions(kind="eigen", count=2), "d.count: needs 'near'; at the ends of the spectrum give 'largest'"),
    (directions(kind="difference", to=[{"iteration": 0}], count=2), "d.count: belongs to kind: random or pca or eigen"),
    (directions(kind="pca", near=0.0), "d.near: belongs to kind: eigen; leave it out with kind: pca"),
    (directions(kind="eigen", near=float("nan")), "d.near: nan is no finite number"),
    (directions(kind="eigen", near="zero"), "d.near: 'zero' is not of type number"),
    (directions(kind="eigen", near=0.0, largest=1), "d.largest: belongs to the ends of the spectrum; with 'near' give"),
    (directions(kind="eigen", near=0.0, count=0), "d.count: 0 is less than the minimum of 1"),
    (directions(kind="eigen", near=0.0, tolerance=0.0), "d.tolerance: 0.0 is less than or equal to the minimum of 0"),
    (directions(kind="eigen", near=0, count=9, max_products=17), "d.max_products: 17 is less than twice 'count', 9"),
    (
        directions(kind="difference", to=[{"iteration": 0}], seed=1),
        "d.seed: belongs to kind: random or pca or eigen or gradient",
    ),
    (directions(kind="file", path="x.npy", batch_size=3), "d.batch_size: belongs to kind: eigen or gradient"),
    (directions(kind="gradient", count=2), "d.count: needs 'samples'; the gradient over all samples is one"),
]
OPTIMIZERS = [
    ("torch", {"optimizer": "Optimizer"}, "train.optimizer: 'Optimizer' of torch.optim cannot be used here"),
    ("torch", {"optimizer": "LBFGS"}, "train.optimizer: 'LBFGS' of torch.optim cannot be used here"),
    (
        "torch",
        {"optimizer_kwargs": {"momentun": 0.9}},
        "train.optimizer_kwargs.momentun: SGD takes no 'momentun'; did you mean 'momentum'?",
    ),
    ("torch", {"optimizer": "AdamW", "optimizer_kwargs": {"dampening": 0.9}}, "AdamW takes no 'dampening'; it takes"),
    ("torch", {"optimizer_kwargs": {"lr": 0.9}}, "train.optimizer_kwargs.lr: give the learning rate as"),
    ("torch", {"schedule": {"name": "LRScheduler"}}, "train.schedule.name: 'LRScheduler' of torch.optim.lr_scheduler"),
    ("torch", {"schedule": {"name": "ReduceLROnPlateau"}}, "train.schedule.name: 'ReduceLROnPlateau' of torch"),
    ("torch", {"schedule": {"name": "Counter"}}, "train.schedule.name: 'Counter' of torch.optim.lr_scheduler cannot"),
    ("torch", {"schedule": {"name": "StepLR"}}, "train.schedule.kwargs: StepLR needs 'step_size'"),
    (
        "torch",
        {"schedule": {"name": "StepLR", "kwargs": {"stepsize": 3}}},
        "train.schedule.kwargs.stepsize: StepLR takes no 'stepsize'; did you mean 'step_size'?",
    ),
    ("tensorflow", {"optimizer": "Optimizer"}, "train.optimizer: 'Optimizer' of keras.optimizers cannot be used here"),
    ("tensorflow", {"optimizer_kwargs": {"momentun": 1}}, "train.optimizer_kwargs.momentun: SGD takes no 'momentun'"),
    ("tensorflow", {"schedule": {"name": "ExponentialDecay"}}, "schedule.kwargs: ExponentialDecay needs 'decay_rate'"),
]
SIZES = [
    ({**run(), "mpi": {"ranks": 10**9}}, "mpi.ranks: 1000000000 is greater than the maximum of 65536"),
    (run(spectra={"probes": 10**9}), "runs.a.spectra.probes: 1000000000 is greater than the maximum of 10000"),
    (run(train={"epochs": 1e12}), "runs.a.train.epochs: 1000000000000.0 is greater than the maximum of 1000000"),
    (
        run(train={"epochs": 1e5}),
        "runs.a.train.record_every: 3200001 of 3200000 iterations would be recorded, more than",
    ),
    (run(planes={"p": {**PLANE, "points": [10**9, 9]}}), "planes.p.points.0: 1000000000 is greater than the maximum"),
    (run(planes={"p": {**PLANE, "points": [9000, 9000]}}), "planes.p.points: 81000000 points, more than 10000000"),
    (
        run(spectra={"probes": 9999, "steps": 9999}),
        "runs.a.spectra: 34 sites x 9999 probes x 9999 steps are a store of 190 GB",
    ),
    (
        {"runs": {"a": {"model": {"name": "mlp", "kwargs": {"inputs": 10**8, "hidden": [10**6]}}}}},
        "runs.a.model.kwargs: 100000011000010 parameters take 400000 GB, more than 100",
    ),
]


@pytest.mark.parametrize(("given", "message"), [*VALUES, *KINDS, *SIZES], ids=lambda case: str(case)[-40:])
def test_what_yaml_lets_through_is_refused(given, message):
    assert message in refusal(given)


@pytest.mark.parametrize(("backend", "train", "message"), OPTIMIZERS, ids=lambda case: str(case)[:40])
def test_optimizers_are_asked_for_their_arguments(backend, train, message):
    assert message in refusal(run(backend=backend, train=train))


@pytest.mark.parametrize("name", ["SGD", "Adam", "AdamW", "RMSprop", "Adagrad", "NAdam", "RAdam", "Muon", "Adafactor"])
def test_optimizers_of_torch_are_taken(name):
    assert config.resolve(run(train={"optimizer": name}))["runs"]["a"]["train"]["optimizer"] == name


def test_arguments_of_optimizers_and_schedules_are_taken():
    taken = [
        ("torch", {"optimizer": "AdamW", "optimizer_kwargs": {"betas": [0.9, 0.99], "fused": False}}),
        ("torch", {"schedule": {"name": "OneCycleLR", "kwargs": {"max_lr": 0.1, "total_steps": 32}}}),
        ("tensorflow", {"optimizer": "Adam", "optimizer_kwargs": {"betas": [0.9, 0.99], "weight_decay": 0.1}}),
        ("tensorflow", {"schedule": {"name": "StepLR", "kwargs": {"step_size": 3}}}),
        (
            "tensorflow",
            {"schedule": {"name": "PiecewiseConstantDecay", "kwargs": {"boundaries": [9], "values": [1, 2]}}},
        ),
    ]
    for backend, train in taken:
        found = config.resolve(run(backend=backend, train=train))["runs"]["a"]["train"]
        assert {key: found[key] for key in train} == train


def test_whole_floats_are_integers():
    given = run(
        model={"name": "mlp", "kwargs": {"hidden": [8.0, 4.0], "classes": 3.0}},
        train={"batch_size": 10.0, "epochs": 2.0},
        planes={"p": {**PLANE, "points": [5.0, 7.0], "center": 0.0}},
    )
    found = config.resolve({**given, "mpi": {"data_ranks": 2.0}})
    a = found["runs"]["a"]
    numbers = [*a["model"]["kwargs"]["hidden"], a["model"]["kwargs"]["classes"], a["train"]["batch_size"]]
    numbers += [*a["planes"]["p"]["points"], a["planes"]["p"]["center"], found["mpi"]["data_ranks"]]
    assert numbers == [8, 4, 3, 10, 5, 7, 0, 2]
    assert {type(number) for number in numbers} == {int}
    assert type(a["train"]["epochs"]) is float


def test_directions_hold_the_keys_of_their_kind_alone():
    kinds = {
        "random": {"kind": "random"},
        "pca": {"kind": "pca"},
        "eigen": {"kind": "eigen"},
        "flat": {"kind": "eigen", "near": 0.0},
        "gradient": {"kind": "gradient"},
        "batches": {"kind": "gradient", "samples": 50},
        "difference": {"kind": "difference", "to": [{"iteration": 0}]},
    }
    found = config.resolve(run(directions=kinds, planes={}))["runs"]["a"]["directions"]
    shared, products = {"kind", "center", "normalize", "ignore"}, {"batch_size", "batchnorm", "threads"}
    assert {key: found["flat"][key] for key in ("largest", "smallest", "near", "count")} == {
        "largest": 0,
        "smallest": 0,
        "near": 0.0,
        "count": 2,
    }
    assert {*found["flat"]} == {*found["eigen"], "near", "count"}
    assert {name: {*keys} - shared for name, keys in found.items() if name != "flat"} == {
        "random": {"count", "seed", "threads"},
        "pca": {"count", "seed", "center_rows", "solver"},
        "eigen": {"largest", "smallest", "tolerance", "max_products", "seed", *products, "memory_gb", "strategy"},
        "gradient": products,
        "batches": {*products, "samples", "count", "seed"},
        "difference": {"to", "threads"},
    }


def test_mistakes_in_defaults_are_named_there():
    both = {"a": {}, "b": {"model": {"name": "mlp"}}}
    cases = [
        ({"train": {"epochs": "many"}}, "config: defaults.train.epochs: 'many' is not of type number"),
        ({"train": {"optimizer": "Adm"}}, "config: defaults.train.optimizer: torch.optim has no 'Adm'"),
        ({"planes": {"p": {"x": "pcb/1", "y": "pca/2"}}}, "config: defaults.planes.p.x: no directions 'pcb'"),
        ({"directions": {"d": {"kind": "random", "solver": "gram"}}}, "config: defaults.directions.d.solver: belongs"),
        ({"planes": {"p": {**PLANE, "center": 77}}}, "config: defaults.planes.p.center: iteration 77 of a is not"),
        ({"data": {"nam": 1}}, "config: defaults.data: unknown key 'nam'; did you mean 'name'?"),
    ]
    for shared, message in cases:
        assert message in refusal({"defaults": {**LENET, **shared}, "runs": both})
    own = {"a": {"planes": {"p": {"x": "pcb/1", "y": "pca/2"}}}}
    assert "config: runs.a.planes.p.x: no directions" in refusal({"defaults": LENET, "runs": own})
    hidden = {"defaults": {**LENET, "seed": "x"}, "runs": {"a": {"seed": 1}}}
    assert "config: defaults.seed: 'x' is not of type integer" in refusal(hidden)


def test_runs_take_over_what_belongs_to_their_choice():
    shared = {"model": {"import": "m:f", "kwargs": {"a": 1}}, "directions": {"d": {"kind": "pca", "solver": "gram"}}}
    runs = {"a": {"model": {"name": "lenet"}, "directions": {"d": {"kind": "random"}}, "planes": {}}}
    found = config.resolve({"defaults": shared, "runs": runs})["runs"]["a"]
    assert found["model"] == {"name": "lenet", "kwargs": {}}
    assert "solver" not in found["directions"]["d"]


RECORDED = [
    (
        run(train={"epochs": 0.05}),
        "config: runs.a.directions.pca.count: 2 principal components need at least 4 recorded checkpoints, "
        "this run has 3",
    ),
    (
        run(planes={"p": {**PLANE, "center": 33}}),
        "planes.p.center: iteration 33 of a is not recorded; the nearest is 32",
    ),
    (
        run(train={"record_every": 5}, planes={"p": {**PLANE, "center": 13}}),
        "runs.a.planes.p.center: iteration 13 of a is not recorded; the nearest is 15, the last 32",
    ),
    (run(curves={"c": {"to": {"iteration": 99}}}), "curves.c.to.iteration: iteration 99 of a is not recorded"),
    (run(curves={"c": {"from": "first", "to": {"iteration": 0}}}), "curves.c.to: 'first' and 0 are both iteration 0"),
    (
        run(spectra_between={"l": {"to": {"iteration": 32}}}),
        "l.to: 'last' and 32 are both iteration 32",
    ),
    (directions(kind="difference", to=[{"iteration": "last"}]), "directions.d.to.0: 'last' and 'last' are both"),
    (directions(kind="gradient", samples=2000), "d.samples: 2000, but the evaluation subset has 1000 training samples"),
    (
        {
            "runs": {
                "a": {
                    "model": {"name": "mlp", "kwargs": {"inputs": 2, "hidden": [2], "classes": 2}},
                    "tracking": {"largest": 13},
                }
            }
        },
        "runs.a.tracking: largest + smallest, 13, exceed the network's 12 parameters",
    ),
    (
        {
            "runs": {
                "a": {
                    "model": {"name": "mlp", "kwargs": {"inputs": 2, "hidden": [2], "classes": 2}},
                    "directions": {"d": {"kind": "eigen", "near": 0.0, "count": 13}},
                    "planes": {},
                }
            }
        },
        "runs.a.directions.d: count, 13, exceed the network's 12 parameters",
    ),
    (
        {
            "runs": {
                "a": {"model": {"name": "mlp", "kwargs": {"inputs": 2, "hidden": [2], "classes": 2}}, "spectra": {}}
            }
        },
        "runs.a.spectra.steps: 40 exceed the network's 12 parameters",
    ),
]


@pytest.mark.parametrize(("given", "message"), RECORDED, ids=lambda case: str(case)[-40:])
def test_what_arithmetic_decides_is_found_in_the_dry_run(given, message):
    assert message in refusal(given)


def test_numbers_of_checkpoints_count():
    given = run(checkpoints={"files": "*.pt"}, planes={"p": {**PLANE, "center": 2}})
    found = config.load(given)
    sizes.check_sizes(found)
    sizes.check_sizes(found, {"a": range(4)})
    with pytest.raises(
        LossAtlasError, match="2 principal components need at least 4 recorded checkpoints, this run has 3"
    ):
        sizes.check_sizes(found, {"a": range(3)})
    with pytest.raises(LossAtlasError, match="iteration 2 of a is not recorded; the nearest is 1, the last 1"):
        sizes.check_sizes(found, {"a": range(2)})


def test_components_that_no_plane_uses_are_not_asked_for():
    config.resolve(run(train={"epochs": 0.05}, planes={"p": {"x": "random/1", "y": "random/2"}}))


@pytest.mark.parametrize(("steps", "every"), [(0, 1), (1, 1), (7, 1), (7, 3), (6, 3), (2, 9)])
def test_recorded_iterations_are_those_of_training(steps, every):
    rows = sizes.Recorded(steps, every)
    expected = recorded_iterations(steps, every).tolist()
    assert len(rows) == len(expected)
    assert [n for n in range(-3, steps + 4) if n in rows] == expected
    for n in range(steps + 4):
        assert abs(rows.nearest(n) - n) == min(abs(n - other) for other in expected)


def test_known_numbers_of_samples():
    embedded = len(load_dataset({"name": "fashion-mnist-mini"}).train)
    published = {"fashion-mnist": 60_000, "cifar10": 50_000, "cifar100": 50_000}
    assert {"fashion-mnist-mini": embedded, **published} == sizes.TRAINING_SAMPLES


def test_known_numbers_of_parameters():
    from lossatlas.zoo.lenet import lenet
    from lossatlas.zoo.mlp import mlp

    for build, kwargs in ((lenet, {}), (lenet, {"classes": 7, "channels": 1}), (mlp, {}), (mlp, {"hidden": [3, 2]})):
        size = sum(p.numel() for p in build(**kwargs).parameters())
        assert sizes.parameters(models.Network(name=build.__name__, kwargs=kwargs)) == size


def test_ranks_are_dealt_into_equal_teams():
    mpi = models.MPI(ranks=3, data_ranks=2)
    with pytest.raises(LossAtlasError, match=r"mpi.data_ranks: 2 does not divide the 3 ranks of rule spectra"):
        profile.check({}, ["spectra"], mpi)
    launched = {name: {"mpi": "srun", "tasks": 4} for name in profile.MPI_RULES}
    profile.check(launched, profile.MPI_RULES, mpi)
    with pytest.raises(LossAtlasError, match="2 does not divide the 5 ranks of rule tracking"):
        profile.check({**launched, "tracking": {"mpi": "srun", "tasks": 5}}, profile.MPI_RULES, mpi)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a: 1\nb: 2\na: 3\n", "config: a: given twice in {file}, lines 1 and 3; keep one"),
        ("runs:\n  a: {seed: 1, seed: 1}\n", "config: runs.a.seed: given twice in {file}, lines 2 and 2; keep one"),
        ("a:\n  - {b: 1}\n  - {b: 1, c: 1, b: 2}\n", "config: a.1.b: given twice in {file}, lines 3 and 3; keep one"),
        ('{"runs": {"a": {}, "a": {}}}', "config: runs.a: given twice in {file}, lines 1 and 1; keep one"),
    ],
)
def test_keys_given_twice(tmp_path, text, message):
    file = tmp_path / "config.yaml"
    file.write_text(text)
    with pytest.raises(LossAtlasError) as error:
        value_checks.check_file(file)
    assert str(error.value) == message.format(file=file)


def test_anchors_and_merged_keys_are_no_keys_given_twice(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_text("a: &a {x: 1, y: 2}\nb: {<<: *a, x: 3}\nc: [*a, *a]\n1: 2\n'1': 3\n")
    value_checks.check_file(file)


def test_built_in_and_odd_modules_are_one_line(tmp_path):
    assert imports.source_digest("sys:exit", [tmp_path], "loss.import")
    with pytest.raises(LossAtlasError, match="no module '__main__'"):
        imports.source_digest("__main__:f", [tmp_path], "loss.import")
    (tmp_path / "binary.py").write_bytes(b"x = 1\0")
    with pytest.raises(LossAtlasError, match=r"binary.py"):
        imports.source_digest("binary:f", [tmp_path], "loss.import")


VALID = [yaml.safe_load(file.read_text()) for file in sorted(ROOT.glob("config/**/*.yaml"))]
KEYS = sorted({row[0].rsplit(".", 1)[-1] for row in config.document()})
SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.dates(),
    st.sampled_from(
        ["first", "last", "auto", "pca", "pca/1", "d/9", "a:b", "SGD", "StepLR", "difference", "", 1e300, 0]
    ),
)


def _places(value, path=()):
    """Yield the paths of all entries of nested dicts and lists."""
    for key, item in value.items() if isinstance(value, dict) else enumerate(value):
        yield (*path, key)
        if isinstance(item, dict | list):
            yield from _places(item, (*path, key))


@st.composite
def mutated(draw):
    """Draw a config of the project with some entries replaced, renamed, removed, doubled or added."""
    found = copy.deepcopy(draw(st.sampled_from(VALID)))
    keys = st.sampled_from(KEYS) | SCALARS
    values = st.recursive(
        SCALARS, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(keys, inner, max_size=3), max_leaves=5
    )
    for _ in range(draw(st.integers(1, 3))):
        places = list(_places(found))
        if not places:
            break
        *folder, last = draw(st.sampled_from(places))
        home = found
        for key in folder:
            home = home[key]
        change = draw(st.sampled_from(["replace", "rename", "remove", "add", "copy"]))
        if change == "replace":
            home[last] = draw(values)
        elif change == "copy":
            other = found
            for key in draw(st.sampled_from(places)):
                other = other[key]
            home[last] = copy.deepcopy(other)
        elif change == "remove":
            del home[last]
        elif isinstance(home, dict):
            home[draw(keys)] = home.pop(last) if change == "rename" else draw(values)
    return found


@settings(max_examples=400, deadline=None, derandomize=True)
@given(mutated())
def test_any_config_is_taken_or_refused_in_a_line_for_each_mistake(given):
    before = copy.deepcopy(given)
    try:
        found = config.resolve(given)
    except LossAtlasError as error:
        lines = str(error).split("\n")
        assert all(line.startswith("config: ") for line in lines)
        assert len(set(lines)) == len(lines)
    else:
        assert config.resolve(found) == found
    assert repr(given) == repr(before)


def test_all_mistakes_that_are_known_are_told_together():
    unfit = {"p": {**PLANE, "x": "nowhere/1"}}
    many = {"runs": {"a": {**LENET, "seed": -1, "planes": {"p": {"x": "pca/1"}}}, "b": {"model": {"name": "lenett"}}}}
    for given_config, told in (
        (many, ["runs.a.seed: -1 is less", "runs.a.planes.p: the key 'y' is", "runs.b.model.name: 'lenett' is not"]),
        (
            {"runs": {name: {**LENET, "planes": unfit} for name in "ab"}},
            ["runs.a.planes.p.x: no", "runs.b.planes.p.x: no"],
        ),
        ({**run(), "defaults": {"dtype": "x", "seed": -1}}, ["defaults.seed: -1", "defaults.dtype: 'x'"]),
    ):
        with pytest.raises(LossAtlasError) as error:
            config.resolve(given_config)
        lines = str(error.value).split("\n")
        assert len(lines) == len(told)
        assert all(line.startswith(f"config: {one}") for line, one in zip(lines, told, strict=True))


@pytest.mark.parametrize("sign", ["$(x)", "`x`", '"', "\\"])
def test_what_schedulers_would_hand_to_a_shell_is_refused(sign):
    value_checks.check_submitted("/home/r e's ü; & */x")
    with pytest.raises(LossAtlasError, match="no job can be submitted to a scheduler"):
        value_checks.check_submitted(f"/home/{sign}/x")


def test_of_alternatives_within_alternatives_the_one_that_fits_best_is_told_alone():
    assert refusal(run(curves={"c": {"x": [3]}})) == "config: runs.a.curves.c.x.0: 3 is not of type string"
