"""Every key of a detector's config and of a pre-training's, each declared once.

Lengths are in epochs, and an epoch counts the images with objects, since only those are trained on.
A detector's defaults are those of configs/vitb_mae.py, a pre-training's MAE's for ViT-B.
"""

# ruff: noqa: RUF009 (a section is frozen, so that its defaults can be shared)

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from jaxdet.config.schema import key, keys, section

INITIALISATIONS = ("random", "supervised", "mocov3", "beit", "mae")
"""Those that arXiv 2111.11429 compares. A config may name another: one's own pre-training."""

NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
"""What an initialisation may be called."""

DTYPES = ("float32", "bfloat16")
SEEDS = {"least": 0, "most": 2**32 - 1}
PROCESSES = {"least": 0, "most": 1024}
SHARE = {"least": 0, "most": 1}
FILES = ("files", "resume")

# Keys that detectors and pre-training have alike.
_accumulate = partial(
    key, 1, "Microbatches in which a step is computed one after the other.", least=1
)
_sharding = partial(
    key,
    "replicated",
    "Whether parameters and optimizer state are on every device, or split over all (fsdp).",
    choices=("replicated", "fsdp"),
    roles=("resume",),
)
_reduce_dtype = partial(
    key,
    "float32",
    "What gradients are added up in over the devices; bfloat16 halves these messages.",
    choices=DTYPES,
    roles=("resume",),
)
_on_nonfinite = partial(
    key,
    "stop",
    "After a loss or gradient that is not finite: stop, or skip that step.",
    choices=("stop", "skip"),
    roles=("resume",),
)
_log_every_steps = partial(
    key,
    20,
    "From one line of metrics.jsonl and point of a tracker's curves to the next.",
    least=1,
    unit="steps",
    roles=("resume",),
)
_log_every_seconds = partial(
    key,
    10.0,
    "From one line on the terminal to the next.",
    least=0,
    unit="seconds",
    roles=("resume",),
)
_trackers = partial(
    key,
    ("tensorboard",),
    "Where config, curves, pictures and tables go besides the workdir's own files.",
    choices=("tensorboard", "wandb", "mlflow"),
    roles=("resume",),
)
_profile_steps = partial(
    key,
    (),
    "First and last step of which a profile is recorded; empty for none.",
    least=1,
    roles=("resume",),
)


@dataclass(frozen=True)
class Weights:
    """The published file that the recipe starts from, for messages and a check of its digest."""

    file: str | None = key(None, "Name of the published file.")
    source: str | None = key(None, "Where its authors publish it, or the command that makes it.")
    training: str | None = key(None, "What it was trained on, and for how long.")
    options: str | None = key(None, "Flags that `jaxdet convert` needs for it.")
    sha256: str | None = key(None, "First digits of its SHA-256; another file is warned of.")


@dataclass(frozen=True)
class Shapes:
    """The built-in data set of shapes, for `data.name` \"shapes\"."""

    train_images: int = key(2000, "Training images.", least=1)
    val_images: int = key(100, "Validation images.", least=1, roles=("reported",))
    image_size: int = key(128, "Side of an image.", least=64, most=4096, unit="pixels")


