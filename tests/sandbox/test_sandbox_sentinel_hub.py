"""Sentinel Hub's dialect: against the recorded item, by clients of others, and as the pipeline reads it."""

from __future__ import annotations

import io
import json
import time
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pystac_client
import pytest
import rasterio
import yaml

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.search import search
from geostack_pipeline.cube.grid import grid_for
from geostack_pipeline.errors import AuthError
from geostack_pipeline.providers.sentinel_hub import SentinelHub, SentinelHubProcess
from geostack_pipeline.providers.sentinel_hub_process import blocks, process_body, span
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.settings import Settings, load_settings
from geostack_pipeline.stages import cube, granules, scenes, selected
from geostack_pipeline.stages.workspace import Outcome, Workspace, open_workspace

DAY = "2024-06-07"
"""One overpass over two tiles of two UTM zones."""
REPROCESSED = "2024-06-02"
ONE_ZONE = "2024-06-06"
WORLD = (-180.0, -85.0, 180.0, 85.0)


@pytest.fixture(scope="module")
def started(worlds: Path) -> Iterator[Sandbox]:
    with Sandbox.start(worlds, small=True, providers=["earth_search", "cdse", "sentinel_hub"]) as sandbox:
        yield sandbox


@pytest.fixture
def hub(started: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sandbox]:
    for name, value in started.credentials().items():
        monkeypatch.setenv(name, value)
    started.clear_faults()
    started.clear_log()
    yield started
    started.clear_faults()


@pytest.fixture
def settings(hub: Sandbox, tmp_path: Path) -> Settings:
    content = {"root": "file:store", **hub.settings()}
    own = content["providers"]["sentinel_hub"]
    content["providers"]["sh_process"] = {**own, "kind": "sentinel_hub", "options": {"source": "process"}}
    file = tmp_path / "geostack.yaml"
    file.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return load_settings(file)


@pytest.fixture
def areas(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Area, ...]:
    monkeypatch.chdir(tmp_path)
    return tuple(open_workspace(settings).areas)


@pytest.fixture
def workspace(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    monkeypatch.chdir(tmp_path)
    return open_workspace(settings)


def token_of(hub: Sandbox) -> str:
    login = hub.credentials()
    answer = httpx.post(
        f"{hub.endpoints['sh-auth']}/auth/realms/CDSE/protocol/openid-connect/token",
        data={
            "grant_type": "client_credentials",
            "client_id": login["SH_CLIENT_ID"],
            "client_secret": login["SH_CLIENT_SECRET"],
        },
        trust_env=False,
    )
    token: str = answer.raise_for_status().json()["access_token"]
    return token


@pytest.fixture
def api(hub: Sandbox) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"Bearer {token_of(hub)}"}
    with httpx.Client(
        base_url=hub.endpoints["sentinel_hub"], headers=headers, trust_env=False, timeout=60
    ) as client:
        yield client


def everything(**more: Any) -> dict[str, Any]:
    return {
        "collections": ["sentinel-2-l2a"],
        "bbox": list(WORLD),
        "datetime": "2024-06-01T00:00:00Z/2024-06-30T00:00:00Z",
        **more,
    }


# -- the catalog ----------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/", "/conformance", "/collections", "/collections/sentinel-2-l2a/items"])
def test_nothing_is_told_without_a_token(hub: Sandbox, path: str) -> None:
    root = hub.endpoints["sentinel_hub"]
    for headers in ({}, {"Authorization": "Bearer made-up"}, {"Authorization": "Basic eDp5"}):
        assert httpx.get(f"{root}{path}", headers=headers, trust_env=False).status_code == 401
    assert httpx.post(f"{hub.endpoints['sh-api']}/api/v1/process", trust_env=False).status_code == 401


@pytest.mark.parametrize(
    ("form", "status"),
    [
        ({"grant_type": "password"}, 400),
        ({"grant_type": "client_credentials", "client_id": "x", "client_secret": "y"}, 401),
        (
            {
                "grant_type": "client_credentials",
                "client_id": "sh-sandbox-client",
                "client_secret": "y",
            },
            401,
        ),
    ],
)
def test_a_token_takes_the_right_login(hub: Sandbox, form: dict[str, str], status: int) -> None:
    url = f"{hub.endpoints['sh-auth']}/auth/realms/CDSE/protocol/openid-connect/token"
    assert httpx.post(url, data=form, trust_env=False).status_code == status


