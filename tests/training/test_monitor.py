"""A run's steps are read one behind, and what is not finite stops it or is counted."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxdet.errors import UserError
from jaxdet.training.monitor import Monitor


class Recorded:
    """In place of a progress bar."""

    def __init__(self):
        self.updates, self.notes = [], []

    def update(self, step, scalars):
        self.updates.append(step)

    def note(self, text):
        self.notes.append(text)


class Saved:
    """In place of checkpoints, of which the last is still being written."""

    folder, latest = Path("checkpoints"), None

    def wait(self):
        self.latest = 4


def step_metrics(skipped: float) -> dict[str, jax.Array]:
    loss = np.nan if skipped else 1.0
    values = {"loss": loss, "grad_norm": loss, "grad_norm/rpn": loss, "grad_norm/pyramid": 2.0}
    return {name: jnp.float32(value) for name, value in (values | {"skipped": skipped}).items()}


@pytest.mark.parametrize("rule", ["stop", "skip"])
def test_a_step_that_is_not_finite_is_reported_one_step_later(rule):
    checkpoints, progress = Saved(), Recorded()
    monitor = Monitor(
        checkpoints,
        None,
        progress,
        total_steps=9,
        log_every_steps=1,
        on_nonfinite=rule,
        scalars=lambda step: {},
    )
    monitor.add(5, np.arange(8), step_metrics(0.0))
    assert progress.updates == [], "the step under way must not be waited for"
    monitor.add(6, np.arange(100, 120), step_metrics(1.0))
    assert progress.updates == [5]
    stops = pytest.raises(UserError, match=r"checkpoints/4 is the last checkpoint")
    with stops if rule == "stop" else nullcontext() as raised:
        monitor.flush()
    message = str(raised.value) if rule == "stop" else progress.notes[0]
    what = "grad_norm, grad_norm/rpn, loss not finite at step 6 on the images 100, 101, "
    assert what in message
    assert "115 and 4 more (gradient norms: pyramid 2, rpn nan)" in message
    if rule == "skip":
        assert message.startswith("skipped a step, 1 so far")
