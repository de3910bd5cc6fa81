"""Starts the driver and follows it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

DRIVER = Path(__file__).with_name("driver.py")


def start(settings: Path, days: str, *stages: str) -> subprocess.Popen[str]:
    """Start a driver; it waits after its imports."""
    return subprocess.Popen(
        [sys.executable, str(DRIVER), str(settings), days, *stages],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def await_ready(process: subprocess.Popen[str]) -> None:
    """Wait until a driver has imported everything."""
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line == "ready\n", (line, process.stderr.read() if process.stderr else "")


def go(process: subprocess.Popen[str]) -> None:
    """Let a waiting driver run."""
    assert process.stdin is not None
    process.stdin.write("go\n")
    process.stdin.flush()


def finish(process: subprocess.Popen[str], timeout: float = 120.0) -> tuple[int, str, str]:
    """Wait for a driver's end; return its exit code, output and errors."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    return process.returncode, out, err
