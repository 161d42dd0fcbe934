"""What the box head sees of a RoI: features of the pyramid, of the encoder's map, or of both.

Each kind has two halves: `pool` works on one image and has no parameters, `combine` has parameters
and works on any number of RoIs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike
from jaxtyping import Array, Float

from jaxdet.models.layers import torch_default, torch_default_bias
from jaxdet.models.settings import Settings
from jaxdet.ops.roi_align import roi_align


class Features(NamedTuple):
    """What RoIs are pooled from: P2 ... P6 [..., h, w, channels] or the only level, and the
    transformer's last map."""

    pyramid: list[Float[Array, "*n _ _ channels"]]
    encoded: Float[Array, "*n h w width"]


class PyramidRoIs(nnx.Module):
    """From P2 ... P5 (or the only level), each RoI from the level that fits its size (Mask R-CNN's
    rule)."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def pool(
        self, features: Features, rois: Float[Array, "rois 4"], size: int
    ) -> Float[Array, "rois size size channels"]:
        """RoIAlign to size x size bins on the RoIs' levels, for one image."""
        s = self.settings
        return roi_align(
            features.pyramid[:4],
            rois,
            strides=s.strides[:4],
            output_size=size,
            sampling_ratio=s.sampling_ratio,
            canonical_size=s.canonical_size,
        )

    def combine(self, pooled: Array) -> Array:
        """The same features."""
        return pooled


class EncoderRoIs(nnx.Module):
    """From the transformer's last map alone (imTED's "integral migration", without a pyramid)."""

    def __init__(self, settings: Settings):
        self.settings = settings

    def pool(
        self, features: Features, rois: Float[Array, "rois 4"], size: int
    ) -> Float[Array, "rois size size width"]:
        """RoIAlign to size x size bins, for one image."""
        s = self.settings
        return roi_align(
            [features.encoded],
            rois,
            strides=s.strides[2:3],
            output_size=size,
            sampling_ratio=s.sampling_ratio,
        )

    def combine(self, pooled: Array) -> Array:
        """The same features."""
        return pooled


class ModulatedRoIs(nnx.Module):
    """From the transformer's last map, plus gated features of the pyramid (imTED's multi-scale
    feature modulator, arXiv 2205.09613 section 3.3).

    The gate has one factor a channel and starts at zero: then the pyramid has no effect. imTED
    projects the pyramid's maps and pools the result; since both are linear, and RoIs do not leave
    the maps, the pooled features can be projected instead, which are far fewer.
    """

    def __init__(
        self, settings: Settings, *, channels: int, width: int, dtype: DTypeLike, rngs: nnx.Rngs
    ):
        self.from_encoder = EncoderRoIs(settings)
        self.from_pyramid = PyramidRoIs(settings)
        self.project = nnx.Linear(
            channels,
            width,
            kernel_init=torch_default,
            bias_init=torch_default_bias(channels),
            dtype=dtype,
            rngs=rngs,
        )
        self.gate = nnx.Param(jnp.zeros(width))

    def pool(self, features: Features, rois: Float[Array, "rois 4"], size: int) -> Any:
        """The RoIs pooled from the transformer's map and from the pyramid, for one image."""
        single = self.from_encoder.pool(features, rois, size)
        return single, self.from_pyramid.pool(features, rois, size)

    def combine(self, pooled: Any) -> Float[Array, "*rois size size width"]:
        """The transformer's features plus the gated, projected ones of the pyramid."""
        single, multi = pooled
        return single + self.gate[...].astype(single.dtype) * self.project(multi)
