"""``geostack sandbox``: the loopback world, and the settings file that points the pipeline at it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from geostack_pipeline.commands.console import Exit, console
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.settings import SETTINGS_VARIABLE

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.serve import Sandbox

SETTINGS_NAME = "geostack.yaml"


@contextmanager
def running_sandbox(
    folder: Path, *, seed: int, faults: tuple[str, ...] = ()
) -> Iterator[tuple[Sandbox, Path]]:
    """Start the sandbox and write the settings that lead to it; yield both."""
    try:
        from geostack_pipeline.sandbox.serve import Sandbox  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SettingsError(
            f"the sandbox needs the package {error.name}",
            subject="geostack sandbox",
            action="install it with: pip install 'geostack_pipeline[sandbox]'",
        ) from error
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    with Sandbox.start(folder / "world", seed=seed, faults=faults) as sandbox:
        yield sandbox, write_settings(folder, sandbox.settings())


def write_settings(folder: Path, settings: dict[str, Any]) -> Path:
    """Write the sandbox's settings file, with its store beside it."""
    file = folder / SETTINGS_NAME
    text = "# Written by the sandbox: the same pipeline, only endpoints differ.\n" + yaml.safe_dump(
        {"root": "file:store", **settings}, sort_keys=False
    )
    staged = file.with_suffix(".part")
    staged.write_text(text, encoding="utf-8")
    staged.replace(file)
    return file


@contextmanager
def settings_in_force(file: Path) -> Iterator[None]:
    """Make a settings file the one that everything in this process reads."""
    before = os.environ.get(SETTINGS_VARIABLE)
    os.environ[SETTINGS_VARIABLE] = str(file)
    try:
        yield
    finally:
        if before is None:
            del os.environ[SETTINGS_VARIABLE]
        else:
            os.environ[SETTINGS_VARIABLE] = before


def sandbox_command(folder: Path, *, seed: int, faults: tuple[str, ...]) -> Exit:
    """Serve until Ctrl-C."""
    with running_sandbox(folder, seed=seed, faults=faults) as (sandbox, file):
        for name, address in sorted(sandbox.endpoints.items()):
            console.print(f"{name:<14} {address}", markup=False)
        console.print(f"settings       {file}", markup=False)
        console.print("run against it:", style="dim")
        console.print(
            f"  geostack run --settings {file} --provider earth_search --from {sandbox.first_date} --to {sandbox.last_date}",
            markup=False,
            soft_wrap=True,
        )
        console.print("Ctrl-C ends it.", style="dim")
        sandbox.wait()
    return Exit.OK
