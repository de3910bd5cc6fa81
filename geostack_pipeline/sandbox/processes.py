"""Small habits for child processes."""

from __future__ import annotations

from typing import IO


def keep_tail(stream: IO[str], tail: list[str]) -> None:
    """Read a process's standard error until it closes; ``tail`` holds its last lines."""
    for line in stream:
        tail.append(line.strip())
        del tail[:-20]
