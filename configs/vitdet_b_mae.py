"""ViTDet with Mask R-CNN, ViT-B from MAE, arXiv 2203.16527.

    jaxdet train --config=vitdet_b_mae --workdir=runs/vitdet_b_mae \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitb.npz

Weights: `mae_pretrain_vit_base.pth` (1600 epochs), linked from
github.com/facebookresearch/mae. To convert:

    jaxdet convert mae_pretrain_vit_base.pth /weights/mae_vitb.npz

Published on COCO val2017: box AP 51.6, mask AP 45.9 after 100 epochs.
"""

from ml_collections import ConfigDict

from jaxdet.config import vitdet


def get_config() -> ConfigDict:
    return vitdet(
        "b", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.1, epochs=100.0, layer_decay=0.7
    )
