"""A tiny detector on the built-in shapes: no download, minutes on a laptop's CPU.

python -m jaxdet.main --workdir=runs/shapes_tiny
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    config = benchmark("tiny", "random", lr=1e-3, weight_decay=0.05, drop_path=0.0, epochs=10.0)
    config.canvas = 128
    config.batch_size = 16
    config.eval_every = 5.0
    config.eval_batch_size = 16
    config.checkpoint_every = 5.0
    config.data.update(name="shapes", slots=8, mask_size=56, scale_range=(0.75, 1.25), threads=2)
    config.data.shapes.update(train_images=2000, val_images=100, image_size=128)
    config.model.dtype = "float32"
    config.model.vit.update(
        width=128, depth=4, heads=4, pretrain_grid=8, window=4, global_blocks=(1, 3)
    )
    config.model.pyramid.update(channels=64, groups=32)
    config.model.heads.update(
        rpn_convs=1, box_convs=2, box_conv_dim=64, box_fc_dim=256, mask_convs=2, mask_conv_dim=64
    )
    config.model.detector.update(
        anchor_sizes=(12.0, 20.0, 32.0, 48.0, 72.0),
        rpn_batch=64,
        train_pre_nms=200,
        train_post_nms=100,
        test_pre_nms=100,
        test_post_nms=50,
        roi_batch=32,
        sampling_ratio=2,
        canonical_size=64.0,
        detections=20,
    )
    config.optim.warmup_epochs = 0.5
    return config
