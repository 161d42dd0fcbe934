"""What models are built from that is not learned; imports no jax, so that configs can read it."""

from __future__ import annotations

from dataclasses import dataclass, field, fields

from ml_collections import ConfigDict

from jaxdet.config.keys import Detector, Heads


@dataclass(frozen=True)
class Settings(Detector):
    """`config.model.detector`, with what `config.model.heads` says of boxes, and the number of
    classes, which follows from the data."""

    num_classes: int = field(kw_only=True)
    class_agnostic_boxes: bool = Heads.class_agnostic_boxes
    cascade_thresholds: tuple[float, ...] = Heads.cascade_thresholds
    cascade_factors: tuple[float, ...] = Heads.cascade_factors

    @property
    def level_anchor_sizes(self) -> tuple[tuple[float, ...], ...]:
        """The sizes of the anchors on each level."""
        if len(self.strides) == 1:
            return (self.anchor_sizes,)
        return tuple((size,) for size in self.anchor_sizes)

    @property
    def anchors_per_cell(self) -> int:
        """How many anchors a location of a level has."""
        return len(self.level_anchor_sizes[0]) * len(self.aspect_ratios)


@dataclass(frozen=True, kw_only=True)
class BlockSettings:
    """What all transformer blocks of an encoder or decoder have in common.

    Attributes:
        width, heads: channels of a token, and into how many heads attention splits them.
        mlp_ratio: hidden width of the MLP over `width`.
        mlp_hidden: hidden width of the MLP itself, where not None.
        qkv_bias: "qkv", "qv" (BEiT: none on the keys) or "none".
        bias: whether the linear layers behind attention and in the MLP have one.
        activation: of the MLP, see `jaxdet.models.block.Mlp`.
        layer_scale: initial value of a learned factor on each residual branch, or None for none.
        norm: "layer" or "rms", all norms; `norm_eps` is their epsilon.
        post_norm: whether a block's norms come behind its branches and not before them.
        qk_norm: whether the queries and keys of each head go through a norm.
        attention_norm, mlp_norm: whether a norm comes before the last linear layer of the
            attention and of the MLP (sub-LN).
        rope: rule of rotary positions, see `jaxdet.models.rope`.
        attention: its implementation, see `jaxdet.models.attention.attend`; a detector's may be
            "auto" until it is built.
        remat: what of a block is computed again for the gradient instead of kept: "none",
            "attention" for the attention weights, or "block" for all but the block's input.
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    mlp_hidden: int | None = None
    qkv_bias: str = "qkv"
    bias: bool = True
    activation: str = "gelu"
    layer_scale: float | None = None
    norm: str = "layer"
    norm_eps: float = 1e-6
    post_norm: bool = False
    qk_norm: bool = False
    attention_norm: bool = False
    mlp_norm: bool = False
    rope: str = "none"
    attention: str = "xla"
    remat: str = "none"

    @property
    def hidden(self) -> int:
        """Hidden width of the MLP: with "swiglu" two thirds of the others', a multiple of 8."""
        if self.mlp_hidden is not None:
            return self.mlp_hidden
        hidden = int(self.width * self.mlp_ratio)
        return (int(hidden * 2 / 3) + 7) // 8 * 8 if self.activation == "swiglu" else hidden


@dataclass(frozen=True, kw_only=True)
class VitSettings(BlockSettings):
    """The structure of a ViT: `image_size` and the keys of config.model.vit that it is built from.

    Attributes:
        image_size: side of the (square) image in pixels, a multiple of `patch`.
        patch: side of a patch in pixels.
        patch_bias: whether the projection of patches has one.
        depth: number of blocks.
        window: side of an attention window in tokens.
        global_blocks: 0-based positions of the blocks that attend globally.
        shifted_blocks: those of windowed blocks whose windows are shifted by half of their side.
        conv_blocks: those of blocks with a `ConvResidual` of kind `conv_kind` behind them.
        out_indices: 0-based positions of the blocks whose output is returned, ascending.
        drop_path: rate of the last block; it rises linearly from 0 in the first.
        pretrain_grid: side of the grid the absolute position embedding is stored at, except for
            "sincos", whose table is made for the image's own grid.
        absolute_position: see `jaxdet.models.position.absolute_embedding`.
        resize, resize_offset: see `jaxdet.models.position.resize_embedding`.
        rope_base, rope_grid: see `jaxdet.models.rope`.
        relative_position: "shared" for one table of biases for all windowed and one for all global
            blocks (arXiv 2111.11429), "decomposed" for rows and columns apart in every block (arXiv
            2203.16527), or "none".
        patch_norm: whether the patches go through a norm before positions are added, as in AIMv2.
        pre_norm: whether a norm comes before the first block, as in CLIP.
        final_norm: whether the maps that are returned go through a norm.
        class_token: whether a class token takes part in attention.
        registers: how many register tokens do, behind the class token.
        prefix_in_windows: what windowed blocks do with these tokens, see `jaxdet.models.vit.ViT`.
    """

    image_size: int
    patch: int = 16
    patch_bias: bool = True
    depth: int
    window: int = 14
    global_blocks: tuple[int, ...]
    shifted_blocks: tuple[int, ...] = ()
    conv_blocks: tuple[int, ...] = ()
    conv_kind: str = "bottleneck"
    out_indices: tuple[int, ...]
    drop_path: float = 0.0
    pretrain_grid: int = 14
    absolute_position: str = "pretrained"
    resize: str = "bicubic"
    resize_offset: float = 0.0
    rope_base: float = 100.0
    rope_grid: float = 16.0
    relative_position: str = "shared"
    patch_norm: bool = False
    pre_norm: bool = False
    final_norm: bool = False
    class_token: bool = False
    registers: int = 0
    prefix_in_windows: str = "mean"

    @property
    def grid(self) -> int:
        """Side of the map of tokens."""
        return self.image_size // self.patch

    @property
    def prefix_tokens(self) -> int:
        """How many tokens stand before the patches."""
        return self.class_token + self.registers

    def attended_side(self, block: int) -> int:
        """Side of the map of tokens that a block attends within: its windows', or the whole one."""
        return self.grid if block in self.global_blocks else self.window

    def attended_prefix(self, block: int) -> int:
        """How many of the tokens before the patches a block's attention has."""
        is_dropped = block not in self.global_blocks and self.prefix_in_windows == "drop"
        return 0 if is_dropped else self.prefix_tokens


def is_backbone_frozen(config: ConfigDict) -> bool:
    """Whether the ViT stays as it starts, and only what reads its features is trained."""
    return config.optim.train == "heads"


def vit_settings(config: ConfigDict) -> VitSettings:
    """The structure of a config's ViT; its other keys only say what starts where and trains.

    One that is not trained drops no path.
    """
    structure = {field.name for field in fields(VitSettings)}
    keys = {
        name: tuple(value) if isinstance(value, list) else value  # as JSON has them
        for name, value in config.model.vit.items()
        if name in structure
    }
    if is_backbone_frozen(config):
        keys["drop_path"] = 0.0
    return VitSettings(image_size=config.image_size, **keys)
