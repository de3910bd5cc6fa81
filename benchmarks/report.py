"""What a benchmark found: tables with absolute figures, and targets with the ratios that decide them."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Target:
    """One figure that was promised."""

    what: str
    """What is compared, in words."""
    found: float
    unit: str
    """``x`` for ratios."""
    limit: float
    at_most: bool
    """Whether the limit is an upper one."""

    @property
    def met(self) -> bool:
        """Whether the figure keeps the promise."""
        return self.found <= self.limit if self.at_most else self.found >= self.limit

    def line(self) -> str:
        """Return the target as one line of text."""
        sign = "<=" if self.at_most else ">="
        verdict = "met" if self.met else "MISSED"
        return f"  {verdict:<6}  {self.what}: {_number(self.found)} {self.unit} (target {sign} {self.limit:g} {self.unit})"


@dataclass(frozen=True, kw_only=True)
class Table:
    """Rows of figures under one title."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    note: str = ""

    def text(self) -> str:
        """Return the table as text, numbers to the right."""
        cells = [list(self.columns), *([_number(cell) for cell in row] for row in self.rows)]
        widths = [max(len(line[index]) for line in cells) for index in range(len(self.columns))]
        right = [
            all(isinstance(row[index], int | float) or row[index] is None for row in self.rows)
            for index in range(len(self.columns))
        ]
        lines = [
            "  "
            + "  ".join(
                cell.rjust(width) if numeric else cell.ljust(width)
                for cell, width, numeric in zip(line, widths, right, strict=True)
            ).rstrip()
            for line in cells
        ]
        lines.insert(1, "  " + "  ".join("-" * width for width in widths))
        return "\n".join([f"{self.title}", *lines, *([f"  ({self.note})"] if self.note else [])])


@dataclass(frozen=True, kw_only=True)
class Report:
    """One benchmark."""

    name: str
    about: str
    tables: Sequence[Table]
    targets: Sequence[Target] = field(default=())
    skipped: Sequence[str] = field(default=())
    """Parts that could not run, with the reason."""

    def text(self) -> str:
        """Return everything as text."""
        parts = [f"== {self.name}: {self.about}", *(table.text() for table in self.tables)]
        if self.targets:
            parts.append("\n".join(["targets", *(target.line() for target in self.targets)]))
        if self.skipped:
            parts.append("\n".join(f"skipped: {line}" for line in self.skipped))
        return "\n\n".join(parts) + "\n"

    def as_json(self) -> dict[str, Any]:
        """Return everything as plain values."""
        return {
            "name": self.name,
            "about": self.about,
            "tables": [
                {
                    "title": table.title,
                    "rows": [dict(zip(table.columns, row, strict=True)) for row in table.rows],
                    "note": table.note,
                }
                for table in self.tables
            ],
            "targets": [{**asdict(target), "met": target.met} for target in self.targets],
            "skipped": list(self.skipped),
        }


def ratio(over: float, under: float) -> float:
    """Return a quotient; not a number where nothing was measured."""
    return over / under if under else float("nan")


def repeated(runs: Mapping[str, Callable[[], T]], times: int) -> dict[str, list[T]]:
    """Run each of several ways, in turn, several times: what slows the machine for a while hits all alike."""
    results: dict[str, list[T]] = {name: [] for name in runs}
    for _ in range(times):
        for name, run in runs.items():
            results[name].append(run())
    return results


def middle(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def _number(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}" if abs(value) < 1 else f"{value:.2f}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)
