"""imTED, Mask R-CNN with ViT-L over 100 epochs.

    python -m jaxdet.main --config=configs/imted_mask_l_100ep.py \
        --workdir=runs/imted_mask_l_100ep \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitl_full.npz

Weights: `mae_pretrain_vit_large_full.pth` (1600 epochs, encoder and decoder), linked from
issue 8 of github.com/facebookresearch/mae. To convert:

    python -m checkpoints_convert --target=imted mae_pretrain_vit_large_full.pth \
        /weights/mae_vitl_full.npz

The official code has this config; no number of it is published.
"""

from ml_collections import ConfigDict

from jaxdet.config.imted import imted


def get_config() -> ConfigDict:
    return imted(
        "l",
        drop_path=0.4,
        masks=True,
        epochs=100.0,
        milestones=(89.0, 96.0),
        weight_decay=0.1,
        layer_decay=0.8,
        batch_size=8,
    )
