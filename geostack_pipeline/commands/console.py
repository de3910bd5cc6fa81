"""How the command line speaks: one console for people, JSON for programs, one exit code per kind of ending."""

from __future__ import annotations

import json
import sys
from enum import IntEnum
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console(stderr=False, highlight=False)
errors = Console(stderr=True, highlight=False)


class Exit(IntEnum):
    """How a command ended."""

    OK = 0
    FAILED = 1
    """Some dates failed; the others are stored."""
    USAGE = 2
    """A setting or an argument is wrong; nothing was tried."""
    INTERRUPTED = 130
    """Ctrl-C; what was finished is stored, nothing is torn."""


def print_json(value: Any) -> None:
    """Print a value as one JSON document on standard output."""
    sys.stdout.write(json.dumps(value, indent=2, default=str, sort_keys=True) + "\n")


def table(title: str, *columns: str, right: tuple[str, ...] = ()) -> Table:
    """Return an empty table in the house style; columns named in ``right`` are right-aligned."""
    made = Table(
        title=title, title_justify="left", title_style="bold", header_style="dim", box=None, pad_edge=False
    )
    for column in columns:
        made.add_column(column, justify="right" if column in right else "left", overflow="fold")
    return made


def size(count: float) -> str:
    """Return a number of bytes for people: ``12.3 MB``."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(count) < 1000:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1000
    return f"{count:.1f} TB"
