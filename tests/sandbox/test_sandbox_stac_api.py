"""The sandbox's ordinary catalog: its protocol, its key, and the provider that reads it by description."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import date
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import rasterio
from pystac_client import Client

from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.search import search
from geostack_pipeline.errors import AuthError, IncompleteSearchError
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.sandbox.dialects.stac_api import API_KEY, COLLECTION, HEADER
from geostack_pipeline.settings import Settings, parse_settings

DAY = date(2024, 6, 7)


@pytest.fixture(scope="module")
def running_stac(worlds: Path) -> Iterator[Sandbox]:
    with Sandbox.start(worlds, small=True, providers=["stac_api"]) as sandbox:
        yield sandbox


@pytest.fixture
def stac(running_stac: Sandbox) -> Iterator[Sandbox]:
    running_stac.clear_faults()
    running_stac.clear_log()
    yield running_stac
    running_stac.clear_faults()


def _settings(sandbox: Sandbox, **options: Any) -> Settings:
    settings = sandbox.settings()
    settings["providers"]["stac_api"]["options"].update(options)
    return parse_settings(settings)


def _provider(sandbox: Sandbox, token: str | None = API_KEY, **options: Any) -> Provider:
    given = {"token": Secret(token)} if token else {}
    return _settings(sandbox, **options).build_provider("stac_api", given)


def _items(sandbox: Sandbox, provider: Provider, day: date) -> list[dict[str, Any]]:
    areas = _settings(sandbox).area_list
    return normalise(provider, search(provider, day, areas).items, day, areas).items


def test_every_scene_of_the_world_is_found_under_its_own_name(stac: Sandbox) -> None:
    provider = _provider(stac)
    days = sorted({scene.datetime.date() for scene in stac.world.scenes})
    found = {item["properties"]["geostack:scene"] for day in days for item in _items(stac, provider, day)}
    assert found == {scene.id for scene in stac.world.scenes}


def test_a_client_that_nobody_here_wrote_finds_the_same_items(stac: Sandbox) -> None:
    client = Client.open(stac.endpoints["stac_api"], headers={HEADER: API_KEY})
    for method in ("POST", "GET"):
        search_all = client.search(collections=[COLLECTION], limit=3, method=method)
        assert {item.id for item in search_all.items()} == {f"sr-{s.id.lower()}" for s in stac.world.scenes}
        assert search_all.matched() == len(stac.world.scenes)


def test_the_numbers_give_the_reflectance_that_was_measured(stac: Sandbox, tmp_path: Path) -> None:
    provider = _provider(stac)
    item = _items(stac, provider, DAY)[0]
    scene = stac.world.scene(item["properties"]["geostack:scene"])
    asset = item["assets"]["B12"]
    ref = provider.routes(item, "B12")[0]
    file = tmp_path / "b12.tif"
    file.write_bytes(bytes(provider.store(ref.store_id).get(ref.key).bytes()))
    with rasterio.open(file) as raster:
        numbers = raster.read(1)
    claimed = asset["raster:bands"][0]
    reflectance = numbers.astype(np.float64) * claimed["scale"] + claimed["offset"]
    reflectance[numbers == claimed["nodata"]] = np.nan
    np.testing.assert_allclose(reflectance, stac.world.reflectance(scene, "B12"), atol=1e-6)
    assert item["properties"]["geostack:radiometry"] == "item"
    assert claimed["offset"] == -0.1


def test_bands_come_from_the_file_host_and_classes_from_the_bucket(stac: Sandbox) -> None:
    provider = _provider(stac)
    item = _items(stac, provider, DAY)[0]
    wants = provider.wants(item, ("B04",))
    assert [want.asset for want in wants] == ["B04", "SCL"]
    for want in wants:
        ref = provider.routes(item, want.asset)[0]
        data = provider.store(ref.store_id).get_range(ref.key, start=0, end=4)
        assert bytes(data) in {b"II*\x00", b"II+\x00"}
    assert set(stac.log()["totals"]) >= {"stac-files", "stac-sandbox-classes"}
    files = [entry for entry in stac.log()["entries"] if entry["target"] != "stac_api"]
    assert not any(entry["authorization"] for entry in files)


def test_the_key_is_optional_and_a_wrong_one_is_refused(stac: Sandbox) -> None:
    assert _items(stac, _provider(stac, token=None), DAY)
    with pytest.raises(AuthError, match="refused the login") as caught:
        _items(stac, _provider(stac, token="not-the-key-at-all"), DAY)
    assert "not-the-key-at-all" not in str(caught.value)
    answer = httpx.get(stac.endpoints["stac_api"], headers={HEADER: "x"}, trust_env=False)
    assert answer.status_code == 401


@pytest.mark.parametrize("count", ["exact", "estimate", "none"])
def test_lists_are_complete_whatever_the_count_is_worth(stac: Sandbox, count: str) -> None:
    provider = _provider(stac, count=count, page_size=1)
    assert len(_items(stac, provider, DAY)) == 2
    stac.fault("wrong-count@stac_api")
    if count == "exact":
        with pytest.raises(IncompleteSearchError):
            _items(stac, provider, DAY)
    else:
        assert len(_items(stac, provider, DAY)) == 2


@pytest.mark.parametrize(
    "fault",
    [
        "429@stac_api?count=1&seconds=0.1",
        "503@stac_api?count=2",
        "cut@stac_api?count=1",
        "truncated@stac_api?count=1",
        "html@stac_api?count=1",
        "missing-bbox@stac_api",
    ],
)
def test_a_fault_that_passes_costs_no_item(stac: Sandbox, fault: str) -> None:
    provider = _provider(stac)
    stac.fault(fault)
    assert len(_items(stac, provider, DAY)) == 2


@pytest.mark.parametrize(
    ("fault", "reason"), [("missing-geometry", "geometry"), ("missing-datetime", "datetime")]
)
def test_a_spoiled_item_is_rejected_with_its_reason(stac: Sandbox, fault: str, reason: str) -> None:
    provider, areas = _provider(stac), _settings(stac).area_list
    stac.fault(f"{fault}@stac_api?item=t40sbh")
    done = normalise(provider, search(provider, DAY, areas).items, DAY, areas)
    assert len(done.items) == 1
    assert {one.reason for one in done.rejected} == {reason}


def test_the_file_server_keeps_to_http(stac: Sandbox) -> None:
    provider = _provider(stac)
    ref = provider.routes(_items(stac, provider, DAY)[0], "B04")[0]
    url = f"{stac.endpoints['stac-files']}/{ref.key}"
    with httpx.Client(trust_env=False) as client:
        whole = client.get(url)
        tag = whole.headers["etag"]
        part = client.get(url, headers={"range": "bytes=10-19"})
        assert (part.status_code, part.content) == (206, whole.content[10:20])
        assert part.headers["content-range"] == f"bytes 10-19/{len(whole.content)}"
        assert client.get(url, headers={"range": "bytes=-5"}).content == whole.content[-5:]
        assert client.get(url, headers={"range": f"bytes={len(whole.content)}-"}).status_code == 416
        assert client.get(url, headers={"if-match": '"other"'}).status_code == 412
        assert client.get(url, headers={"if-match": tag}).status_code == 200
        assert client.get(url, headers={"if-none-match": tag}).status_code == 304
        head = client.head(url)
        assert (head.headers["content-length"], head.content) == (str(len(whole.content)), b"")
        assert client.get(f"{url}x").status_code == 404


def test_no_key_stands_in_the_log(stac: Sandbox) -> None:
    _items(stac, _provider(stac), DAY)
    assert API_KEY not in json.dumps(stac.log())
