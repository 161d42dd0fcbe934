"""Multiply-adds and activations: the published figures, and what the traced models compute."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import pytest

from jaxdet.benchmark.cost.analytic import Cost, forward_cost, total
from jaxdet.config.files import load_config
from jaxdet.config.imted import PARTS, imted
from jaxdet.config.mask_rcnn import benchmark, check, make_cascade, vitdet
from jaxdet.models.build import StatelessModel, build_detector


@pytest.mark.parametrize(("name", "expected"), [("vitb_mae", 839.0), ("vitl_mae", 1893.8)])
def test_the_paper_s_detectors_cost_what_was_counted_for_them(name, expected):
    """839.0 + 0.53 n and 1893.8 + 0.53 n billion multiply-adds for n detections."""
    config = load_config(name)
    costs = [
        total(forward_cost(config, 80, proposals=1000, masks=masks).values()).multiply_adds
        for masks in (0, 1)
    ]
    assert costs[0] / 1e9 == pytest.approx(expected, abs=0.05)
    assert (costs[1] - costs[0]) / 1e9 == pytest.approx(0.53, abs=0.005)


def tiny_config(kind: str):
    recipe = {"lr": 1e-3, "weight_decay": 0.1, "drop_path": 0.0, "epochs": 1.0}
    if kind in ("fpn", "single", "mean", "drop"):
        config = benchmark("b", "random", **recipe)
        if kind == "single":
            config.model.pyramid.kind = "single"
            config.model.detector.strides = (16,)
        elif kind != "fpn":
            config.model.vit.update(
                activation="swiglu",
                class_token=True,
                registers=2,
                prefix_in_windows=kind,
                relative_position="decomposed",
            )
        if kind == "drop":
            config.model.vit.update(relative_position="none", rope="dinov3", qk_norm=True)
    elif kind in ("simple", "cascade", "fpn_last"):
        config = vitdet("b", "random", layer_decay=0.7, **recipe)
        if kind == "cascade":
            make_cascade(config)
            config.model.vit.update(conv_blocks=(0, 2), conv_kind="basic", shifted_blocks=(2,))
        elif kind == "fpn_last":
            config.model.vit.conv_blocks = (3,)
            config.model.pyramid.update(kind=kind, norm="layer")
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


@pytest.mark.parametrize(
    "kind",
    [
        *("fpn", "simple", "single", "modulated", "baseline", "mean", "drop"),
        *("cascade", "fpn_last"),
    ],
)
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
    sides = [int(128 // stride) for stride in config.model.detector.strides]
    maps = [(1, side, side, 8) for side in sides]
    found = {
        "backbone": count(lambda m, x: m.backbone(x), (1, 128, 128, 3)),
        "pyramid": count(
            lambda m, x: m.pyramid.merge(m.pyramid.project(x), train=True), out_indices
        ),
        "rpn": count(lambda m, x: m.rpn(x), maps),
        "box_features": count(lambda m, x: m.box_features.combine(x), pooled),
        "box_head": count(
            lambda m, x: [stage.head(x, valid=valid, train=True) for stage in m.box_stages],
            (rois, 7, 7, inputs),
        ),
        "mask_head": count(lambda m, x: m.mask_head(x, valid=valid, train=True), (rois, 14, 14, 8)),
    }
    labels = jnp.zeros(rois, int)
    own_masks = count(
        lambda m, x: m.mask_head(x, valid=valid, train=True, labels=labels), (rois, 14, 14, 8)
    )
    given = {"proposals": rois, "masks": rois}
    assert own_masks == forward_cost(config, classes, **given, own_masks=True)["mask_head"]
    expected = forward_cost(config, classes, **given)
    # Position embeddings are resized by matrix products, which are not the image's.
    for part, side, width in (("backbone", grid, 32), ("box_head", 7, 24)):
        if part == "backbone" or config.model.heads.box == "decoder":
            resizing = products(
                jax.make_jaxpr(lambda m, to=(side, side, width): jax.image.resize(m, to, "cubic"))(
                    jnp.ones((14, 14, width))
                ).jaxpr
            )
            found[part] = found[part] + -1 * resizing
    assert found == expected
