"""The recipes of imTED (arXiv 2205.09613) and of its few-shot detection, as its code has them."""

from __future__ import annotations

from ml_collections import ConfigDict

from jaxdet.config.mask_rcnn import VIT_SIZES, benchmark
from jaxdet.config.published_weights import official_weights

DECODERS = {
    "s": {"width": 256, "depth": 4, "heads": 8},
    "b": {"width": 512, "depth": 8, "heads": 16},
    "l": {"width": 512, "depth": 8, "heads": 16},
}
"""MAE's decoder for each encoder."""

PARTS = {
    "baseline": {"box": "convs", "box_features": "pyramid"},
    "pyramid": {"box": "decoder", "box_features": "pyramid"},
    "encoder": {"box": "decoder", "box_features": "encoder"},
    "modulated": {"box": "decoder", "box_features": "modulated"},
}
"""The ladder of the ablation: a box head of convolutions, MAE's decoder in its place, RoI features
from the encoder's last map instead of the pyramid, and those modulated by the pyramid."""

VOC = (
    *("person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "boat", "bird", "cat"),
    *("dog", "horse", "sheep", "cow", "bottle", "chair", "couch", "potted plant", "dining table"),
    "tv",
)
"""The 20 of COCO's classes that PASCAL VOC has too, novel in COCO's few-shot protocol."""

COCO_IMAGES = 118_000
ENCODER = (r"backbone\.", r"pyramid\.up")
"""Parameters of imTED's "backbone": the encoder, and what scales its map."""


def imted(
    size: str,
    *,
    drop_path: float,
    masks: bool,
    parts: str = "modulated",
    epochs: float = 36.0,
    milestones: tuple[float, float] = (27.0, 33.0),
    weight_decay: float = 0.05,
    layer_decay: float = 0.75,
    batch_size: int = 16,
) -> ConfigDict:
    """imTED on COCO, from MAE's whole encoder and decoder: what differs from `benchmark`.

    The published code pads a batch to its largest image; here `image_size` holds any image of the
    recipe, so that one compiled step serves them all.

    Args:
        size: one of DECODERS.
        masks: whether it is Mask R-CNN; else Faster R-CNN.
        parts: one of PARTS.
        milestones: epochs after which the learning rate falls to a tenth.
    """
    config = benchmark(
        size, "mae", lr=1e-4, weight_decay=weight_decay, drop_path=drop_path, epochs=epochs
    )
    depth = VIT_SIZES[size]["depth"]
    config.image_size = 1344
    config.batch_size = batch_size
    config.data.augmentation = "multiscale"
    config.model.vit.update(
        relative_position="none",
        global_blocks=tuple(range(depth)),
        # Published configs of ViT-L make the pyramid from block 11 too; (23,) is what is meant.
        out_indices=tuple(sorted({11, depth - 1})),
        class_token=True,
        resize_offset=0.1,
        remat="block",
    )
    config.model.pyramid.kind = "imted"
    config.model.decoder.update(DECODERS[size])
    config.model.heads.update(
        norm="layer" if parts == "baseline" else "none",
        rpn_convs=1,
        mask=masks,
        roi_chunks=8,
        **PARTS[parts],
    )
    config.model.detector.update(box_loss="giou", box_loss_weight=10.0)
    config.optim.update(
        schedule="step",
        milestones=tuple(milestone / epochs for milestone in milestones),
        layer_decay=layer_decay,
        warmup_epochs=500 * 16 / COCO_IMAGES,
        no_decay=("norm", r"\.bias$", "pos_embed", "class_token", "gate"),
    )
    config.eval_every = 1.0
    config.weights.update(official_weights("mae with decoder", size))
    return config


def few_shot_base(size: str, *, drop_path: float, parts: str = "modulated") -> ConfigDict:
    """The first stage of few-shot detection: imTED without masks on the base classes."""
    config = imted(
        size, drop_path=drop_path, masks=False, parts=parts, epochs=24.0, milestones=(18.0, 22.0)
    )
    config.few_shot.novel = VOC
    return config


def few_shot(size: str, *, shots: int, drop_path: float, parts: str = "modulated") -> ConfigDict:
    """The second stage: fine-tuning on a few objects of every class with the encoder frozen.

    What is frozen is `ENCODER`. As in the published code drop path stays active and the running
    statistics of the pyramid's batch norm stay active.

    Args:
        shots: objects a class in the training data; only the warm-up depends on it.
    """
    config = imted(
        size,
        drop_path=drop_path,
        masks=False,
        parts=parts,
        epochs=108.0,
        milestones=(81.0, 99.0),
        layer_decay=1.0,
    )
    config.few_shot.novel = VOC
    config.optim.update(
        frozen=ENCODER, decoder_layer_decay=0.8, warmup_epochs=500 * 16 / (80 * shots)
    )
    config.eval_every = 6.0
    config.checkpoint_every = 6.0
    return config
