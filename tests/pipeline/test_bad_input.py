"""Bad input and broken catalogs: one clear error each, the other dates go on, nothing stored is lost."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from geostack_pipeline.cli import app
from geostack_pipeline.stages.plan import STAGES

GOOD, BAD, LATER = "2024-06-06", "2024-06-07", "2024-06-11"


def cli(*arguments: str) -> tuple[int, str]:
    """Run the command line in this process; return exit code and everything it said."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    # Lines are wrapped to a terminal's width.
    return result.exit_code, " ".join((result.output or "").split())


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--provider", "usgs", "--from", GOOD], "provider 'usgs'"),
        (
            ["--provider", "earth_search", "--from", "June"],
            "date 'June': the date is not of the form YYYY-MM-DD",
        ),
        (["--provider", "earth_search", "--from", "2024-06-09", "--to", GOOD], "the range of dates is empty"),
        (["--provider", "earth_search", "--from", "2019-01-01"], "lies before the first partition"),
        (["--provider", "earth_search", "--from", "2099-01-01"], "lies in the future"),
        (["--provider", "earth_search", "--from", GOOD, "--until", "maps"], "choose one of scenes, selected"),
        (
            ["--provider", "earth_search", "--from", GOOD, "--pin", "scenes=1"],
            "not of the form <asset>/<date>=<version>",
        ),
    ],
)
def test_a_wrong_argument_is_named(
    arguments: list[str], named: str, sandbox_settings: Callable[..., Path]
) -> None:
    code, said = cli("run", "--settings", str(sandbox_settings(end_date=None)), *arguments)
    assert code == 2
    assert named in said
    assert "Next: " in said


def test_a_malformed_settings_file_is_named(tmp_path: Path) -> None:
    file = tmp_path / "broken.yaml"
    file.write_text("areas: {x: {bbox: [1, 2, 3]}}\n", encoding="utf-8")
    code, said = cli("show", "--settings", str(file))
    assert code == 2
    assert "areas.x.bbox" in said


def test_an_unknown_asset_says_which_there_are(sandbox_settings: Callable[..., Path]) -> None:
    code, said = cli("show", "earth_search/clouds", "--settings", str(sandbox_settings()))
    assert code == 1
    assert "earth_search/clouds" in said


def _strict(file: Path, run: Any, **options: Any) -> tuple[Any, Any]:
    return run(file, GOOD, LATER, until="granules", **options)


@pytest.mark.parametrize(
    ("fault", "named"),
    [
        ("401@earth_search?path=/search", "401"),
        ("403@earth_search?path=/search", "403"),
        ("404@earth_search?path=/search", "404"),
        ("truncated@earth_search?path=/search", "JSON"),
        ("html@earth_search?path=/search", "html"),
        ("wrong-count@earth_search", "counted"),
        ("drop-item@earth_search", "counted"),
    ],
)
def test_a_catalog_that_misbehaves_gives_one_named_error(
    fault: str,
    named: str,
    sandbox_settings: Callable[..., Path],
    run: Any,
    small_sandbox: Any,
    quick_retries: None,
) -> None:
    small_sandbox.fault(fault)
    report, ws = run(sandbox_settings(), BAD, BAD, until="scenes")
    assert set(report.failed) == {BAD}
    error = report.failed[BAD]
    assert "earth_search" in error
    assert BAD in error
    assert named.lower() in error.lower()
    assert "Next: " in error
    assert ws.artifacts.current("earth_search/scenes", BAD) is None


@pytest.mark.parametrize("status", ["429", "500", "503"])
def test_a_catalog_that_recovers_is_asked_again(
    status: str, sandbox_settings: Callable[..., Path], run: Any, small_sandbox: Any, quick_retries: None
) -> None:
    small_sandbox.fault(f"{status}@earth_search?path=/search&count=1")
    report, ws = run(sandbox_settings(), BAD, BAD, until="scenes")
    assert report.failed == {}
    assert ws.artifacts.current("earth_search/scenes", BAD).meta["rows"] == 2
    assert report.stats["scenes/retries"] >= 1


def test_a_catalog_that_is_down_is_named(
    sandbox_settings: Callable[..., Path], run: Any, quick_retries: None
) -> None:
    report, _ = run(sandbox_settings(earth_search={"url": "http://127.0.0.1:9/v1"}), BAD, BAD, until="scenes")
    assert "127.0.0.1:9" in report.failed[BAD]
    assert "Next: " in report.failed[BAD]


def test_a_hostile_href_stops_its_date_only(
    sandbox_settings: Callable[..., Path], run: Any, small_sandbox: Any
) -> None:
    small_sandbox.fault("hostile-href@earth_search?item=20240607&count=always")
    report, ws = _strict(sandbox_settings(), run)
    assert set(report.failed) == {BAD}
    assert "169.254.169.254" in report.failed[BAD]
    assert "item S2" in report.failed[BAD]
    assert ws.artifacts.current("earth_search/granules", GOOD).meta["rows"] > 0
    assert ws.artifacts.current("earth_search/granules", LATER).meta["rows"] > 0
    assert ws.artifacts.current("earth_search/granules", BAD) is None


