"""One training step: losses and gradients of a batch, and what they change."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, PartitionSpec
from jax.typing import DTypeLike

from jaxdet import parallel
from jaxdet.models.batching import split_microbatches
from jaxdet.models.build import StatelessModel, Tree, batch_stats
from jaxdet.models.paths import path_name
from jaxdet.training.data_parallel import over_devices
from jaxdet.training.optim import is_frozen

State = dict[str, Any]
"""What a step changes: {"params", "stats", "opt_state", "step"}, nested plain dictionaries."""

Metrics = dict[str, jax.Array]
TrainStep = Callable[[State, dict[str, jax.Array], jax.Array], tuple[State, Metrics]]


def initial_state(
    stateless: StatelessModel, optimizer: optax.GradientTransformation, key: jax.Array
) -> State:
    """A fresh run's state with random parameters; call it under `jax.jit`."""
    params, stats = stateless.init(key)
    return {
        "params": params,
        "stats": stats,
        "opt_state": optimizer.init(params),
        "step": jnp.int32(0),
    }


def gradient_function(
    stateless: StatelessModel,
    *,
    accumulate: int = 1,
    batch_statistics: str = "batch",
    frozen: Sequence[str] = (),
) -> Callable[[Tree, Tree, dict[str, jax.Array], jax.Array], tuple[Tree, Metrics, Tree]]:
    """(params, batch statistics, batch, keys of its images) -> (gradients, metrics, statistics).

    Args:
        accumulate: the batch is computed in so many microbatches, one after the other, to need less
            memory; loss and gradient are those of the whole batch.
        batch_statistics: what batch norm takes its statistics of then. "batch": of the whole batch,
            so that their number changes nothing but rounding; what lies between two batch
            norms is computed again for the gradient, and their inputs are kept for the whole batch.
            "microbatch": of each alone, in less time and memory; the running statistics pass from
            one to the next. A model without batch norm is exact either way, and needs neither.
        frozen: patterns of parameters whose gradient is zero, and is not computed, see
            `jaxdet.training.optim.is_frozen`.
    """
    has_statistics = bool(jax.tree.leaves(stateless.abstract[1]))
    inner = accumulate if has_statistics and batch_statistics == "batch" else 1
    outer = accumulate // inner

    def hold(path, leaf):
        return jax.lax.stop_gradient(leaf) if is_frozen(path_name(path), frozen) else leaf

    def differentiate(params, stats, batch, keys):
        def total_loss(params):
            model = stateless.bind(jax.tree_util.tree_map_with_path(hold, params), stats)
            losses, counts = model.losses(batch, keys, microbatches=inner)
            losses = with_total(losses)
            return losses["loss"], ({**losses, **counts}, batch_stats(model))

        gradients, (metrics, new_stats) = jax.grad(total_loss, has_aux=True)(params)
        return gradients, metrics, new_stats

    def differentiate_in_microbatches(params, stats, batch, keys):
        def visit(carry, microbatch):
            total, stats = carry
            gradients, metrics, stats = differentiate(params, stats, *microbatch)
            return (jax.tree.map(jnp.add, total, gradients), stats), metrics

        start = (jax.tree.map(jnp.zeros_like, params), stats)
        (total, stats), metrics = jax.lax.scan(
            visit, start, split_microbatches((batch, keys), outer)
        )
        gradients = jax.tree.map(lambda leaf: leaf / outer, total)
        return gradients, jax.tree.map(lambda leaf: leaf.mean(0), metrics), stats

    return differentiate if outer == 1 else differentiate_in_microbatches


def with_total(losses: Metrics) -> Metrics:
    """The losses and their sum, "loss", which training makes small."""
    return {"loss": sum(losses.values()), **losses}


