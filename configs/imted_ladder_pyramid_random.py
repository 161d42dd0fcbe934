"""imTED's ablation: a decoder with random weights as the box head, on the pyramid's features.

    python -m jaxdet.main --config=configs/imted_ladder_pyramid_random.py \
        --workdir=runs/imted_ladder_pyramid_random \
        --config.data.root=/data/coco \
        --config.init=/weights/mae_vits_full.npz

Weights: ViT-S of 800 epochs with its decoder, the authors' own, linked from issue 7 of
github.com/LiewFeng/imTED. To convert:

    python -m checkpoints_convert --target=imted FILE /weights/mae_vits_full.npz

The authors report no AP of this; where it stands between the others is what it is here for.
Backbone and schedule are those of the other steps.
"""

from ml_collections import ConfigDict

from jaxdet.config.imted import imted


def get_config() -> ConfigDict:
    config = imted(
        "s", drop_path=0.1, masks=False, parts="pyramid", epochs=12.0, milestones=(9.0, 11.0)
    )
    config.model.decoder.start = "random"
    return config
