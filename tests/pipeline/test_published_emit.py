"""EMIT from the catalog to the published files, of both of its ways: the catalog's own product, and its radiance filtered."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pystac
import pytest
import rasterio
import shapely
import xarray as xr
import yaml
from PIL import Image
from rio_cogeo.cogeo import cog_validate

from geostack_pipeline.publish.plume_picture import plume_picture
from geostack_pipeline.publish.schemas import problems
from geostack_pipeline.sandbox.serve import Sandbox
from geostack_pipeline.sandbox.world.emit import emit_granules
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import cube, granules, methane, plumes, published, scenes, selected
from geostack_pipeline.stages.workspace import Outcome, open_workspace
from geostack_pipeline.storage.snapshot import Snapshot

pytestmark = pytest.mark.slow  # a retrieval, its pictures and its catalog, twice

DAY = "2024-06-07"
"""A plume is seen on it."""
WAYS = {"product": "EMIT_L2B_CH4ENH", "cmf": "EMIT_L1B_RAD"}
"""Filter -> how the names of the nodes begin that it makes methane of."""
COLLECTION = "methane-enhancement-emit"


@dataclass(frozen=True)
class Done:
    """What became of one date."""

    truth: list[dict[str, Any]]
    listed: set[str]
    """Items of the catalog."""
    retrieved: Snapshot
    rows: list[dict[str, Any]]
    published: Outcome

    @property
    def folder(self) -> Path:
        """Where the published files lie."""
        place = self.published.snapshot.local_path()
        assert place is not None
        return place

    def items(self, collection: str) -> list[dict[str, Any]]:
        """Return the published items of a collection."""
        every = published.items(self.published.snapshot).values()
        return [item for item in every if item["collection"] == collection]


@pytest.fixture(scope="module")
def served(worlds: Path) -> Iterator[Sandbox]:
    with (
        Sandbox.start(worlds, small=True, providers=("cmr_stac",)) as sandbox,
        pytest.MonkeyPatch.context() as patch,
    ):
        for name, value in sandbox.credentials().items():
            patch.setenv(name, value)
        yield sandbox


@pytest.fixture(scope="module", params=WAYS)
def way(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def done(way: str, tmp_path_factory: pytest.TempPathFactory, served: Sandbox) -> Done:
    folder = tmp_path_factory.mktemp(way)
    (folder / "wind.parquet").write_bytes(served.wind())
    settings = {"root": "file:store", "wind": {"source": "wind.parquet"}, **served.settings()}
    settings["methane"] = {**settings.get("methane", {}), "filter": way}
    settings["providers"]["cmr_stac"]["collections"] = [
        "EMITL2BCH4ENH_002",
        "EMITL1BRAD_001",
        "EMITL2ARFL_001",
    ]
    file = folder / "geostack.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    ws = open_workspace(load_settings(file))
    provider = ws.settings.build_provider("cmr_stac")
    found = scenes.build(ws, provider, DAY).snapshot
    chosen = selected.build(ws, provider, DAY, found).snapshot
    fetched = granules.build(ws, provider, DAY, chosen).snapshot
    stored = cube.build(ws, provider, DAY, fetched).snapshot
    retrieved = methane.build(ws, provider, DAY, stored).snapshot
    counted = plumes.build(ws, DAY).snapshot
    return Done(
        truth=[plume for plume in served.truth() if plume["time"].startswith(DAY)],
        listed=set(found.open()["id"]),
        retrieved=retrieved,
        rows=list(counted.open().rows(named=True)),
        published=published.build(ws, DAY),
    )


def test_the_catalog_is_complete_and_valid(done: Done) -> None:
    assert all(check.passed for check in done.published.checks)
    catalog = pystac.Catalog.from_file(str(done.folder / "catalog.json"))
    assert {one.id for one in catalog.get_children()} == {COLLECTION, "methane-plumes"}
    read = list(catalog.get_items(recursive=True))
    assert len(read) == len(done.items(COLLECTION)) + len(done.items("methane-plumes"))
    assert len(done.items(COLLECTION)) == len(done.retrieved.nodes) == 1
    for item in read:
        assert item.properties["instruments"] == ["emit"]
        assert item.properties["platform"] == "iss"
        assert problems(item.to_dict(include_self_link=False, transform_hrefs=False)) == []
        for asset in item.get_assets().values():
            href = asset.get_absolute_href()
            assert href is not None
            assert Path(href).exists(), href


def test_fields_are_cogs_that_equal_the_retrieval(done: Done, way: str) -> None:
    (name,) = done.retrieved.nodes
    assert name.startswith(WAYS[way])
    node = done.retrieved.open()[name].to_dataset()
    (item,) = done.items(COLLECTION)
    here = done.folder / COLLECTION / item["id"]
    alone = xr.open_zarr((here / item["assets"]["zarr"]["href"]).resolve(), consolidated=False)
    layers = {"ch4_enhancement", "ch4_uncertainty", "ch4_sensitivity", "quality_flags"}
    assert layers <= item["assets"].keys()
    for variable in item["assets"].keys() - {"zarr"}:
        path = here / item["assets"][variable]["href"]
        assert cog_validate(path, strict=True) == (True, [], [])
        with rasterio.open(path) as source:
            values = source.read(1)
            np.testing.assert_array_equal(values, node[variable].values[0])
            np.testing.assert_array_equal(values, alone[variable].values[0])
            assert item["properties"]["proj:code"] == source.crs.to_string() == "EPSG:4326"
            assert item["bbox"] == pytest.approx(list(source.bounds), abs=1e-6)
            column, row = ~source.transform @ (float(node["x"][5]), float(node["y"][9]))
            assert (column, row) == pytest.approx((5.5, 9.5), abs=1e-6)


def test_the_product_comes_through_as_the_catalog_has_it(done: Done, way: str, served: Sandbox) -> None:
    if way != "product":
        pytest.skip("the catalog has no product that equals a retrieval of ours")
    granule = next(one for one in emit_granules(served.world) if f"{one.start:%Y-%m-%d}" == DAY)
    (item,) = done.items(COLLECTION)
    path = done.folder / COLLECTION / item["id"] / "ch4_enhancement.tif"
    with rasterio.open(path) as shown, rasterio.open(granule.files["CH4ENH"]) as given:
        column, row = map(round, ~given.transform @ (shown.transform.c, shown.transform.f))
        window = rasterio.windows.Window(column, row, shown.width, shown.height)
        values = given.read(1, window=window)
        np.testing.assert_array_equal(shown.read(1), np.where(values == given.nodata, np.nan, values))


def test_plumes_have_a_rate_and_a_picture(done: Done) -> None:
    (truth,) = done.truth
    items = {item["id"]: item for item in done.items("methane-plumes")}
    assert set(items) == {row["plume_id"] for row in done.rows}
    place = shapely.Point(truth["longitude"], truth["latitude"])
    (row,) = (row for row in done.rows if shapely.from_wkb(row["geometry"]).distance(place) < 0.002)
    facts = items[row["plume_id"]]["properties"]
    rate, sigma = facts["geostack:emission_rate_kg_h"], facts["geostack:emission_rate_sigma_kg_h"]
    # The outline leaves out the thin tail of what was planted, and the wind of the table is not the true one.
    assert 0.5 < facts["geostack:ime_kg"] / truth["mass_kg"] < 1.1
    assert truth["rate_kg_h"] / 3.0 < rate < truth["rate_kg_h"] * 3.0
    assert 0.0 < sigma < rate
    # The rate of EMIT's own relation between wind and effective wind.
    assert facts["geostack:u_eff_m_s"] == pytest.approx(0.36 * row["wind_speed_m_s"] + 0.43)
    assert rate == pytest.approx(
        3600.0 * facts["geostack:u_eff_m_s"] * row["ime_kg"] / row["area_m2"] ** 0.5, rel=1e-6
    )
    shape = shapely.geometry.shape(items[row["plume_id"]]["geometry"])
    assert shape.equals(shapely.from_wkb(row["geometry"]))
    picture = (done.folder / "methane-plumes" / row["plume_id"] / "quicklook.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    # The ground in true colour, also under the product, which has none of its own.
    (name,) = done.retrieved.nodes
    bare = plume_picture(done.retrieved.open()[name].to_dataset(), row, time_index=0)
    assert plainness(picture) < 0.1 < 0.4 < plainness(bare)


def plainness(picture: bytes) -> float:
    """Return the share of the most common shade of a picture, white aside."""
    image = np.asarray(Image.open(io.BytesIO(picture)).convert("RGB")).reshape(-1, 3)
    shades, counts = np.unique(image, axis=0, return_counts=True)
    return float(counts[shades.min(axis=1) < 255].max() / len(image))


def test_items_lead_to_their_sources(done: Done, way: str) -> None:
    (field,) = done.items(COLLECTION)
    for item in [field, *done.items("methane-plumes")]:
        links = [link for link in item["links"] if link["rel"] == "derived_from"]
        there = {link["title"]: link["href"] for link in links if link["href"].startswith("http")}
        assert set(there) == set(item["properties"]["geostack:source_items"]) <= done.listed
        assert any(name.startswith(WAYS[way]) for name in there)
        for name, href in there.items():
            # The catalog itself knows them at these addresses.
            assert pystac.Item.from_file(href).id == name
        here = done.folder / item["collection"] / item["id"]
        stored = [link["href"] for link in links if link["href"].endswith("complete.json")]
        versions = {json.loads((here / href).read_text(encoding="utf-8"))["version"] for href in stored}
        assert done.retrieved.version in versions
        if item is not field:
            shown = [link["href"] for link in links if link["title"] == "the fields that show it"]
            assert [json.loads((here / href).read_text(encoding="utf-8"))["id"] for href in shown] == [
                field["id"]
            ]
