"""Picture of how a cube's memory and time grow."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.report import Table

mpl.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

_OURS, _LEAST = "#1b6ca8", "#9aa5b1"


def draw_growth(tables: Sequence[Table], folder: Path) -> None:
    """Write ``cube-growth.png`` into ``folder``.

    Args:
        tables: Those of a growing area, of scenes offered, and of scenes that are all needed, in this order.
        folder: Made where it is not there.
    """
    areas, offered, needed = (
        [dict(zip(table.columns, row, strict=True)) for row in table.rows] for table in tables
    )
    folder.mkdir(parents=True, exist_ok=True)
    figure, (memory, time, more, all_needed) = plt.subplots(1, 4, figsize=(14, 3.2), layout="constrained")
    size = [row["cube MB"] for row in areas]
    memory.plot(
        size, [row["peak - before MB"] for row in areas], "o-", color=_OURS, label="peak above the start"
    )
    memory.plot(size, size, "--", color=_LEAST, label="the cube itself")
    memory.set(
        xlabel="cube, MB", ylabel="MB", title="memory follows the area", ylim=(0, None), xlim=(0, None)
    )
    memory.legend(frameon=False)
    time.plot(size, [row["CPU s"] for row in areas], "o-", color=_OURS)
    time.set(xlabel="cube, MB", ylabel="CPU s", title="so does the time", ylim=(0, None), xlim=(0, None))
    _scenes(more, offered, "scenes offered for one day", "scenes that are not needed")
    _scenes(all_needed, needed, "scenes that share one day", "scenes that are all needed")
    for axes in (memory, time, more, all_needed):
        axes.spines[["top"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(folder / "cube-growth.png", dpi=110)
    plt.close(figure)


def _scenes(axes: Axes, rows: Sequence[dict[str, Any]], label: str, title: str) -> None:
    """Draw time and memory over the number of scenes."""
    number = [row["scenes"] for row in rows]
    axes.plot(number, [row["CPU s"] for row in rows], "o-", color=_OURS, label="CPU s")
    axes.set(xlabel=label, ylabel="CPU s", title=title)
    axes.set_ylim(0, 1.15 * max(row["CPU s"] for row in rows))
    axes.set_xticks(number)
    other = axes.twinx()
    other.plot(number, [row["peak - before MB"] for row in rows], "s--", color=_LEAST, label="MB")
    other.set(ylabel="peak above the start, MB", ylim=(0, 1.3 * max(row["peak - before MB"] for row in rows)))
    other.spines[["top"]].set_visible(False)
    lines = [*axes.get_lines(), *other.get_lines()]
    axes.legend(lines, [str(line.get_label()) for line in lines], frameon=False, loc="lower right")
