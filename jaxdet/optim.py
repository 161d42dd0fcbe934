"""AdamW under the paper's schedule, with weight decay by parameter path."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax


def lr_schedule(
    *, peak: float, total_steps: int, warmup_steps: int, warmup_factor: float
) -> optax.Schedule:
    """Half-period cosine from `peak` to 0, under a linear warm-up (arXiv 2111.11429 section 2).

    As in Detectron2 the warm-up does not delay the cosine: it rises from `warmup_factor * peak` to
    the value the cosine has at the warm-up's end.

    Args:
        peak: learning rate the cosine starts from.
        total_steps: the step at which the cosine reaches 0.
        warmup_steps: length of the warm-up, may be 0.
        warmup_factor: share of `peak` at step 0.
    """
    cosine = optax.cosine_decay_schedule(peak, total_steps)
    if warmup_steps == 0:
        return cosine
    target = peak * 0.5 * (1.0 + math.cos(math.pi * min(1.0, warmup_steps / total_steps)))
    warmup = optax.linear_schedule(peak * warmup_factor, target, warmup_steps)
    return lambda step: jnp.where(step < warmup_steps, warmup(step), cosine(step))


def decay_mask(params: Any, no_decay: Sequence[str]) -> Any:
    """A tree of bool: which parameters weight decay applies to.

    Args:
        params: nested dictionaries of arrays.
        no_decay: regular expressions; a parameter whose dotted path one of them matches anywhere
            is not decayed.
    """
    patterns = [re.compile(pattern) for pattern in no_decay]

    def decayed(path, _):
        return not any(pattern.search(path_name(path)) for pattern in patterns)

    return jax.tree_util.tree_map_with_path(decayed, params)


def path_name(path: Sequence[Any]) -> str:
    """A parameter's path in dotted form, such as "backbone.blocks.0.attn.qkv.kernel"."""
    return jax.tree_util.keystr(path, simple=True, separator=".")


def adamw(
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    betas: tuple[float, float],
    no_decay: Sequence[str],
) -> optax.GradientTransformation:
    """AdamW with decoupled decay, as torch.optim.AdamW (epsilon 1e-8)."""
    return optax.adamw(
        schedule,
        b1=betas[0],
        b2=betas[1],
        eps=1e-8,
        weight_decay=weight_decay,
        mask=lambda params: decay_mask(params, no_decay),
    )