@dataclass(frozen=True)
class Data:
    """What is trained on and evaluated, and how images are augmented."""

    name: str = key(
        "coco", "A folder in COCO's format, or the built-in shapes.", choices=("coco", "shapes")
    )
    root: str | None = key(None, "The data set's folder.", roles=FILES)
    train_annotations: str | None = key(
        None, "COCO file of the training data, where it is not found in `root`.", roles=FILES
    )
    train_images: str | None = key(None, "Folder of the training images.", roles=FILES)
    val_annotations: str | None = key(
        None, "COCO file of the validation data, where it is not found in `root`.", roles=FILES
    )
    val_images: str | None = key(None, "Folder of the validation images.", roles=FILES)
    orientation: str = key(
        "stored",
        "Whether the orientation note of cameras (EXIF) is followed; it must be as the annotation "
        "tool had it. The same in training, evaluation and prediction.",
        choices=("stored", "exif"),
    )
    empty_images: float = key(
        0.0,
        "Share of the training images without any annotation that are trained on as background.",
        **SHARE,
    )
    max_instances: int = key(
        100,
        "Objects of an image that are trained on; of more, a random choice each time.",
        least=1,
        most=10_000,
    )
    mask_size: int = key(
        112,
        "An object's training mask takes this squared, in bytes: an eighth as many points of its "
        "outlines (at most 512), else a grid of this side.",
        least=28,
        most=1024,
    )
    metric: str = key(
        "coco",
        "What is reported: COCO's AP, or LVIS's, which needs LVIS's annotations.",
        choices=("coco", "lvis"),
    )
    repeat_threshold: float = key(
        0.0,
        "Images of categories that a smaller share of the images show are repeated, by LVIS's "
        "repeat factors; 0 for none. Epochs count no repeats.",
        **SHARE,
    )
    augmentation: str = key(
        "lsj", "Large-scale jitter, or imTED's resize and crop.", choices=("lsj", "multiscale")
    )
    scale_range: tuple[float, float] = key(
        (0.1, 2.0),
        "lsj: smallest and largest scale of an image, as a factor on `image_size`.",
        above=0,
        most=100,
    )
    short_sides: tuple[int, ...] = key(
        tuple(range(480, 801, 32)),
        "multiscale: lengths that an image's shorter side may get; evaluation takes the largest.",
        least=1,
        most=2**15,
        unit="pixels",
    )
    long_side: int = key(
        1333, "multiscale: largest length of the longer side.", least=1, most=2**15, unit="pixels"
    )
    flip: bool = key(True, "Whether half of the training images are mirrored.")
    threads: int = key(
        8, "Threads that read and prepare images.", least=1, most=1024, roles=("resume",)
    )
    workers: int = key(
        0,
        "Processes that each prepare whole batches, in place of threads; 0 for none.",
        **PROCESSES,
        roles=("resume",),
    )
    shapes: Shapes = section(Shapes)


