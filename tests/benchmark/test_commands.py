"""Commands answer a wrong flag without waiting for JAX."""

from __future__ import annotations

import subprocess
import sys

CODE = """
import sys
from jaxdet.benchmark import ablation, complexity, sweep

assert [command.main(["--fly"]) for command in (ablation, complexity, sweep)] == [2, 2, 2]
assert "jax" not in sys.modules
"""


def test_a_wrong_flag_is_answered_without_jax():
    done = subprocess.run([sys.executable, "-c", CODE], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("error: ") == 3
