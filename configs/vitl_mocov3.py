"""ViT-L from MoCo v3 (300 epochs), arXiv 2111.11429.

    jaxdet train --config=vitl_mocov3 --workdir=runs/vitl_mocov3 \
        --config.data.root=/data/coco \
        --config.init=/weights/mocov3_vitl.npz

The paper's ViT-L of MoCo v3 (300 epochs) was never published: convert one of your own, with

    jaxdet convert FILE /weights/mocov3_vitl.npz

Published on COCO val2017: box AP 49.3, mask AP 44.0 as the best of 25,
50 and 100 epochs; which one is not in the text, so --config.epochs decides.
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    return benchmark("l", "mocov3", lr=1.6e-4, weight_decay=0.1, drop_path=0.3, epochs=50.0)
