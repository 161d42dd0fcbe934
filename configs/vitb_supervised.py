"""ViT-B from supervised ImageNet-1k pre-training (DeiT, 300 epochs), arXiv 2111.11429.

    jaxdet train --config=vitb_supervised --workdir=runs/vitb_supervised \
        --config.data.root=/data/coco \
        --config.init=/weights/supervised_vitb.npz

Weights: `deit_base_patch16_224-b5f2ef4d.pth` (300 epochs), linked from README_deit.md of
github.com/facebookresearch/deit. To convert:

    jaxdet convert --from=deit deit_base_patch16_224-b5f2ef4d.pth /weights/supervised_vitb.npz

Published on COCO val2017: box AP 47.9, mask AP 42.9 as the best of 25,
50 and 100 epochs; which one is not in the text, so --config.epochs decides.
"""

from ml_collections import ConfigDict

from jaxdet.config import benchmark


def get_config() -> ConfigDict:
    return benchmark("b", "supervised", lr=8e-5, weight_decay=0.1, drop_path=0.1, epochs=50.0)