def _shape(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _shape(member) for key, member in value.items()}
    if isinstance(value, list):
        return "list"
    return "number" if isinstance(value, int | float) else type(value).__name__


def test_items_have_the_recorded_shape(api: httpx.Client, shared_dir: Path) -> None:
    recorded = json.loads((shared_dir / "samples/sentinel-hub/sentinel-2-l2a.item_cdse.json").read_text())
    page = api.post("/search", json=everything(limit=100)).raise_for_status().json()
    assert len(page["features"]) > 10
    for item in page["features"]:
        assert _shape(item) == _shape(recorded)
        assert list(item) == list(recorded)
        assert item["id"].endswith(".SAFE")
        assert item["assets"]["data"]["href"].startswith("s3://EODATA/Sentinel-2/MSI/L2A")
        assert item["geometry"]["crs"] == recorded["geometry"]["crs"]
        one = api.get(f"/collections/sentinel-2-l2a/items/{item['id']}").raise_for_status().json()
        assert one == item


def test_pages_go_on_by_a_number_alone(api: httpx.Client) -> None:
    whole = api.post("/search", json=everything(limit=100)).raise_for_status().json()
    assert "next" not in whole["context"]
    assert "numberMatched" not in whole
    assert set(whole["context"]) == {"limit", "returned"}
    found: list[str] = []
    body = everything(limit=4)
    while True:
        page = api.post("/search", json=body).raise_for_status().json()
        assert not [link for link in page["links"] if link["rel"] == "next"]
        found += [item["id"] for item in page["features"]]
        if "next" not in page["context"]:
            break
        assert isinstance(page["context"]["next"], int)
        body["next"] = page["context"]["next"]
    assert found == [item["id"] for item in whole["features"]]
    assert len(found) == len(set(found)) > 8


def test_what_a_search_takes(api: httpx.Client) -> None:
    for lacking in ("collections", "bbox", "datetime"):
        body = everything()
        del body[lacking]
        assert api.post("/search", json=body).status_code == 400
    assert api.post("/search", json=everything(limit=101)).status_code == 400
    assert api.post("/search", json=everything(collections=["a", "b"])).status_code == 400
    every = api.post("/search", json=everything(limit=100)).json()["features"]
    passed_over = api.post(
        "/search", json=everything(limit=100, query={"eo:cloud_cover": {"lt": 1}}, sortby=[{"field": "id"}])
    ).json()["features"]
    assert passed_over == every
    clear = {"op": "<", "args": [{"property": "eo:cloud_cover"}, 30]}
    kept = api.post("/search", json=everything(limit=100, filter=clear, **{"filter-lang": "cql2-json"}))
    ids = [item["id"] for item in kept.raise_for_status().json()["features"]]
    assert ids == [item["id"] for item in every if item["properties"]["eo:cloud_cover"] < 30]
    assert 0 < len(ids) < len(every)
    assert api.post("/search", json=everything(filter={"op": "?", "args": []})).status_code == 400


def test_a_client_of_others_finds_the_same(hub: Sandbox, api: httpx.Client) -> None:
    headers = {"Authorization": str(api.headers["authorization"])}
    client = pystac_client.Client.open(hub.endpoints["sentinel_hub"], headers=headers)
    body = everything(limit=100)
    found = client.search(
        collections=body["collections"], bbox=body["bbox"], datetime=body["datetime"], limit=100
    )
    wanted = [item["id"] for item in api.post("/search", json=body).json()["features"]]
    assert sorted(item.id for item in found.items()) == sorted(wanted)
    assert [each.id for each in client.get_collections()] == ["sentinel-2-l2a"]


# -- as the pipeline reads it ---------------------------------------------------------------------