def make_loss_function(
    stateless: StatelessModel, mesh: Mesh
) -> Callable[[Tree, Tree, dict[str, jax.Array], jax.Array], tuple[Metrics, jax.Array]]:
    """Compiled: (params, batch statistics, batch, key) -> (losses of a batch, share of real rows).

    They are those of a training step that is not computed in microbatches, but for drop path: batch
    norm takes the statistics of the whole batch, over all devices, and RoIs are sampled, by the
    key. Rows whose "is_real" is False enter batch norm, and the losses as zeros: divided by the
    share, these are means over the real rows.
    """

    def on_one_device(params, stats, batch, keys):
        weights = batch["is_real"].astype(jnp.float32)
        model = stateless.bind(params, stats)
        losses, _ = model.losses(batch, keys, drop_path=False, weights=weights)
        return jax.lax.pmean((with_total(losses), weights.mean()), parallel.BATCH_AXIS)

    whole, split = PartitionSpec(), PartitionSpec(parallel.BATCH_AXIS)
    over_mesh = jax.shard_map(
        on_one_device,
        mesh=mesh,
        in_specs=(whole, whole, split, split),
        out_specs=whole,
        check_vma=False,
    )

    def losses(params, stats, batch, key):
        return over_mesh(params, stats, batch, jax.random.split(key, len(batch["image"])))

    return jax.jit(losses, out_shardings=parallel.replicated(mesh))


def make_train_step(
    stateless: StatelessModel,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    accumulate: int = 1,
    batch_statistics: str = "batch",
    frozen: Sequence[str] = (),
    sharding: str = "replicated",
    reduce_dtype: DTypeLike = "float32",
) -> TrainStep:
    """The compiled step: (state, batch, run key) -> (new state, metrics).

    The old state's memory is reused. All randomness derives from the run key and the step number.
    Where the loss or the gradient is not finite, the step changes nothing but the step number.

    Args:
        accumulate, batch_statistics, frozen: see `gradient_function`.
        sharding: see `jaxdet.parallel.state_sharding`.
        reduce_dtype: see `jaxdet.training.data_parallel.over_devices`.

    Returns:
        The step. Its metrics are the losses, counts worth watching, the norm of the gradient, of
        all ("grad_norm") and by module ("grad_norm/backbone", ...), and "skipped", 1 where nothing
        changed.
    """
    shardings = parallel.state_sharding(mesh, abstract_state(stateless, optimizer), sharding)
    differentiate = over_devices(
        gradient_function(
            stateless, accumulate=accumulate, batch_statistics=batch_statistics, frozen=frozen
        ),
        mesh,
        shardings["params"],
        reduce_dtype=reduce_dtype,
        frozen=frozen,
    )

    def step(state: State, batch: dict[str, jax.Array], key: jax.Array) -> tuple[State, Metrics]:
        keys = jax.random.split(jax.random.fold_in(key, state["step"]), len(batch["image"]))
        gradients, metrics, stats = differentiate(state["params"], state["stats"], batch, keys)
        with jax.named_scope("optimizer"):
            updates, opt_state = optimizer.update(gradients, state["opt_state"], state["params"])
            params = optax.apply_updates(state["params"], updates)

            norms = {f"grad_norm/{name}": tree_norm(tree) for name, tree in gradients.items()}
            norm = jnp.sqrt(sum(jnp.square(value) for value in norms.values()))
            is_finite = jnp.isfinite(metrics["loss"]) & jnp.isfinite(norm)
            new = {"params": params, "stats": stats, "opt_state": opt_state}
            kept = jax.tree.map(
                lambda new, old: jnp.where(is_finite, new, old),
                new,
                {name: state[name] for name in new},
            )
            metrics |= {"grad_norm": norm, **norms, "skipped": 1.0 - is_finite}
        return {**kept, "step": state["step"] + 1}, metrics

    out_shardings = (shardings, parallel.replicated(mesh))
    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def tree_norm(tree: Tree) -> jax.Array:
    """The norm of all arrays of a tree together, by one reduction for all of a shape."""
    squares: dict[tuple[int, ...], jax.Array] = {}
    for leaf in jax.tree.leaves(tree):
        square = jnp.square(leaf)
        squares[leaf.shape] = squares[leaf.shape] + square if leaf.shape in squares else square
    return jnp.sqrt(sum(jnp.sum(square) for square in squares.values()))


def abstract_state(stateless: StatelessModel, optimizer: optax.GradientTransformation) -> State:
    """The shapes and dtypes of a run's state."""
    params, stats = stateless.abstract
    return {
        "params": params,
        "stats": stats,
        "opt_state": jax.eval_shape(optimizer.init, params),
        "step": jax.ShapeDtypeStruct((), jnp.int32),
    }
