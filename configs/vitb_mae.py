"""ViT-B from MAE (1600 epochs, normalised pixels), arXiv 2111.11429.

    jaxdet train --config=vitb_mae --workdir=runs/vitb_mae \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitb.npz

Weights: `mae_pretrain_vit_base.pth` (1600 epochs), linked from
github.com/facebookresearch/mae. To convert:

    jaxdet convert mae_pretrain_vit_base.pth /weights/mae_vitb.npz

Published on COCO val2017: box AP 50.3, mask AP 44.9 after 100 epochs
(48.1 / 43.2 after 25, 50.1 / 44.6 after 50).
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    return benchmark("b", "mae", lr=8e-5, weight_decay=0.1, drop_path=0.1, epochs=100.0)