@dataclass(frozen=True)
class Vit:
    """The ViT that is the backbone."""

    width: int = key(768, "Channels of a token.", least=1, roles=("size",))
    depth: int = key(12, "Blocks.", least=1, roles=("size",))
    heads: int = key(12, "Attention heads.", least=1, roles=("size",))
    mlp_ratio: float = key(4.0, "Width of the MLP over `width`.", above=0, most=100)
    mlp_hidden: int | None = key(
        None,
        "Width of the MLP where no ratio gives it; none for `mlp_ratio`'s.",
        least=1,
        roles=("size",),
    )
    patch: int = key(16, "Side of a patch.", least=4, most=128, unit="pixels")
    pretrain_grid: int = key(
        14,
        "Side of the grid of patches that the absolute position embedding is stored at.",
        least=1,
        most=1024,
        unit="patches",
        roles=("initialisation",),
    )
    window: int = key(
        14, "Side of the window of windowed blocks.", least=1, most=1024, unit="patches"
    )
    global_blocks: tuple[int, ...] = key(
        (2, 5, 8, 11), "Blocks that attend globally, counted from 0; all others by window.", least=0
    )
    shifted_blocks: tuple[int, ...] = key(
        (),
        "Windowed blocks whose windows are shifted by half of their side, counted from 0.",
        least=0,
    )
    conv_blocks: tuple[int, ...] = key(
        (),
        "Blocks with a residual block of convolutions behind them (ViTDet), counted from 0.",
        least=0,
    )
    conv_kind: str = key(
        "bottleneck",
        "Its convolutions: one of 3 x 3, two, or 1 x 1, 3 x 3 and 1 x 1.",
        choices=("naive", "basic", "bottleneck"),
    )
    out_indices: tuple[int, ...] = key(
        (2, 5, 8, 11), "Blocks whose output the pyramid is made from, counted from 0.", least=0
    )
    qkv_bias: str = key(
        "qkv",
        "Which of queries, keys and values have a bias.",
        choices=("qkv", "qv", "none"),
        roles=("initialisation",),
    )
    bias: bool = key(
        True,
        "Whether the linear layers behind attention and in the MLP have a bias.",
        roles=("initialisation",),
    )
    patch_bias: bool = key(
        True, "Whether the projection of patches has a bias.", roles=("initialisation",)
    )
    drop_path: float = key(
        0.1,
        "Rate of stochastic depth in the last block; it rises linearly from 0 in the first.",
        least=0,
        below=1,
        roles=("tuned", "finetune"),
    )
    layer_scale: float | None = key(
        None, "Where layer scale starts; none for no layer scale.", roles=("initialisation",)
    )
    activation: str = key(
        "gelu",
        "Function between the MLP's layers.",
        choices=("gelu", "gelu_tanh", "quick_gelu", "swiglu"),
        roles=("initialisation",),
    )
    norm: str = key(
        "layer",
        "The ViT's norms: LayerNorm, or RMSNorm without a bias (AIMv2).",
        choices=("layer", "rms"),
        roles=("initialisation",),
    )
    norm_eps: float = key(
        1e-6, "Epsilon of these norms.", above=0, most=1, roles=("initialisation",)
    )
    pre_norm: bool = key(
        False, "Whether a norm comes before the first block (CLIP).", roles=("initialisation",)
    )
    patch_norm: bool = key(
        False,
        "Whether a norm comes before the positions are added (AIMv2).",
        roles=("initialisation",),
    )
    post_norm: bool = key(
        False,
        "Whether each block's norms come behind its branches, not before them.",
        roles=("initialisation",),
    )
    qk_norm: bool = key(
        False,
        "Whether each head's queries and keys go through a norm.",
        roles=("initialisation",),
    )
    attention_norm: bool = key(
        False,
        "Whether a norm comes before attention's last linear layer (EVA-02).",
        roles=("initialisation",),
    )
    mlp_norm: bool = key(
        False,
        "Whether a norm comes before the MLP's last linear layer (EVA-02).",
        roles=("initialisation",),
    )
    final_norm: bool = key(
        False,
        "Whether the maps that the pyramid is made from go through the pre-training's last norm.",
        roles=("initialisation",),
    )
    absolute_position: str = key(
        "pretrained",
        "Where the absolute position embedding starts.",
        choices=("pretrained", "random", "zero", "sincos", "none"),
        roles=("initialisation",),
    )
    absolute_trainable: bool = key(
        True, "Whether the absolute position embedding is trained.", roles=("finetune",)
    )
    relative_position: str = key(
        "shared",
        "Biases from one table for all blocks of a kind (arXiv 2111.11429), from rows and columns "
        "apart in every block (ViTDet), or none.",
        choices=("shared", "decomposed", "none"),
    )
    relative_start: str = key(
        "zero",
        "Where the relative position biases start.",
        choices=("pretrained", "zero"),
        roles=("initialisation",),
    )
    relative_trainable: bool = key(
        True, "Whether the relative position biases are trained.", roles=("finetune",)
    )
    rope: str = key(
        "none",
        "Rotary positions of queries and keys, by the rule of DINOv3, of EVA-02 or of the "
        "Perception Encoder.",
        choices=("none", "dinov3", "eva02", "pe"),
        roles=("initialisation",),
    )
    rope_base: float = key(
        100.0,
        "Base of their wavelengths (DINOv3: 100, EVA-02 and PE: 10000).",
        above=1,
        most=1e9,
        roles=("initialisation",),
    )
    rope_grid: float = key(
        16.0,
        "eva02, pe: side of the grid that the map is taken for, whatever its own size.",
        above=0,
        most=1024,
        unit="patches",
        roles=("initialisation",),
    )
    class_token: bool = key(False, "Whether a class token takes part in attention (imTED).")
    registers: int = key(
        0,
        "Register tokens that take part in attention, behind the class token.",
        least=0,
        most=1024,
        roles=("initialisation",),
    )
    prefix_in_windows: str = key(
        "mean",
        "Class token and registers in windowed blocks: every window has a copy and the results are "
        "averaged, or these blocks drop them (they pass by unchanged).",
        choices=("mean", "drop"),
    )
    resize: str = key(
        "bicubic",
        "How the absolute position embedding is resized: as MAE and DINOv2 do, as timm does (with "
        "smoothing), or as RADIO does.",
        choices=("bicubic", "antialias", "radio"),
        roles=("initialisation",),
    )
    resize_offset: float = key(
        0.0,
        "bicubic: added to the grid that the position embedding is resized to (imTED: 0.1).",
        **SHARE,
    )
    attention: str = key(
        "auto",
        "What computes attention: auto takes NVIDIA's fused kernel (cudnn) or a TPU's where it "
        "can, and the plain computation (xla) elsewhere.",
        choices=("auto", "xla", "cudnn"),
        roles=("resume", "finetune"),
    )
    remat: str = key(
        "none",
        "What of a block is computed again for the gradient, to save memory.",
        choices=("none", "attention", "block"),
        roles=("resume", "finetune"),
    )


