"""The schedule's values, what weight decay leaves out, and AdamW against PyTorch's."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from jaxdet.config import benchmark, vitdet
from jaxdet.config.imted import few_shot, imted
from jaxdet.models.build import StatelessModel, build_detector
from jaxdet.models.paths import path_name
from jaxdet.models.settings import vit_settings
from jaxdet.training.optim import (
    adamw,
    build_optimizer,
    decay_mask,
    frozen_parameters,
    lr_schedule,
    step_multipliers,
)

NO_DECAY = ("norm", "pos_embed", "rel_pos")


def cosine(peak: float, step: int, total: int) -> float:
    return peak * (1 + math.cos(math.pi * step / total)) / 2


def test_schedule_with_warmup():
    schedule = lr_schedule(
        "cosine", peak=0.2, total_steps=1000, warmup_steps=100, warmup_factor=0.01
    )
    np.testing.assert_allclose(schedule(0), 0.002, rtol=1e-5)
    np.testing.assert_allclose(schedule(50), (0.002 + cosine(0.2, 100, 1000)) / 2, rtol=1e-5)
    for step in (100, 101, 250, 500, 999):
        np.testing.assert_allclose(schedule(step), cosine(0.2, step, 1000), rtol=1e-5, atol=1e-8)
    np.testing.assert_allclose(schedule(500), 0.1, rtol=1e-5)
    assert schedule(1000) == schedule(2000) == 0
    # Without a jump where the two parts meet.
    values = np.array([schedule(step) for step in range(90, 110)])
    assert abs(np.diff(values)).max() < 0.0021


def test_schedule_without_warmup():
    schedule = lr_schedule("cosine", peak=0.2, total_steps=10, warmup_steps=0, warmup_factor=0.001)
    values = [schedule(step) for step in range(11)]
    np.testing.assert_allclose(values, [cosine(0.2, step, 10) for step in range(11)], atol=1e-7)


def test_schedule_takes_traced_steps():
    schedule = lr_schedule("cosine", peak=0.2, total_steps=100, warmup_steps=10, warmup_factor=0.1)
    steps = jnp.array([0, 5, 10, 60, 100])
    np.testing.assert_allclose(
        jax.jit(jax.vmap(schedule))(steps), [schedule(int(step)) for step in steps], rtol=1e-6
    )


@pytest.fixture(scope="module")
def vitb_params():
    """The shapes of ViT-B's parameters as BEiT has them, with layer scale and q and v biases."""
    config = benchmark("b", "beit", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=1.0)
    config.model.vit.update(qkv_bias="qv", layer_scale=0.1)
    stateless = StatelessModel(lambda rngs: build_detector(config, 80, rngs))
    return jax.eval_shape(stateless.init, jax.random.key(0))[0]


def test_decay_leaves_out_norms_and_positions_alone(vitb_params):
    decayed = {
        path_name(path): value
        for path, value in jax.tree_util.tree_leaves_with_path(decay_mask(vitb_params, NO_DECAY))
    }
    # Whatever has a scale is a norm, and nothing else has one.
    norms = {name.removesuffix(".scale") for name in decayed if name.endswith(".scale")}
    assert len(norms) == 2 * 12 + 1 + 4 + 4 + 4 + 4
    expected = {f"{norm}.{part}" for norm in norms for part in ("scale", "bias")}
    expected |= {
        "backbone.pos_embed",
        "backbone.rel_pos_window.table",
        "backbone.rel_pos_global.table",
    }
    assert {name for name, value in decayed.items() if not value} == expected
    for name in (
        "backbone.patch_embed.bias",
        "backbone.blocks.0.attn.q_bias",
        "backbone.blocks.11.attn.proj.bias",
        "backbone.blocks.11.gamma1",
        "pyramid.scaling.up2.bias",
        "rpn.convs.1.bias",
        "box_head.fc.bias",
        "mask_head.logits.bias",
        "mask_head.convs.3.conv.kernel",
    ):
        assert decayed[name] is True


def test_decay_mask_reads_whole_paths():
    params = {"a": {0: {"kernel": 1.0}, 10: {"kernel": 1.0}}, "b": {"kernel": 1.0}}
    assert decay_mask(params, ()) == {
        "a": {0: {"kernel": True}, 10: {"kernel": True}},
        "b": {"kernel": True},
    }
    assert decay_mask(params, (r"^a\.1",)) == {
        "a": {0: {"kernel": True}, 10: {"kernel": False}},
        "b": {"kernel": True},
    }


