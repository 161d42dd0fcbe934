"""From a config to a detector, and from a detector to pure functions of plain dictionaries."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh
from ml_collections import ConfigDict

from jaxdet.models.attention import choose_for
from jaxdet.models.box_head import BoxHead
from jaxdet.models.decoder_head import DecoderHead
from jaxdet.models.mask_head import MaskHead
from jaxdet.models.mask_rcnn import MaskRCNN
from jaxdet.models.pyramid import FPN, ImTEDPyramid, SimplePyramid, SingleScale
from jaxdet.models.roi_features import EncoderRoIs, ModulatedRoIs, PyramidRoIs
from jaxdet.models.rpn import RPNHead
from jaxdet.models.settings import Settings, vit_settings
from jaxdet.models.vit import ViT

Tree = dict[Any, Any]

BOXES = ("class_agnostic_boxes", "cascade_thresholds", "cascade_factors")
"""Keys of config.model.heads that are part of `Settings`."""


def build_detector(
    config: ConfigDict,
    num_classes: int,
    rngs: nnx.Rngs,
    mesh: Mesh | None = None,
    image_counts: Callable[[], np.ndarray] | None = None,
) -> MaskRCNN:
    """Assembles the detector that a complete config describes, randomly initialised.

    Args:
        mesh: the devices that batches are sharded over, if they are.
        image_counts: see `MaskRCNN`.

    Raises:
        UserError: the config asks for cuDNN's attention where there is none.
    """
    model = config.model
    vit = vit_settings(config)
    vit = replace(vit, attention=choose_for(config, mesh).name)
    part = {"dtype": jnp.dtype(model.dtype), "rngs": rngs}
    strides = {"strides": tuple(map(float, model.detector.strides))}
    boxes = {key: model.heads[key] for key in BOXES}
    settings = Settings(num_classes=num_classes, **{**model.detector, **strides, **boxes})
    channels = model.pyramid.channels
    return MaskRCNN(
        backbone=ViT(vit, **part),
        pyramid=_pyramid(model, part),
        rpn=RPNHead(
            channels,
            num_anchors=settings.anchors_per_cell,
            num_convs=model.heads.rpn_convs,
            **part,
        ),
        box_features=_box_features(model, settings, part),
        box_head=_box_head(model, settings, part),
        mask_head=MaskHead(
            channels,
            num_classes,
            num_convs=model.heads.mask_convs,
            conv_dim=model.heads.mask_conv_dim,
            norm=model.heads.norm,
            **part,
        )
        if model.heads.mask
        else None,
        settings=settings,
        roi_chunks=model.heads.roi_chunks,
        image_counts=image_counts,
        mesh=mesh,
    )


def _pyramid(model: ConfigDict, part: dict[str, Any]) -> nnx.Module:
    width, channels = model.vit.width, model.pyramid.channels
    kind, norm = model.pyramid.kind, {"norm": model.pyramid.norm}
    if kind in ("fpn", "fpn_last"):
        groups, is_last = model.pyramid.groups, kind == "fpn_last"
        return FPN(width, channels, groups=groups, from_last=is_last, **norm, **part)
    if kind == "single":
        return SingleScale(width, channels, **norm, **part)
    return {"simple": SimplePyramid, "imted": ImTEDPyramid}[kind](width, channels, **part)


def _box_features(model: ConfigDict, settings: Settings, part: dict[str, Any]) -> nnx.Module:
    if model.heads.box_features == "modulated":
        size = {"channels": model.pyramid.channels, "width": model.vit.width}
        return ModulatedRoIs(settings, **size, **part)
    return {"pyramid": PyramidRoIs, "encoder": EncoderRoIs}[model.heads.box_features](settings)


def _box_head(model: ConfigDict, settings: Settings, part: dict[str, Any]) -> nnx.Module:
    """The box head, or those of a cascade."""
    if not settings.cascade_thresholds:
        return _box_stage(model, settings, part)
    stages = 1 + len(settings.cascade_thresholds)
    return nnx.List([_box_stage(model, settings, part) for _ in range(stages)])


def _box_stage(model: ConfigDict, settings: Settings, part: dict[str, Any]) -> nnx.Module:
    from_pyramid = model.heads.box_features == "pyramid"
    inputs = model.pyramid.channels if from_pyramid else model.vit.width
    if model.heads.box == "decoder":
        return DecoderHead(
            inputs,
            settings.num_classes,
            width=model.decoder.width,
            depth=model.decoder.depth,
            heads=model.decoder.heads,
            pretrain_grid=model.decoder.pretrain_grid,
            resize_offset=model.vit.resize_offset,
            **part,
        )
    return BoxHead(
        inputs,
        settings.num_classes,
        boxes=1 if settings.class_agnostic_boxes else settings.num_classes,
        roi_size=settings.box_roi_size,
        num_convs=model.heads.box_convs,
        conv_dim=model.heads.box_conv_dim,
        norm=model.heads.norm,
        fc_dim=model.heads.box_fc_dim,
        **part,
    )


class _Stream(nnx.RngStream):
    """A stream of the same random keys, which counts them on the host.

    Flax's compares the shardings of its counts with each key. A tracer has none, and JAX says so by
    a message of all that was traced before: six sevenths of the time of building a ViT-L.
    """

    given: int = 0

    def __call__(self) -> jax.Array:
        key = jax.random.fold_in(self.key[...], self.given)
        self.given += 1
        return key


def _rngs(key: jax.Array | int) -> nnx.Rngs:
    rngs = nnx.Rngs(key)
    rngs.default = _Stream(rngs.default.key[...], tag="default")
    return rngs


class StatelessModel:
    """A model as pure functions of plain dictionaries, for use under `jax.jit`.

    Modules never cross a jit boundary: their state does, as nested dictionaries of arrays
    (parameters and batch statistics apart), and the module is put together inside.

    Args:
        build: makes the model. Called once without computing anything, to learn the structure.
    """

    def __init__(self, build: Callable[[nnx.Rngs], nnx.Module]):
        self._build = build
        abstract = nnx.eval_shape(lambda: build(_rngs(0)))
        self._graph, self._params, self._stats = nnx.split(abstract, nnx.Param, nnx.BatchStat)

    @property
    def abstract(self) -> tuple[Tree, Tree]:
        """What `init` returns, as shapes and dtypes alone."""
        return nnx.to_pure_dict(self._params), nnx.to_pure_dict(self._stats)

    def init(self, key: jax.Array) -> tuple[Tree, Tree]:
        """Parameters and batch statistics, randomly initialised; call it under `jax.jit`."""
        _, params, stats = nnx.split(self._build(_rngs(key)), nnx.Param, nnx.BatchStat)
        return nnx.to_pure_dict(params), nnx.to_pure_dict(stats)

    def bind(self, params: Tree, stats: Tree) -> nnx.Module:
        """The model holding these parameters and statistics, for use inside one function."""
        bound_params = jax.tree.map(lambda leaf: leaf, self._params)
        bound_stats = jax.tree.map(lambda leaf: leaf, self._stats)
        nnx.replace_by_pure_dict(bound_params, params)
        nnx.replace_by_pure_dict(bound_stats, stats)
        return nnx.merge(self._graph, bound_params, bound_stats, copy=True)


def parameter_count(params: Tree) -> int:
    """How many numbers are learned; `params` may be abstract."""
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def batch_stats(model: nnx.Module) -> Tree:
    """The model's batch statistics as they are now, as a plain dictionary."""
    return nnx.to_pure_dict(nnx.state(model, nnx.BatchStat))
