"""Which published file each recipe starts from, and how a user comes by it.

Names and addresses are those of the authors' own pages. `sha256` is what is known of the file's
digest: nothing where the authors print none.
"""

from __future__ import annotations

from dataclasses import asdict

from ml_collections import ConfigDict

from jaxdet.config.keys import Weights

MAE = "https://dl.fbaipublicfiles.com/mae/pretrain/{}, linked from github.com/facebookresearch/mae"
MAE_EPOCHS = "1600 epochs of MAE on ImageNet-1k, normalised pixels"
MAE_DECODER = (
    "https://dl.fbaipublicfiles.com/mae/pretrain/{}, linked from issue 8 of "
    "github.com/facebookresearch/mae"
)
MAE_DECODER_EPOCHS = f"{MAE_EPOCHS}, encoder and decoder"
BEIT = "https://unilm.blob.core.windows.net/beit/{}, linked from github.com/microsoft/unilm (beit)"
BEIT_EPOCHS = (
    "BEiT on ImageNet-22k; the paper's own, 800 epochs on ImageNet-1k, were never published"
)
MOCO = (
    "https://dl.fbaipublicfiles.com/moco-v3/vit-b-300ep/{}, linked from "
    "github.com/facebookresearch/moco-v3 (CONFIG.md)"
)
DEIT = (
    "https://dl.fbaipublicfiles.com/deit/{}, linked from github.com/facebookresearch/deit "
    "(README_deit.md)"
)


def _published(file: str, address: str, training: str, **more: str) -> Weights:
    return Weights(file=file, source=address.format(file), training=training, **more)


OFFICIAL = {
    ("mae", "b"): _published("mae_pretrain_vit_base.pth", MAE, MAE_EPOCHS),
    ("mae", "l"): _published("mae_pretrain_vit_large.pth", MAE, MAE_EPOCHS),
    ("mae", "h"): _published(
        "mae_pretrain_vit_huge.pth",
        MAE,
        f"{MAE_EPOCHS}, patches of 14 pixels",
        options="--patch=16",
    ),
    ("mae with decoder", "s"): Weights(
        training="800 epochs of MAE on ImageNet-1k, encoder and decoder; imTED's authors' own, "
        "linked from issue 7 of github.com/LiewFeng/imTED",
        options="--target=imted",
    ),
    ("mae with decoder", "b"): _published(
        "mae_pretrain_vit_base_full.pth", MAE_DECODER, MAE_DECODER_EPOCHS, options="--target=imted"
    ),
    ("mae with decoder", "l"): _published(
        "mae_pretrain_vit_large_full.pth", MAE_DECODER, MAE_DECODER_EPOCHS, options="--target=imted"
    ),
    ("beit", "b"): _published(
        "beit_base_patch16_224_pt22k.pth", BEIT, BEIT_EPOCHS, options="--from=beit"
    ),
    ("beit", "l"): _published(
        "beit_large_patch16_224_pt22k.pth", BEIT, BEIT_EPOCHS, options="--from=beit"
    ),
    ("mocov3", "b"): _published(
        "vit-b-300ep.pth.tar", MOCO, "300 epochs of MoCo v3 on ImageNet-1k"
    ),
    ("mocov3", "l"): Weights(
        training="300 epochs of MoCo v3 on ImageNet-1k; these weights were never published"
    ),
    # torch.hub's check_hash: the name ends in the digest's first digits.
    ("supervised", "b"): _published(
        "deit_base_patch16_224-b5f2ef4d.pth",
        DEIT,
        "300 epochs of DeiT on ImageNet-1k",
        sha256="b5f2ef4d",
        options="--from=deit",
    ),
    ("supervised", "l"): Weights(
        training="200 epochs of the MAE paper's own supervised training on ImageNet-1k; these "
        "weights were never published"
    ),
}


def official_weights(initialisation: str, size: str) -> dict[str, str | None]:
    """`config.weights` for a recipe; what nothing is known of is None."""
    return asdict(OFFICIAL.get((initialisation, size), Weights()))


def how_to_get(config: ConfigDict) -> str:
    """One sentence on where the weights a config starts from come from and how they are made."""
    weights = config.weights
    if weights.file is None and weights.source is not None:
        return f"make it: {weights.source}"
    # A config of a published pre-training may have been given another name on the command line.
    is_published = any(config.initialisation == name.split()[0] for name, _ in OFFICIAL)
    if not is_published or weights.file is None:
        about = f" ({weights.training})" if is_published and weights.training else ""
        return (
            f"no published file belongs to this config{about}: convert one with "
            "`jaxdet convert FILE OUT.npz` and give --config.init=OUT.npz"
        )
    options = f"{weights.options} " if weights.options else ""
    out = f"{weights.file.partition('.')[0]}.npz"
    return (
        f"download {weights.file} ({weights.training}) from {weights.source}; then run "
        f"`jaxdet convert {options}{weights.file} {out}` and give "
        f"--config.init={out}"
    )