@dataclass(frozen=True)
class Pyramid:
    """The maps of several scales that are made from the ViT's."""

    kind: str = key(
        "fpn",
        "An FPN on four blocks' outputs or on the last alone, ViTDet's simple pyramid, imTED's, or "
        "a single scale.",
        choices=("fpn", "fpn_last", "simple", "imted", "single"),
    )
    norm: str = key(
        "batch",
        "fpn, fpn_last, single: norm behind its convolutions; the other kinds have their own.",
        choices=("batch", "layer"),
    )
    channels: int = key(256, "Channels of every map.", least=1)
    groups: int = key(
        32, "fpn, fpn_last: groups of the group norm between the up-convolutions.", least=1
    )


@dataclass(frozen=True)
class Heads:
    """The RPN, the box head and the mask head."""

    norm: str = key(
        "batch",
        "Norm behind the convolutions of the heads.",
        choices=("batch", "layer", "none"),
    )
    rpn_convs: int = key(2, "Hidden convolutions of the RPN.", least=0, most=100)
    box: str = key(
        "convs",
        "The box head: convolutions and a linear layer, or MAE's decoder (imTED).",
        choices=("convs", "decoder"),
    )
    box_features: str = key(
        "pyramid",
        "Where the box head's RoIs are pooled: the pyramid, the encoder's last map, or that map "
        "modulated by the pyramid.",
        choices=("pyramid", "encoder", "modulated"),
    )
    roi_chunks: int = key(
        1,
        "Chunks in which the box head takes its RoIs, to save memory.",
        least=1,
        most=10_000,
        roles=("finetune",),
    )
    box_convs: int = key(4, "Convolutions of the box head.", least=0, most=100)
    box_conv_dim: int = key(256, "Their channels.", least=1)
    box_fc_dim: int = key(1024, "Width of the box head's linear layer.", least=1)
    class_agnostic_boxes: bool = key(
        False, "Whether the box head predicts one box for all classes, not one a class."
    )
    cascade_thresholds: tuple[float, ...] = key(
        (),
        "IoU with an object from which on an RoI is foreground in the second and each further "
        "stage of a cascade (.6, .7); empty for no cascade.",
        **SHARE,
    )
    cascade_factors: tuple[float, ...] = key(
        (), "Factor on `detector.box_weights` in these stages (2, 3).", above=0, most=1e6
    )
    mask: bool = key(True, "Whether there is a mask head (Mask R-CNN) or none (Faster R-CNN).")
    mask_convs: int = key(4, "Convolutions of the mask head.", least=0, most=100)
    mask_conv_dim: int = key(256, "Their channels.", least=1)


@dataclass(frozen=True)
class Decoder:
    """MAE's decoder as the box head, for `model.heads.box` \"decoder\"."""

    width: int = key(512, "Channels of a token.", least=1, roles=("size",))
    depth: int = key(8, "Blocks.", least=1, roles=("size",))
    heads: int = key(16, "Attention heads.", least=1, roles=("size",))
    pretrain_grid: int = key(
        14,
        "Side of the grid of patches that its position embedding is stored at.",
        least=1,
        most=1024,
        unit="patches",
        roles=("initialisation",),
    )
    start: str = key(
        "pretrained",
        "Where its weights start.",
        choices=("pretrained", "random"),
        roles=("initialisation", "finetune"),
    )


