"""The text of compiled programs, as XLA's compilers for CPUs, GPUs and TPUs write it."""

from __future__ import annotations

from jaxdet.benchmark.cost.hlo import Shape, bits_of, elements, parse

TPU = """HloModule jit_step, is_scheduled=true, entry_computation_layout={(f32[8,128]{1,0})->f32[]}

FileNames
1 "step.py"

%fused (p: bf16[8,128], q: f32[128]) -> (bf16[8,128], f32[128]) {
  %p = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} parameter(0)
  %q = f32[128]{0:T(128)} parameter(1)
  ROOT %both = (bf16[8,128]{1,0:T(8,128)(2,1)}, f32[128]{0:T(128)}) tuple(%p, %q)
}

ENTRY %main.2 (x.1: bf16[8,128], y: f32[128]) -> (bf16[8,128], f32[128]) {
  %y = f32[128]{0:T(128)} parameter(1), metadata={op_name="state['params'][\\'a\\']"}
  %x.1 = bf16[8,128]{1,0:T(8,128)(2,1)} parameter(0)
  %copy-start = (bf16[8,128]{1,0:T(8,128)(2,1)S(1)}, bf16[8,128]{1,0}, u32[]{:S(2)}) copy-start(%x.1)
  %copy-done = bf16[8,128]{1,0:T(8,128)(2,1)S(1)} copy-done(%copy-start)
  ROOT %f = (bf16[8,128]{1,0}, /*index=1*/f32[128]{0}) fusion(%copy-done, %y), kind=kLoop, calls=%fused, metadata={op_name="jit(step)/jvp(rpn)/add" stack_frame_id=4}, backend_config={"flag":true,"n":{"a":"1"}}
}
"""  # noqa: E501 lines are as long as the compiler makes them


def test_a_program_is_read():
    program = parse(TPU)
    entry = program.entry
    assert [*program.computations] == ["fused", "main.2"]
    assert [one.name for one in entry] == ["y", "x.1", "copy-start", "copy-done", "f"]
    assert [one.name for one in entry.parameters] == ["x.1", "y"]
    fusion = entry[entry.root]
    assert (fusion.opcode, fusion.operands) == ("fusion", ("copy-done", "y"))
    assert fusion.called == {"calls": ("fused",)}
    assert fusion.op_name == "jit(step)/jvp(rpn)/add"
    assert fusion.backend_config == {"flag": True, "n": {"a": "1"}}
    assert entry.operand(fusion, 1) is entry["y"]
    assert entry.users["x.1"] == [entry["copy-start"]]


def test_shapes_are_read_with_where_they_live():
    entry = parse(TPU).entry
    assert entry["y"].results == (Shape("f32", (128,)),)
    assert entry["copy-done"].results == (Shape("bf16", (8, 128), on_chip=True),)
    destination, source, context = elements(entry["copy-start"].shape)
    assert destination == "bf16[8,128]{1,0:T(8,128)(2,1)S(1)}"
    assert (source, context) == ("bf16[8,128]{1,0}", "u32[]{:S(2)}")
    assert elements(entry["f"].shape)[1] == "f32[128]{0}"
    assert elements("f32[2]{0}") == ["f32[2]{0}"]
    assert Shape("bf16", (8, 128)).bytes == 2048
    assert Shape("s32", ()).bytes == 4


def test_types_have_their_bits():
    sizes = {"pred": 8, "bf16": 16, "f8e4m3fn": 8, "u4": 4, "c64": 64, "token": 0}
    assert {name: bits_of(name) for name in sizes} == sizes
