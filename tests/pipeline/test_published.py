"""What is published of a date, looked at with other people's tools: pystac, rasterio, rio-cogeo, xarray, GeoPandas, a STAC
client against the real server, and a browser."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import dagster as dg
import numpy as np
import polars as pl
import pystac
import pystac_client
import pytest
import rasterio
import rustac
import shapely
import xarray as xr
import yaml
from rio_cogeo.cogeo import cog_validate
from typer.testing import CliRunner

import geostack_pipeline as gp
from geostack_pipeline.cli import app
from geostack_pipeline.commands.serve import stac_server, stored_catalog
from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.launch import Launcher, LaunchReport
from geostack_pipeline.publish.schemas import problems
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import published
from geostack_pipeline.stages.workspace import Workspace, open_workspace
from geostack_pipeline.storage.snapshot import Snapshot

pytestmark = pytest.mark.slow  # one run of the pipeline, looked at from many sides

DAYS = ("2024-06-02", "2024-06-03", "2024-06-07")
"""A reference without plumes, a date without a scene, a date with a plume."""
EMPTY, DAY = DAYS[1:]


@dataclass
class Run:
    """Dates of one provider in a store of their own, with the sandbox's wind."""

    file: Path
    instance: dg.DagsterInstance

    def launch(self, *days: str) -> LaunchReport:
        """Bring dates up to date as the command line does."""
        settings = load_settings(self.file)
        defs = build_definitions(settings, str(self.file))
        launcher = Launcher(defs, self.instance, self.ws, settings.build_provider("earth_search"))
        return launcher.run(list(days))

    @property
    def ws(self) -> Workspace:
        """The workspace as the settings file has it now."""
        return open_workspace(load_settings(self.file))

    def current(self, asset: str, day: str = DAY) -> Snapshot:
        """Return a stored version."""
        snapshot = self.ws.artifacts.current(asset, day)
        assert snapshot is not None
        return snapshot

    def folder(self, day: str = DAY) -> Path:
        """Return where the published files of a date lie."""
        place = self.current("published", day).local_path()
        assert place is not None
        return place


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, small_sandbox: Any) -> Iterator[Run]:
    folder = tmp_path_factory.mktemp("published")
    (folder / "wind.parquet").write_bytes(small_sandbox.wind())
    raw = {"root": "file:store", "wind": {"source": "wind.parquet"}, **small_sandbox.settings()}
    file = folder / "geostack.yaml"
    file.write_text(yaml.safe_dump(raw), encoding="utf-8")
    with dg.DagsterInstance.ephemeral() as instance:
        run = Run(file, instance)
        for day in DAYS:
            assert run.launch(day).failed == {}
        yield run


def test_a_second_run_launches_nothing(ran: Run) -> None:
    assert ran.launch(*DAYS).launched == 0


def test_a_stranger_walks_the_static_catalog(ran: Run, tmp_path: Path) -> None:
    # A copy elsewhere is the catalog, too: nothing in it leads back but the links to where it came from.
    copied = shutil.copytree(ran.folder(), tmp_path / "copy")
    catalog = pystac.Catalog.from_file(str(copied / "catalog.json"))
    items = list(catalog.get_items(recursive=True))
    collections = {one.id for one in catalog.get_children()}
    assert collections == {"methane-enhancement-sentinel-2", "methane-plumes"}
    assert len(items) == ran.current("published").meta["rows"] >= 2
    for item in items:
        assert item.get_collection() is not None
        for asset in item.get_assets().values():
            href = asset.get_absolute_href()
            assert href is not None
            assert Path(href).exists(), href
    for path in copied.rglob("*.json"):
        document = json.loads(path.read_text(encoding="utf-8"))
        if "stac_version" in document:
            assert problems(document) == []


