"""Which assets and jobs the graph has for which provider."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from geostack_pipeline import settings as settings_module
from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.providers import registry
from geostack_pipeline.providers.contract import Product
from geostack_pipeline.settings import parse_settings

PROJECT = Path(__file__).parents[2]


def test_scenes_that_the_methane_stage_cannot_read_end_with_the_cube(monkeypatch: pytest.MonkeyPatch) -> None:
    known = registry.spec("earth_search")
    swath = Product(kind="swath", bands=("RAD",), default_bands=("RAD",), methane=False)

    def spec(kind: str) -> Any:
        if kind != "stac_api":
            return known
        return registry.ProviderSpec(title="swaths", product=swath, build=known.build)

    monkeypatch.setattr(settings_module, "spec", spec)
    settings = parse_settings({"providers": {"earth_search": {}, "swaths": {"kind": "stac_api"}}})
    monkeypatch.setattr("geostack_pipeline.orchestration.build.provider_resource", lambda *_: object())
    definitions = build_definitions(settings)
    keys = {key.to_user_string() for key in definitions.resolve_all_asset_keys()}
    assert {key for key in keys if key.startswith("swaths/")} == {
        f"swaths/{stage}" for stage in ("scenes", "selected", "granules", "cube")
    }
    assert "earth_search/methane" in keys
    job = definitions.resolve_job_def("swaths_daily")
    assert dg.AssetKey(["swaths", "cube"]) in job.asset_layer.executable_asset_keys
    assert "methane" not in (job.description or "")


def test_one_run_of_a_provider_at_a_time(tmp_path: Path) -> None:
    definitions = build_definitions(parse_settings({"providers": {"earth_search": {}}}))
    graph = definitions.resolve_asset_graph()
    for key in definitions.resolve_all_asset_keys():
        provider = {"earth_search"} if len(key.path) == 2 else set()
        assert graph.get(key).pools == provider, key
    (tmp_path / "dagster.yaml").write_text((PROJECT / "dagster.yaml").read_text("utf-8"), encoding="utf-8")
    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        pools = instance.get_concurrency_config().pool_config
        assert pools.pool_granularity is not None
        assert (pools.pool_granularity.value, pools.default_pool_limit) == ("run", 1)
