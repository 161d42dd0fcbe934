"""ViTDet with Mask R-CNN, ViT-H from MAE, arXiv 2203.16527.

    jaxdet train --config=vitdet_h_mae --workdir=runs/vitdet_h_mae \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vith.npz

Weights: `mae_pretrain_vit_huge.pth` (1600 epochs), linked from
github.com/facebookresearch/mae. To convert:

    jaxdet convert --patch=16 mae_pretrain_vit_huge.pth /weights/mae_vith.npz

Published on COCO val2017: box AP 56.7, mask AP 50.1 after 75 epochs.
The released ViT-H weights have patches of 14 pixels; the recipe resamples them to 16.
"""

from ml_collections import ConfigDict

from jaxdet.config import vitdet


def get_config() -> ConfigDict:
    return vitdet(
        "h", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.5, epochs=75.0, layer_decay=0.9
    )
