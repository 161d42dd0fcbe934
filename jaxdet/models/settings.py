"""What models are built from that is not learned; imports no jax, so that configs can read it."""

from __future__ import annotations

from dataclasses import dataclass, field

from jaxdet.config.keys import Detector


@dataclass(frozen=True)
class Settings(Detector):
    """`config.model.detector`, with the number of classes, which follows from the data."""

    num_classes: int = field(kw_only=True)

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
        qkv_bias: "qkv", "qv" (BEiT: none on the keys) or "none".
        activation: of the MLP, see `jaxdet.models.block.Mlp`.
        layer_scale: initial value of a learned factor on each residual branch, or None for none.
        attention: its implementation, see `jaxdet.models.attention.attend`; a detector's may be
            "auto" until it is built.
        remat: what of a block is computed again for the gradient instead of kept: "none",
            "attention" for the attention weights, or "block" for all but the block's input.
    """

    width: int
    heads: int
    mlp_ratio: float = 4.0
    qkv_bias: str = "qkv"
    activation: str = "gelu"
    layer_scale: float | None = None
    attention: str = "xla"
    remat: str = "none"


@dataclass(frozen=True, kw_only=True)
class VitSettings(BlockSettings):
    """The structure of a ViT: `image_size` and the keys of config.model.vit that it is built from.

    Attributes:
        image_size: side of the (square) image in pixels, a multiple of `patch`.
        patch: side of a patch in pixels.
        depth: number of blocks.
        window: side of an attention window in tokens.
        global_blocks: 0-based positions of the blocks that attend globally.
        out_indices: 0-based positions of the blocks whose output is returned, ascending.
        drop_path: rate of the last block; it rises linearly from 0 in the first.
        pretrain_grid: side of the grid the absolute position embedding is stored at, except for
            "sincos", whose table is made for the image's own grid.
        absolute_position: see `jaxdet.models.position.absolute_embedding`.
        resize_offset: see `jaxdet.models.position.resize_embedding`.
        relative_position: "shared" for one table of biases for all windowed and one for all global
            blocks (arXiv 2111.11429), "decomposed" for rows and columns apart in every block (arXiv
            2203.16527), or "none".
        pre_norm: whether a norm comes before the first block, as in CLIP.
        class_token: whether a class token takes part in attention; then all blocks must be global
            and without relative position.
    """

    image_size: int
    patch: int = 16
    depth: int
    window: int = 14
    global_blocks: tuple[int, ...]
    out_indices: tuple[int, ...]
    drop_path: float = 0.0
    pretrain_grid: int = 14
    absolute_position: str = "pretrained"
    resize_offset: float = 0.0
    relative_position: str = "shared"
    pre_norm: bool = False
    class_token: bool = False

    @property
    def grid(self) -> int:
        """Side of the map of tokens."""
        return self.image_size // self.patch

    def attended_side(self, block: int) -> int:
        """Side of the map of tokens that a block attends within: its windows', or the whole one."""
        return self.grid if block in self.global_blocks else self.window
