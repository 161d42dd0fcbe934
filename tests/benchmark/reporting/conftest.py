"""Finished runs for the tests of the report."""

from __future__ import annotations

import pytest

from tests.benchmark.reporting.made_up import writer


@pytest.fixture
def write(tmp_path):
    """Writes a run of a config file under a name, see `writer`."""
    return writer(tmp_path / "runs")
