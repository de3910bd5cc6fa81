"""The benchmarks run, count right and print numbers; how fast they find things is not tested."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]


def _reports(*names: str, **environment: str) -> dict[str, dict[str, Any]]:
    """Run benchmarks with tiny sizes side by side and return what they printed."""
    running = [
        subprocess.Popen(
            [sys.executable, "-m", "benchmarks", name, "--quick", "--json"],
            cwd=ROOT,
            env={**os.environ, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in names
    ]
    found = {}
    for process in running:
        out, errors = process.communicate(timeout=1200)
        assert process.returncode == 0, errors[-3000:]
        answer = json.loads(out)
        assert answer["machine"]["cores"] >= 1
        assert answer["machine"]["memory_gb"] > 0
        assert answer["machine"]["packages"]["rustac"]
        (report,) = answer["reports"]
        found[report["name"]] = report
    _check_numbers(found)
    return found


def _check_numbers(reports: dict[str, dict[str, Any]]) -> None:
    for report in reports.values():
        assert report["targets"]
        for target in report["targets"]:
            assert math.isfinite(target["found"])
            low, high = sorted((target["found"], target["limit"]))
            assert target["met"] is (target["found"] == (low if target["at_most"] else high))
        for table in report["tables"]:
            assert table["rows"]
            for row in table["rows"]:
                if "wall s" in row:
                    assert row["wall s"] > 0
                    assert row["CPU s"] > 0
                    assert row["peak MB"] > 5


@pytest.fixture(scope="module")
def reports() -> dict[str, dict[str, Any]]:
    return _reports("search", "fetch")


def _rows(report: dict[str, Any], title: str) -> list[dict[str, Any]]:
    exact = [table for table in report["tables"] if table["title"] == title]
    (table,) = exact or [table for table in report["tables"] if title in table["title"]]
    return table["rows"]


def _row(rows: list[dict[str, Any]], way: str) -> dict[str, Any]:
    (row,) = [row for row in rows if way in row["way"]]
    return row


def test_searches_find_all_items_and_ours_alone_sees_the_cut_page(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["search"]
    for title in ("into memory", "into stac-geoparquet"):
        rows = _rows(report, title)
        assert {row["items"] for row in rows} == {300}
        assert all(row["requests"] >= 3 for row in rows)
    (fault,) = _rows(report, "faults")
    assert "lacks a quarter" in fault["the catalog"]
    assert fault["ours"] == "error: IncompleteSearchError"
    assert fault["rustac.search_to"] == "450 items, silently"
    if find_spec("pystac_client") and find_spec("stac_geoparquet"):
        assert fault["pystac-client"] == "450 items, silently"
    else:
        assert "pystac-client" in report["skipped"][0]


def test_crops_move_the_tiles_and_little_more(reports: dict[str, dict[str, Any]]) -> None:
    report = reports["fetch"]
    rows = _rows(report, "an area of")
    crop, whole = _row(rows, "crop of the area"), _row(rows, "whole files")
    assert crop["files"] == whole["files"] == 2
    assert 1.0 <= crop["moved / tiles"] < 1.1
    assert whole["whole / moved"] == 1.0
    assert whole["requests"] == 2
    bulk = _rows(report, "objects of")
    assert {row["requests"] for row in bulk if "fsspec" not in row["way"]} == {8}
    assert all(row["MiB/s"] > 0 for row in bulk)


@pytest.mark.slow  # five processes that load Dagster
def test_runs_build_every_asset_partition_once_and_then_nothing() -> None:
    report = _reports("orchestration")["orchestration"]
    assert {row["asset partitions"] for row in _rows(report, "2 dates without a scene")} == {4}
    assert {row["asset partitions"] for row in _rows(report, "2 dates, all stored")} == {4}


@pytest.mark.slow  # a dozen processes
def test_a_granule_becomes_a_cube_and_a_map_whichever_way() -> None:
    report = _reports("swath")["swath"]
    for layout in ("deflate 1", "in one piece"):
        ways = _rows(report, f"of 285 bands, {layout}")
        assert len(ways) == 4
        assert 1.0 in {row["wall / plain read"] for row in ways}
    maps = _rows(report, "onto the map")
    assert {row["way"] for row in maps} == {"ours: compiled gather", "the published rule in NumPy"}


@pytest.mark.slow  # two dozen processes
def test_cubes_are_measured_in_every_layout_and_way() -> None:
    found = _reports("chunks", "timeline", "loader")
    layouts = _rows(found["chunks"], "CPU milliseconds per date")
    assert [row["files"] for row in layouts[:3]] == [60, 5, 1]
    assert all(0.3 < row["stored / raw"] < 1 for row in layouts)
    for title in ("opened, nothing read", "one pixel's series"):
        assert {row["dates"] for row in _rows(found["timeline"], title)} == {4}
    assert all(row["GB/s"] > 0 for row in _rows(found["loader"], "into a jitted reduction"))


@pytest.mark.slow  # a dozen processes that load numba or odc-stac
def test_cubes_equal_gdal_and_read_no_scene_that_is_not_needed(tmp_path: Path) -> None:
    report = _reports("cube", GEOSTACK_FIGURES=str(tmp_path))["cube"]
    assert (tmp_path / "cube-growth.png").read_bytes().startswith(b"\x89PNG")
    for title in ("files on the disk", "over HTTP"):
        rows = _rows(report, title)
        ours = _row(rows, "ours")
        assert ours["equal to exact GDAL"] >= 0.9999
    assert _row(_rows(report, "files on the disk"), "tolerance 1e-4")["equal to exact GDAL"] == 1.0
    if find_spec("odc"):
        theirs = _row(_rows(report, "over HTTP"), "odc.stac.load")
        assert ours["moved MB"] < theirs["moved MB"]
    else:
        assert "odc.stac" in report["skipped"][0]
    one, four, sixteen = _rows(report, "scenes offered")
    assert one["valid"] < four["valid"] == sixteen["valid"]
    assert [row["used"] for row in _rows(report, "all needed")] == [1, 4, 16]


@pytest.mark.slow  # five processes that load and compile JAX
def test_filters_are_compared_and_mag1c_is_left_out_with_a_reason(tmp_path: Path) -> None:
    """Without torch the twin is the measure, and the report says so; an environment without it is made here."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(tmp_path / "bare")], check=True)
    bare = str(tmp_path / "bare" / "bin" / "python")
    report = _reports("filters", GEOSTACK_MAG1C_PYTHON=bare)["filters"]
    (why,) = report["skipped"]
    assert why.startswith("mag1c's own program: ")
    assert "torch" in why
    assert "bench-torch" in why
    rows = _rows(report, "one granule")
    assert [row["way"].split(",")[0] for row in rows] == [
        "ours", "ours", "ours", "NumPy float64 twin of mag1c",
    ]  # fmt: skip
    assert all(row["ms CPU per column"] > 0 for row in rows)
    # How fast it is, is not tested; that it agrees, is.
    met = {target["what"]: target["met"] for target in report["targets"]}
    agreement = {what: ok for what, ok in met.items() if "difference" in what or "zero in one" in what}
    assert len(agreement) == 4
    assert all(agreement.values()), report["targets"]
    assert not any("tests' float64 twin against mag1c" in what for what in met)


@pytest.mark.slow  # compiles three networks
def test_the_plume_model_is_trained_and_compared() -> None:
    report = _reports("learning")["learning"]
    # How good a model of four steps is, is not tested; that all ways are measured on the same granules, is.
    scores = _rows(report, "test: 4 granules")
    assert [row["method"] for row in scores] == ["model", "blurred_matched_filter", "difference"]
    assert all(row["low"] <= row["high"] for row in scores)
    assert scores[2]["AUPRC"] == pytest.approx(scores[0]["AUPRC"] - scores[1]["AUPRC"])
    plain, judged = _rows(report, "candidates of the methane stage")
    assert plain["plumes"] == judged["plumes"] > 0
    (equal,) = _rows(report, "false plumes where both find as many")
    assert equal["model finds there"] is None or equal["model finds there"] >= equal["filter finds"]
    assert all(row["tiles/s"] > 0 for row in _rows(report, "training throughput"))
    (whole,) = _rows(report, "a whole training of profile cpu")
    assert whole["steps"] == 4


def test_an_unknown_name_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks", "serach"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 2
    assert "serach" in done.stderr
    assert "search, fetch, cube, swath" in done.stderr
