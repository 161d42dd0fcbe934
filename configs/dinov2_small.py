"""A ViT-S/14 on a small set of real images, from DINOv2 or at random, fine-tuned or frozen.

    jaxdet convert vit_s_focus.onnx dinov2_vits.npz
    jaxdet train --config=dinov2_small --init=dinov2_vits.npz --data=/data/coco_128
    jaxdet train --config=dinov2_small:frozen --init=dinov2_vits.npz --data=/data/coco_128
    jaxdet train --config=dinov2_small:random --data=/data/coco_128

`:random_frozen` is the control: random features that stay as they are. Sized for two cores: images
of 252 pixels (18 x 18 patches, all blocks global), narrow heads, 40 epochs. Nothing is tuned; all
four have one recipe. benchmarks/real_transfer.py runs them and shows what they reach.
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark

ARMS = ("finetuned", "frozen", "random", "random_frozen")


def get_config(arm: str = "finetuned") -> ConfigDict:
    if arm not in ARMS:
        raise ValueError(f"{arm!r} must be one of {', '.join(ARMS)}")
    initialisation = "random" if arm.startswith("random") else "dinov2"
    config = benchmark("s", initialisation, lr=3e-4, weight_decay=0.05, drop_path=0.0, epochs=40.0)
    config.image_size = 252
    config.batch_size = config.eval_batch_size = 8
    config.eval_every = config.checkpoint_every = 20.0
    config.data.update(max_instances=50, mask_size=56, scale_range=(0.5, 1.5), threads=2)
    config.model.dtype = "float32"
    config.model.vit.update(
        patch=14,
        pretrain_grid=37,
        window=18,
        global_blocks=tuple(range(12)),
        layer_scale=1.0,
        final_norm=True,
        relative_position="none",
    )
    config.model.pyramid.channels = 64
    config.model.heads.update(
        rpn_convs=1, box_convs=2, box_conv_dim=64, box_fc_dim=256, mask_convs=2, mask_conv_dim=64
    )
    config.model.detector.update(
        strides=(3.5, 7.0, 14.0, 28.0, 56.0),
        anchor_sizes=(8.0, 16.0, 32.0, 64.0, 128.0),
        canonical_size=56.0,
        rpn_batch=128,
        train_pre_nms=500,
        train_post_nms=300,
        test_pre_nms=500,
        test_post_nms=200,
        roi_batch=64,
        sampling_ratio=2,
    )
    config.optim.warmup_epochs = 2.0
    if arm.endswith("frozen"):
        config.optim.frozen = (r"backbone\.",)
    return config
