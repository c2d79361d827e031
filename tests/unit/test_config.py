"""Every mistake in a config is named in one line, and the documentation follows the models."""

import subprocess
import sys

import jsonschema
import pytest
import yaml
from lossatlas import config
from lossatlas.errors import LossAtlasError

from tests.conftest import ROOT

LENET = {"model": {"name": "lenet"}}


def run(**keys):
    return {"runs": {"a": {**LENET, **keys}}}


BAD = [
    ({"run": {}}, "unknown key 'run'; did you mean 'runs'?"),
    ({}, "the key 'runs' is missing"),
    ({"runs": {}}, "config: runs: {} has fewer entries than 1"),
    ({"runs": 3}, "runs: 3 is not of type object"),
    ({"runs": {"a b": LENET}}, "runs: 'a b' does not have the right form: letters, digits, _ and -"),
    ({"runs": {"a.b": {"model": {"name": "lenet"}}}}, "config: runs: 'a.b' does not have the right form"),
    (run(spectra=None), "runs.a.spectra: None is no value; write {} for all defaults, or leave the key out"),
    (run(model={"name": "lenet", "kwargs": {"classes": None}}), "kwargs.classes: None is no value; give one, or leave"),
    ({"runs": {"a": None}}, "runs.a: the key 'model' is missing"),
    (run(evaluaton={}), "runs.a: unknown key 'evaluaton'; did you mean 'evaluation'?"),
    ({"runs": {"a": {"model": {"name": "lenett"}}}}, "'lenett' is not one of"),
    ({"runs": {"a": {"model": {}}}}, "runs.a.model: give 'name'"),
    ({"runs": {"a": {"model": {"name": "lenet", "import": "m:f"}}}}, "not both"),
    ({"runs": {"a": {"model": {"import": "no colon"}}}}, "an import path is written as"),
    (run(metrics={"top5": "no colon"}), "runs.a.metrics.top5: 'no colon' does not have the right form: an import path"),
    (
        {"runs": {"a": {"model": {"name": "vgg9", "kwargs": {"widht": 8}}}}},
        "runs.a.model.kwargs: 'widht' is not one of classes, width, batchnorm; did you mean 'width'?",
    ),
    (
        {"runs": {"a": {"model": {"name": "resnet56", "kwargs": {"width": "2x"}}}}},
        "runs.a.model.kwargs.width: '2x' is not of type integer",
    ),
    (
        {"runs": {"a": {"model": {"name": "resnet50", "pretrained": "imagenet1k-v1"}}}},
        "runs.a.model.pretrained: there are published weights of 'mobilenet-v2' only",
    ),
    (
        {"runs": {"a": {"model": {"name": "mobilenet-v2", "pretrained": True}}}},
        "runs.a.model.pretrained: True is not one of imagenet1k-v1, imagenet1k-v2",
    ),
    (
        {
            "runs": {
                "a": {
                    "model": {"name": "mobilenet-v2", "pretrained": "imagenet1k-v1"},
                    "checkpoints": {"files": "*.pt"},
                }
            }
        },
        "runs.a.model.pretrained: 'checkpoints' hold all weights; leave it out",
    ),
    (run(train={"epochs": "many"}), "runs.a.train.epochs: 'many' is not of type number"),
    (run(train={"batch_size": 0}), "runs.a.train.batch_size"),
    (run(planes={"p": {"x": "random/1", "y": "random/2", "points": 31}}), "31 is not of type array, such as [25, 25]"),
    (run(train={}, checkpoints={"files": "*.pt"}), "either 'train' or 'checkpoints'"),
    (run(dtype="float16"), "'float16' is not one of float32, float64"),
    (run(train={"optimizer": "Adm"}), "runs.a.train.optimizer: torch.optim has no 'Adm'; did you mean 'Adam'?"),
    (
        run(backend="tensorflow", train={"optimizer": "Sgd"}),
        "runs.a.train.optimizer: keras.optimizers has no 'Sgd'; did you mean 'SGD'?",
    ),
    (
        run(train={"schedule": {"name": "StepRL", "kwargs": {}}}),
        "runs.a.train.schedule.name: torch.optim.lr_scheduler has no 'StepRL'; did you mean 'StepLR'?",
    ),
    (run(planes={"p": {"x": "pcb/1", "y": "pca/2"}}), "no directions 'pcb' in this run; did you mean 'pca'?"),
    (run(planes={"p": {"x": "pca/1", "y": "pca/3"}}), "has only 2 direction(s)"),
    (run(planes={"p": {"x": "pca/1", "y": "pca/1"}}), "a plane needs two directions"),
    (run(planes={"p": {"x": "pca/1", "y": "pca/2", "paths": ["b"]}}), "planes.p.paths: no run 'b'; other runs: none"),
    (run(planes={"p": {"x": "pca/1", "y": "pca/2", "paths": ["a"]}}), "planes.p.paths: 'a' is this run, whose path"),
    (run(planes={"p": {"x": "pca/0", "y": "pca/1"}}), "counted from 1"),
    (run(train={"learning_rate": "1e-2"}), "is text to YAML; write it with a point"),
    (run(planes={"p": {"x": "pca/1", "y": "pca/2", "range": {"x": [1, -1]}}}), "not [smaller, larger]"),
    (
        run(planes={"p": {"x": "pca/1", "y": "pca/2", "grid": {"tolerance": 0.1}}}),
        "runs.a.planes.p.grid.tolerance: belongs to mode: adaptive; leave it out with mode: full",
    ),
    (
        run(planes={"p": {"x": "pca/1", "y": "pca/2", "grid": {"mode": "adaptiv"}}}),
        "grid.mode: 'adaptiv' is not one of full, adaptive; did you mean 'adaptive'?",
    ),
    (
        run(planes={"p": {"x": "pca/1", "y": "pca/2", "grid": {"mode": "adaptive", "tolerance": 0}}}),
        "grid.tolerance: 0 is less than or equal to the minimum of 0",
    ),
    (run(planes={"p": {"x": "pca/1", "y": "pca/2", "batchnorm": "interpolate"}}), "'pca' on x is not such a one"),
    (
        run(planes={"p": {"x": "pca/1", "y": "pca/2", "batchnorm": "recompute", "strategy": "folded"}}),
        "runs.a.planes.p.strategy: 'folded' needs batchnorm: frozen",
    ),
    (
        run(planes={"p": {"x": "pca/1", "y": "pca/2", "precision": "bfloat16", "strategy": "eager"}}),
        "runs.a.planes.p.precision: 'bfloat16' needs another strategy than 'eager'",
    ),
    (run(directions={"d": {"kind": "difference"}}, planes={}), "needs the key 'to'"),
    (run(directions={"d": {"kind": "difference", "to": [{"run": "b"}]}}, planes={}), "no run 'b'; runs: a"),
    (
        run(directions={"d": {"kind": "pca", "solver": "incremental", "center_rows": False}}, planes={}),
        "centres",
    ),
    (
        run(directions={"g": {"kind": "gradient"}}, planes={"p": {"x": "g/1", "y": "g/2"}}),
        "runs.a.planes.p.y: 'g/2', but 'g' has only 1 direction(s)",
    ),
    (run(directions={"g": {"kind": "gradient", "samples": 0}}, planes={}), "directions.g.samples: 0 is less than"),
    (run(planes={"p": {"x": "pca/1", "y": "pca/2", "orthogonalize": "y"}}), "orthogonalize: 'y' is not of type bool"),
    (run(tracking={"largest": 0}), "runs.a.tracking: largest and smallest are both 0"),
    (run(tracking={"max_products": 2}), "runs.a.tracking.max_products: 2 is less than largest + smallest, 3"),
    (run(directions={"d": {"kind": "pca", "center": "lst"}}, planes={}), "'lst' does not fit: first, last"),
    (
        run(planes={"p": {"x": "pca/1", "y": "pca/2", "curvature": {"points": [1, 9]}}}),
        "runs.a.planes.p.curvature.points.0: 1 is less than the minimum of 2",
    ),
    (
        run(planes={"p": {"x": "pca/1", "y": "pca/2", "curvature": {"product": 9}}}),
        "curvature: unknown key 'product'; did you mean 'max_products'?",
    ),
    (run(spectra_between={"l": {}}), "runs.a.spectra_between.l: the key 'to' is missing"),
    (run(spectra_between={"l": {"to": {"run": "b"}}}), "runs.a.spectra_between.l.to.run: no run 'b'; runs: a"),
    (run(spectra_between={"l": {"to": {}}}), "'from' and 'to' are both iteration 'last' of this run"),
    (run(spectra_between={"l": {"from": 3, "to": {"run": "a", "iteration": 3}}}), "are both iteration 3 of this run"),
    (
        run(spectra_between={"l": {"from": "first", "to": {}, "points": 1}}),
        "spectra_between.l.points: 1 is less than the minimum of 2",
    ),
    (
        run(curves={"c": {}}),
        "runs.a.curves.c: give one of 'x' (along directions), 'to' (between two checkpoints) and 'connection' (on a "
        "trained curve), not none",
    ),
    (run(curves={"c": {"x": "pca", "to": {"iteration": 0}}}), "not several"),
    (
        run(curves={"c": {"x": "pca/1", "batchnorm": "recompute", "strategy": "compiled"}}),
        "runs.a.curves.c.strategy: 'compiled' needs batchnorm: frozen; leave it out",
    ),
    (
        run(curves={"c": {"to": {"iteration": "first"}, "precision": "bfloat16"}}),
        "runs.a.curves.c.precision: 'bfloat16' needs batchnorm: frozen; leave it out",
    ),
    (
        run(backend="tensorflow", train={"schedule": {"name": "CosineAnealingLR", "kwargs": {}}}),
        "runs.a.train.schedule.name: keras.optimizers.schedules has no 'CosineAnealingLR'",
    ),
    (run(curves={"c": {"x": "pcb"}}), "runs.a.curves.c.x: no directions 'pcb' in this run; did you mean 'pca'?"),
    (run(curves={"c": {"x": ["pca/1", "random/3"]}}), "'random/3', but 'random' has only 2 direction(s)"),
    (
        run(curves={"c": {"x": "pca/0"}}),
        "curves.c.x: 'pca/0' does not fit: `<directions>/<number>`, counted from 1, or",
    ),
    (run(curves={"c": {"x": "pca", "from": 3}}), "curves.c.from: belongs to 'to'; leave it out with 'x'"),
    (
        run(curves={"c": {"to": {"iteration": 0}, "center": 3}}),
        "curves.c.center: belongs to 'x'; leave it out with 'to'",
    ),
    (
        run(curves={"c": {"x": "pca", "batchnorm": "interpolate"}}),
        "curves.c.batchnorm: 'interpolate' needs a checkpoint",
    ),
    (run(curves={"c": {"x": "pca", "range": [1, 2]}}), "curves.c.range: [1, 2] must hold 0"),
    (run(curves={"c": {"to": {"iteration": 0}, "range": [-1, 0.5]}}), "curves.c.range: [-1, 0.5] must hold 1"),
    (run(curves={"c": {"x": "pca", "view": {"loss": [2, 1]}}}), "curves.c.view.loss: [2, 1] is not [smaller, larger]"),
    (run(curves={"c": {"x": "pca", "view": {"y": [1, 2]}}}), "unknown key 'y'"),
    (run(curves={"c": {"to": {"run": "b"}}}), "curves.c.to.run: no run 'b'; runs: a"),
    (run(curves={"c": {"to": {}}}), "runs.a.curves.c: 'from' and 'to' are both iteration 'last' of this run"),
    (run(curves={"c": {"x": "pca", "points": 2}}), "curves.c.points: 2 is less than the minimum of 3"),
    ({"defaults": {"sead": 1}, **run()}, "unknown key 'sead'; did you mean 'seed'?"),
]


