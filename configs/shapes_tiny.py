"""A tiny detector on the built-in shapes: no download, minutes on two CPU cores.

    python -m jaxdet.main --workdir=runs/shapes_tiny

The parts are the benchmark's, smaller: patches of 8 pixels on a canvas of 64, four blocks, and
32 channels behind the backbone.
"""

from ml_collections import ConfigDict

from jaxdet.config import SHAPES_DETECTOR, benchmark


def get_config() -> ConfigDict:
    config = benchmark("tiny", "random", lr=3e-3, weight_decay=0.05, drop_path=0.0, epochs=8.0)
    config.canvas = 64
    config.batch_size = 8
    config.eval_batch_size = 20
    config.eval_every = 4.0
    config.log_every_seconds = 15.0
    config.data.update(name="shapes", slots=8, mask_size=28, scale_range=(0.75, 1.25), threads=1)
    config.data.shapes.update(train_images=2000, val_images=100, image_size=96)
    config.model.dtype = "float32"
    config.model.vit.update(
        width=128,
        depth=4,
        heads=4,
        patch=8,
        pretrain_grid=8,
        window=4,
        global_blocks=(1, 3),
        taps=(0, 1, 2, 3),
    )
    config.model.pyramid.channels = 32
    config.model.heads.update(
        rpn_convs=1, box_convs=2, box_conv_dim=32, box_fc_dim=128, mask_convs=2, mask_conv_dim=32
    )
    config.model.detector.update(SHAPES_DETECTOR, mask_roi_size=7)
    return config
