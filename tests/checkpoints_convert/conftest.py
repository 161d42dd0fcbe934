"""States of a small ViT under timm's names, and files made of them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

WIDTH, DEPTH, HEADS, PATCH, GRID = 8, 4, 2, 4, 3


@pytest.fixture
def timm_state() -> Callable[..., dict[str, np.ndarray]]:
    """Makes the state of a ViT of width 8 with 4 blocks, patch 4 and a grid of 3."""

    def make(seed: int = 0, *, patch: int = PATCH, position: bool = True) -> dict[str, np.ndarray]:
        rng = np.random.default_rng(seed)

        def array(*shape: int) -> np.ndarray:
            return rng.normal(size=shape).astype(np.float32)

        state = {"cls_token": array(1, 1, WIDTH)}
        if position:
            state["pos_embed"] = array(1, 1 + GRID**2, WIDTH)
        state["patch_embed.proj.weight"] = array(WIDTH, 3, patch, patch)
        state["patch_embed.proj.bias"] = array(WIDTH)
        for i in range(DEPTH):
            block = {
                "norm1.weight": (WIDTH,),
                "norm1.bias": (WIDTH,),
                "attn.qkv.weight": (3 * WIDTH, WIDTH),
                "attn.qkv.bias": (3 * WIDTH,),
                "attn.proj.weight": (WIDTH, WIDTH),
                "attn.proj.bias": (WIDTH,),
                "norm2.weight": (WIDTH,),
                "norm2.bias": (WIDTH,),
                "mlp.fc1.weight": (4 * WIDTH, WIDTH),
                "mlp.fc1.bias": (4 * WIDTH,),
                "mlp.fc2.weight": (WIDTH, 4 * WIDTH),
                "mlp.fc2.bias": (WIDTH,),
            }
            state |= {f"blocks.{i}.{name}": array(*shape) for name, shape in block.items()}
        return state | {"norm.weight": array(WIDTH), "norm.bias": array(WIDTH)}

    return make


@pytest.fixture
def save_torch(tmp_path) -> Callable:
    """Writes a state as a PyTorch file, as it is or inside other things."""
    torch = pytest.importorskip("torch")

    def save(state: dict[str, np.ndarray], name: str = "source.pth", wrap=lambda x: x, **options):
        tensors = {key: torch.from_numpy(np.asarray(value)) for key, value in state.items()}
        torch.save(wrap(tensors), tmp_path / name, **options)
        return tmp_path / name

    return save
