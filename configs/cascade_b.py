"""ViTDet with Cascade Mask R-CNN, ViT-B from MAE, arXiv 2203.16527.

    jaxdet train --config=cascade_b --workdir=runs/cascade_b \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitb.npz

Weights: `mae_pretrain_vit_base.pth` (1600 epochs), linked from
github.com/facebookresearch/mae. To convert:

    jaxdet convert mae_pretrain_vit_base.pth /weights/mae_vitb.npz

Published on COCO val2017: box AP 54.0, mask AP 46.7 after 100 epochs.
"""

from ml_collections import ConfigDict

from jaxdet.config import make_cascade, vitdet


def get_config() -> ConfigDict:
    config = vitdet(
        "b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=100.0, layer_decay=0.7
    )
    make_cascade(config)
    return config
