"""imTED's ablation: MAE's decoder as the box head, on the pyramid's features.

    python -m jaxdet.main --config=configs/imted_ladder_pyramid.py \
        --workdir=runs/imted_ladder_pyramid \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vits_full.npz

Weights: ViT-S of 800 epochs with its decoder, the authors' own, linked from issue 7 of
github.com/LiewFeng/imTED. To convert:

    python -m checkpoints_convert --target=imted FILE /weights/mae_vits_full.npz

The authors report a box AP of 42.5 for this step of their ablation, without saying of which
backbone and schedule; ViT-S for 12 epochs is our reading.
"""

from ml_collections import ConfigDict

from jaxdet.config.imted import imted


def get_config() -> ConfigDict:
    return imted(
        "s", drop_path=0.1, masks=False, parts="pyramid", epochs=12.0, milestones=(9.0, 11.0)
    )
