"""Finished runs for the tests of the report."""

from __future__ import annotations

import pytest

from tests.benchmark.reporting.made_up import config_of, metrics_of, result_of, write_run


@pytest.fixture
def write(tmp_path):
    """Writes a run of a config file under a name; `edit` may change its result."""

    def write_named(name, config="shapes_tiny", ap=0.5, *, seed=0, edit=None, masks=True, **keys):
        result = result_of(config_of(config, **{"seed": seed, **keys}), ap, masks=masks, seed=seed)
        metrics = metrics_of(result)
        if edit:
            edit(result)
        return write_run(tmp_path / "runs" / name, result, metrics)

    return write_named
