"""Makes tests/reference/layouts: tiny models of the real classes, and what these compute.

    python tests/checkpoints_convert/make_layouts.py tests/reference/layouts

It takes timm 1.0.31, transformers 5.24, torchvision 0.29 and MMPretrain 1.2 (with mmcv-lite and
mmengine), which the tests themselves do without. Every parameter is random and attention is sharp.
An image has 4 x 4 patches, the class's own grid, and `large_image` 3 x 5 where the class takes it.
data2vec is run without its class token, which no detector has beside tables of relative positions.
"""

from __future__ import annotations

import json
import sys
import types
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import nn

WIDTH, DEPTH, HEADS, HIDDEN, PATCH, SIDE = 24, 4, 2, 48, 8, 32
SIZES = {
    "hidden_size": WIDTH,
    "num_hidden_layers": DEPTH,
    "num_attention_heads": HEADS,
    "patch_size": PATCH,
}


def transformers_model(model: str, config: str, **options) -> nn.Module:
    import transformers

    return getattr(transformers, model)(getattr(transformers, config)(**SIZES, **options))


def common(**options):
    return {"intermediate_size": HIDDEN, "image_size": SIDE, **options}


def timm_model(name: str, **options) -> nn.Module:
    import timm

    sizes = {"embed_dim": WIDTH, "depth": DEPTH, "num_heads": HEADS, "patch_size": PATCH}
    return timm.create_model(name, img_size=SIDE, num_classes=0, **sizes, **options)


def torchvision_model() -> nn.Module:
    from torchvision.models import VisionTransformer

    return VisionTransformer(SIDE, PATCH, DEPTH, HEADS, WIDTH, HIDDEN, num_classes=3)


def mmpretrain_model() -> nn.Module:
    # Its language models need an old transformers; the ViT does not need them.
    name = "mmpretrain.models.multimodal"
    sys.modules[name] = types.ModuleType(name)
    from mmpretrain.models.backbones import VisionTransformer

    arch = {
        "embed_dims": WIDTH,
        "num_layers": DEPTH,
        "num_heads": HEADS,
        "feedforward_channels": HIDDEN,
    }
    return VisionTransformer(arch=arch, img_size=SIDE, patch_size=PATCH)


def data2vec(**options) -> nn.Module:
    return transformers_model("Data2VecVisionModel", "Data2VecVisionConfig", **common(**options))


HUGGING_FACE: dict[str, Callable[[], nn.Module]] = {
    "hf_clip_vision": lambda: transformers_model(
        "CLIPVisionModel", "CLIPVisionConfig", hidden_act="quick_gelu", **common()
    ),
    "hf_siglip_vision": lambda: transformers_model(
        "SiglipVisionModel", "SiglipVisionConfig", **common()
    ),
    "hf_siglip2_naflex": lambda: transformers_model(
        "Siglip2VisionModel", "Siglip2VisionConfig", num_patches=16, intermediate_size=HIDDEN
    ),
    "hf_ijepa": lambda: transformers_model("IJepaModel", "IJepaConfig", **common()),
    "hf_msn": lambda: transformers_model("ViTMSNModel", "ViTMSNConfig", **common()),
    "hf_aimv2": lambda: transformers_model("Aimv2VisionModel", "Aimv2VisionConfig", **common()),
    "hf_radio": lambda: transformers_model(
        *("RadioModel", "RadioConfig"), mlp_ratio=2.0, image_size=SIDE, max_img_size=64
    ),
    "hf_vitdet": lambda: transformers_model(
        *("VitDetModel", "VitDetConfig"),
        mlp_ratio=2,
        window_size=2,
        window_block_indices=[0, 2],
        use_relative_position_embeddings=True,
        image_size=SIDE,
        pretrain_image_size=SIDE,
    ),
    "hf_data2vec": lambda: data2vec(use_relative_position_bias=True),
    "hf_data2vec_shared": lambda: data2vec(use_shared_relative_position_bias=True),
}


