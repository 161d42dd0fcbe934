"""A small model for any folder in COCO's format, at a size a laptop can train.

    jaxdet train --config=coco_small --workdir=runs/coco_small \
        --config.data.root=/data/my_set

The folder holds `instances.json` and `images/`, or `annotations/instances_{train,val}*.json` and
the image folders they are named after. Classes are read from the file.
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    config = benchmark("tiny", "random", lr=1e-3, weight_decay=0.05, drop_path=0.0, epochs=100.0)
    config.image_size = 256
    config.batch_size = 4
    config.eval_batch_size = 4
    config.eval_every = config.checkpoint_every = 10.0
    config.data.update(max_instances=50, mask_size=56, scale_range=(0.5, 1.5), threads=2)
    config.model.dtype = "float32"
    config.model.vit.update(
        depth=8, window=4, pretrain_grid=16, global_blocks=(1, 3, 5, 7), out_indices=(1, 3, 5, 7)
    )
    config.model.pyramid.channels = 64
    config.model.heads.update(
        rpn_convs=1, box_convs=2, box_conv_dim=64, box_fc_dim=256, mask_convs=2, mask_conv_dim=64
    )
    config.model.detector.update(
        anchor_sizes=(10.0, 20.0, 40.0, 80.0, 160.0),
        rpn_batch=128,
        train_pre_nms=500,
        train_post_nms=300,
        test_pre_nms=500,
        test_post_nms=200,
        roi_batch=64,
        sampling_ratio=2,
    )
    config.optim.warmup_epochs = 1.0
    return config
