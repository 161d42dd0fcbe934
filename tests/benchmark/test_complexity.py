"""Multiply-adds and activations: the published figures, and what the layers really compute."""

from __future__ import annotations

import math
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest

from benchmarks.saved_residuals import residual_bytes
from jaxdet import parallel
from jaxdet.benchmark.complexity import Cost, forward_cost, main, total
from jaxdet.benchmark.cost.compiled_program import cost_of, xla_cost
from jaxdet.config.imted import PARTS, imted
from jaxdet.config.mask_rcnn import benchmark, check, vitdet
from jaxdet.flags import load_config
from jaxdet.models.batching import per_image
from jaxdet.models.build import StatelessModel, build_detector

CONFIGS = Path(__file__).resolve().parents[2] / "configs"


@pytest.mark.parametrize(("name", "expected"), [("vitb_mae", 839.0), ("vitl_mae", 1893.8)])
def test_the_paper_s_detectors_cost_what_was_counted_for_them(name, expected):
    """839.0 + 0.53 n and 1893.8 + 0.53 n billion multiply-adds for n detections."""
    config = load_config(CONFIGS / f"{name}.py")
    costs = [
        total(forward_cost(config, 80, proposals=1000, masks=masks).values()).multiply_adds
        for masks in (0, 1)
    ]
    assert costs[0] / 1e9 == pytest.approx(expected, abs=0.05)
    assert (costs[1] - costs[0]) / 1e9 == pytest.approx(0.53, abs=0.005)