def test_a_corrupt_raster_stops_its_date_only_and_a_rerun_mends_it(
    sandbox_settings: Callable[..., Path], run: Any, small_sandbox: Any
) -> None:
    file = sandbox_settings()
    small_sandbox.fault("html@sentinel-cogs?path=20240607&count=always")
    report, ws = _strict(file, run)
    assert set(report.failed) == {BAD}
    assert "S2" in report.failed[BAD]
    assert "Next: " in report.failed[BAD]
    assert ws.artifacts.current("earth_search/granules", LATER).meta["rows"] > 0
    small_sandbox.clear_faults()
    report, ws = _strict(file, run)
    assert report.failed == {}
    assert ws.artifacts.current("earth_search/granules", BAD).meta["rows"] > 0


def test_an_item_without_a_wanted_asset_is_skipped_with_its_reason(
    sandbox_settings: Callable[..., Path], run: Any, small_sandbox: Any
) -> None:
    small_sandbox.fault("missing-asset@earth_search?count=always")
    report, ws = run(sandbox_settings(), GOOD, GOOD, until="granules")
    assert report.failed == {}
    skipped = ws.artifacts.current("earth_search/granules", GOOD).open("skipped")
    assert skipped.height == 1
    assert skipped["reason"].to_list() == ["asset missing"]
    assert skipped["asset"].to_list() == ["B12"]


@pytest.mark.parametrize("fault", ["missing-geometry", "missing-datetime", "null-geometry"])
def test_an_item_without_what_a_scene_needs_is_rejected_with_its_reason(
    fault: str, sandbox_settings: Callable[..., Path], run: Any, small_sandbox: Any
) -> None:
    small_sandbox.fault(f"{fault}@earth_search?count=always")
    report, ws = run(sandbox_settings(), BAD, BAD, until="selected")
    assert report.failed == {}
    snapshot = ws.artifacts.current("earth_search/scenes", BAD)
    rejected = snapshot.open("rejected")
    assert rejected.height == snapshot.meta["rejected"] >= 1
    assert snapshot.meta["rows"] + rejected.height == snapshot.meta["found"]
    assert (rejected["reason"] != "").all()


def test_a_bad_filter_names_the_setting(sandbox_settings: Callable[..., Path], run: Any) -> None:
    report, _ = run(sandbox_settings(earth_search={"where": "cloudiness < 5"}), GOOD, GOOD, until="selected")
    assert "where" in report.failed[GOOD]
    assert "cloudiness" in report.failed[GOOD]


def test_an_area_without_scenes_is_an_empty_result(sandbox_settings: Callable[..., Path], run: Any) -> None:
    file = sandbox_settings(areas={"pacific": {"bbox": [-150.0, -30.0, -149.9, -29.9]}})
    report, ws = run(file, GOOD, GOOD)
    assert report.failed == {}
    for stage in STAGES:
        assert ws.artifacts.current(f"earth_search/{stage}", GOOD).meta["rows"] == 0


def test_json_of_a_failed_run_is_one_document(
    sandbox_settings: Callable[..., Path],
    small_sandbox: Any,
    run: Any,
    quick_retries: None,
    tmp_path: Path,
    monkeypatch: Any,
) -> None:
    monkeypatch.chdir(tmp_path)
    file = sandbox_settings()
    small_sandbox.fault("404@earth_search?path=/search")
    result = CliRunner().invoke(
        app,
        [
            "run",
            "--settings",
            str(file),
            "--provider",
            "earth_search",
            "--from",
            GOOD,
            "--until",
            "scenes",
            "--json",
        ],
    )
    assert result.exit_code == 1
    document = json.loads(result.stdout)
    assert set(document["failed"]) == {GOOD}


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Any:
    """A file system of 1.5 MB, where this process may mount one."""
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("a full disk needs the right to mount a small file system")
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=1500k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip(f"mounting is not allowed here: {mounted.stderr.decode().strip()}")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def test_a_full_disk_is_named_and_what_was_stored_stays(
    tiny_disk: Path, sandbox_settings: Callable[..., Path], run: Any
) -> None:
    file = sandbox_settings(root=f"file:{tiny_disk}/store")
    report, ws = run(file, GOOD, LATER, until="granules")
    assert report.failed
    errors = list(report.failed.values())
    assert any("space" in error.lower() or "full" in error.lower() for error in errors), errors
    assert all("Next: " in error for error in errors)
    for stage in ("scenes", "selected", "granules"):
        for day in report.days:
            snapshot = ws.artifacts.current(f"earth_search/{stage}", day)
            if snapshot is not None:
                assert snapshot.verify() == []


@pytest.mark.slow
def test_ctrl_c_leaves_nothing_torn(sandbox_settings: Callable[..., Path], tmp_path: Path, run: Any) -> None:
    import signal
    import time

    file = sandbox_settings()
    process = subprocess.Popen(
        [sys.executable, "-m", "geostack_pipeline.cli", "run", "--settings", str(file), "--provider", "earth_search",
         "--from", "2024-06-01", "--to", "2024-06-12"],
        cwd=tmp_path, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    store = tmp_path / "store" / "artifacts"
    deadline = time.monotonic() + 120
    while not (store / "earth_search" / "granules").exists() and time.monotonic() < deadline:
        assert process.poll() is None, process.communicate()
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "nothing is torn" in " ".join(err.split())
    report, ws = run(file, "2024-06-01", "2024-06-12", until="selected")
    assert report.failed == {}
    for stage in STAGES:
        for day in report.days:
            snapshot = ws.artifacts.current(f"earth_search/{stage}", day)
            if snapshot is not None:
                assert snapshot.verify() == []
