"""A small model for any folder in COCO's format, at a size a laptop can train.

    python -m jaxdet.main --config=configs/coco_small.py --workdir=runs/coco_small \
        --config.data.root=/data/my_set

The folder holds `instances.json` and `images/`, or `annotations/instances_{train,val}*.json` and
the image folders they are named after. Classes are read from the file.
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    config = benchmark("tiny", "random", lr=5e-4, weight_decay=0.05, drop_path=0.0, epochs=50.0)
    config.canvas = 320
    config.batch_size = 4
    config.eval_batch_size = 4
    config.eval_every = 10.0
    config.data.update(slots=50, mask_size=56, scale_range=(0.5, 1.5), threads=4)
    config.model.dtype = "float32"
    config.model.vit.update(depth=8, window=5, pretrain_grid=20, global_blocks=(1, 3, 5, 7))
    config.model.pyramid.channels = 96
    config.model.heads.update(
        rpn_convs=1,
        box_convs=2,
        box_conv_dim=96,
        box_fc_dim=512,
        mask_convs=2,
        mask_conv_dim=96,
    )
    config.model.detector.update(
        anchor_sizes=(12.0, 24.0, 48.0, 96.0, 192.0),
        train_pre_nms=500,
        train_post_nms=300,
        test_pre_nms=500,
        test_post_nms=300,
        roi_batch=128,
    )
    config.optim.warmup_epochs = 1.0
    return config
