"""One small world and one running sandbox for all sandbox tests."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from geostack_pipeline.sandbox import Sandbox, World


@pytest.fixture(scope="session")
def running(worlds: Path) -> Iterator[Sandbox]:
    with Sandbox.start(worlds, small=True) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox(running: Sandbox) -> Iterator[Sandbox]:
    """The running sandbox without faults and with an empty log."""
    running.clear_faults()
    running.clear_log()
    yield running
    running.clear_faults()


@pytest.fixture(scope="session")
def world(running: Sandbox) -> World:
    return running.world