@dataclass(frozen=True)
class Detector:
    """The numbers of Mask R-CNN that are not learned; the defaults are Detectron2's."""

    strides: tuple[float, ...] = key(
        (4.0, 8.0, 16.0, 32.0, 64.0),
        "Strides of P2 ... P6, or of the only level: `patch` / 4, / 2, * 1, * 2, * 4.",
        least=1,
        unit="pixels",
    )
    anchor_sizes: tuple[float, float, float, float, float] = key(
        (32.0, 64.0, 128.0, 256.0, 512.0),
        "Side of the square anchor of each level; all of them on an only level.",
        above=0,
        most=1e6,
        unit="pixels",
    )
    aspect_ratios: tuple[float, ...] = key(
        (0.5, 1.0, 2.0), "Height over width of the anchors at each place.", above=0, most=1e6
    )
    rpn_thresholds: tuple[float, float] = key(
        (0.3, 0.7),
        "Anchors below the first are background, from the second on foreground.",
        **SHARE,
        unit="IoU",
    )
    rpn_batch: int = key(256, "Anchors of an image in the RPN's loss.", least=1)
    rpn_positive: float = key(0.5, "Largest share of foreground among them.", **SHARE)
    train_pre_nms: int = key(2000, "Training: proposals of a level before NMS.", least=1)
    train_post_nms: int = key(1000, "Training: proposals of an image after NMS.", least=1)
    test_pre_nms: int = key(
        1000, "Evaluation: proposals of a level before NMS.", least=1, roles=("test",)
    )
    test_post_nms: int = key(
        1000, "Evaluation: proposals of an image after NMS.", least=1, roles=("test",)
    )
    rpn_nms_threshold: float = key(0.7, "IoU above which NMS drops a proposal.", **SHARE)
    roi_threshold: float = key(
        0.5, "IoU with an object from which on an RoI is foreground.", **SHARE
    )
    roi_batch: int = key(512, "RoIs of an image in the heads' losses.", least=1)
    roi_positive: float = key(0.25, "Largest share of foreground among them.", above=0, most=1)
    box_weights: tuple[float, float, float, float] = key(
        (10.0, 10.0, 5.0, 5.0), "Factors on the box head's deltas x, y, w, h.", above=0, most=1e6
    )
    class_loss: str = key(
        "softmax",
        "Loss and scores of the box head: cross-entropy over classes and background, or binary "
        "cross-entropy class by class.",
        choices=("softmax", "sigmoid"),
    )
    federated_classes: int = key(
        0,
        "sigmoid: classes in an image's loss, those of its RoIs and others drawn at random "
        "(federated loss); 0 for all.",
        least=0,
        most=100_000,
    )
    federated_power: float = key(
        0.5,
        "They are drawn by the number of training images that show a class, to this power.",
        least=0,
        most=100,
    )
    box_loss: str = key(
        "l1",
        "Loss of the box head: on the deltas, or on the decoded boxes.",
        choices=("l1", "giou"),
    )
    box_loss_weight: float = key(1.0, "Factor on it.", least=0, most=1e6)
    box_roi_size: int = key(7, "Side of the box head's RoI features.", least=1, most=64)
    mask_roi_size: int = key(14, "Side of the mask head's RoI features.", least=1, most=64)
    sampling_ratio: int = key(
        0,
        "Samples of RoIAlign in a bin and axis; 0 for as many as the bin is pixels wide.",
        least=0,
        most=16,
    )
    canonical_size: float = key(
        224.0,
        "Side of a box that is pooled from the level of stride 16.",
        above=0,
        most=1e6,
        unit="pixels",
    )
    score_threshold: float = key(
        0.05, "Detections below this score are dropped.", **SHARE, roles=("test",)
    )
    nms: str = key(
        "hard",
        "NMS of the final boxes.",
        choices=("hard", "soft_linear", "soft_gaussian"),
        roles=("test",),
    )
    nms_threshold: float = key(
        0.5,
        "IoU above which it drops a box, or linear soft NMS decays it.",
        **SHARE,
        roles=("test",),
    )
    nms_sigma: float = key(
        0.5, "soft_gaussian: width of its decay.", least=1e-6, most=1e6, roles=("test",)
    )
    nms_min_score: float = key(
        0.001, "Soft NMS: decayed boxes below this score are dropped.", **SHARE, roles=("test",)
    )
    detections: int = key(
        100, "Largest number of detections of an image.", least=1, most=10_000, roles=("test",)
    )
    max_candidates: int = key(
        2000,
        "Best (box, class) pairs that enter the final NMS; exact unless fewer than `detections` "
        "of them survive.",
        least=1,
        most=100_000,
        roles=("test",),
    )
    tta_sizes: tuple[int, ...] = key(
        (),
        "Test-time augmentation: images are detected on at each of these sides, as at `image_size` "
        "otherwise, and what is found is merged; empty for none.",
        least=1,
        most=2**15,
        unit="pixels",
        roles=("test",),
    )
    tta_flip: bool = key(
        True, "Test-time augmentation: whether each is also detected on mirrored.", roles=("test",)
    )
    pad_multiple: int = key(
        0,
        "Evaluation: images are padded to the smallest rectangle whose sides are multiples of "
        "this, and those of one rectangle share batches; 0 for a square.",
        least=0,
        most=2**15,
        unit="pixels",
        roles=("test",),
    )
    pixel_mean: tuple[float, float, float] = key(
        (123.675, 116.28, 103.53),
        "Subtracted from the pixels (R, G, B in 0..255).",
        least=-1e6,
        most=1e6,
        roles=("initialisation",),
    )
    pixel_std: tuple[float, float, float] = key(
        (58.395, 57.12, 57.375),
        "What the pixels are divided by then.",
        above=0,
        most=1e6,
        roles=("initialisation",),
    )


