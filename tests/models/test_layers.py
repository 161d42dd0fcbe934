"""The shared layers against PyTorch's, and what masking, sharding and chance must not change."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from jaxdet.models.layers import (
    BatchNorm,
    ConvNorm,
    GroupNorm,
    LayerNorm,
    Upsample2x,
    c2_msra,
    c2_xavier,
    drop_path,
    kept_branches,
    normal,
)

CHANNELS = 5


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(0)


def some_batch_norm(rng: np.random.Generator) -> BatchNorm:
    """A batch norm none of whose arrays is what it is initialised with."""
    norm = BatchNorm(CHANNELS)
    norm.scale[...] = jnp.asarray(rng.uniform(0.5, 2.0, CHANNELS), jnp.float32)
    norm.bias[...] = jnp.asarray(rng.normal(size=CHANNELS), jnp.float32)
    norm.mean[...] = jnp.asarray(rng.normal(size=CHANNELS), jnp.float32)
    norm.var[...] = jnp.asarray(rng.uniform(0.5, 2.0, CHANNELS), jnp.float32)
    return norm


def maps(rng: np.random.Generator, rows: int = 16) -> np.ndarray:
    scale, offset = rng.uniform(0.5, 3.0, CHANNELS), 4 * rng.normal(size=CHANNELS)
    return (rng.normal(size=(rows, 3, 4, CHANNELS)) * scale + offset).astype(np.float32)


def running(norm: BatchNorm) -> tuple[np.ndarray, np.ndarray]:
    return np.asarray(norm.mean[...]), np.asarray(norm.var[...])


def nchw(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(x.transpose(0, 3, 1, 2))


def nhwc(x) -> np.ndarray:
    return x.detach().numpy().transpose(0, 2, 3, 1)


def copy_into(torch, parameter, value) -> None:
    with torch.no_grad():
        parameter.copy_(torch.from_numpy(np.array(value)))


def torch_batch_norm(torch, norm: BatchNorm):
    layer = torch.nn.BatchNorm2d(norm.scale[...].shape[0])
    for parameter, value in (
        (layer.weight, norm.scale),
        (layer.bias, norm.bias),
        (layer.running_mean, norm.mean),
        (layer.running_var, norm.var),
    ):
        copy_into(torch, parameter, value[...])
    return layer


def test_batch_norm_equals_pytorch(rng):
    torch = pytest.importorskip("torch")
    norm = some_batch_norm(rng)
    layer = torch_batch_norm(torch, norm)
    for _ in range(3):
        x = maps(rng, rows=2)
        expected = nhwc(layer(torch.from_numpy(nchw(x))))
        np.testing.assert_allclose(norm(jnp.asarray(x), train=True), expected, atol=1e-5)
        for ours, theirs in zip(
            running(norm), (layer.running_mean, layer.running_var), strict=True
        ):
            np.testing.assert_allclose(ours, theirs.numpy(), rtol=1e-5, atol=1e-6)

    x = maps(rng)
    expected = nhwc(layer.eval()(torch.from_numpy(nchw(x))))
    before = running(norm)
    np.testing.assert_allclose(norm(jnp.asarray(x), train=False), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_array_equal(running(norm), before)


def test_batch_norm_gradients_equal_pytorch(rng):
    torch = pytest.importorskip("torch")
    norm = some_batch_norm(rng)
    layer = torch_batch_norm(torch, norm)
    x, weight = maps(rng, rows=2), maps(rng, rows=2)
    x_torch = torch.from_numpy(nchw(x)).requires_grad_()
    (layer(x_torch) * torch.from_numpy(nchw(weight))).sum().backward()

    graph, params, stats = nnx.split(norm, nnx.Param, nnx.BatchStat)

    def total(params, x):
        return (nnx.merge(graph, params, stats, copy=True)(x, train=True) * weight).sum()

    gradients, by_x = jax.grad(total, argnums=(0, 1))(params, jnp.asarray(x))
    np.testing.assert_allclose(by_x, nhwc(x_torch.grad), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients["scale"][...], layer.weight.grad, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(gradients["bias"][...], layer.bias.grad, rtol=1e-4, atol=1e-4)


def test_batch_norm_counts_valid_rows_only(rng):
    x = maps(rng)
    valid = rng.random(len(x)) < 0.5
    assert 2 < valid.sum() < 14
    masked, alone = (
        some_batch_norm(np.random.default_rng(1)),
        some_batch_norm(np.random.default_rng(1)),
    )
    y = masked(jnp.asarray(x), train=True, valid=jnp.asarray(valid))
    expected = alone(jnp.asarray(x[valid]), train=True)
    np.testing.assert_allclose(y[valid], expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(running(masked), running(alone), rtol=1e-5, atol=1e-6)


def test_batch_norm_ignores_what_padded_rows_hold(rng):
    x = maps(rng)
    valid = jnp.asarray(np.arange(len(x)) % 3 > 0)
    other = np.where(valid[:, None, None, None], x, 1e4 * rng.normal(size=x.shape))
    results = []
    for content in (x, other.astype(np.float32)):
        norm = some_batch_norm(np.random.default_rng(1))
        y = norm(jnp.asarray(content), train=True, valid=valid)
        results.append((y[valid], *running(norm)))
    for one, two in zip(*results, strict=True):
        np.testing.assert_array_equal(one, two)


def test_batch_norm_without_a_valid_row(rng):
    norm = some_batch_norm(rng)
    graph, params, stats = nnx.split(norm, nnx.Param, nnx.BatchStat)

    def total(params, x):
        bound = nnx.merge(graph, params, stats, copy=True)
        y = bound(x, train=True, valid=jnp.zeros(len(x), bool))
        return jnp.square(y).sum(), (y, bound.mean[...], bound.var[...])

    gradients, (y, *after) = jax.grad(total, argnums=(0, 1), has_aux=True)(
        params, jnp.asarray(maps(rng))
    )
    np.testing.assert_array_equal(after, running(norm))
    assert np.isfinite(y).all()
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(gradients))


def test_batch_norm_is_one_over_all_devices(rng):
    """As SyncBN: each device's rows have statistics of their own, and none are used."""
    devices = np.array(jax.devices())
    assert len(devices) == 8
    x = maps(rng) + 10.0 * np.arange(16, dtype=np.float32)[:, None, None, None]
    valid = np.arange(16) % 5 > 0
    graph, state = nnx.split(some_batch_norm(rng))

    @jax.jit
    def call(x, valid):
        norm = nnx.merge(graph, state, copy=True)
        return norm(x, train=True, valid=valid), norm.mean[...], norm.var[...]

    sharding = NamedSharding(Mesh(devices, ("data",)), PartitionSpec("data"))
    spread = call(jax.device_put(x, sharding), jax.device_put(valid, sharding))
    assert len(spread[0].addressable_shards) == 8
    for one, two in zip(spread, call(x, valid), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("dtype", "offset"), [(jnp.float32, 2000.0), (jnp.bfloat16, 200.0)])
