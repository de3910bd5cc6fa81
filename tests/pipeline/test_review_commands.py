"""The command line at its edges: today, pins in dry runs, versions to compare, wrong settings, roots as paths."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from typer.testing import CliRunner

from geostack_pipeline.cli import app
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.settings import load_settings, parse_settings
from geostack_pipeline.stages import scenes
from geostack_pipeline.stages.workspace import open_workspace
from geostack_pipeline.storage.roots import open_root

DAY = "2024-06-06"


def cli(*arguments: str) -> tuple[int, str, str]:
    """Run the command line in this process; return exit code, output and errors, each in one line."""
    result = CliRunner().invoke(app, list(arguments))
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result.exit_code, " ".join(result.stdout.split()), " ".join(result.stderr.split())


def _ask(file: Path, day: str = DAY) -> str:
    provider = load_settings(file).build_provider("earth_search")
    return scenes.build(open_workspace(load_settings(file)), provider, day, refresh=True).snapshot.version


def test_today_is_a_date_like_any_other(
    sandbox_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = str(sandbox_settings(end_date=None))
    today = datetime.now(UTC).date()
    if datetime.now(UTC) + timedelta(seconds=60) > datetime.combine(today, datetime.max.time(), tzinfo=UTC):
        pytest.skip("the date is about to change")
    arguments = ("run", "--settings", file, "--provider", "earth_search", "--from", str(today), "--json")
    code, out, err = cli(*arguments, "--until", "selected")
    assert (code, err) == (0, "")
    report = json.loads(out)
    assert report["failed"] == {}
    assert report["built"]["selected"] == [str(today)]


def test_a_plan_minds_pins(sandbox_settings: Callable[..., Path]) -> None:
    loose = sandbox_settings("loose.yaml")
    version = _ask(loose)
    common = (
        "plan",
        "--settings",
        str(loose),
        "--provider",
        "earth_search",
        "--from",
        DAY,
        "--offline",
        "--json",
    )
    code, out, _ = cli(*common, "--refresh", "--until", "scenes")
    assert code == 0
    assert [step["action"] for step in json.loads(out)["steps"]] == ["ask"]
    code, _, err = cli(*common, "--pin", f"earth_search/scenes/{DAY}=0123456789abcdef")
    assert code == 2
    assert f"the pinned version 0123456789abcdef is not stored. Found: {version}" in err
    code, _, err = cli(*common, "--pin", f"earth_search/sceens/{DAY}={version}")
    assert code == 2
    assert "is not stored. Found: no version at all" in err


def test_the_version_before_one_named_by_hand_is_an_earlier_one(
    sandbox_settings: Callable[..., Path], small_sandbox: object
) -> None:
    areas = small_sandbox.settings()["areas"]["korpezhe"]["bbox"]  # type: ignore[attr-defined]
    versions = []
    for index in range(3):
        # The question is part of a list's version.
        bbox = [areas[0], areas[1], areas[2] - 0.001 * index, areas[3]]
        file = sandbox_settings(areas={"korpezhe": {"bbox": bbox}})
        versions.append(_ask(file))
    assert len(set(versions)) == 3
    command = ("scenes", "diff", "--settings", str(file), "--json", "earth_search", DAY)
    for arguments, pair in (
        ((), (versions[1], versions[2])),
        (("--new", versions[1]), (versions[0], versions[1])),
        (("--old", versions[0]), (versions[0], versions[2])),
    ):
        code, out, _ = cli(*command, *arguments)
        assert code == 0
        assert (json.loads(out)["old"], json.loads(out)["new"]) == pair
    code, _, err = cli(*command, "--new", versions[0])
    assert code == 1
    assert "there is no earlier version to compare with" in err


def test_a_table_is_shown_without_bytes(sandbox_settings: Callable[..., Path]) -> None:
    file = sandbox_settings()
    _ask(file)
    code, out, _ = cli("show", "--settings", str(file), "earth_search/scenes", "20240606")
    assert code == 0
    assert DAY in out
    assert "\\x" not in out


@pytest.mark.parametrize("hours", ["nan", "1e20", "inf", "-1"])
def test_a_grace_period_that_is_none(hours: str, sandbox_settings: Callable[..., Path]) -> None:
    code, _, err = cli("gc", "--settings", str(sandbox_settings()), "--grace-hours", hours, "--dry-run")
    assert code == 2
    assert "--grace-hours" in err


def test_a_schedule_that_is_none_is_named(
    sandbox_settings: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    file = sandbox_settings(earth_search={"schedule": {"cron": "every morning"}})
    code, _, err = cli("run", "--settings", str(file), "--provider", "earth_search", "--from", DAY)
    assert code == 2
    assert "setting providers.earth_search.schedule.cron" in err
    assert "'every morning'" in err


def test_a_folder_that_cannot_be_made_is_one_line(sandbox_settings: Callable[..., Path]) -> None:
    code, _, err = cli("show", "--settings", str(sandbox_settings(root="file:/proc/nowhere/store")))
    assert code == 1
    assert "Next: " in err


@pytest.mark.parametrize("root", ["store", "file:store", "./store", "file:./store"])
@pytest.mark.parametrize("folder", ["plain", "per cent %41", "hash # and ?", "ünïcode"])
def test_a_relative_root_lies_beside_the_file_wherever_the_command_is_started(
    root: str, folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / folder
    home.mkdir()
    (home / "geostack.yaml").write_text(f"root: {root}\n", encoding="utf-8")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert open_root(load_settings(home / "geostack.yaml").root).path == home / "store"
    assert os.listdir() == []


def test_roots_that_are_no_paths_stay_as_they_are(tmp_path: Path) -> None:
    for root in ("s3://bucket/prefix", "az://container/prefix", "file:///somewhere/else"):
        assert parse_settings({"root": root}, base=tmp_path).root == root


def test_options_may_be_written_as_yaml_writes_them() -> None:
    settings = parse_settings({"root": "s3://b/p", "root_options": {"allow_http": True, "timeout": 8}})
    assert settings.resolved_root_options() == {"allow_http": "true", "timeout": "8"}


@pytest.mark.parametrize("bands", [["B12", "B99"], ["SCL"], ["b04"]])
def test_a_band_that_does_not_exist_is_refused(bands: list[str]) -> None:
    with pytest.raises(SettingsError, match=r"is no band; there are B01, B02"):
        parse_settings({"providers": {"earth_search": {"bands": bands}}})


@pytest.mark.parametrize("where", ["", "   ", None])
def test_an_empty_selection_selects_everything(where: str | None) -> None:
    assert (
        parse_settings({"providers": {"earth_search": {"where": where}}}).provider("earth_search").where
        is None
    )