@dataclass(frozen=True)
class Model:
    """The detector."""

    dtype: str = key(
        "bfloat16",
        "What is computed in; parameters, losses and softmax are float32.",
        choices=DTYPES,
        roles=("finetune",),
    )
    vit: Vit = section(Vit)
    pyramid: Pyramid = section(Pyramid)
    heads: Heads = section(Heads)
    decoder: Decoder = section(Decoder)
    detector: Detector = section(Detector, roles=("finetune",))


@dataclass(frozen=True)
class Optim:
    """AdamW and its schedule."""

    lr: float = key(
        8e-5, "Peak learning rate, for `batch_size` images.", above=0, most=1e6, roles=("tuned",)
    )
    weight_decay: float = key(0.1, "Weight decay.", least=0, most=1e6, roles=("tuned",))
    betas: tuple[float, float] = key((0.9, 0.999), "AdamW's betas.", least=0, below=1)
    schedule: str = key(
        "cosine",
        "How the rate falls: half a cosine, or to a tenth at each milestone.",
        choices=("cosine", "step"),
    )
    milestones: tuple[float, ...] = key(
        (8 / 9, 26 / 27),
        "step: when the rate falls to a tenth, as shares of the training.",
        above=0,
        below=1,
    )
    layer_decay: float = key(
        1.0,
        "Factor on the rate from each block of the ViT to the one before it.",
        above=0,
        most=1,
        roles=("tuned",),
    )
    decoder_layer_decay: float = key(
        1.0, "Factor on the rate from each block of the decoder to the next.", above=0, most=1
    )
    train: str = key(
        "all",
        "What is trained: all of it, or the pyramid, the RPN and the heads alone (heads) on a ViT "
        "that stays as it starts and drops no path.",
        choices=("all", "heads"),
    )
    frozen: tuple[str, ...] = key((), "Regular expressions of the parameters that are not trained.")
    warmup_epochs: float = key(
        0.25, "Linear warm-up of the rate.", least=0, most=1e6, unit="epochs"
    )
    warmup_factor: float = key(0.001, "Share of the rate that the warm-up starts at.", **SHARE)
    no_decay: tuple[str, ...] = key(
        ("norm", "pos_embed", "rel_pos"),
        "Regular expressions of the parameters without weight decay.",
    )