@pytest.mark.parametrize(("given", "message"), BAD, ids=[message[:40] for _, message in BAD])
def test_mistake_is_named_in_one_line(given, message):
    with pytest.raises(LossAtlasError) as error:
        config.resolve(given)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_defaults_are_filled_and_shared_keys_merged():
    given = {
        "defaults": {"train": {"batch_size": 7, "learning_rate": 0.5}, "model": {"name": "mlp"}},
        "runs": {
            "a": {"train": {"batch_size": 9}},
            "b": {"model": {"import": "m:f"}, "checkpoints": {"files": "x"}},
        },
    }
    runs = config.resolve(given)["runs"]
    assert runs["a"]["train"]["batch_size"] == 9
    assert runs["a"]["train"]["learning_rate"] == 0.5
    assert runs["a"]["train"]["optimizer"] == "SGD"
    assert runs["b"]["model"] == {"import": "m:f", "kwargs": {}}
    assert "train" not in runs["b"]
    assert given["runs"]["a"] == {"train": {"batch_size": 9}}, "the given config must stay as it was"


def test_defaults_of_grids_depend_on_their_mode():
    planes = {"full": {"x": "pca/1", "y": "pca/2"}, "some": {"x": "pca/1", "y": "pca/2", "grid": {"mode": "adaptive"}}}
    found = config.resolve(run(planes=planes))["runs"]["a"]["planes"]
    assert found["full"]["grid"] == {"mode": "full"}
    assert found["some"]["grid"] == {"mode": "adaptive", "tolerance": 0.01, "scale": "auto"}