def test_items_lead_to_their_sources(ran: Run, small_sandbox: Any) -> None:
    scenes = gp.load("earth_search/scenes", DAY, settings=ran.file)
    assert isinstance(scenes, pl.DataFrame)
    url = small_sandbox.settings()["providers"]["earth_search"]["url"]
    client = pystac_client.Client.open(url)
    for item in published.items(ran.current("published")).values():
        links = [link for link in item["links"] if link["rel"] == "derived_from"]
        versions = [link for link in links if link["href"].endswith("complete.json")]
        assert versions
        for link in versions:
            place = ran.folder() / item["collection"] / item["id"] / link["href"]
            assert json.loads(place.resolve().read_text(encoding="utf-8"))["version"] in link["title"]
        catalog_items = {link["title"]: link["href"] for link in links if link["href"].startswith("http")}
        assert set(catalog_items) == set(item["properties"]["geostack:source_items"])
        assert set(catalog_items) & set(scenes["id"])
        # The catalog itself knows them at these addresses.
        for name, href in catalog_items.items():
            assert pystac.Item.from_file(href, stac_io=client._stac_io).id == name


def test_fields_are_cogs_that_equal_the_zarr_and_the_retrieval(ran: Run) -> None:
    retrieved = ran.current("earth_search/methane").open()
    seen = 0
    for item in published.items(ran.current("published")).values():
        if item["collection"] != "methane-enhancement-sentinel-2":
            continue
        folder = ran.folder() / item["collection"] / item["id"]
        node = retrieved[item["properties"]["geostack:area"]].to_dataset()
        alone = xr.open_zarr((folder / item["assets"]["zarr"]["href"]).resolve(), consolidated=False)
        for name in ("ch4_enhancement", "ch4_uncertainty", "quality_flags"):
            path = folder / item["assets"][name]["href"]
            valid, errors, warnings = cog_validate(path, strict=True)
            assert (valid, errors, warnings) == (True, [], [])
            with rasterio.open(path) as source:
                values = source.read(1)
                np.testing.assert_array_equal(values, node[name].values[0])
                np.testing.assert_array_equal(values, alone[name].values[0])
                assert item["properties"]["proj:code"] == source.crs.to_string()
                assert item["properties"]["proj:shape"] == list(source.shape)
                assert item["properties"]["proj:transform"][:6] == list(source.transform)[:6]
                bounds = rasterio.warp.transform_bounds(source.crs, "OGC:CRS84", *source.bounds)
            assert item["bbox"] == pytest.approx(bounds, abs=2e-5)
            assert item["assets"][name]["file:size"] == path.stat().st_size
            seen += 1
    assert seen >= 3


def test_plumes_open_in_other_tools(ran: Run) -> None:
    geopandas = pytest.importorskip("geopandas")
    counted = gp.load("plumes", DAY, settings=ran.file)
    assert isinstance(counted, pl.DataFrame)
    folder = ran.folder()
    table = geopandas.read_parquet(folder / "plumes.parquet")
    file = geopandas.read_file(folder / "plumes.geojson")
    assert table.crs.to_string() in {"OGC:CRS84", "EPSG:4326"}
    assert sorted(table["plume_id"]) == sorted(file["plume_id"]) == sorted(counted["plume_id"])
    assert (table["emission_rate_kg_h"] > 0).all()
    assert table.geometry.iloc[0].equals(file.set_index("plume_id").loc[table["plume_id"].iloc[0]].geometry)
    rows = rustac.read_sync(str(folder / "published.parquet"))["features"]
    assert {row["id"] for row in rows} == {
        item["id"] for item in published.items(ran.current("published")).values()
    }


def test_rates_come_from_the_wind_and_are_right_within_their_uncertainty(
    ran: Run, small_sandbox: Any
) -> None:
    rows = gp.load("plumes", DAY, settings=ran.file)
    assert isinstance(rows, pl.DataFrame)
    truth = [plume for plume in small_sandbox.truth() if plume["time"].startswith(DAY)]
    found = 0
    for row in rows.iter_rows(named=True):
        outline = shapely.from_wkb(row["geometry"])
        hits = [
            one for one in truth if outline.distance(shapely.Point(one["longitude"], one["latitude"])) < 0.003
        ]
        for plume in hits:
            assert abs(row["emission_rate_kg_h"] - plume["rate_kg_h"]) < 3 * row["emission_rate_sigma_kg_h"]
            assert row["u_eff_m_s"] == pytest.approx(0.33 * row["wind_speed_m_s"] + 0.45)
            assert row["plume_length_m"] == pytest.approx(row["area_m2"] ** 0.5)
            metres = 111_195 * shapely.Point(row["source_longitude"], row["source_latitude"]).distance(
                shapely.Point(plume["longitude"], plume["latitude"])
            )
            assert metres < 300
            assert row["wind_source"].startswith("wind.parquet sha256:")
            found += 1
    assert found


