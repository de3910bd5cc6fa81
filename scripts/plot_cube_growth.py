"""Draws how cubes grow: ``python -m benchmarks cube --json > found.json; python scripts/plot_cube_growth.py found.json``."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("agg")

import matplotlib.pyplot as plt

PICTURE = Path(__file__).parents[1] / "docs" / "images" / "cube-growth.png"
_OURS, _LEAST = "#1b6ca8", "#9aa5b1"


def main(found: Path) -> None:
    """Draw the growth tables of a report into docs/images."""
    (report,) = [
        one for one in json.loads(found.read_text(encoding="utf-8"))["reports"] if one["name"] == "cube"
    ]

    def rows(title: str) -> list[dict[str, Any]]:
        return next(table["rows"] for table in report["tables"] if title in table["title"])

    areas, offered = rows("growing area"), rows("scenes offered")
    figure, (memory, time, scenes) = plt.subplots(1, 3, figsize=(11, 3.2), layout="constrained")
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
    number = [row["scenes"] for row in offered]
    scenes.plot(number, [row["CPU s"] for row in offered], "o-", color=_OURS, label="CPU s")
    scenes.set(
        xlabel="scenes offered for one day", ylabel="CPU s", title="scenes that are not needed cost little"
    )
    scenes.set_ylim(0, None)
    scenes.set_xticks(number)
    other = scenes.twinx()
    other.plot(number, [row["peak - before MB"] for row in offered], "s--", color=_LEAST, label="MB")
    other.set(ylabel="peak above the start, MB", ylim=(0, None))
    for axes in (memory, time, scenes):
        axes.spines[["top"]].set_visible(False)
        axes.grid(alpha=0.25)
    figure.savefig(PICTURE, dpi=110)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
