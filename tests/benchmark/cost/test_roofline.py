"""FLOPs, bytes and rounds of small programs, against arithmetic by hand."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest

from jaxdet.benchmark.cost import hlo
from jaxdet.benchmark.cost.devices import Accelerator
from jaxdet.benchmark.cost.roofline import Collective, Share, roofline

DEVICE = Accelerator("toy", "toy", 1e12, 1e9, 1e9, 1e8, "of this test")


def found_in(text: str, devices: int = 1):
    return roofline(hlo.parse(text), DEVICE, devices)


def compiled(function, *shapes, donate=()) -> Share:
    arguments = [jax.ShapeDtypeStruct(*shape) for shape in shapes]
    program = jax.jit(function, donate_argnums=donate).lower(*arguments).compile()
    return found_in(program.as_text()).total


def test_a_matrix_product():
    share = compiled(jnp.dot, ((32, 64), jnp.float32), ((64, 16), jnp.float32))
    assert share.flops == 2 * 32 * 64 * 16
    assert share.bytes == 4 * (32 * 64 + 64 * 16 + 32 * 16)
    assert share.seconds == pytest.approx(share.bytes / 1e9)


def test_a_loop_counts_as_often_as_it_runs():
    def chain(x, factors):
        return jax.lax.scan(lambda x, factor: (x @ factor, None), x, factors)[0]

    share = compiled(chain, ((32, 64), jnp.float32), ((7, 64, 64), jnp.float32))
    assert share.flops == 7 * 2 * 32 * 64 * 64
    # Each round reads one factor, which is first sliced out, and copies what it carries on.
    least, factor, carried = 7 * 4 * (64 * 64 + 2 * 32 * 64), 4 * 64 * 64, 4 * 32 * 64
    assert least <= share.bytes <= least + 7 * 2 * factor + 8 * 2 * carried + 1000


def test_what_is_updated_in_place_moves_what_it_touches():
    def add(table, index, rows):
        return table.at[index].add(rows, mode="promise_in_bounds", unique_indices=True)

    table = ((100_000, 64), jnp.float32)
    share = compiled(add, table, ((10,), jnp.int32), ((10, 64), jnp.float32), donate=0)
    assert share.flops == 0
    assert share.bytes < 100_000

    def put(table, row):
        return jax.lax.dynamic_update_slice(table, row, (3, 0))

    share = compiled(put, table, ((1, 64), jnp.float32), donate=0)
    assert 2 * 4 * 64 <= share.bytes < 4000


def test_what_is_gathered_moves_what_it_touches():
    share = compiled(
        lambda table, index: table.at[index].get(mode="promise_in_bounds"),
        ((100_000, 64), jnp.float32),
        ((10,), jnp.int32),
    )
    assert 2 * 10 * 64 * 4 <= share.bytes < 3 * 10 * 64 * 4


def test_a_convolution_counts_what_lies_inside_the_image():
    def convolve(image, kernel):
        return jax.lax.conv_general_dilated(
            image, kernel, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )

    share = compiled(convolve, ((2, 8, 8, 3), jnp.float32), ((3, 3, 3, 5), jnp.float32))
    assert share.flops == 2 * 2 * 3 * 5 * (3 * 8 - 2) ** 2


GPU = """HloModule jit_step

%cond (c: (s32[], f32[8])) -> pred[] {
  %c = (s32[], f32[8]{0}) parameter(0)
  %limit = s32[] constant(3)
  %i = s32[] get-tuple-element(%c), index=0
  ROOT %lt = pred[] compare(%i, %limit), direction=LT
}

%body (b: (s32[], f32[8])) -> (s32[], f32[8]) {
  %b = (s32[], f32[8]{0}) parameter(0)
  %j = s32[] get-tuple-element(%b), index=0
  %v = f32[8]{0} get-tuple-element(%b), index=1
  %next = f32[8]{0} negate(%v), metadata={op_name="jit(step)/jvp(matching)/while/body/neg"}
  ROOT %carry = (s32[], f32[8]{0}) tuple(%j, %next)
}

