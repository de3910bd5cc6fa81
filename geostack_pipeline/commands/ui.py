"""``geostack ui``: the sandbox and the Dagster UI on it, in one command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from geostack_pipeline.commands.console import Exit, console, errors
from geostack_pipeline.commands.sandbox import running_sandbox
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.settings import SETTINGS_VARIABLE


def ui_command(folder: Path, *, port: int, seed: int | None) -> Exit:
    """Serve until Ctrl-C."""
    if not Path("workspace.yaml").is_file():
        raise SettingsError(
            "there is no workspace.yaml here",
            subject=str(Path.cwd()),
            action="start the UI in the folder that holds workspace.yaml and dagster.yaml",
        )
    with running_sandbox(folder, seed=seed) as (sandbox, file):
        console.print(f"Dagster UI: http://127.0.0.1:{port}   (settings: {file})", markup=False)
        server = subprocess.Popen(  # noqa: S603 - our own interpreter, fixed arguments
            [
                sys.executable,
                "-m",
                "dagster",
                "dev",
                "-w",
                "workspace.yaml",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
            ],
            env={**os.environ, SETTINGS_VARIABLE: str(file), **sandbox.credentials()},
        )
        try:
            server.wait()
        except KeyboardInterrupt:
            # The terminal sent Ctrl-C to Dagster as well, which ends its own children first.
            errors.print("ending the UI …", style="dim")
        finally:
            _end(server)
    return Exit.OK if server.returncode in {0, -2, 130} else Exit.FAILED


def _end(server: subprocess.Popen[bytes]) -> None:
    """Let the server end by itself, then end it, then kill it."""
    for last_resort in (None, server.terminate, server.kill):
        if server.poll() is not None:
            return
        if last_resort is not None:
            last_resort()
        try:
            server.wait(timeout=20)
        except subprocess.TimeoutExpired:
            continue
