"""``geostack ui``: the sandbox and the Dagster UI on it, in one command."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from geostack_pipeline.commands.console import Exit, console
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
    with running_sandbox(folder, seed=seed) as (_, file):
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
            env={**os.environ, SETTINGS_VARIABLE: str(file)},
        )
        try:
            server.wait()
        except KeyboardInterrupt:
            server.wait(timeout=20)
        finally:
            if server.poll() is None:
                server.terminate()
                server.wait(timeout=20)
    return Exit.OK if server.returncode in {0, -2, 130} else Exit.FAILED