def randomise(model: nn.Module) -> None:
    generator = torch.Generator().manual_seed(0)
    for name, value in model.named_parameters():
        noise = torch.randn(value.shape, generator=generator)
        if value.ndim == 1 and name.endswith("weight"):  # a norm's
            value.data = 1 + 0.2 * noise
        elif value.ndim == 1:
            value.data = 0.2 * noise
        else:
            sharp = 2.5 if any(part in name for part in ("quer", "key", "q_", "k_", "qkv")) else 1.0
            fan_in = value[0].numel() if "embed" not in name or "proj" in name else 1
            value.data = sharp * noise / fan_in**0.5
    model.eval()


def tokens_of(model: nn.Module, image: torch.Tensor, call: Callable) -> np.ndarray:
    """Patch tokens after every block, [blocks, 1, h, w, width]."""
    grid = (image.shape[2] // PATCH, image.shape[3] // PATCH)
    found = []

    def keep(_, __, output):
        output = output[0] if isinstance(output, tuple) else output
        found.append(output.detach().numpy())

    blocks = next(
        module
        for module in model.modules()
        if isinstance(module, nn.ModuleList | nn.Sequential) and len(module) == DEPTH
    )
    handles = [block.register_forward_hook(keep) for block in blocks]
    with torch.no_grad():
        call(model, image)
    for handle in handles:
        handle.remove()
    rows = []
    for output in found:
        if output.ndim == 4:  # ViTDet's, channels first
            output = output.transpose(0, 2, 3, 1).reshape(1, -1, WIDTH)
        rows.append(output[:, -grid[0] * grid[1] :].reshape(1, *grid, WIDTH))
    return np.stack(rows)


def call_naflex(model: nn.Module, image: torch.Tensor) -> None:
    """NaFlex takes rows of patches, in the order (rows, columns, channels)."""
    rows, columns = image.shape[2] // PATCH, image.shape[3] // PATCH
    patches = image.reshape(1, 3, rows, PATCH, columns, PATCH).permute(0, 2, 4, 3, 5, 1)
    model(
        patches.reshape(1, rows * columns, -1),
        torch.ones(1, rows * columns, dtype=torch.long),
        torch.tensor([[rows, columns]]),
    )


def call_radio(model: nn.Module, image: torch.Tensor) -> None:
    """RADIO normalises by itself."""
    conditioner = model.input_conditioner
    model(image * conditioner.norm_std + conditioner.norm_mean)


def drop_class_token(model: nn.Module) -> None:
    """From here on a model with tables of relative positions runs on patches alone."""
    for module in model.modules():
        kind = type(module).__name__
        if kind.endswith("VisionEmbeddings"):
            module.register_forward_hook(lambda _, __, output: (output[0][:, 1:], *output[1:]))
        elif kind.endswith("RelativePositionBias"):
            module.register_forward_hook(lambda _, __, bias: bias[..., 1:, 1:])


def save_outputs(folder: Path, name: str, model: nn.Module, call: Callable, *, resizes) -> None:
    outputs = {"heads": HEADS}
    for prefix, grid in (("", (4, 4)), ("large_", (3, 5))):
        if prefix and not resizes:
            continue
        generator = torch.Generator().manual_seed(1)
        image = torch.randn((1, 3, *(PATCH * side for side in grid)), generator=generator)
        outputs |= {
            f"{prefix}image": image.numpy(),
            f"{prefix}tokens": tokens_of(model, image, call),
        }
    np.savez_compressed(folder / f"{name}_outputs.npz", **outputs)


def make_hugging_face(folder: Path) -> None:
    for name, build in HUGGING_FACE.items():
        model = build()
        randomise(model)
        model.save_pretrained(folder / "saved")
        (folder / "saved" / "model.safetensors").rename(folder / f"{name}.safetensors")
        config = json.loads((folder / "saved" / "config.json").read_text())
        (folder / f"{name}_config.json").write_text(json.dumps(config, indent=1))
        resizes = name in ("hf_clip_vision", "hf_siglip_vision", "hf_ijepa", "hf_msn")
        if name.startswith("hf_data2vec"):
            drop_class_token(model)
        options = {"interpolate_pos_encoding": True} if resizes else {}
        call = lambda model, image, options=options: model(image, **options)  # noqa: E731
        call = {"hf_siglip2_naflex": call_naflex, "hf_radio": call_radio}.get(name, call)
        resizes |= name.startswith(("hf_radio", "hf_data2vec"))
        save_outputs(folder, name, model, call, resizes=resizes)


def make_torch(folder: Path) -> None:
    from safetensors.torch import save_file

    for name, build in (("torchvision", torchvision_model), ("mmpretrain", mmpretrain_model)):
        model = build()
        randomise(model)
        prefix = "backbone." if name == "mmpretrain" else ""
        state = {f"{prefix}{key}": value for key, value in model.state_dict().items()}
        save_file(state, folder / f"{name}.safetensors")
        save_outputs(folder, name, model, lambda model, image: model(image), resizes=False)


def make_timm(folder: Path) -> None:
    """Files that timm itself converts: big_vision's, and I-JEPA's in its authors' wrapper."""
    rng = np.random.default_rng(0)

    def random(*shape: int, scale: float = 1.0) -> np.ndarray:
        return (scale * rng.normal(size=shape)).astype(np.float32)

    block = "Transformer/encoderblock"
    attention, channels = f"{block}/MultiHeadDotProductAttention_0", (HEADS, WIDTH // HEADS)
    arrays = {
        "embedding/kernel": random(PATCH, PATCH, 3, WIDTH, scale=0.1),
        "embedding/bias": random(WIDTH),
        "pos_embedding": random(1, 16, WIDTH),
        "Transformer/encoder_norm/scale": 1 + random(WIDTH, scale=0.2),
        "Transformer/encoder_norm/bias": random(WIDTH),
        f"{attention}/out/kernel": random(DEPTH, *channels, WIDTH, scale=WIDTH**-0.5),
        f"{attention}/out/bias": random(DEPTH, WIDTH),
        f"{block}/MlpBlock_0/Dense_0/kernel": random(DEPTH, WIDTH, HIDDEN, scale=WIDTH**-0.5),
        f"{block}/MlpBlock_0/Dense_0/bias": random(DEPTH, HIDDEN),
        f"{block}/MlpBlock_0/Dense_1/kernel": random(DEPTH, HIDDEN, WIDTH, scale=HIDDEN**-0.5),
        f"{block}/MlpBlock_0/Dense_1/bias": random(DEPTH, WIDTH),
    }
    for norm in ("LayerNorm_0", "LayerNorm_1"):
        arrays[f"{block}/{norm}/scale"] = 1 + random(DEPTH, WIDTH, scale=0.2)
        arrays[f"{block}/{norm}/bias"] = random(DEPTH, WIDTH, scale=0.2)
    for part in ("query", "key", "value"):
        arrays[f"{attention}/{part}/kernel"] = random(DEPTH, WIDTH, *channels, scale=0.4)
        arrays[f"{attention}/{part}/bias"] = random(DEPTH, *channels, scale=0.2)
    path = folder / "big_vision.npz"
    np.savez_compressed(path, **{f"params/img/{name}": value for name, value in arrays.items()})
    name = "vit_base_patch16_siglip_224"
    model = timm_model(name, mlp_ratio=2, global_pool="", fc_norm=False, act_layer="gelu_tanh")
    model.load_pretrained(path)
    call = lambda model, image: model(image)  # noqa: E731
    save_outputs(folder, "big_vision", model.eval(), call, resizes=False)


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    make_hugging_face(folder)
    make_torch(folder)
    make_timm(folder)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
