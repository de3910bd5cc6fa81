"""What a plan says a run will move, against what the run's ledger says it moved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import dagster as dg
import polars as pl
import pytest
from typer.testing import CliRunner

from geostack_pipeline.cli import app
from geostack_pipeline.commands.console import console
from geostack_pipeline.stages import ledger
from geostack_pipeline.stages.egress import UNKNOWN, price_of

FIRST, LAST = "2024-06-06", "2024-06-07"


def plan(file: Path, *options: str) -> dict[str, Any]:
    result = CliRunner().invoke(
        app, ["plan", "--settings", str(file), "--from", FIRST, "--to", LAST, "--json", *options]
    )
    assert result.exit_code == 0, result.output
    document: dict[str, Any] = json.loads(result.stdout)
    return document


def moved(ws: Any, runs: tuple[str, ...]) -> dict[str, tuple[int, int]]:
    """Return purpose -> requests and bytes of some runs, from the ledger."""
    frames = [ledger.read(ws, "earth_search", day) for day in (FIRST, LAST)]
    rows = pl.concat(frames).filter(pl.col("run").is_in(runs))
    return {
        purpose: (int(own["requests"].sum()), int(own["bytes_moved"].sum()))
        for purpose in ("search", "fetch")
        for own in [rows.filter(pl.col("purpose") == purpose)]
    }


def served(sandbox: Any) -> dict[str, tuple[int, int]]:
    """Return the same as the servers counted it."""
    totals = sandbox.log()["totals"]
    return {
        purpose: (totals.get(name, {}).get("requests", 0), totals.get(name, {}).get("bytes", 0))
        for purpose, name in (("search", "earth_search"), ("fetch", "sentinel-cogs"))
    }


def hosts_shown(instance: dg.DagsterInstance, stage: str) -> str:
    """Return what the page of an asset says of the hosts of a date."""
    record = instance.fetch_materializations(
        dg.AssetRecordsFilter(asset_key=dg.AssetKey(["earth_search", stage]), asset_partitions=[LAST]),
        limit=1,
    ).records[0]
    assert record.asset_materialization is not None
    return str(record.asset_materialization.metadata["run/hosts"].value)


def test_plan_ledger_and_servers_agree(
    sandbox_settings: Callable[..., Path], run: Any, small_sandbox: Any, instance: dg.DagsterInstance
) -> None:
    file = sandbox_settings()
    small_sandbox.clear_log()
    planned = plan(file)
    asked = served(small_sandbox)
    assert planned["failed"] == {}
    assert [row["asks"] for row in planned["dates"]] == [True, True]
    assert sum(row["selected"] for row in planned["dates"]) > 0
    fetch = planned["totals"]["fetch"]
    # The plan moved headers of rasters alone.
    assert planned["spent"]["requests"] == asked["search"][0] + asked["fetch"][0]
    assert asked["fetch"][1] < fetch["bytes"]
    assert not (file.parent / "store" / "artifacts").exists()

    small_sandbox.clear_log()
    report, ws = run(file, FIRST, LAST, until="granules")
    assert report.failed == {}
    noted, counted = moved(ws, report.run_ids), served(small_sandbox)
    for purpose in ("search", "fetch"):
        expected = (planned["totals"][purpose]["requests"], planned["totals"][purpose]["bytes"])
        assert noted[purpose] == pytest.approx(expected, rel=0.05), purpose
        assert noted[purpose][0] == counted[purpose][0], purpose
    assert noted["fetch"][1] == pytest.approx(counted["fetch"][1], rel=0.01)
    assert noted["fetch"][1] > 0
    (host,) = [row for row in planned["hosts"] if row["purpose"] == "fetch"]
    assert host["host"] == "s3://sentinel-cogs"
    assert (host["usd"], planned["usd"]) == (0.0, 0.0)

    assert "| 127.0.0.1:" in hosts_shown(instance, "scenes")
    assert "| s3://sentinel-cogs | " in hosts_shown(instance, "granules")

    # What is in the cache counts nothing, and a stored date moves nothing.
    again = plan(file, "--until", "granules")
    assert again["totals"]["fetch"] == {"requests": 0, "bytes": 0}
    both = plan(file, "--until", "granules", "--refresh")
    cached = sum(row["cached"] for row in both["dates"])
    assert cached > 0
    small_sandbox.clear_log()
    report, ws = run(file, FIRST, LAST, until="granules", refresh=True)
    noted = moved(ws, report.run_ids)
    assert both["totals"]["fetch"] == {"requests": cached, "bytes": cached}
    assert noted["fetch"] == (cached, cached)
    assert noted["search"][0] == both["totals"]["search"]["requests"]


def test_an_offline_plan_asks_nobody(sandbox_settings: Callable[..., Path], small_sandbox: Any) -> None:
    small_sandbox.clear_log()
    planned = plan(sandbox_settings(), "--offline")
    assert small_sandbox.log()["entries"] == []
    assert set(planned) == {"steps"}
    assert {step["stage"]: step["action"] for step in planned["steps"]} == {
        "scenes": "ask",
        "selected": "follow",
        "granules": "follow",
        "cube": "follow",
        "methane": "follow",
        "plumes": "follow",
        "published": "follow",
    }


def test_a_plan_for_people_says_hosts_and_cost(
    sandbox_settings: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    # The console takes its width from the environment when it is made, which another test may have done.
    monkeypatch.setattr(console, "width", 200)
    file = sandbox_settings(egress_usd_per_gb={"s3://sentinel-cogs": 1000.0})
    result = CliRunner().invoke(
        app,
        ["plan", "--settings", str(file), "--from", LAST, "--provider", "earth_search"],
    )
    assert result.exit_code == 0, result.output
    assert "s3://sentinel-cogs" in result.output
    assert "settings: egress_usd_per_gb" in result.output
    assert "this plan moved" in result.output


def test_a_catalog_that_is_down_fails_its_dates(
    sandbox_settings: Callable[..., Path], quick_retries: None
) -> None:
    file = sandbox_settings(earth_search={"url": "http://127.0.0.1:9/v1"})
    result = CliRunner().invoke(app, ["plan", "--settings", str(file), "--from", FIRST, "--json"])
    assert result.exit_code == 1
    failed = json.loads(result.stdout)["failed"]
    assert set(failed) == {f"earth_search {FIRST}"}
    assert "127.0.0.1:9" in failed[f"earth_search {FIRST}"]


def test_prices_name_their_source() -> None:
    assert price_of("s3://sentinel-cogs").usd_per_gb == 0.0
    assert price_of("s3://sentinel-s2-l2a").usd_per_gb == 0.09
    assert price_of("s3://sentinel-cogs", {"s3://sentinel-cogs": 0.02}).usd_per_gb == 0.02
    assert price_of("https://data.lpdaac.earthdatacloud.nasa.gov").usd_per_gb == 0.0
    assert price_of("https://notearthdatacloud.nasa.gov.evil.example") == UNKNOWN
    assert price_of("s3://somebody-elses-bucket") == UNKNOWN
