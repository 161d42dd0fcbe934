"""imTED, Mask R-CNN with ViT-L, arXiv 2205.09613.

    python -m jaxdet.main --config=configs/imted_mask_l.py \
        --workdir=runs/imted_mask_l \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitl_full.npz

Weights: `mae_pretrain_vit_large_full.pth` (1600 epochs, encoder and decoder), linked from
issue 8 of github.com/facebookresearch/mae. To convert:

    python -m checkpoints_convert --target=imted mae_pretrain_vit_large_full.pth \
        /weights/mae_vitl_full.npz

Published on COCO val2017: box AP 55.5, mask AP 48.1 after 36 epochs.
The pyramid is made from block 11 of 24, as published; for what is meant, the last one, give
--config.model.vit.out_indices=(23,).
"""

from ml_collections import ConfigDict

from jaxdet.config.imted import imted


def get_config() -> ConfigDict:
    return imted("l", drop_path=0.3, masks=True)