def test_the_command_prints_every_part_and_what_is_published(capsys):
    assert main([str(CONFIGS / "vitb_mae.py"), str(CONFIGS / "shapes_tiny.py")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "| vitb_mae | 115.68 | 116 | 852.7 | 853 |" in lines
    rows = [line for line in lines if line.startswith("| shapes_tiny |")]
    assert len(rows) == 3
    for row in rows:
        *parts, whole = map(float, row.split("|")[2:-1])
        assert len(parts) == 6
        assert sum(parts) == pytest.approx(whole, abs=0.04)


def test_the_command_names_a_config_that_is_none(capsys):
    assert main(["configs/nothing.py"]) == 2
    assert capsys.readouterr().err.startswith("error: config file configs/nothing.py")


def tiny_config(kind: str):
    recipe = {"lr": 1e-3, "weight_decay": 0.1, "drop_path": 0.0, "epochs": 1.0}
    if kind in ("fpn", "single"):
        config = benchmark("b", "random", **recipe)
        if kind == "single":
            config.model.pyramid.kind = "single"
            config.model.detector.strides = (16,)
    elif kind == "simple":
        config = vitdet("b", "random", layer_decay=0.7, **recipe)
    else:
        config = imted("b", drop_path=0.0, masks=True, parts=kind)
        config.data.long_side = 128
    config.image_size = 128
    is_imted = kind in PARTS
    config.model.vit.update(
        width=32,
        depth=4,
        heads=2,
        window=3,
        global_blocks=(0, 1, 2, 3) if is_imted else (1, 3),
        out_indices=(3,) if is_imted else (0, 1, 2, 3),
    )
    config.model.decoder.update(width=24, depth=2, heads=2)
    config.model.pyramid.channels = 8
    config.model.heads.update(box_convs=2, box_conv_dim=12, box_fc_dim=20, mask_conv_dim=16)
    check(config)
    return config


def products(jaxpr) -> Cost:
    """Multiply-adds and outputs of all matrix products and convolutions of a computation."""
    cost = Cost()
    for equation in jaxpr.eqns:
        inner = [p for p in equation.params.values() if hasattr(p, "eqns") or hasattr(p, "jaxpr")]
        found = [products(getattr(body, "jaxpr", body)) for body in inner]
        if equation.primitive.name in ("dot_general", "conv_general_dilated"):
            outputs = math.prod(equation.outvars[0].aval.shape)
            left, right = (v.aval.shape for v in equation.invars)
            if equation.primitive.name == "dot_general":
                contracted = equation.params["dimension_numbers"][0][0]
                depth = math.prod(left[axis] for axis in contracted)
            else:
                depth = math.prod(right[:-1])
            found.append(Cost(outputs * depth, outputs))
        cost = total([cost, *found])
    return cost


@pytest.mark.parametrize("kind", ["fpn", "simple", "single", "modulated", "baseline"])
def test_parts_cost_what_they_compute(kind):
    config, classes, rois = tiny_config(kind), 5, 6
    stateless = StatelessModel(lambda rngs: build_detector(config, classes, rngs))
    params, stats = jax.eval_shape(stateless.init, jax.random.key(0))

    def count(function, *shapes) -> Cost:
        arguments = jax.tree.map(
            lambda s: jax.ShapeDtypeStruct(s, jnp.float32),
            shapes,
            is_leaf=lambda s: isinstance(s, tuple) and isinstance(s[0], int),
        )

        def bound(params, stats, *arguments):
            return function(stateless.bind(params, stats), *arguments)

        return products(jax.make_jaxpr(bound)(params, stats, *arguments).jaxpr)

    valid, grid = jnp.ones(rois, bool), 128 // 16
    out_indices = [(1, grid, grid, 32)] * 4
    inputs = 32 if config.model.heads.box_features == "modulated" else 8
    pooled = [(rois, 7, 7, 32), (rois, 7, 7, 8)] if inputs == 32 else (rois, 7, 7, 8)
    maps = [(1, 128 // stride, 128 // stride, 8) for stride in config.model.detector.strides]
    found = {
        "backbone": count(lambda m, x: m.backbone(x), (1, 128, 128, 3)),
        "pyramid": count(
            lambda m, x: m.pyramid.merge(m.pyramid.project(x), train=True), out_indices
        ),
        "rpn": count(lambda m, x: m.rpn(x), maps),
        "box_features": count(lambda m, x: m.box_features.combine(x), pooled),
        "box_head": count(
            lambda m, x: m.box_head(x, valid=valid, train=True), (rois, 7, 7, inputs)
        ),
        "mask_head": count(lambda m, x: m.mask_head(x, valid=valid, train=True), (rois, 14, 14, 8)),
    }
    expected = forward_cost(config, classes, proposals=rois, masks=rois)
    # Position embeddings are resized by matrix products, which are not the image's.
    for part, side, width in (("backbone", grid, 32), ("box_head", 7, 24)):
        if part == "backbone" or config.model.heads.box == "decoder":
            resizing = products(
                jax.make_jaxpr(lambda m, to=(side, side, width): jax.image.resize(m, to, "cubic"))(
                    jnp.ones((14, 14, width))
                ).jaxpr
            )
            found[part] = Cost(*(a - b for a, b in zip(found[part], resizing, strict=True)))
    assert found == expected


def test_loops_count_as_often_as_they_run():
    def power(x):
        return jax.lax.fori_loop(0, 7, lambda _, y: y @ x, x).sum()

    x, product = jnp.ones((64, 64)), 2 * 64**3
    assert cost_of(power, x).flops == pytest.approx(7 * product, rel=0.02)
    # Each product has two in its gradient, and the last of them for the first factor is needed too.
    assert cost_of(jax.grad(power), x).flops == pytest.approx(3 * 7 * product, rel=0.02)


@pytest.mark.parametrize("inside_shard_map", [False, True])
def test_devices_share_the_rounds_of_a_loop(inside_shard_map):
    mesh = parallel.data_mesh(8, 8)
    split = parallel.batch_sharding(mesh)

    def power(x):
        return jax.lax.fori_loop(0, 7, lambda _, y: y @ x, x)

    function = per_image(power, mesh) if inside_shard_map else power
    x = jax.ShapeDtypeStruct((16, 64, 64), jnp.float32, sharding=split)
    compiled = jax.jit(function, out_shardings=split).lower(x).compile()
    cost = xla_cost(compiled, jax.make_jaxpr(function)(x), mesh.size)
    assert cost.flops == pytest.approx(7 * 2 * (2 * 64**3), rel=0.02)


def test_a_gradient_keeps_what_its_products_need():
    def loss(x):
        return jnp.square((x * 3.0) @ x.astype(jnp.float32)).sum()

    def rematerialised(x):
        return jax.checkpoint(loss)(x)

    x = jax.ShapeDtypeStruct((32, 32), jnp.float32)
    # One factor is made from x and kept, the other is x itself; the square keeps its root.
    assert residual_bytes(loss, x) == 2 * 4 * 32**2
    assert residual_bytes(rematerialised, x) == 0
