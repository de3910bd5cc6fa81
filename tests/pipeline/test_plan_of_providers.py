"""Plan and ledger agree for every provider: crops and whole files, S3 keys, tokens, logins and pictures of a service."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
import yaml
from typer.testing import CliRunner

from geostack_pipeline.cli import app
from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.launch import Launcher
from geostack_pipeline.sandbox.config import PROVIDERS
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import ledger
from geostack_pipeline.stages.plan import day_range
from geostack_pipeline.stages.workspace import open_workspace

pytestmark = pytest.mark.slow

FIRST, LAST = "2024-06-02", "2024-06-07"


@pytest.fixture(scope="module")
def everything(worlds: Path) -> Iterator[Any]:
    from geostack_pipeline.sandbox.serve import Sandbox

    with Sandbox.start(worlds, small=True, providers=PROVIDERS) as sandbox:
        yield sandbox


@pytest.mark.parametrize("provider", PROVIDERS)
def test_plan_and_ledger_agree(
    provider: str, everything: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in everything.credentials().items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "geostack.yaml"
    file.write_text(yaml.safe_dump({"root": "file:store", **everything.settings()}), encoding="utf-8")
    settings = load_settings(file)
    key = next(name for name, own in settings.providers.items() if provider in {own.kind, name})
    told = CliRunner().invoke(
        app,
        ["plan", "--settings", str(file), "--from", FIRST, "--to", LAST, "--provider", key, "--json"],
    )
    assert told.exit_code == 0, told.output
    planned = json.loads(told.stdout)
    ws = open_workspace(settings)
    with dg.DagsterInstance.ephemeral() as instance:
        launcher = Launcher(
            build_definitions(settings, str(file)), instance, ws, settings.build_provider(key)
        )
        report = launcher.run(day_range(ws, FIRST, LAST), until="granules")
    assert report.failed == {}
    rows = pl.concat([ledger.read(ws, key, day) for day in report.days])
    assert rows["bytes_moved"].null_count() == 0
    for purpose in ("search", "fetch"):
        own = rows.filter(pl.col("purpose") == purpose)
        expected = planned["totals"][purpose]
        assert expected["requests"] > 0
        assert int(own["requests"].sum()) == pytest.approx(expected["requests"], rel=0.05), purpose
        moved = int(own["bytes_moved"].sum())
        if any(row["estimated"] for row in planned["dates"]) and purpose == "fetch":
            # A service compresses its pictures by as much as it can; the plan gives the most.
            assert 0 < moved <= expected["bytes"] * 1.05
        else:
            assert moved == pytest.approx(expected["bytes"], rel=0.05), purpose
    hosts = {row["host"] for row in planned["hosts"]}
    assert set(rows.filter(pl.col("purpose") != "login")["host"]) <= hosts
    # What a login sends is told nowhere.
    for value in everything.credentials().values():
        assert value not in told.stdout
        assert value not in str(rows.rows())