def test_a_date_without_a_scene_is_published_as_empty(ran: Run) -> None:
    snapshot = ran.current("published", EMPTY)
    assert snapshot.meta["rows"] == 0
    assert snapshot.open().height == 0
    catalog = pystac.Catalog.from_file(str(ran.folder(EMPTY) / "catalog.json"))
    assert list(catalog.get_items(recursive=True)) == []
    assert b"No plume was found on this date." in snapshot.read("report.html")


def test_a_new_wind_makes_new_rates_and_no_new_retrieval(ran: Run) -> None:
    wind = ran.file.with_name("wind.parquet")
    before, kept = ran.current("published"), wind.read_bytes()
    rates = gp.load("plumes", DAY, settings=ran.file)["emission_rate_kg_h"]
    frame = pl.read_parquet(io.BytesIO(kept))
    try:
        frame.with_columns(pl.col("u10", "v10") * 2.0).write_parquet(wind)
        report = ran.launch(*DAYS)
        assert report.failed == {}
        assert {stage for stage, days in report.built.items() if days} == {"plumes", "published"}
        assert report.built["plumes"] == (DAY,)
        doubled = gp.load("plumes", DAY, settings=ran.file)["emission_rate_kg_h"]
        assert (doubled > rates).all()
        # Another month in the file is no other wind of this date.
        later = frame.with_columns(pl.col("time").dt.offset_by("40d"))
        pl.concat([frame, later]).write_parquet(wind)
        report = ran.launch(*DAYS)
        assert ran.current("published").version == before.version
        assert {stage for stage, days in report.built.items() if days} == set()
    finally:
        wind.write_bytes(kept)
    assert ran.launch(*DAYS).failed == {}


def test_without_a_wind_rates_are_null_and_say_why(ran: Run) -> None:
    raw = yaml.safe_load(ran.file.read_text(encoding="utf-8"))
    bare = Run(ran.file.with_name("bare.yaml"), ran.instance)
    bare.file.write_text(yaml.safe_dump({k: v for k, v in raw.items() if k != "wind"}), encoding="utf-8")
    try:
        assert bare.launch(DAY).failed == {}
        rows = gp.load("plumes", DAY, settings=bare.file)
        assert rows["emission_rate_kg_h"].null_count() == rows.height > 0
        assert set(rows["rate_missing_reason"]) == {"no wind is named in the settings"}
        assert b"no wind is named in the settings" in bare.current("published").read("report.html")
    finally:
        assert ran.launch(DAY).failed == {}


def test_a_wind_that_is_not_there_is_an_error_that_names_it(ran: Run) -> None:
    raw = yaml.safe_load(ran.file.read_text(encoding="utf-8"))
    file = ran.file.with_name("gone.yaml")
    file.write_text(yaml.safe_dump({**raw, "wind": {"source": "gone.parquet"}}), encoding="utf-8")
    said = CliRunner().invoke(
        app, ["run", "--provider", "earth_search", "--from", DAY, "--settings", str(file)]
    )
    assert said.exit_code == 2
    assert "gone.parquet" in said.output
    assert "does not exist" in said.output


