"""``geostack sandbox``: the loopback world, and the settings file that points the pipeline at it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from geostack_pipeline.commands.console import Exit, console, errors
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.config import PROVIDERS
from geostack_pipeline.sandbox.wind import wind_table
from geostack_pipeline.settings import SETTINGS_VARIABLE

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.serve import Sandbox

SETTINGS_NAME = "geostack.yaml"
LOGINS_NAME = "sandbox.env"
WIND_NAME = "wind.parquet"
_PATIENCE_S = 900.0
"""Longest wait for the servers; the first start renders, and the machine may be busy."""


@contextmanager
def running_sandbox(
    folder: Path,
    *,
    seed: int | None,
    small: bool = False,
    faults: tuple[str, ...] = (),
    providers: tuple[str, ...] = (),
    campaign: int = 0,
) -> Iterator[tuple[Sandbox, Path]]:
    """Start the sandbox, with all catalogs unless some are named, and write the settings that lead to it; yield both."""
    serve = _serve_module()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {} if seed is None else {"seed": seed}
    with (
        _rendering() as progress,
        serve.Sandbox.start(
            folder / "world",
            small=small,
            faults=faults,
            providers=providers or PROVIDERS,
            campaign=campaign,
            progress=progress,
            timeout_s=_PATIENCE_S,
            **chosen,
        ) as sandbox,
    ):
        yield sandbox, write_settings(folder, sandbox.settings(), sandbox.wind())


def _serve_module() -> Any:
    try:
        from geostack_pipeline.sandbox import serve  # noqa: PLC0415 - an extra
    except ImportError as error:
        raise SettingsError(
            f"the sandbox needs the package {error.name}",
            subject="geostack sandbox",
            action="install it with: pip install 'geostack_pipeline[sandbox]'",
        ) from error
    return serve


@contextmanager
def _rendering() -> Iterator[Callable[[int, int], None]]:
    """Show how far the scenes are rendered, on the first start only."""
    bar = Progress(
        TextColumn("rendering scenes"),
        BarColumn(bar_width=28),
        MofNCompleteColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )
    task = bar.add_task("", total=None)

    def progress(done: int, total: int) -> None:
        if done < total and not bar.live.is_started:
            bar.start()
        bar.update(task, completed=done, total=total)
        if done >= total:
            bar.stop()

    try:
        yield progress
    finally:
        bar.stop()


def write_settings(folder: Path, settings: dict[str, Any], wind: bytes) -> Path:
    """Write the sandbox's settings file, with its store and its wind beside it."""
    file = folder / SETTINGS_NAME
    text = "# Written by the sandbox: the same pipeline, only endpoints differ.\n" + yaml.safe_dump(
        {"root": "file:store", "wind": {"source": WIND_NAME}, **settings}, sort_keys=False
    )
    for path, data in ((folder / WIND_NAME, wind), (file, text.encode())):
        staged = path.with_suffix(".part")
        staged.write_bytes(data)
        staged.replace(path)
    return file


def write_logins(folder: Path, credentials: Mapping[str, str]) -> Path:
    """Write the sandbox's logins as shell assignments; they open nothing but the sandbox."""
    file = folder / LOGINS_NAME
    staged = file.with_suffix(".part")
    staged.touch(mode=0o600)
    staged.write_text(
        "# The sandbox's logins, for a shell: set -a; . ./sandbox.env; set +a\n"
        + "".join(f"{name}={shlex.quote(value)}\n" for name, value in sorted(credentials.items())),
        encoding="utf-8",
    )
    staged.replace(file)
    return file


@contextmanager
def settings_in_force(file: Path, credentials: Mapping[str, str] | None = None) -> Iterator[None]:
    """Make a settings file, and the logins for it, those that everything in this process reads."""
    wanted = {SETTINGS_VARIABLE: str(file), **(credentials or {})}
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def sandbox_command(
    folder: Path,
    *,
    seed: int | None,
    port: int,
    small: bool,
    faults: tuple[str, ...],
    providers: tuple[str, ...] = (),
    campaign: int = 0,
    held: tuple[str, ...] = (),
) -> Exit:
    """Serve until Ctrl-C."""
    serve = _serve_module()
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    chosen = {} if seed is None else {"seed": seed}

    def ready(about: dict[str, Any]) -> None:
        file = write_settings(folder, about["settings"], wind_table(about["winds"], about["seed"]))
        for name, address in sorted(about["endpoints"].items()):
            console.print(f"{name:<20} {address}", markup=False)
        logins = write_logins(folder, about["credentials"])
        console.print(f"{'settings':<20} {file}", markup=False)
        console.print(f"{'logins':<20} {logins}", markup=False)
        first, last = about["days"]
        console.print("run against it, in another terminal:", style="dim")
        key = next(iter(about["settings"]["providers"]))
        console.print(f"  set -a; . {logins}; set +a", markup=False, soft_wrap=True)
        console.print(
            f"  geostack run --settings {file} --provider {key} --from {first} --to {last}",
            markup=False,
            soft_wrap=True,
        )
        console.print("Ctrl-C ends it.", style="dim")

    with _rendering() as progress:
        serve.serve_forever(
            folder / "world",
            small=small,
            port=port,
            faults=faults,
            providers=providers or PROVIDERS,
            campaign=campaign,
            held=held,
            on_ready=ready,
            on_progress=progress,
            **chosen,
        )
    return Exit.OK
