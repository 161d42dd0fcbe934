"""What the schema says of keys, and that it says it of all of them."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from jaxdet.benchmark.reporting.recipe_keys import result_part
from jaxdet.config.keys import DetectorConfig, PretrainingConfig, keys_with
from jaxdet.config.mask_rcnn import benchmark
from jaxdet.config.roles import resumable_keys
from jaxdet.config.schema import ROLES, key, keys, section
from jaxdet.config.shapes import pretraining
from jaxdet.config.values import build, value_of
from jaxdet.errors import UserError


@dataclass(frozen=True)
class Inner:
    rate: float = key(0.5, "A rate.", above=0, most=1, roles=("tuned",))
    pair: tuple[float, float] = key((0.1, 2.0), "A pair.", least=0, below=9)
    blocks: tuple[int, ...] = key((), "Blocks.", least=0)


@dataclass(frozen=True)
class Outer:
    count: int = key(3, "A count.", least=1)
    kind: str = key("a", "A kind.", choices=("a", "b"))
    file: str | None = key(None, "A file.", roles=("files",))
    flag: bool = key(True, "A flag.")
    inner: Inner = section(Inner, roles=("finetune",))  # noqa: RUF009 frozen


ALLOWED = {
    "count": "an integer of at least 1",
    "kind": "one of a, b",
    "file": "text, or none",
    "flag": "true or false",
    "inner.rate": "a number above 0 and at most 1",
    "inner.pair": "2 numbers, each at least 0 and below 9",
    "inner.blocks": "integers, each at least 0",
}


def test_a_key_says_what_it_must_be():
    assert {name: found.allowed for name, found in keys(Outer).items()} == ALLOWED


@pytest.mark.parametrize(
    ("name", "right", "wrong"),
    [
        ("count", [1, 10**9], [0, 1.0, True, "1", None, float("inf")]),
        ("kind", ["a", "b"], ["c", "", 1, None]),
        ("file", [None, "", "x"], [1, ("x",)]),
        ("flag", [True, False], [1, 0, "true", None]),
        ("inner.rate", [1, 1.0, 1e-30], [0, 0.0, 1.1, float("nan"), None, True]),
        ("inner.pair", [(0, 1), [0.0, 8.9]], [(0,), (0, 1, 2), (0, 9), 1.0, "ab", None]),
        ("inner.blocks", [(), (0, 5), [3]], [(0.0,), (-1,), ("a",), 0, None]),
    ],
)
def test_values_are_held_to_type_and_bounds(name, right, wrong):
    declared = keys(Outer)[name]
    for value in right:
        declared.validate(value)
    for value in wrong:
        with pytest.raises(UserError, match=rf"config\.{name}=.* must be {ALLOWED[name]}"):
            declared.validate(value)


def test_roles_are_a_key_s_own_and_its_section_s():
    assert keys(Outer)["inner.rate"].roles == {"tuned", "finetune"}
    assert keys_with("finetune", Outer) == ("inner.rate", "inner.pair", "inner.blocks")
    assert keys_with("recipe", Outer) == ("count", "kind", "flag", "inner.pair", "inner.blocks")


def test_a_config_is_made_of_the_defaults():
    config = build(Outer)
    config.file = "x"
    config.inner.rate = 1
    assert config.to_dict() == {
        "count": 3,
        "kind": "a",
        "file": "x",
        "flag": True,
        "inner": {"rate": 1.0, "pair": (0.1, 2.0), "blocks": ()},
    }
    with pytest.raises(AttributeError):
        config.inner.rates = 1
    with pytest.raises(TypeError):
        config.count = "many"


@pytest.mark.parametrize("schema", [DetectorConfig, PretrainingConfig])
def test_every_key_is_complete(schema):
    for name, declared in keys(schema).items():
        assert declared.accepts(declared.default), name
        assert declared.meaning.endswith("."), name
        assert declared.roles <= ROLES.keys(), name
        assert not declared.choices or declared.type is str, name


def test_defaults_are_those_of_vit_b_from_mae():
    config = benchmark("b", "mae", lr=8e-5, weight_decay=0.1, drop_path=0.1, epochs=100.0)
    for name, declared in keys(DetectorConfig).items():
        if not name.startswith("weights."):
            assert value_of(config, name) == declared.default, name


def test_only_microbatches_without_statistics_of_their_own_may_change():
    config = build(DetectorConfig)
    assert {"config.init", "config.data.root", "config.accumulate"} <= {*resumable_keys(config)}
    config.batch_statistics = "microbatch"
    assert "config.accumulate" not in resumable_keys(config)
    assert {"config.checkpoint_every", "config.eval_every"} <= {*resumable_keys(config)}
    assert "config.checkpoint_every" in resumable_keys(pretraining())


def test_early_stop_may_change_and_stays_in_the_report():
    config = build(DetectorConfig)
    assert "config.early_stop" in resumable_keys(config)
    assert "config.early_stop" not in resumable_keys(pretraining())
    assert "early_stop" in result_part(config.to_dict())