def canonical(settings: Settings, key: str, day: str, areas: tuple[Area, ...]) -> list[dict[str, Any]]:
    provider = settings.build_provider(key)
    when = date.fromisoformat(day)
    done = normalise(provider, search(provider, when, areas).items, when, areas)
    assert done.rejected == []
    return done.items


def test_scenes_are_those_of_the_other_catalogs(settings: Settings, areas: tuple[Area, ...]) -> None:
    for day in (DAY, REPROCESSED, ONE_ZONE):
        here, there, beside = (
            canonical(settings, key, day, areas) for key in ("sentinel_hub", "earth_search", "cdse")
        )
        assert len(here) == len(there) == len(beside) > 0
        identities = [
            sorted((i["properties"]["geostack:scene"], i["properties"]["processing:baseline"]) for i in found)
            for found in (here, there, beside)
        ]
        assert identities[0] == identities[1] == identities[2]


def test_a_file_is_the_same_object_through_both_catalogs_of_the_data_space(
    hub: Sandbox, settings: Settings, areas: tuple[Area, ...]
) -> None:
    here, beside = settings.build_provider("sentinel_hub"), settings.build_provider("cdse")
    mine = {item["id"]: item for item in canonical(settings, "sentinel_hub", REPROCESSED, areas)}
    other = canonical(settings, "cdse", REPROCESSED, areas)
    assert len(other) == 4
    for item in other:
        twin = mine[f"{item['id']}.SAFE"]
        for asset in ("B02", "B11", "B12", "SCL"):
            (ours,), (theirs, *_) = here.routes(twin, asset), beside.routes(item, asset)
            assert ours.canonical == theirs.canonical
            assert ours.canonical.startswith("s3://eodata/Sentinel-2/")
            own, reference = (each["assets"][asset]["raster:bands"][0] for each in (twin, item))
            assert {name: own[name] for name in ("scale", "offset", "nodata")} == {
                name: reference[name] for name in ("scale", "offset", "nodata")
            }
    assert hub.log("eodata")["totals"]["eodata"]["requests"] == 4  # a listing per product


def test_a_token_that_is_revoked_half_way_is_renewed(
    hub: Sandbox, settings: Settings, areas: tuple[Area, ...]
) -> None:
    provider = settings.build_provider("sentinel_hub")
    assert isinstance(provider, SentinelHub)
    before = search(provider, date.fromisoformat(DAY), areas).items
    revoked = httpx.post(f"{hub.endpoints['sh-auth']}/revoke", trust_env=False).json()["revoked"]
    assert revoked >= 1
    hub.clear_log()
    after = search(provider, date.fromisoformat(DAY), areas).items
    assert after == before
    totals = hub.log()["totals"]
    assert totals["sh-auth"]["requests"] == 1
    assert totals["sentinel_hub"]["status_401"] >= 1


def test_tokens_that_end_early_are_renewed(hub: Sandbox, settings: Settings, areas: tuple[Area, ...]) -> None:
    provider = settings.build_provider("sentinel_hub")
    wanted = {item["id"] for item in search(provider, date.fromisoformat(DAY), areas).items}
    hub.fault("revoked-token@sentinel_hub?count=1")
    assert {item["id"] for item in search(provider, date.fromisoformat(DAY), areas).items} == wanted
    hub.fault("short-token@sh-auth?seconds=0.05")
    httpx.post(f"{hub.endpoints['sh-auth']}/revoke", trust_env=False)
    hub.clear_log()
    for _ in range(2):
        assert {item["id"] for item in search(provider, date.fromisoformat(DAY), areas).items} == wanted
        time.sleep(0.1)  # longer than a token lives
    assert hub.log()["totals"]["sh-auth"]["requests"] >= 2
    hub.fault("revoked-token@sentinel_hub")
    with pytest.raises(AuthError, match="the catalog refused the login"):
        search(provider, date.fromisoformat(DAY), areas)