def test_path_names_are_those_of_the_modules():
    class Part(nnx.Module):
        def __init__(self):
            self.layers = nnx.List([nnx.Linear(1, 1, rngs=nnx.Rngs(0))])

    params = nnx.to_pure_dict(nnx.state(Part(), nnx.Param))
    names = {path_name(path) for path, _ in jax.tree_util.tree_leaves_with_path(params)}
    assert names == {"layers.0.kernel", "layers.0.bias"}


def test_adamw_equals_pytorch():
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    values = {"kernel": rng.normal(size=(3, 4)), "norm": rng.normal(size=4)}
    schedule = lr_schedule("cosine", peak=0.05, total_steps=8, warmup_steps=3, warmup_factor=0.1)

    theirs = {name: torch.tensor(value, requires_grad=True) for name, value in values.items()}
    torch_optimizer = torch.optim.AdamW(
        [
            {"params": [theirs["kernel"]], "weight_decay": 0.3},
            {"params": [theirs["norm"]], "weight_decay": 0.0},
        ],
        lr=1.0,
        betas=(0.8, 0.95),
    )
    scheduler = torch.optim.lr_scheduler.LambdaLR(torch_optimizer, lambda s: float(schedule(s)))

    ours = jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), values)
    optimizer = adamw(schedule, weight_decay=0.3, betas=(0.8, 0.95), no_decay=("norm",))
    state = optimizer.init(ours)
    for _ in range(8):
        gradients = {name: rng.normal(size=value.shape) for name, value in values.items()}
        # One entry so small that epsilon counts.
        gradients["kernel"][0, 0] = 1e-8
        for name, gradient in gradients.items():
            theirs[name].grad = torch.from_numpy(gradient)
        torch_optimizer.step()
        scheduler.step()
        updates, state = optimizer.update(
            jax.tree.map(lambda value: jnp.asarray(value, jnp.float32), gradients), state, ours
        )
        ours = optax.apply_updates(ours, updates)
        for name in ours:
            np.testing.assert_allclose(
                ours[name], theirs[name].detach().numpy(), rtol=1e-5, atol=1e-6
            )


def test_step_schedule_falls_at_the_milestones():
    schedule = lr_schedule(
        "step",
        peak=0.2,
        total_steps=100,
        warmup_steps=10,
        warmup_factor=0.001,
        milestones=(8 / 9, 26 / 27),
    )
    found = [float(schedule(step)) for step in (0, 5, 10, 88, 89, 95, 96, 99)]
    expected = [0.0002, 0.1001, 0.2, 0.2, 0.02, 0.02, 0.002, 0.002]
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-7)


def test_layer_decay_scales_each_parameter_s_whole_step():
    params = {
        "backbone": {
            "pos_embed": jnp.ones(3),
            "patch_embed": {"kernel": jnp.ones(3)},
            "blocks": {0: {"kernel": jnp.ones(3)}, 1: {"kernel": jnp.ones(3)}},
            "rel_pos_window": {"table": jnp.ones(3)},
        },
        "pyramid": {"kernel": jnp.ones(3)},
    }
    gradients = jax.tree.map(jnp.ones_like, params)

    def step(**options):
        optimizer = adamw(
            lambda step: 0.1, weight_decay=0.5, betas=(0.9, 0.999), no_decay=(), **options
        )
        return optimizer.update(gradients, optimizer.init(params), params)[0]

    whole, decayed = step(), step(layer_decay=0.5, depth=2)
    ratio = jax.tree.map(lambda a, b: float((a / b)[0]), decayed, whole)
    assert ratio == {
        "backbone": {
            "pos_embed": 0.125,
            "patch_embed": {"kernel": 0.125},
            "blocks": {0: {"kernel": 0.25}, 1: {"kernel": 0.5}},
            "rel_pos_window": {"table": 1.0},
        },
        "pyramid": {"kernel": 1.0},
    }


def test_frozen_parameters_get_no_update_at_all():
    params = {"backbone": {"pos_embed": jnp.ones(3), "pos_embed_kernel": jnp.ones(3)}}
    optimizer = adamw(
        lambda step: 0.1,
        weight_decay=0.5,
        betas=(0.9, 0.999),
        no_decay=(),
        frozen=(r"backbone\.pos_embed$",),
    )
    state, moved = optimizer.init(params), params
    for _ in range(3):
        updates, state = optimizer.update(jax.tree.map(jnp.ones_like, params), state, moved)
        moved = optax.apply_updates(moved, updates)
    np.testing.assert_array_equal(moved["backbone"]["pos_embed"], np.ones(3))
    assert (moved["backbone"]["pos_embed_kernel"] < 0.9).all()


