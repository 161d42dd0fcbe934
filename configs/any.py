"""Any converted ViT under the recipe of arXiv 2111.11429, its config made from the file.

    jaxdet convert dinov3/ /weights/dinov3_vits.npz
    jaxdet train --config=any --init=/weights/dinov3_vits.npz --data=/data/coco

`--config=any:/weights/dinov3_vits.npz` is the same. Size, patch, heads, pixel statistics, positions
and the parts of a block are the file's; drop path follows the depth. Class token and registers are
left aside, as the recipe has it: --config.model.vit.class_token and --config.model.vit.registers
take them. lr and weight decay are what the paper found for MAE; `jaxdet sweep --config=any:FILE`
finds yours.
"""

from pathlib import Path

from ml_collections import ConfigDict

from jaxdet.config import benchmark
from jaxdet.weights.recipe import recipe_for


def get_config(file: str = "") -> ConfigDict:
    if file:
        return recipe_for(Path(file))
    return benchmark("b", "own", lr=8e-5, weight_decay=0.1, drop_path=0.1, epochs=100.0)