def test_a_client_searches_the_real_server(ran: Run, tmp_path: Path) -> None:
    catalog = stored_catalog(ran.ws)
    with stac_server(catalog, tmp_path / "catalog") as url:
        client = pystac_client.Client.open(url)
        assert {one.id for one in client.get_collections()} == {
            "methane-enhancement-sentinel-2",
            "methane-plumes",
        }

        def ids(**search: Any) -> set[str]:
            return {item.id for item in client.search(**search).items()}

        everything = {item["id"] for item in catalog.items}
        plumes = {item["id"] for item in catalog.items if item["collection"] == "methane-plumes"}
        assert plumes
        assert ids() == everything
        assert ids(limit=1) == everything
        assert ids(collections=["methane-plumes"]) == plumes
        assert ids(bbox=[53.9, 38.4, 54.2, 38.6], datetime=DAY) == {
            item["id"] for item in catalog.items if item["properties"]["datetime"].startswith(DAY)
        }
        assert ids(bbox=[-10.0, 38.4, -9.0, 38.6]) == set()
        assert ids(datetime="2024-06-08/..") == set()
        (found,) = client.search(ids=[min(plumes)]).items()
        wanted = next(item for item in catalog.items if item["id"] == found.id)
        assert {key: asset.href for key, asset in found.assets.items()} == {
            key: asset["href"] for key, asset in wanted["assets"].items()
        }
        sources = {link.get_href() for link in found.links if link.rel == "derived_from"}
        assert sources == {link["href"] for link in wanted["links"] if link["rel"] == "derived_from"}
        with rasterio.open(
            next(client.search(collections=["methane-enhancement-sentinel-2"], datetime=DAY).items())
            .assets["ch4_enhancement"]
            .href.removeprefix("file://")
        ) as source:
            assert source.width > 1
    # The same folder is a static catalog.
    static = pystac.Catalog.from_file(str(tmp_path / "catalog" / "catalog.json"))
    assert {item.id for item in static.get_items(recursive=True)} == everything


def test_the_command_line_shows_and_reports(ran: Run, tmp_path: Path) -> None:
    ask = CliRunner()
    shown = ask.invoke(app, ["show", "published", DAY, "--settings", str(ran.file)])
    assert shown.exit_code == 0
    assert "methane-plumes" in shown.output
    said = ask.invoke(app, ["report", DAY, "--settings", str(ran.file)])
    assert Path(said.output.strip()).read_bytes() == ran.current("published").read("report.html")
    out = tmp_path / "page.html"
    assert ask.invoke(app, ["report", DAY, "--out", str(out), "--settings", str(ran.file)]).exit_code == 0
    assert out.stat().st_size > 10_000
    none = ask.invoke(app, ["report", "2024-06-09", "--settings", str(ran.file)])
    assert none.exit_code == 1
    assert "nothing is stored for this date" in none.output
    folder = tmp_path / "static"
    written = ask.invoke(app, ["serve", "--write-only", "--folder", str(folder), "--settings", str(ran.file)])
    assert written.exit_code == 0, written.output
    assert (folder / "catalog.json").is_file()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_page_in_a_browser(ran: Run, tmp_path: Path, scheme: str) -> None:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("/usr/bin/chromium", "chromium"))), None)
    if chromium is None:
        pytest.skip("no chromium at /usr/bin/chromium or in PATH")
    rows = gp.load("plumes", DAY, settings=ran.file)
    page_file = tmp_path / "report.html"
    page_file.write_bytes(ran.current("published").read("report.html"))
    arguments = ["--headless", "--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND"]
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=arguments)
        try:
            page = browser.new_page(viewport={"width": 1280, "height": 900}, color_scheme=scheme)
            asked: list[str] = []
            said: list[str] = []
            page.on("request", lambda request: asked.append(request.url))
            page.on("console", lambda message: said.append(message.text))
            page.on("pageerror", lambda error: said.append(str(error)))
            page.goto(page_file.as_uri())
            assert [url for url in asked if not url.startswith(("file:", "data:"))] == []
            assert said == []
            assert "7 June 2024" in page.inner_text("h1")
            assert page.locator("article.card").count() == rows.height
            assert page.locator("svg .plume").count() == rows.height
            widths = page.evaluate("Array.from(document.images).map(one => one.naturalWidth)")
            assert len(widths) == rows.height
            assert all(width > 200 for width in widths)
            text = page.inner_text("main")
            for row in rows.iter_rows(named=True):
                assert f"{row['emission_rate_kg_h'] / 1000:.1f} ± " in text
                assert all(item in text for item in row["item_ids"])
            for width in (1280, 400):
                page.set_viewport_size({"width": width, "height": 900})
                assert page.evaluate("document.documentElement.scrollWidth") <= width
            page.click("a.badge >> nth=0")
            assert page.locator("#plume-1").is_visible()
        finally:
            browser.close()
