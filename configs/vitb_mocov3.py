"""ViT-B from MoCo v3 (300 epochs), arXiv 2111.11429.

    jaxdet train --config=vitb_mocov3 --workdir=runs/vitb_mocov3 \
        --config.data.root=/data/coco \
        --config.init=/weights/mocov3_vitb.npz

Weights: `vit-b-300ep.pth.tar` (300 epochs), linked from CONFIG.md of
github.com/facebookresearch/moco-v3. To convert:

    jaxdet convert vit-b-300ep.pth.tar /weights/mocov3_vitb.npz

Published on COCO val2017: box AP 47.9, mask AP 42.7 as the best of 25,
50 and 100 epochs; which one is not in the text, so --config.epochs decides.
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    return benchmark("b", "mocov3", lr=1.6e-4, weight_decay=0.1, drop_path=0.1, epochs=50.0)