def test_resolving_twice_changes_nothing():
    once = config.resolve(run())
    assert config.resolve(once) == once


@pytest.mark.parametrize("file", sorted(ROOT.glob("config/**/*.yaml")), ids=lambda f: f.name)
def test_configs_of_the_project_are_valid(file):
    config.resolve(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize("file", sorted(ROOT.glob("config/**/*.yaml")), ids=lambda f: f.name)
def test_json_schema_takes_what_is_resolved_and_refuses_mistakes(file):
    check = jsonschema.Draft202012Validator(config.schema())
    found = config.resolve(yaml.safe_load(file.read_text()))
    assert not list(check.iter_errors(found))
    for settings in found["runs"].values():
        settings["directions"]["d"] = {"kind": "random", "solver": "gram"}
    assert list(check.iter_errors(found))


def test_typed_config_has_the_values_of_the_dicts():
    given = run(planes={"p": {"x": "pca/1", "y": "pca/2", "grid": {"mode": "adaptive"}}}, curves={"c": {"x": "pca"}})
    a = config.load(given).runs["a"]
    assert (a.planes["p"].grid.tolerance, a.curves["c"].range, a.train.batch_size) == (0.01, [-1, 1], 128)
    assert (a.spectra, a.model.import_, a.planes["p"].curvature) == (None, None, None)


def test_every_key_is_documented():
    rows = list(config.document())
    assert len(rows) > 60
    for key, kind, _, text in rows:
        assert kind, key
        assert text or key.endswith((".kwargs", ".run")), key


def test_config_readme_follows_the_models():
    page = subprocess.run([sys.executable, ROOT / "scripts/config_docs.py"], capture_output=True, text=True, check=True)
    assert (ROOT / "config/README.md").read_text() == page.stdout, "run `make docs`"


def test_eigenvectors_gradients_and_differences_are_not_bent_unless_asked():
    directions = {
        "e": {"kind": "eigen"},
        "f": {"kind": "eigen", "normalize": "filter", "ignore": ["bias"]},
        "g": {"kind": "gradient"},
        "d": {"kind": "difference", "to": [{"iteration": "first"}]},
        "r": {"kind": "random"},
    }
    found = config.resolve(run(directions=directions, planes={}))["runs"]["a"]["directions"]
    assert {n: (d["normalize"], d["ignore"]) for n, d in found.items()} == {
        "e": ("none", []),
        "f": ("filter", ["bias"]),
        "g": ("none", []),
        "d": ("none", []),
        "r": ("filter", ["bias", "norm"]),
    }


def test_one_name_means_one_sort_of_directions():
    given = {
        "runs": {
            n: {**LENET, "directions": {"d": {"kind": k}}, "planes": {}} for n, k in (("a", "eigen"), ("b", "pca"))
        }
    }
    with pytest.raises(LossAtlasError, match=r"runs.b.directions.d: kind 'pca' here and 'eigen' in another run"):
        config.resolve(given)


@pytest.mark.parametrize(("given", "expected"), [("true", True), ("false", False), (True, True)])
def test_fresh_from_the_command_line(given, expected):
    assert config.resolve({**run(), "fresh": given})["fresh"] is expected


def test_defaults_of_curves_depend_on_where_they_run():
    given = run(curves={"d": {"x": "random"}, "l": {"to": {"iteration": "first"}}})
    found = config.resolve(given)["runs"]["a"]["curves"]
    assert found["d"] == {
        "x": "random",
        "center": "last",
        "range": [-1, 1],
        "points": 41,
        "view": {},
        "batchnorm": "frozen",
        "strategy": "auto",
        "precision": "full",
    }
    assert found["l"].pop("to") == {"iteration": "first"}
    shared = {"points": 41, "view": {}, "strategy": "auto", "precision": "full"}
    assert found["l"] == {"from": "last", "batchnorm": "interpolate", "range": [-0.5, 1.5], **shared}
    curves = config.load(given).runs["a"].curves
    assert [config.axes_of(curves[name]) for name in "dl"] == [["random"], []]
