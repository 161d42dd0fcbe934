"""Devices that a program can be compiled for without being there: their names and compilers.

XLA's compilers for NVIDIA GPUs and for TPUs come as Python packages and ask for no device.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any, NamedTuple

from jaxdet.benchmark.cost.devices import ACCELERATORS, Accelerator
from jaxdet.errors import UserError

_GPUS = {
    "a100": "fpus_per_core: 64 shared_memory_per_core: 167936 core_count: 108 "
    "l2_cache_size: 41943040 clock_rate_ghz: 1.41 device_memory_size: 85100068864 "
    "shared_memory_per_block_optin: 166912 cuda_compute_capability { major: 8 }",
    "h100": "fpus_per_core: 128 shared_memory_per_core: 233472 core_count: 132 "
    "l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 84929347584 "
    "shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }",
    "h200": "fpus_per_core: 128 shared_memory_per_core: 233472 core_count: 132 "
    "l2_cache_size: 52428800 clock_rate_ghz: 1.98 device_memory_size: 151397597184 "
    "shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 9 }",
    "b200": "fpus_per_core: 128 shared_memory_per_core: 233472 core_count: 148 "
    "l2_cache_size: 132644864 clock_rate_ghz: 1.965 device_memory_size: 191514411008 "
    "shared_memory_per_block_optin: 232448 cuda_compute_capability { major: 10 }",
}
"""What XLA's compiler wants to know of each GPU beside what all have alike, as it reports it
itself (openxla/xla, xla/backends/gpu/target_config/specs)."""

_ALL_GPUS = (
    "threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152 "
    "threads_per_core_limit: 2048 block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 "
    "block_dim_limit_z: 65535 registers_per_core_limit: 65536 registers_per_block_limit: 65536"
)

_VERSIONS = "dnn_version_info { major: 9 minor: 8 } runtime_version { major: 12 minor: 8 patch: 0 }"
"""Of cuDNN and CUDA, which choose kernels."""

GPUS_A_HOST = 8

_TPU_TOPOLOGIES = {
    "v5e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16"},
    "v6e": {1: "1x1", 4: "2x2", 8: "2x4", 16: "4x4", 32: "4x8", 64: "8x8", 128: "8x16"},
    "v5p": {4: "2x2x1", 8: "2x2x2", 16: "2x2x4", 32: "2x4x4", 64: "4x4x4", 128: "4x4x8"},
}
"""By number of chips."""

_CORES_A_CHIP = {"v5p": 2}
"""Of the TPUs whose slices are named by cores: v5p-64 has 32 chips, each of them one device."""

PLATFORMS = {
    "cuda": ("plan-gpu", ("jax_plugins.xla_cuda12", "jax_plugins.xla_cuda13")),
    "tpu": ("plan-tpu", ("libtpu",)),
}
"""The extra of each compiler, and modules of which one is the compiler."""


class Target(NamedTuple):
    """Devices to compile for.

    Attributes:
        name: as the user wrote it.
        platform: "cuda" or "tpu".
        count: how many devices.
        topology: how they are connected, as the platform's compiler writes it.
    """

    name: str
    platform: str
    accelerator: Accelerator
    count: int
    topology: str


def parse_target(name: str) -> Target:
    """Reads "h100", "h100x8" (that many cards), "v5e-8" (a slice, named as Google does).

    Raises:
        UserError: there are no such devices, or no slice of that size.
    """
    found = re.fullmatch(r"(?:([a-z]+\d+)(?:x(\d+))?|(v\d+[ep]?)-(\d+))", name)
    kind, count = (found[1] or found[3], int(found[2] or found[4] or 1)) if found else ("", 0)
    if kind in _GPUS and found[3] is None:
        hosts, rest = divmod(count, GPUS_A_HOST)
        if count < 1 or (count > GPUS_A_HOST and rest):
            raise UserError(
                f"--device={name} must have 1 to {GPUS_A_HOST} cards, or a multiple of "
                f"{GPUS_A_HOST}"
            )
        shape = f"1x1x{count}" if count <= GPUS_A_HOST else f"1x{hosts}x{GPUS_A_HOST}"
        return Target(name, "cuda", _accelerator(kind), count, shape)
    if kind in _TPU_TOPOLOGIES and found[4] is not None:
        cores, topologies = _CORES_A_CHIP.get(kind, 1), _TPU_TOPOLOGIES[kind]
        chips = count // cores
        if count % cores or chips not in topologies:
            sizes = ", ".join(f"{kind}-{cores * size}" for size in topologies)
            raise UserError(f"--device={name} must be one of {sizes}")
        topology = f"{kind}:{topologies[chips]}"
        return Target(name, "tpu", _accelerator(kind), chips, topology)
    raise UserError(
        f"--device={name} must be one of {', '.join(_GPUS)}, with x8 for eight of them, or a slice "
        f"of {', '.join(_TPU_TOPOLOGIES)}, such as v5e-8"
    )


def with_facts(target: Target, memory_gb: float | None, peak_tflops: float | None) -> Target:
    """The target with the user's facts of a device in place of its maker's.

    Args:
        memory_gb: 10^9 bytes.
        peak_tflops: 10^12 FLOP/s.
    """
    facts = {}
    if memory_gb is not None:
        facts["memory_bytes"] = 1e9 * memory_gb
    if peak_tflops is not None:
        facts["peak_flops"] = 1e12 * peak_tflops
    return target._replace(accelerator=target.accelerator._replace(**facts))


def require_compiler(target: Target) -> None:
    """Raises UserError unless the packages are there that compile for a target."""
    extra, modules = PLATFORMS[target.platform]
    if not any(_is_installed(name) for name in modules):
        raise UserError(
            f"--device={target.name} needs the compiler of these devices, though not the devices: "
            f"pip install 'jaxdet[{extra}]'"
        )


def prepare_environment(target: Target) -> None:
    """Sets what the compilers read from the environment; call it before JAX looks for devices.

    JAX itself is kept on the CPU. A TPU's compiler must not look for the machine it is on.
    """
    os.environ["JAX_PLATFORMS"] = "cpu"
    if target.platform == "tpu":
        os.environ.update(
            TPU_SKIP_MDS_QUERY="1",
            TPU_ACCELERATOR_TYPE="v5litepod-8",
            TPU_WORKER_HOSTNAMES="localhost",
            TPU_WORKER_ID="0",
            ALLOW_MULTIPLE_LIBTPU_LOAD="1",
        )


def absent_devices(target: Target) -> list[Any]:
    """JAX's devices of a target, good for compiling alone."""
    from jax.experimental import topologies  # late: takes jax along

    if target.platform == "tpu":
        options = {"topology_name": target.topology}
        if target.count == 1:
            options["chips_per_host_bounds"] = [1, 1, 1]
    else:
        options = {"target_config": _gpu_text(target), "topology": target.topology}
    return topologies.get_topology_desc(platform=target.platform, **options).devices


def compiler_options(target: Target) -> dict[str, bool | int]:
    """What the compiler is told, since it cannot try kernels on a device."""
    if target.platform == "tpu":
        return {}
    return {"xla_gpu_autotune_level": 0, "xla_gpu_enable_triton_gemm": False}


def _accelerator(name: str) -> Accelerator:
    return next(one for one in ACCELERATORS if one.name == name)


def _is_installed(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # not even its parent package
        return False


def _gpu_text(target: Target) -> str:
    """A GpuTargetConfigProto in protobuf's text format."""
    device = target.accelerator
    return (
        f"gpu_device_info {{ {_ALL_GPUS} {_GPUS[device.name]} "
        f"memory_bandwidth: {int(device.bandwidth)} }} "
        f'platform_name: "CUDA" {_VERSIONS} device_description_str: "{device.kind}"'
    )