TUNED = {"lr": 0.1, "weight_decay": 0.1, "drop_path": 0.1, "epochs": 1.0}


def test_of_a_vit_that_is_not_trained_no_moments_are_kept():
    config = vitdet("b", "mae", **TUNED, layer_decay=0.7)
    config.optim.train = "heads"
    assert vit_settings(config).drop_path == 0.0
    params = {"backbone": {"pos_embed": jnp.ones(3)}, "rpn": {"kernel": jnp.ones((2, 2))}}
    optimizer = build_optimizer(config, lambda step: 0.1)
    state = optimizer.init(params)
    assert sum(leaf.size for leaf in jax.tree.leaves(state) if leaf.ndim) == 2 * 4
    updates, _ = optimizer.update(jax.tree.map(jnp.ones_like, params), state, params)
    np.testing.assert_array_equal(updates["backbone"]["pos_embed"], np.zeros(3))
    trained = build_optimizer(vitdet("b", "mae", **TUNED, layer_decay=1.0), lambda step: 0.1)
    expected, _ = trained.update(params, trained.init(params), params)
    np.testing.assert_array_equal(updates["rpn"]["kernel"], expected["rpn"]["kernel"])


@pytest.mark.parametrize("kind", ["shared", "decomposed"])
def test_the_config_s_keys_freeze_position_information_alone(kind):
    config = benchmark("b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=1.0)
    config.model.vit.relative_position = kind
    stateless = StatelessModel(lambda rngs: build_detector(config, 4, rngs))
    params = jax.eval_shape(stateless.init, jax.random.key(0))[0]

    def frozen():
        tree = step_multipliers(params, 1.0, 12, frozen_parameters(config))
        leaves = jax.tree_util.tree_leaves_with_path(tree)
        return {path_name(path) for path, factor in leaves if factor == 0.0}

    assert frozen() == set()
    config.model.vit.absolute_trainable = False
    assert frozen() == {"backbone.pos_embed"}
    config.model.vit.update(absolute_trainable=True, relative_trainable=False)
    if kind == "shared":
        expected = {"backbone.rel_pos_window.table", "backbone.rel_pos_global.table"}
    else:
        expected = {
            f"backbone.blocks.{i}.attn.rel_pos.{axis}"
            for i in range(12)
            for axis in ("height", "width")
        }
    assert frozen() == expected


def test_imted_s_rates_and_decay_are_the_published_ones():
    config = imted("b", drop_path=0.2, masks=True)
    stateless = StatelessModel(lambda rngs: build_detector(config, 4, rngs))
    params = jax.eval_shape(stateless.init, jax.random.key(0))[0]

    def by_name(tree):
        return {path_name(p): leaf for p, leaf in jax.tree_util.tree_leaves_with_path(tree)}

    scale = by_name(step_multipliers(params, 0.75, 12))
    embeddings = ("class_token", "class_pos_embed", "pos_embed", "patch_embed.kernel")
    for name in embeddings:
        assert scale[f"backbone.{name}"] == pytest.approx(0.02376, abs=5e-6)
    assert scale["backbone.blocks.11.mlp.fc1.kernel"] == 0.75
    others = {name: value for name, value in scale.items() if not name.startswith("backbone.")}
    assert set(others.values()) == {1.0}

    tuned = few_shot("b", shots=10, drop_path=0.2)
    frozen = frozen_parameters(tuned)
    scale = by_name(step_multipliers(params, 1.0, 12, frozen, 0.8, 8))
    still = {name for name, value in scale.items() if value == 0}
    ups = ("pyramid.up4_first.", "pyramid.up4_norm.", "pyramid.up4_second.", "pyramid.up2.")
    assert still == {name for name in scale if name.startswith(("backbone.", *ups))}
    for name in ("norm.scale", "embed.kernel"):
        assert scale[f"box_head.{name}"] == pytest.approx(0.134, abs=5e-4)
    assert scale["box_head.blocks.0.norm1.scale"] == pytest.approx(0.168, abs=5e-4)
    assert scale["box_head.blocks.7.norm1.scale"] == 0.8
    for name in ("box_head.box_norm.scale", "box_features.gate", "rpn.deltas.bias"):
        assert scale[name] == 1.0

    decayed = by_name(decay_mask(params, config.optim.no_decay))
    shapes = by_name(params)
    kept = {name for name in decayed if not decayed[name]}
    is_position = {"backbone.pos_embed", "box_head.pos_embed"}
    assert kept == {name for name, leaf in shapes.items() if len(leaf.shape) == 1} | is_position