ENTRY %main (q: bf16[2,64,4,16], k: bf16[2,64,4,16], w: bf16[32,16], x: bf16[8,32], g: f32[8]) -> f32[8] {
  %q = bf16[2,64,4,16]{3,2,1,0} parameter(0)
  %k = bf16[2,64,4,16]{3,2,1,0} parameter(1)
  %w = bf16[32,16]{1,0} parameter(2)
  %x = bf16[8,32]{1,0} parameter(3)
  %g = f32[8]{0} parameter(4)
  %zero = s32[] constant(0)
  %attention = (bf16[2,64,4,16]{3,2,1,0}, u8[4096]{0}) custom-call(%q, %k, %k), custom_call_target="__cudnn$fmhaSoftmax", metadata={op_name="jit(step)/jvp(backbone)/attention/x"}, backend_config={"cudnn_fmha_backend_config":{"intermediate_tensor_shape":{"dimensions":["2","4","64","64"]}}}
  %product = (bf16[8,16]{1,0}, s8[33554432]{0}) custom-call(%x, %w), custom_call_target="__cublas$lt$matmul", metadata={op_name="jit(step)/transpose(jvp(heads))/dot"}, backend_config={"gemm_backend_config":{"dot_dimension_numbers":{"lhs_contracting_dimensions":["1"]}}}
  %start = f32[8]{0} all-reduce-start(%g), replica_groups={}, to_apply=%add, metadata={op_name="jit(step)/transpose(jvp(backbone))/add"}
  %done = f32[8]{0} all-reduce-done(%start)
  %tuple = (s32[], f32[8]{0}) tuple(%zero, %done)
  %loop = (s32[], f32[8]{0}) while(%tuple), condition=%cond, body=%body
  %kernel = f32[8]{0} custom-call(%g), custom_call_target="tpu_custom_call", backend_config={"custom_call_config":{}}
  ROOT %out = f32[8]{0} get-tuple-element(%loop), index=1
}
"""  # noqa: E501 lines are as long as the compiler makes them


def test_libraries_kernels_count_by_their_shapes_and_parts_by_their_scopes():
    found = found_in(GPU, devices=8)
    attention = found.parts["backbone attention"]
    assert attention.flops == 2 * (2 * 2 * 4 * 64 * 64 * 16)
    assert attention.bytes == 2 * 4 * (2 * 64 * 4 * 16)
    assert found.parts["heads"].flops == 2 * 8 * 16 * 32
    assert found.parts["heads"].bytes == 2 * (8 * 32 + 32 * 16 + 8 * 16)


def test_a_loop_without_a_noted_count_has_its_condition_s():
    found = found_in(GPU)
    assert found.unknown_loops == 0
    assert found.parts["matching and sampling"].launches == 3
    assert found.parts["matching and sampling"].bytes == 3 * 2 * 32
    found = found_in(GPU.replace("direction=LT", "direction=NE"))
    assert found.unknown_loops == 1
    assert found.parts["matching and sampling"].launches == 1


def test_messages_are_listed_with_type_and_bytes():
    found = found_in(GPU, devices=8)
    assert found.collectives == {Collective("all-reduce", "f32"): (1, 32)}
    assert found.parts["backbone rest"].launches == 0
    sent = 2 * 32 * 7 / 8 / DEVICE.link
    assert found.parts["collectives"].seconds == pytest.approx(sent + 64 / DEVICE.bandwidth)


def test_a_kernel_that_does_not_say_what_it_computes_is_named():
    assert found_in(GPU).unknown_kernels == {"tpu_custom_call": 1}
    told = GPU.replace('call_config":{}', 'call_config":{"cost_estimate":{"flops":"1234"}}')
    assert found_in(told).unknown_kernels == {}
    assert found_in(told).parts["other"].flops == 1234


TPU = """HloModule jit_step

ENTRY %main (x: f32[1000,64], y: f32[10,64], i: s32[10]) -> f32[1000,64] {
  %x = f32[1000,64]{1,0} parameter(0)
  %y = f32[10,64]{1,0:T(8,128)S(1)} parameter(1)
  %i = s32[10]{0} parameter(2)
  %slice = f32[10,64]{1,0:T(8,128)S(1)} slice(%x), slice={[0:10], [0:64]}, metadata={op_name="rpn"}
  %sum = f32[10,64]{1,0:T(8,128)S(1)} add(%slice, %y), metadata={op_name="heads"}
  %copy-start = (f32[10,64]{1,0}, f32[10,64]{1,0:T(8,128)S(1)}, u32[]{:S(2)}) copy-start(%sum), metadata={op_name="pyramid"}
  %copy-done = f32[10,64]{1,0} copy-done(%copy-start)
  ROOT %scatter = f32[1000,64]{1,0} scatter(%x, %i, %copy-done), to_apply=%add, metadata={op_name="optimizer"}
}
"""  # noqa: E501 lines are as long as the compiler makes them


def test_what_is_kept_on_the_chip_is_free():
    parts, rows = found_in(TPU).parts, 4 * 10 * 64
    assert parts["RPN"].bytes == rows  # read alone
    assert parts["heads"].bytes == 0
    assert parts["pyramid"].bytes == rows  # written alone
    # Indices and rows are read, and of the table as many rows are read and written.
    assert parts["optimizer"].bytes == 4 * 10 + 3 * rows
