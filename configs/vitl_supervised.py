"""ViT-L from supervised ImageNet-1k pre-training (200 epochs), arXiv 2111.11429.

    jaxdet train --config=vitl_supervised --workdir=runs/vitl_supervised \
        --config.data.root=/data/coco \
        --config.init=/weights/supervised_vitl.npz

The paper's supervised ViT-L (200 epochs, the MAE authors' own) was never published: convert another
of timm's layout, with

    jaxdet convert FILE /weights/supervised_vitl.npz

Published on COCO val2017: box AP 49.3, mask AP 43.9 as the best of 25,
50 and 100 epochs; which one is not in the text, so --config.epochs decides.
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    return benchmark("l", "supervised", lr=8e-5, weight_decay=0.1, drop_path=0.3, epochs=50.0)