def test_a_wrong_secret_is_named_and_not_shown(
    hub: Sandbox, settings: Settings, areas: tuple[Area, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SH_CLIENT_SECRET", "planted-wrong-secret")
    with pytest.raises(AuthError, match="SH_CLIENT_ID and SH_CLIENT_SECRET") as raised:
        search(settings.build_provider("sentinel_hub"), date.fromisoformat(DAY), areas)
    assert "planted" not in str(raised.value)
    assert hub.log("sentinel_hub")["totals"] == {}


def test_limits_are_waited_out(hub: Sandbox, settings: Settings, areas: tuple[Area, ...]) -> None:
    hub.fault("429@sentinel_hub?count=1&seconds=50")
    hub.fault("429@sh-auth?count=1&seconds=0.1")
    httpx.post(f"{hub.endpoints['sh-auth']}/revoke", trust_env=False)
    result = search(settings.build_provider("sentinel_hub"), date.fromisoformat(DAY), areas)
    assert len(result.items) == 2
    assert result.report.retries == 1
    assert result.report.waited_s < 5.0  # 50 of this service's milliseconds, not seconds


# -- pictures -------------------------------------------------------------------------------------


def test_a_picture_shows_what_the_satellite_measured(
    hub: Sandbox, settings: Settings, areas: tuple[Area, ...], tmp_path: Path
) -> None:
    provider = settings.build_provider("sh_process")
    assert isinstance(provider, SentinelHubProcess)
    area = next(area for area in areas if area.name == "hassi")
    items = canonical(settings, "sh_process", ONE_ZONE, (area,))
    (request,) = provider.render(grid_for(area), items, ["B12", "B04", "SCL"])
    made = request.perform(tmp_path / "a.tif")
    assert made.requests == 1
    scene = hub.world.scene(items[0]["properties"]["geostack:scene"])
    grid, tile = grid_for(area), scene.grid.coarser(2)
    column, row = (grid.bounds[0] - tile.west) / 20.0, (tile.north - grid.bounds[3]) / 20.0
    assert column == int(column)
    assert row == int(row)
    window = (int(column), int(row), grid.width, grid.height)
    with rasterio.open(tmp_path / "a.tif") as raster:
        swir, red, classes = raster.read()
    truth = hub.world.reflectance(scene, "B12", window)
    np.testing.assert_allclose(np.where(swir == 0, np.nan, swir * 1e-4 - 0.1), truth, atol=1e-7)
    np.testing.assert_array_equal(classes, hub.world.classification(scene, window))
    fine = hub.world.reflectance(scene, "B04", (2 * window[0], 2 * window[1], 2 * window[2], 2 * window[3]))
    four = fine.reshape(grid.height, 2, grid.width, 2).transpose(0, 2, 1, 3).reshape(*red.shape, 4)
    off = np.abs(four - (red * 1e-4 - 0.1)[..., None]).min(axis=-1)
    assert np.nanmax(off) < 1e-6  # one of the four pixels of 10 m


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body["output"].update(width=2501),
        lambda body: body["input"]["bounds"].update(bbox=[1, 1, 0, 0]),
        lambda body: body["input"]["bounds"]["properties"].update(crs="EPSG:32631"),
        lambda body: body.update(evalscript=body["evalscript"].replace("Math.max", "Math.evil")),
        lambda body: body.update(evalscript=body["evalscript"].replace("//VERSION=3", "")),
        lambda body: body.update(evalscript=body["evalscript"].replace("s.B12", "s.B11")),
        lambda body: body["input"].pop("data"),
    ],
)
def test_a_request_that_makes_no_sense_is_refused(hub: Sandbox, areas: tuple[Area, ...], change: Any) -> None:
    grid = grid_for(areas[0])
    start, end = span([hub.world.scenes[0].datetime])
    body = process_body(grid, blocks(grid)[0], ["B12", "SCL"], start, end)
    url = f"{hub.endpoints['sh-api']}/api/v1/process"
    headers = {"Authorization": f"Bearer {token_of(hub)}"}
    fine = httpx.post(url, json=body, headers=headers, trust_env=False, timeout=60)
    assert fine.status_code == 200
    with rasterio.open(io.BytesIO(fine.content)) as raster:
        assert raster.count == 2
    change(body)
    assert httpx.post(url, json=body, headers=headers, trust_env=False, timeout=60).status_code == 400


