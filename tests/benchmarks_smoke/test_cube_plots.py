"""The picture of how cubes grow shows each table."""

from __future__ import annotations

from pathlib import Path

import matplotlib.image

from benchmarks.cube_plots import draw_growth
from benchmarks.report import Table

SCENES = ["scenes", "CPU s", "peak - before MB"]


def _tables(cpu: float) -> list[Table]:
    area = Table(
        title="area",
        columns=["cube MB", "CPU s", "peak - before MB"],
        rows=[[4.7, 0.5, 96.0], [75.5, 1.2, 196.0]],
    )
    offered = Table(title="offered", columns=SCENES, rows=[[1, 0.5, 113.0], [16, 0.6, 118.0]])
    return [area, offered, Table(title="needed", columns=SCENES, rows=[[1, 0.5, 113.0], [16, cpu, 117.0]])]


def test_growth_is_drawn_with_the_scenes_that_are_all_needed(tmp_path: Path) -> None:
    pictures = []
    for cpu in (0.6, 1.6):
        draw_growth(_tables(cpu), tmp_path / str(cpu))
        pictures.append(matplotlib.image.imread(tmp_path / str(cpu) / "cube-growth.png"))
    assert pictures[0].shape[1] > 1000
    assert (pictures[0] != pictures[1]).any()
