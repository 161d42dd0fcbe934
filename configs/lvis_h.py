"""ViTDet with Mask R-CNN on LVIS v1, ViT-H from MAE, arXiv 2203.16527.

    jaxdet train --config=lvis_h --workdir=runs/lvis_h \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vith.npz

The folder holds COCO's images, `train2017` and `val2017`, and `lvis_v1_train.json` and
`lvis_v1_val.json`, there or in `annotations`. Weights: `mae_pretrain_vit_huge.pth` (1600 epochs),
linked from github.com/facebookresearch/mae. To convert:

    jaxdet convert --patch=16 mae_pretrain_vit_huge.pth /weights/mae_vith.npz

Published on LVIS v1 val: box AP 49.1, mask AP 46.0 after 100 epochs (the released model).
The released ViT-H weights have patches of 14 pixels; the recipe resamples them to 16.
"""

from ml_collections import ConfigDict

from jaxdet.config import make_lvis, vitdet


def get_config() -> ConfigDict:
    config = vitdet(
        "h", "mae", lr=1e-4, weight_decay=0.1, drop_path=0.4, epochs=100.0, layer_decay=0.9
    )
    make_lvis(config)
    return config
