"""AdamW under the paper's schedule, with weight decay by parameter path."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import optax

from jaxdet.models.paths import ABSOLUTE_POSITION, BACKBONE, RELATIVE_POSITION, path_name
from jaxdet.models.settings import is_backbone_frozen

if TYPE_CHECKING:
    from ml_collections import ConfigDict


def lr_schedule(
    kind: str,
    *,
    peak: float,
    total_steps: int,
    warmup_steps: int,
    warmup_factor: float,
    milestones: Sequence[float] = (),
) -> optax.Schedule:
    """The learning rate over a run, under a linear warm-up.

    As in Detectron2 the warm-up does not delay the schedule: it rises from `warmup_factor * peak`
    to the value the schedule has at the warm-up's end.

    Args:
        kind: "cosine", half a period from `peak` to 0 (arXiv 2111.11429), or "step", a tenth from
            each milestone on (arXiv 2203.16527).
        peak: learning rate the schedule starts from.
        total_steps: length of the run.
        warmup_steps: length of the warm-up, may be 0.
        warmup_factor: share of `peak` at step 0.
        milestones: where the "step" schedule falls, as shares of the run.
    """
    if kind == "cosine":
        schedule = optax.cosine_decay_schedule(peak, total_steps)
    else:
        falls = {round(milestone * total_steps): 0.1 for milestone in milestones}
        schedule = optax.piecewise_constant_schedule(peak, falls)
    if warmup_steps == 0:
        return schedule
    target = float(schedule(min(warmup_steps, total_steps)))
    warmup = optax.linear_schedule(peak * warmup_factor, target, warmup_steps)
    return lambda step: jnp.where(step < warmup_steps, warmup(step), schedule(step))


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


def step_multipliers(
    params: Any,
    layer_decay: float,
    depth: int,
    frozen: Sequence[str] = (),
    decoder_layer_decay: float = 1.0,
    decoder_depth: int = 0,
) -> Any:
    """A tree of float: what each parameter's whole step, decay included, is multiplied with.

    Block i of `depth` gets layer_decay ** (depth - i), the embeddings of patches and positions,
    class token and registers layer_decay ** (depth + 1), everything else 1 (BEiT's rule as ViTDet
    uses it, which counts residual blocks of convolutions to everything else). The same holds for a
    decoder in the box head, its first norm and its embedding. A parameter whose dotted path one of
    the regular expressions in `frozen` matches at its start gets 0.
    """
    embeddings = {
        "backbone": r"backbone\.(patch_embed|patch_norm|pos_embed|class_|registers)",
        "box_head": r"box_head\.(norm|embed)\.",
    }
    decays = {
        "backbone": (layer_decay, depth),
        "box_head": (decoder_layer_decay, decoder_depth),
    }

    def multiplier(path, _):
        name = path_name(path)
        if is_frozen(name, frozen):
            return 0.0
        part = name.partition(".")[0]
        if part not in decays:
            return 1.0
        decay, blocks = decays[part]
        if re.match(embeddings[part], name):
            return decay ** (blocks + 1)
        block = re.match(rf"{part}\.blocks\.(\d+)\.(?!residual\.)", name)
        return decay ** (blocks - int(block[1])) if block else 1.0

    return jax.tree_util.tree_map_with_path(multiplier, params)


def is_frozen(name: str, frozen: Sequence[str]) -> bool:
    """Whether one of the regular expressions matches a dotted path at its start."""
    return any(re.match(pattern, name) for pattern in frozen)


def adamw(
    schedule: optax.Schedule,
    *,
    weight_decay: float,
    betas: tuple[float, float],
    no_decay: Sequence[str],
    layer_decay: float = 1.0,
    depth: int = 0,
    frozen: Sequence[str] = (),
    decoder_layer_decay: float = 1.0,
    decoder_depth: int = 0,
    without_moments: Sequence[str] = (),
) -> optax.GradientTransformation:
    """AdamW with decoupled decay, as torch.optim.AdamW (epsilon 1e-8).

    Args:
        schedule: learning rate by step.
        weight_decay, no_decay: see `decay_mask`.
        layer_decay, depth, frozen, decoder_layer_decay, decoder_depth: see `step_multipliers`.
        without_moments: patterns of parameters among `frozen` that no moments are kept of.
    """
    optimizer = optax.adamw(
        schedule,
        b1=betas[0],
        b2=betas[1],
        eps=1e-8,
        weight_decay=weight_decay,
        mask=lambda params: decay_mask(params, no_decay),
    )
    if layer_decay == decoder_layer_decay == 1.0 and not frozen:
        return optimizer

    def scale(updates, params):
        multipliers = step_multipliers(
            params, layer_decay, depth, frozen, decoder_layer_decay, decoder_depth
        )
        return jax.tree.map(lambda update, factor: update * factor, updates, multipliers)

    optimizer = optax.chain(optimizer, optax.stateless(scale))
    if not without_moments:
        return optimizer

    def part(path, _):
        return "held" if is_frozen(path_name(path), without_moments) else "trained"

    return optax.partition(
        {"trained": optimizer, "held": optax.set_to_zero()},
        lambda params: jax.tree_util.tree_map_with_path(part, params),
    )


def build_optimizer(config: ConfigDict, schedule: optax.Schedule) -> optax.GradientTransformation:
    """The optimizer a config describes, under a schedule in steps."""
    settings = config.optim
    return adamw(
        schedule,
        weight_decay=settings.weight_decay,
        betas=tuple(settings.betas),
        no_decay=tuple(settings.no_decay),
        layer_decay=1.0 if is_backbone_frozen(config) else settings.layer_decay,
        depth=config.model.vit.depth,
        frozen=frozen_parameters(config),
        decoder_layer_decay=settings.decoder_layer_decay,
        decoder_depth=config.model.decoder.depth,
        without_moments=_backbone(config),
    )


def frozen_parameters(config: ConfigDict) -> tuple[str, ...]:
    """Patterns of the parameters that a config keeps as they start."""
    vit = config.model.vit
    absolute = () if vit.absolute_trainable else (ABSOLUTE_POSITION,)
    relative = () if vit.relative_trainable else (RELATIVE_POSITION,)
    return _backbone(config) + absolute + relative + tuple(config.optim.frozen)


def _backbone(config: ConfigDict) -> tuple[str, ...]:
    """A pattern of the ViT's parameters where config.optim.train leaves them as they start."""
    return (BACKBONE,) if is_backbone_frozen(config) else ()
