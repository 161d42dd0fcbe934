"""What models are built from that is not learned; imports no jax, so that configs can read it."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Settings:
    """The numbers of Mask R-CNN that are not learned; the defaults are Detectron2's.

    Attributes:
        strides: of P2 ... P6 in pixels, or of the only level.
        anchor_sizes: side of the square anchor per level, in pixels; all of them on an only level.
        canonical_size: a box of this side, in pixels, is pooled from the level of stride 16.
        rpn_batch, rpn_positive: anchors per image in the RPN loss, and the share of foreground.
        roi_batch, roi_positive: RoIs per image in the head losses, and the share of foreground.
        *_pre_nms, *_post_nms: proposals per level before and per image after NMS.
        box_loss: of the box head: "l1" on the deltas, or "giou" on the decoded boxes.
        box_loss_weight: factor on it.
        nms: of the final boxes, "hard", "soft_linear" or "soft_gaussian": see
            `jaxdet.ops.nms.soft_nms`, whose `iou_threshold` is `nms_threshold`.
        nms_sigma, nms_min_score: its `sigma` and `min_score`; hard NMS has none.
        max_candidates: (box, class) pairs that enter the final NMS; exact unless fewer than
            `detections` of the best `max_candidates` survive.
    """

    num_classes: int
    strides: tuple[int, ...] = (4, 8, 16, 32, 64)
    anchor_sizes: tuple[float, ...] = (32.0, 64.0, 128.0, 256.0, 512.0)
    aspect_ratios: tuple[float, ...] = (0.5, 1.0, 2.0)
    rpn_thresholds: tuple[float, float] = (0.3, 0.7)
    rpn_batch: int = 256
    rpn_positive: float = 0.5
    train_pre_nms: int = 2000
    train_post_nms: int = 1000
    test_pre_nms: int = 1000
    test_post_nms: int = 1000
    rpn_nms_threshold: float = 0.7
    roi_threshold: float = 0.5
    roi_batch: int = 512
    roi_positive: float = 0.25
    box_weights: tuple[float, float, float, float] = (10.0, 10.0, 5.0, 5.0)
    box_loss: str = "l1"
    box_loss_weight: float = 1.0
    box_roi_size: int = 7
    mask_roi_size: int = 14
    sampling_ratio: int = 0
    canonical_size: float = 224.0
    score_threshold: float = 0.05
    nms: str = "hard"
    nms_threshold: float = 0.5
    nms_sigma: float = 0.5
    nms_min_score: float = 0.001
    detections: int = 100
    max_candidates: int = 2000
    pixel_mean: tuple[float, float, float] = (123.675, 116.28, 103.53)
    pixel_std: tuple[float, float, float] = (58.395, 57.12, 57.375)

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
        attention: its implementation, see `jaxdet.models.attention.attend`.
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
