"""The config of a detector small enough to train in tests, also for the command line."""

from ml_collections import ConfigDict

from jaxdet.config.mask_rcnn import benchmark, check


def get_config(initialisation: str = "random") -> ConfigDict:
    """A detector small enough to compile in seconds; 8 images a step, one for each test device.

    Of a single scale: each level of a pyramid would be compiled for itself.
    """
    config = benchmark(
        "tiny", initialisation, lr=1e-3, weight_decay=0.05, drop_path=0.1, epochs=2.0
    )
    config.image_size = 64
    config.batch_size = config.eval_batch_size = 8
    config.eval_every = config.checkpoint_every = 1.0
    config.log_every_steps = 1
    config.log_every_seconds = 0.0
    config.data.update(
        name="shapes", max_instances=6, mask_size=28, scale_range=(0.8, 1.2), threads=1
    )
    config.data.shapes.update(train_images=16, val_images=9, image_size=64)
    config.model.dtype = "float32"
    config.model.vit.update(
        width=32,
        depth=2,
        heads=2,
        pretrain_grid=4,
        window=2,
        global_blocks=(1,),
        out_indices=(1,),
    )
    config.model.pyramid.update(kind="single", channels=8, groups=8)
    config.model.heads.update(
        rpn_convs=1, box_convs=1, box_conv_dim=8, box_fc_dim=16, mask_convs=1, mask_conv_dim=8
    )
    config.model.detector.update(
        strides=(16.0,),
        anchor_sizes=(8.0, 16.0, 24.0, 32.0, 48.0),
        train_pre_nms=30,
        train_post_nms=20,
        test_pre_nms=30,
        test_post_nms=20,
        roi_batch=8,
        mask_roi_size=14,  # targets of the size of the data's masks: no pixel is half an object
        detections=10,
    )
    check(config)
    return config


def with_pyramid(config: ConfigDict, kind: str) -> ConfigDict:
    """The config with the maps of five scales."""
    config.model.pyramid.kind = kind
    config.model.detector.strides = (4.0, 8.0, 16.0, 32.0, 64.0)
    return config


def with_fpn(config: ConfigDict) -> ConfigDict:
    """The config with four blocks and the benchmark's FPN of what each returns."""
    config.model.vit.update(depth=4, global_blocks=(1, 3), out_indices=(0, 1, 2, 3))
    config.model.detector.mask_roi_size = 7
    return with_pyramid(config, "fpn")


def without(results, *fields):
    """Results in COCO's layout without some of their fields."""
    return [{name: r[name] for name in r if name not in fields} for r in results]
