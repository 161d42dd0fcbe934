"""ViT-L from MAE (1600 epochs, normalised pixels), arXiv 2111.11429.

    jaxdet train --config=vitl_mae --workdir=runs/vitl_mae \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitl.npz

Weights: `mae_pretrain_vit_large.pth` (1600 epochs), linked from
github.com/facebookresearch/mae. To convert:

    jaxdet convert mae_pretrain_vit_large.pth /weights/mae_vitl.npz

Published on COCO val2017: box AP 53.3, mask AP 47.2 (the box AP after 50 epochs).
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    return benchmark("l", "mae", lr=8e-5, weight_decay=0.1, drop_path=0.3, epochs=50.0)
