"""What all tests share."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import settings

# How long an example takes depends on the machine; only the number of examples bounds a property test.
settings.register_profile("any machine", deadline=None)
settings.load_profile("any machine")

_SHARED = Path(__file__).parents[1].parent / "shared"
_LONGEST = ("test_learning_loop.py", "test_fault_matrix.py", "test_kill_nine.py", "test_dagster_ui.py")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: left to the end, they keep one core waiting for the other."""
    last = len(_LONGEST)
    items.sort(key=lambda item: _LONGEST.index(item.path.name) if item.path.name in _LONGEST else last)


@pytest.fixture(scope="session")
def shared_dir() -> Path:
    """The folder of recorded exchanges, sample rasters and physical tables beside the checkout."""
    if not (_SHARED / "samples").is_dir():
        pytest.skip(
            f"recorded samples are not at hand: {_SHARED.name}/samples is no folder beside the checkout"
        )
    return _SHARED


@pytest.fixture(scope="session")
def worlds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where synthetic worlds are kept: one folder for all workers of a run, so that no file is rendered twice."""
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "worlds"
    folder.mkdir(exist_ok=True)
    return folder


@pytest.fixture(scope="session")
def small_sandbox(worlds: Path) -> Iterator[Any]:
    """The small synthetic world on loopback, one for all tests; a test that switches faults on switches them off."""
    from geostack_pipeline.sandbox.serve import Sandbox

    with Sandbox.start(worlds, small=True) as sandbox:
        yield sandbox


@pytest.fixture
def sandbox_settings(small_sandbox: Any, tmp_path: Path) -> Callable[..., Path]:
    """Write a settings file that leads to the small sandbox, with a store of the test's own; return its path."""

    def write(name: str = "geostack.yaml", **changes: Any) -> Path:
        settings = {"root": "file:store", **small_sandbox.settings()}
        provider = changes.pop("earth_search", {})
        settings["providers"]["earth_search"].update(provider)
        settings.update(changes)
        file = tmp_path / name
        file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
        return file

    return write


@pytest.fixture(scope="session")
def swath_world(worlds: Path) -> Any:
    """The small synthetic world without servers; EMIT's and EnMAP's files of it are rendered on first use."""
    from geostack_pipeline.sandbox.world.world import World

    return World(worlds, small=True)


@pytest.fixture(scope="session")
def every_provider(worlds: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The small synthetic world in every catalog, with their login servers; see :class:`tests.every_provider.Every`."""
    from tests.every_provider import start

    with start(tmp_path_factory.mktemp("every"), worlds) as every:
        yield every