def test_batch_norm_statistics_far_from_zero(rng, dtype, offset):
    """Statistics in one pass or in bfloat16 would lose the variance."""
    x = jnp.asarray(rng.normal(size=(64, 4, 4, CHANNELS)) + offset, dtype)
    norm = BatchNorm(CHANNELS)
    assert norm(x, train=True).dtype == dtype
    exact = np.asarray(x.astype(jnp.float32), np.float64).reshape(-1, CHANNELS)
    mean, var = running(norm)
    np.testing.assert_allclose(mean, 0.1 * exact.mean(0), rtol=1e-5)
    np.testing.assert_allclose(var, 0.9 + 0.1 * exact.var(0, ddof=1), rtol=1e-4)


@pytest.mark.parametrize("activation", [False, True])
@pytest.mark.parametrize("kernel", [1, 3])
def test_conv_norm_equals_pytorch(rng, kernel, activation):
    torch = pytest.importorskip("torch")
    ours = ConvNorm(
        CHANNELS,
        7,
        kernel,
        norm="batch",
        activation=activation,
        kernel_init=normal(1.0),
        dtype=jnp.float32,
        rngs=nnx.Rngs(0),
    )
    assert ours.conv.bias is None
    theirs = torch.nn.Sequential(
        torch.nn.Conv2d(CHANNELS, 7, kernel, padding=kernel // 2, bias=False),
        torch.nn.BatchNorm2d(7),
        torch.nn.ReLU() if activation else torch.nn.Identity(),
    )
    copy_into(torch, theirs[0].weight, ours.conv.kernel[...].transpose(3, 2, 0, 1))
    x = maps(rng)
    for train in (True, False):
        theirs.train(train)
        expected = nhwc(theirs(torch.from_numpy(nchw(x))))
        assert (expected < 0).any() != activation
        np.testing.assert_allclose(ours(jnp.asarray(x), train=train), expected, atol=1e-4)


def test_conv_norm_passes_validity_on(rng):
    def output(valid):
        layer = ConvNorm(
            CHANNELS,
            7,
            3,
            norm="batch",
            activation=False,
            kernel_init=normal(1.0),
            dtype=jnp.float32,
            rngs=nnx.Rngs(0),
        )
        return layer(x, train=True, valid=valid)

    x = jnp.asarray(maps(rng))
    half = jnp.arange(len(x)) < 8
    np.testing.assert_allclose(output(half)[:8].mean((0, 1, 2)), 0.0, atol=1e-5)
    assert abs(output(None)[:8].mean((0, 1, 2))).max() > 1e-2


def test_upsample_equals_pytorch(rng):
    torch = pytest.importorskip("torch")
    ours = Upsample2x(CHANNELS, 3, kernel_init=normal(1.0), dtype=jnp.float32, rngs=nnx.Rngs(0))
    ours.bias[...] = jnp.asarray(rng.normal(size=3), jnp.float32)
    theirs = torch.nn.ConvTranspose2d(CHANNELS, 3, 2, stride=2)
    copy_into(torch, theirs.weight, ours.kernel[...].transpose(0, 3, 1, 2))
    copy_into(torch, theirs.bias, ours.bias[...])
    x = maps(rng, rows=2)
    y = ours(jnp.asarray(x))
    assert y.shape == (2, 6, 8, 3)
    np.testing.assert_allclose(y, nhwc(theirs(torch.from_numpy(nchw(x)))), rtol=1e-4, atol=1e-4)


def test_norms_equal_pytorch(rng):
    torch = pytest.importorskip("torch")
    x = rng.normal(size=(2, 3, 4, 12)).astype(np.float32) * 1e-2
    torch_x = torch.from_numpy(nchw(x))
    ours = GroupNorm(12, num_groups=4, rngs=nnx.Rngs(0))(jnp.asarray(x))
    np.testing.assert_allclose(ours, nhwc(torch.nn.GroupNorm(4, 12)(torch_x)), atol=1e-5)
    ours = LayerNorm(12, rngs=nnx.Rngs(0))(jnp.asarray(x))
    theirs = torch.nn.LayerNorm(12, eps=1e-6)(torch.from_numpy(x))
    np.testing.assert_allclose(ours, theirs.detach().numpy(), atol=1e-5)


def test_initialisers_have_detectron2s_spread():
    shape = (3, 3, 64, 128)
    msra = c2_msra(jax.random.key(0), shape)
    np.testing.assert_allclose(msra.std(), np.sqrt(2 / (9 * 128)), rtol=0.01)
    xavier = c2_xavier(jax.random.key(0), shape)
    limit = np.sqrt(3 / (9 * 64))
    np.testing.assert_allclose([xavier.min(), xavier.max()], [-limit, limit], rtol=1e-3)
    np.testing.assert_allclose(xavier.std(), limit / np.sqrt(3), rtol=0.01)
    cut_nowhere = normal(0.02)(jax.random.key(0), shape)
    np.testing.assert_allclose(cut_nowhere.std(), 0.02, rtol=0.01)
    assert abs(cut_nowhere).max() > 3.5 * 0.02


def test_drop_path_drops_whole_samples_and_keeps_the_mean():
    rate, samples = 0.25, 4000

    def kept(seed):
        keys = jax.random.split(jax.random.key(seed), samples)
        return kept_branches(keys, [0.0, rate])[1, 0]

    x = jnp.arange(1.0, 7.0).reshape(1, 2, 3).repeat(samples, 0)
    y = np.asarray(drop_path(x, rate, kept(0)))
    np.testing.assert_array_equal(y[:, 0, 0] > 0, kept(0))
    np.testing.assert_allclose(y[kept(0)], x[kept(0)] / (1 - rate), rtol=1e-6)
    assert not y[~kept(0)].any()
    # Five standard deviations of the mean of so many samples.
    assert abs(kept(0).mean() - (1 - rate)) < 5 * np.sqrt(rate * (1 - rate) / samples)
    assert (y != drop_path(x, rate, kept(1))).any()


def test_branches_are_drawn_image_by_image_and_block_by_block():
    keys = jax.random.split(jax.random.key(0), 3)
    rates = [0.0, 0.5, 0.3, 0.7]
    kept = np.asarray(kept_branches(keys, rates))
    for image, key in enumerate(keys):
        for block, rate in enumerate(rates):
            for branch, of_branch in enumerate(jax.random.split(jax.random.fold_in(key, block))):
                alone = jax.random.bernoulli(of_branch, 1 - rate)
                assert kept[block, branch, image] == alone
    assert kept[0].all()


def test_drop_path_does_nothing_in_evaluation_or_at_rate_zero():
    x = jnp.linspace(0.0, 1.0, 64).reshape(32, 2).astype(jnp.bfloat16)
    kept = jnp.arange(len(x)) % 2 == 0
    assert drop_path(x, 0.9, None) is x
    np.testing.assert_array_equal(drop_path(x, 0.0, kept), x)
    assert drop_path(x, 0.5, kept).dtype == jnp.bfloat16
