"""ViTDet at system level: Cascade Mask R-CNN at 1280 pixels with soft-NMS, ViT-L from MAE,
arXiv 2203.16527.

    jaxdet train --config=system_l --workdir=runs/system_l \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitl.npz

and with test-time augmentation

    jaxdet eval --config=system_l --workdir=runs/system_l \
        --config.data.root=/data/coco \
        --config.model.detector.tta_sizes=1024,1280,1536

Weights: `mae_pretrain_vit_large.pth` (1600 epochs), linked from
github.com/facebookresearch/mae. To convert:

    jaxdet convert mae_pretrain_vit_large.pth /weights/mae_vitl.npz

Published on COCO val2017: box AP 59.6, mask AP 51.1; 60.4 and 52.2 with test at several
scales. The paper does not say which scales, nor which soft-NMS, nor for how long was trained: all
but the image size is as in `cascade_l`.
"""

from ml_collections import ConfigDict

from jaxdet.config import make_cascade, vitdet


def get_config() -> ConfigDict:
    config = vitdet(
        "l", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.4, epochs=100.0, layer_decay=0.8
    )
    make_cascade(config)
    config.image_size = 1280
    config.model.detector.nms = "soft_linear"
    return config