@dataclass(frozen=True)
class FewShot:
    """Few-shot detection: base classes first, then a few objects of every class."""

    base_run: str | None = key(
        None, "Workdir of the run on base classes that fine-tuning starts from.", roles=FILES
    )
    novel: tuple[str, ...] = key(
        (), "Names of the novel classes, whose AP is reported beside the base classes'."
    )
    keep_deltas: bool = key(
        False, "Whether box deltas of known classes are kept; if not, they are reinitialized."
    )


@dataclass(frozen=True)
class DetectorConfig:
    """A detector's training and evaluation."""

    seed: int = key(0, "Seed of all randomness.", **SEEDS, roles=("reported",))
    initialisation: str = key(
        "mae",
        f"What the backbone starts from: {', '.join(INITIALISATIONS)} or a name of your own.",
        roles=("initialisation",),
    )
    init: str | None = key(
        None,
        "Converted weights (`jaxdet convert`) that training starts from, or hf://owner/name of a "
        "detector that `jaxdet push` uploaded.",
        roles=FILES,
    )
    init_from: str | None = key(
        None,
        "A trained detector that training starts from: a run's folder, a converted detector, or "
        "hf://owner/name; its heads by the names of classes.",
        roles=FILES,
    )
    init_classes: tuple[str, ...] = key(
        (),
        "Names of the classes of a converted detector in `init_from`, in the order of its outputs; "
        "empty: those its file names, else COCO's where it has 80.",
        roles=FILES,
    )
    weights: Weights = section(Weights, roles=FILES)
    image_size: int = key(
        1024,
        "Side of the square that every image is padded to.",
        least=1,
        most=2**15,
        unit="pixels",
    )
    batch_size: int = key(64, "Images of an optimizer step, over all devices.", least=1)
    accumulate: int = _accumulate()
    batch_statistics: str = key(
        "batch",
        "What batch norm's statistics are taken of: the whole batch, or each microbatch alone.",
        choices=("batch", "microbatch"),
    )
    sharding: str = _sharding()
    reduce_dtype: str = _reduce_dtype()
    on_nonfinite: str = _on_nonfinite()
    epochs: float = key(
        100.0, "Length of the training.", above=0, most=1e6, unit="epochs", roles=("reported",)
    )
    data: Data = section(Data)
    model: Model = section(Model)
    optim: Optim = section(Optim)
    few_shot: FewShot = section(FewShot)
    eval_batch_size: int = key(
        8, "Images evaluated at a time, over all devices.", least=1, roles=("resume",)
    )
    eval_workers: int = key(
        0, "Processes that encode masks; 0 for none.", **PROCESSES, roles=("resume",)
    )
    eval_every: float = key(
        5.0,
        "From one evaluation to the next.",
        above=0,
        most=1e6,
        unit="epochs",
        roles=("neutral", "resume"),
    )
    early_stop: int = key(
        0,
        "Evaluations without a better box AP after which training stops; 0 for never. The "
        "checkpoint of the best is kept.",
        least=0,
        roles=("reported",),
    )
    eval_loss: bool = key(
        False,
        "Whether evaluations also compute the training losses of the validation images, without "
        "augmentation and drop path (val/loss in metrics.jsonl).",
        roles=("neutral", "resume"),
    )
    checkpoint_every: float = key(
        1.0,
        "From one checkpoint to the next; every evaluation makes one too.",
        above=0,
        most=1e6,
        unit="epochs",
        roles=("neutral", "resume"),
    )
    log_every_steps: int = _log_every_steps()
    log_every_seconds: float = _log_every_seconds()
    profile_steps: tuple[int, ...] = _profile_steps()
    trackers: tuple[str, ...] = _trackers()


@dataclass(frozen=True)
class PretrainingShapes:
    """The built-in shapes, where no folder is given."""

    images: int = key(10_000, "Images there are.", least=1)
    image_size: int = key(128, "Side of an image.", least=64, most=4096, unit="pixels")


