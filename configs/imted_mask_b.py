"""imTED, Mask R-CNN with ViT-B, arXiv 2205.09613.

    python -m jaxdet.main --config=configs/imted_mask_b.py \
        --workdir=runs/imted_mask_b \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vitb_full.npz

Weights: `mae_pretrain_vit_base_full.pth` (1600 epochs, encoder and decoder), linked from
issue 8 of github.com/facebookresearch/mae. To convert:

    python -m checkpoints_convert --target=imted mae_pretrain_vit_base_full.pth \
        /weights/mae_vitb_full.npz

Published on COCO val2017: box AP 53.3, mask AP 46.4 after 36 epochs.
"""

from ml_collections import ConfigDict

from jaxdet.config.imted import imted


def get_config() -> ConfigDict:
    return imted("b", drop_path=0.2, masks=True)
