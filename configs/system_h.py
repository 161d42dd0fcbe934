"""ViTDet at system level: Cascade Mask R-CNN at 1280 pixels with soft-NMS, ViT-H from MAE,
arXiv 2203.16527.

    jaxdet train --config=system_h --workdir=runs/system_h \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vith.npz

and with test-time augmentation

    jaxdet eval --config=system_h --workdir=runs/system_h \
        --config.data.root=/data/coco \
        --config.model.detector.tta_sizes=1024,1280,1536

Weights: `mae_pretrain_vit_huge.pth` (1600 epochs), linked from
github.com/facebookresearch/mae. To convert:

    jaxdet convert --patch=16 mae_pretrain_vit_huge.pth /weights/mae_vith.npz

Published on COCO val2017: box AP 60.4, mask AP 52.0; 61.3 and 53.1 with test at several
scales. The paper does not say which scales, nor which soft-NMS, nor for how long was trained: all
but the image size is as in `cascade_h`.
"""

from ml_collections import ConfigDict

from jaxdet.config import make_cascade, vitdet


def get_config() -> ConfigDict:
    config = vitdet(
        "h", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.5, epochs=75.0, layer_decay=0.9
    )
    make_cascade(config)
    config.image_size = 1280
    config.model.detector.nms = "soft_linear"
    return config