@dataclass(frozen=True)
class PretrainingData:
    """The images, which need no annotations."""

    root: str | None = key(
        None, "A folder of images, searched in all its folders; none: shapes.", roles=("resume",)
    )
    shapes: PretrainingShapes = section(PretrainingShapes)
    crop_area: tuple[float, float] = key(
        (0.2, 1.0), "Smallest and largest share of an image that a crop shows.", above=0, most=1
    )
    flip: bool = key(True, "Whether half of the crops are mirrored.")
    threads: int = key(8, "Threads that read images.", least=1, most=1024, roles=("resume",))
    workers: int = key(
        0,
        "Processes that each prepare whole batches, in place of threads; 0 for none.",
        **PROCESSES,
        roles=("resume",),
    )


@dataclass(frozen=True)
class PretrainingVit:
    """The encoder."""

    width: int = key(768, "Channels of a token.", least=4)
    depth: int = key(12, "Blocks.", least=1)
    heads: int = key(12, "Attention heads.", least=1)
    mlp_ratio: float = key(4.0, "Width of the MLP over `width`.", above=0, most=100)
    patch: int = key(16, "Side of a patch.", least=1, most=128, unit="pixels")


@dataclass(frozen=True)
class PretrainingDecoder:
    """The decoder that predicts the masked patches."""

    width: int = key(512, "Channels of a token.", least=4)
    depth: int = key(8, "Blocks.", least=1)
    heads: int = key(16, "Attention heads.", least=1)


@dataclass(frozen=True)
class PretrainingModel:
    """The masked autoencoder."""

    dtype: str = key(
        "bfloat16", "What is computed in; parameters and the loss are float32.", choices=DTYPES
    )
    vit: PretrainingVit = section(PretrainingVit)
    decoder: PretrainingDecoder = section(PretrainingDecoder)
    mask_ratio: float = key(0.75, "Share of the patches that are masked.", above=0, below=1)
    pixel_mean: tuple[float, float, float] = key(
        Detector.pixel_mean, "Subtracted from the pixels (R, G, B in 0..255).", least=-1e6, most=1e6
    )
    pixel_std: tuple[float, float, float] = key(
        Detector.pixel_std, "What the pixels are divided by then.", above=0, most=1e6
    )


@dataclass(frozen=True)
class PretrainingOptim:
    """AdamW with a linear warm-up and half a cosine."""

    lr: float = key(1.5e-4, "Peak learning rate, for 256 images.", above=0, most=1e6)
    weight_decay: float = key(0.05, "Weight decay.", least=0, most=1e6)
    betas: tuple[float, float] = key((0.9, 0.95), "AdamW's betas.", least=0, below=1)
    warmup_epochs: float = key(
        40.0, "Linear warm-up of the rate.", least=0, most=1e6, unit="epochs"
    )


@dataclass(frozen=True)
class PretrainingConfig:
    """A pre-training by masked autoencoding."""

    seed: int = key(0, "Seed of all randomness.", **SEEDS)
    image_size: int = key(
        224, "Side of the crops that are trained on.", least=1, most=2**15, unit="pixels"
    )
    batch_size: int = key(4096, "Images of an optimizer step, over all devices.", least=1)
    accumulate: int = _accumulate(roles=("resume",))
    sharding: str = _sharding()
    reduce_dtype: str = _reduce_dtype()
    on_nonfinite: str = _on_nonfinite()
    epochs: float = key(1600.0, "Length of the training.", above=0, most=1e6, unit="epochs")
    data: PretrainingData = section(PretrainingData)
    model: PretrainingModel = section(PretrainingModel)
    optim: PretrainingOptim = section(PretrainingOptim)
    checkpoint_every: float = key(
        20.0,
        "From one checkpoint to the next.",
        above=0,
        most=1e6,
        unit="epochs",
        roles=("resume",),
    )
    log_every_steps: int = _log_every_steps()
    log_every_seconds: float = _log_every_seconds()
    profile_steps: tuple[int, ...] = _profile_steps()
    trackers: tuple[str, ...] = _trackers()


def keys_with(role: str, schema: type = DetectorConfig) -> tuple[str, ...]:
    """Dotted names of the keys that have a role; for "recipe", of those that make up a recipe."""
    return tuple(
        name
        for name, key in keys(schema).items()
        if (key.is_recipe if role == "recipe" else role in key.roles)
    )