def run(ws: Workspace, settings: Settings, key: str, day: str, **how: Any) -> tuple[Outcome, Outcome]:
    provider = settings.build_provider(key)
    listed = scenes.build(ws, provider, day).snapshot
    chosen = selected.build(ws, provider, day, listed).snapshot
    fetched = granules.build(ws, provider, day, chosen, **how)
    return fetched, cube.build(ws, provider, day, fetched.snapshot)


def test_products_give_the_cube_of_the_other_catalogs(
    hub: Sandbox, settings: Settings, workspace: Workspace
) -> None:
    first, mine = run(workspace, settings, "sentinel_hub", DAY)
    _, reference = run(workspace, settings, "earth_search", DAY)
    ours, theirs = mine.snapshot.open(), reference.snapshot.open()
    assert set(ours.children) == set(theirs.children) == {"korpezhe"}
    for name, node in theirs.children.items():
        np.testing.assert_array_equal(ours[name].reflectance.values, node.reflectance.values)
        np.testing.assert_array_equal(ours[name].scl.values, node.scl.values)
        assert sorted(ours[name].scene_id.values) == sorted(node.scene_id.values)
    assert first.stats["fetched"] == 12
    beside, _ = run(workspace, settings, "cdse", DAY)
    assert beside.stats["cache_hits"] == 12
    assert beside.stats["bytes_moved"] == 0


def test_pictures_give_the_cube_within_the_stated_tolerance(
    hub: Sandbox, settings: Settings, workspace: Workspace
) -> None:
    for day, exact in ((ONE_ZONE, ["B11", "B12"]), (DAY, [])):
        hub.clear_log()
        fetched, painted = run(workspace, settings, "sh_process", day)
        manifest = fetched.snapshot.open()
        assert manifest["blob"].n_unique() == 1
        assert sorted(manifest["asset"]) == ["B02", "B03", "B04", "B11", "B12", "SCL"]
        assert sorted(manifest["band"]) == [1, 2, 3, 4, 5, 6]
        assert set(manifest["form"]) == {"picture"}
        assert fetched.stats["requests"] == 1
        assert hub.log("sh-api")["totals"]["sh-api"]["requests"] == 1
        assert "eodata" not in hub.log()["totals"]
        assert fetched.snapshot.meta["cached_bytes"] == manifest["size"][0]
        _, reference = run(workspace, settings, "sentinel_hub", day)
        for name, node in reference.snapshot.open().children.items():
            picture = painted.snapshot.open()[name]
            ours, theirs = picture.reflectance, node.reflectance
            np.testing.assert_array_equal(np.isnan(ours.values), np.isnan(theirs.values))
            assert (picture.scl.values == node.scl.values).mean() > 0.99
            for band in theirs.band.values:
                off = ours.sel(band=band).values - theirs.sel(band=band).values
                assert abs(np.nanmean(off)) < 0.0005
                assert np.nanmedian(np.abs(off)) < 0.003
                if band in exact:
                    assert np.nanmax(np.abs(off)) == 0.0


def test_a_picture_is_asked_for_once(hub: Sandbox, settings: Settings, workspace: Workspace) -> None:
    first, _ = run(workspace, settings, "sh_process", ONE_ZONE)
    hub.clear_log()
    again, _ = run(workspace, settings, "sh_process", ONE_ZONE)
    assert again.reused
    refreshed, _ = run(workspace, settings, "sh_process", ONE_ZONE, refresh=True)
    assert refreshed.snapshot.version == first.snapshot.version
    assert refreshed.stats["cache_hits"] == 1
    assert "sh-api" not in hub.log()["totals"]


def test_a_limit_while_pictures_are_made_is_waited_out(
    hub: Sandbox, settings: Settings, workspace: Workspace
) -> None:
    hub.fault("429@sh-api?count=1&seconds=100")
    hub.fault("401@sh-api?count=1")
    fetched, _ = run(workspace, settings, "sh_process", ONE_ZONE)
    assert fetched.stats["requests"] == 3
