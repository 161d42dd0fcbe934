"""The part of the detector that an instruction's scopes name."""

from __future__ import annotations

import pytest

from jaxdet.benchmark.cost.parts import part_of


@pytest.mark.parametrize(
    ("op_name", "part"),
    [
        ("jit(step)/jvp(backbone)/dot_general", "backbone rest"),
        ("jit(step)/transpose(jvp(backbone))/attention/dot_general", "backbone attention"),
        ("jit(step)/jvp(heads)/attention/dot_general", "heads"),
        ("jit(step)/jvp(roi_align)/vmap()/gather", "RoIAlign forward"),
        ("jit(step)/transpose(jvp(roi_align))/vmap()/scatter-add", "RoIAlign backward"),
        ("jit(step)/jvp(matching)/while/body/xor", "matching and sampling"),
        ("jit(step)/optimizer/mul", "optimizer"),
        ("jit(step)/jit(dot_product_attention)/mul", "other"),
        ("", "other"),
    ],
)
def test_scopes_name_parts(op_name, part):
    assert part_of(op_name) == part
