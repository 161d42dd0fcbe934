"""ViTDet with Cascade Mask R-CNN, ViT-L from MAE, arXiv 2203.16527.

    jaxdet train --config=cascade_l --workdir=runs/cascade_l \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitl.npz

Weights: `mae_pretrain_vit_large.pth` (1600 epochs), linked from
github.com/facebookresearch/mae. To convert:

    jaxdet convert mae_pretrain_vit_large.pth /weights/mae_vitl.npz

Published on COCO val2017: box AP 57.6, mask AP 49.8 after 100 epochs.
"""

from ml_collections import ConfigDict

from jaxdet.config import make_cascade, vitdet


def get_config() -> ConfigDict:
    config = vitdet(
        "l", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.4, epochs=100.0, layer_decay=0.8
    )
    make_cascade(config)
    return config
