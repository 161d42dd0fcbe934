"""ViT-B from BEiT (800 epochs on ImageNet-1k), arXiv 2111.11429.

    jaxdet train --config=vitb_beit --workdir=runs/vitb_beit \
        --config.data.root=/data/coco \
        --config.init=/weights/beit_vitb.npz

Weights: `beit_base_patch16_224_pt22k.pth` (ImageNet-22k), linked from
github.com/microsoft/unilm (beit); the paper's own, 800 epochs on ImageNet-1k, were not
published. To convert:

    jaxdet convert --from=beit beit_base_patch16_224_pt22k.pth /weights/beit_vitb.npz

Published on COCO val2017: box AP 49.8, mask AP 44.4 as the best of 25,
50 and 100 epochs; which one is not in the text, so --config.epochs decides.
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    config = benchmark("b", "beit", lr=8e-5, weight_decay=0.1, drop_path=0.1, epochs=50.0)
    config.model.vit.update(qkv_bias="qv", layer_scale=0.1)
    return config
