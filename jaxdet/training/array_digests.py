"""Checksums of the arrays of a checkpoint, by which values that changed on the disk are noticed.

A sharded array has one for each part that lay on a device of its own; it is checked however it is
sharded when it comes back.
"""

from __future__ import annotations

import os
import zlib
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import jax
import numpy as np

from jaxdet import parallel
from jaxdet.models.build import Tree
from jaxdet.models.paths import leaves_by_name

Digests = dict[str, dict[str, Any]]
"""By an array's name {"dtype": ..., "shape": [...], "checksums": {part: checksum}}, as JSON values.
A part is a box of the array, such as "0:64,0:32". Checkpoints of the last version say "crc32"."""

BLOCK = 8 * 1024
"""Bytes that are added up before anything slower is done with them."""


def digests_of(trees: Mapping[str, Tree]) -> Digests:
    """Of all arrays of some trees; every process must ask for them."""
    arrays = leaves_by_name(dict(trees))
    for array in arrays.values():
        if isinstance(array, jax.Array):
            array.copy_to_host_async()
    ours = [(name, box, part) for name, array in arrays.items() for box, part in _own_parts(array)]
    checksums = _checksums(part for _, _, part in ours)
    found = {
        name: {"dtype": str(array.dtype), "shape": [*array.shape], "checksums": {}}
        for name, array in arrays.items()
    }
    known = [[name, box, value] for (name, box, _), value in zip(ours, checksums, strict=True)]
    for name, box, value in parallel.gather(known):
        found[name]["checksums"][box] = value
    return found


def misfit(digests: Digests, target: Mapping[str, Tree]) -> str | None:
    """The first array in which the stored trees are not like the target's, and how; else None.

    Args:
        target: arrays or their shapes; of the stored trees, those that it lacks do not count.
    """
    wanted = leaves_by_name(dict(target))
    stored = {name for name in digests if name.partition(".")[0] in target}
    for name in sorted(stored | wanted.keys()):
        if name not in wanted:
            return f"it has {name}, which the config's model has not"
        if name not in stored:
            return f"it has no {name}"
        shape, given = tuple(digests[name]["shape"]), tuple(wanted[name].shape)
        if shape != given:
            return f"its {name} is {list(shape)}, not {list(given)}"
    return None


def damaged_arrays(digests: Digests, trees: Mapping[str, Tree]) -> list[str]:
    """Names of the arrays that are not what was stored; every process must ask, and gets all."""
    kind = "crc32" if any("crc32" in digest for digest in digests.values()) else "checksums"
    compared = [
        (name, digests[name][kind].get(box), part)
        for name, array in leaves_by_name(dict(trees)).items()
        if str(array.dtype) == digests[name]["dtype"]  # else it was converted on the way
        for box, part in _stored_parts(array, digests[name][kind])
    ]
    found = _checksums((part for _, _, part in compared), KINDS[kind])
    return sorted(
        set(
            parallel.gather(
                [
                    name
                    for (name, expected, _), value in zip(compared, found, strict=True)
                    if value != expected
                ]
            )
        )
    )


def _own_parts(array: jax.Array | np.ndarray) -> list[tuple[str, np.ndarray]]:
    """The parts of which this process has the first copy."""
    if isinstance(array, np.ndarray):
        return [(_box_name((slice(None),) * array.ndim, array.shape), array)]
    return [
        (_box_name(shard.index, array.shape), jax.device_get(shard.data))
        for shard in array.addressable_shards
        if shard.replica_id == 0
    ]


def _stored_parts(
    array: jax.Array | np.ndarray, boxes: Iterable[str]
) -> list[tuple[str, np.ndarray]]:
    """The parts that were stored, or of several processes' alike sharded arrays this one's."""
    boxes = [*boxes]
    is_split = isinstance(array, jax.Array) and not (
        array.is_fully_addressable or array.is_fully_replicated
    )
    if is_split:
        indices = array.sharding.devices_indices_map(array.shape).values()
        if {_box_name(index, array.shape) for index in indices} == set(boxes):
            return [
                (_box_name(shard.index, array.shape), jax.device_get(shard.data))
                for shard in array.addressable_shards
            ]
    host = parallel.to_host(array)
    return [(box, host[_index(box)]) for box in boxes]


def _box_name(index: tuple[slice, ...], shape: tuple[int, ...]) -> str:
    bounds = (part.indices(side) for part, side in zip(index, shape, strict=True))
    return ",".join(f"{start}:{stop}" for start, stop, _ in bounds)


def _index(box: str) -> tuple[slice, ...]:
    return tuple(slice(*map(int, side.split(":"))) for side in box.split(",") if side)


def _crc32(data: np.ndarray) -> int:
    return zlib.crc32(data)


def _checksum(data: np.ndarray) -> int:
    """The CRC-32 of the sums of blocks: several times as fast as that of all bytes."""
    whole = len(data) // BLOCK * BLOCK
    sums = data[:whole].view(np.uint64).reshape(-1, BLOCK // 8).sum(axis=1)
    return zlib.crc32(data[whole:], zlib.crc32(sums))


KINDS = {"crc32": _crc32, "checksums": _checksum}


def _checksums(
    parts: Iterable[np.ndarray], checksum: Callable[[np.ndarray], int] = _checksum
) -> list[int]:
    """Side by side: NumPy and zlib let other threads run."""

    def of_part(part: np.ndarray) -> int:
        return checksum(np.ascontiguousarray(part).reshape(-1).view(np.uint8))

    with ThreadPoolExecutor(os.cpu_count()) as threads:
        return [*threads.map(of_part, parts)]
