"""EMIT and EnMAP from the catalog to the cube: searched, fetched with a login, one node per granule."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlsplit

import h5py
import numpy as np
import polars as pl
import pytest
import rasterio
import yaml
from rio_cogeo.cogeo import cog_validate

from geostack_pipeline.publish.schemas import problems
from geostack_pipeline.sandbox.serve import Sandbox
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import (
    cube,
    granules,
    methane,
    plumes,
    published,
    scenes,
    selected,
    training_set,
)
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.training_inventory import inventory
from geostack_pipeline.stages.workspace import Outcome, Workspace, open_workspace
from geostack_pipeline.storage.digest import sha256_bytes, version_of

EMIT_COLLECTIONS = ["EMITL2BCH4ENH_002", "EMITL2BCH4PLM_002", "EMITL1BRAD_001", "EMITL2ARFL_001"]
DAY = "2024-06-07"
"""EMIT and EnMAP see one plume on it."""


@pytest.fixture(scope="module")
def served(worlds: Path) -> Iterator[Sandbox]:
    with Sandbox.start(worlds, small=True, providers=("cmr_stac", "dlr_geoservice")) as sandbox:
        yield sandbox


def workspace(sandbox: Sandbox, folder: Path, *, only: str | None = None, **changes: Any) -> Workspace:
    settings = {"root": "file:store", **sandbox.settings()}
    settings["providers"]["cmr_stac"]["collections"] = EMIT_COLLECTIONS
    for key, provider in settings["providers"].items():
        provider.update(changes if only in {None, key} else {})
    file = folder / "geostack.yaml"
    file.write_text(yaml.safe_dump(settings), encoding="utf-8")
    return open_workspace(load_settings(file))


def run(ws: Workspace, provider: Any, day: str) -> SimpleNamespace:
    found = scenes.build(ws, provider, day)
    chosen = selected.build(ws, provider, day, found.snapshot)
    fetched = granules.build(ws, provider, day, chosen.snapshot)
    built: Outcome = cube.build(ws, provider, day, fetched.snapshot)
    return SimpleNamespace(scenes=found, selected=chosen, granules=fetched, cube=built)


@pytest.fixture
def logged_in(served: Sandbox, monkeypatch: pytest.MonkeyPatch) -> Sandbox:
    for name, value in served.credentials().items():
        monkeypatch.setenv(name, value)
    return served


def test_emit_from_catalog_to_cube(logged_in: Sandbox, tmp_path: Path) -> None:
    from geostack_pipeline.sandbox.world.emit import emit_granules

    ws = workspace(logged_in, tmp_path)
    provider = ws.settings.build_provider("cmr_stac")
    done = run(ws, provider, DAY)
    emit = next(g for g in emit_granules(logged_in.world) if f"{g.start:%Y-%m-%d}" == DAY)
    expected = {
        f"EMIT_L1B_RAD_001_{emit.name}",
        f"EMIT_L2A_RFL_001_{emit.name}",
        f"EMIT_L2B_CH4ENH_002_{emit.name}",
        f"EMIT_L2B_CH4PLM_002_{emit.plumes[0].name}",
    }
    assert set(done.cube.snapshot.nodes) == expected
    assert done.cube.snapshot.meta["outside"] == {}
    assert all(check.passed for check in done.cube.checks)
    tree = done.cube.snapshot.open()
    assert set(tree.children) == expected
    radiance = tree[f"EMIT_L1B_RAD_001_{emit.name}"].to_dataset()
    with h5py.File(emit.files["RAD"]) as file:
        bands = radiance["band_number"].values - 1
        assert len(bands) > 50
        assert np.array_equal(radiance["radiance"].values, file["radiance"][:][..., bands])
    methane = tree[f"EMIT_L2B_CH4ENH_002_{emit.name}"].to_dataset()
    assert set(np.unique(methane["plume_mask"].values)) == {0, int(emit.plumes[0].number)}
    assert methane.attrs["scene"] == radiance.attrs["scene"] == f"EMIT_{emit.name}"
    with rasterio.open(emit.files["CH4ENH"]) as raster:
        column, row = ~raster.transform @ (methane["x"].values[0], methane["y"].values[0])
        window = rasterio.windows.Window(int(column), int(row), methane.sizes["x"], methane.sizes["y"])
        assert np.array_equal(methane["ch4_enhancement"].values, raster.read(1, window=window))
    table = cube.summary(done.cube.snapshot)
    assert sorted(table["node"]) == sorted(expected)
    assert set(table["variable"]) == {"radiance", "reflectance", "ch4_enhancement", "plume_enhancement"}
    for name in expected:
        assert done.cube.snapshot.read(f"quicklook-{name}.png").startswith(b"\x89PNG")
    assert done.cube.snapshot.verify() == []


def test_nothing_is_done_twice_and_unchanged_nodes_are_taken_over(logged_in: Sandbox, tmp_path: Path) -> None:
    ws = workspace(logged_in, tmp_path)
    provider = ws.settings.build_provider("cmr_stac")
    first = run(ws, provider, DAY)
    again = run(ws, provider, DAY)
    assert again.cube.reused
    assert again.granules.reused
    assert again.cube.snapshot.version == first.cube.snapshot.version
    fewer = workspace(logged_in, tmp_path, wavelengths_nm=[[2200.0, 2400.0]])
    other = cube.build(fewer, provider, DAY, first.granules.snapshot)
    assert other.snapshot.version != first.cube.snapshot.version
    assert not other.reused
    tree = other.snapshot.open()
    for name, node in tree.children.items():
        if "wavelength" in node.dataset.sizes:
            assert 2200 <= float(node["wavelength"].min()) < float(node["wavelength"].max()) <= 2400, name
    manifest = first.granules.snapshot.open()
    versions = cube.nodes(ws, provider, manifest)
    changed = manifest.with_columns(sha256=manifest["sha256"].set(manifest["asset"] == "RAD", "0" * 64))
    others = cube.nodes(ws, provider, changed)
    assert {name for name in versions if versions[name] != others[name]} == {
        name for name in versions if "_RAD_" in name
    }


def _told(*names: Any, **changes: Any) -> bytes:
    """Return metadata of an outline with what they say of its scenes."""
    feature = {
        "properties": {"DAAC Scene Names": names[0]} if names else None,
        "geometry": {"type": "Polygon"},
        **changes,
    }
    return json.dumps({"features": [feature]}).encode()


def test_outlines_are_drawn_where_their_metadata_say_and_damaged_ones_break_no_date(
    logged_in: Sandbox, tmp_path: Path
) -> None:
    from geostack_pipeline.sandbox.world.emit import emit_granules

    ws = workspace(logged_in, tmp_path)
    provider = ws.settings.build_provider("cmr_stac")
    first = run(ws, provider, DAY).granules.snapshot
    emit = next(g for g in emit_granules(logged_in.world) if f"{g.start:%Y-%m-%d}" == DAY)
    scene, label = f"EMIT_L2B_CH4ENH_002_{emit.name}", f"EMIT_L2B_CH4PLM_002_{emit.plumes[0].name}"
    manifest = first.open()
    assert manifest.filter(pl.col("asset") == "CH4PLMMETA")["item_id"].unique().to_list() == [label]

    def with_metadata(data: bytes) -> Outcome:
        digest = sha256_bytes(data)
        blob = f"blobs/{digest[:2]}/{digest}"
        ws.artifacts.root.put(blob, data)
        about = pl.col("asset") == "CH4PLMMETA"
        changed = manifest.with_columns(
            blob=pl.when(about).then(pl.lit(blob)).otherwise("blob"),
            sha256=pl.when(about).then(pl.lit(digest)).otherwise("sha256"),
        )
        upstream = dict(first.upstream)
        with ws.artifacts.begin(
            first.asset, DAY, version_of(["test", digest]), kind="table", code_version="1", upstream=upstream
        ) as attempt:
            attempt.put("granules.parquet", parquet_bytes(changed))
            fetched = attempt.commit(meta={}, blobs=[blob])
        return cube.build(ws, provider, DAY, fetched)

    def drawn(found: Outcome) -> bool:
        node = found.snapshot.open()[scene]
        return "plume_mask" in node and bool(node["plume_mask"].values.any())

    # One name as text, names in lower case, none at all: as the training set reads them.
    start = f"emit{emit.start:%Y%m%dt%H%M%S}"
    for data, there in (
        (_told([scene]), True),
        (_told(scene), True),
        (_told([scene.lower()]), True),
        (_told(start), True),
        (_told([start.upper()]), True),
        (_told(), True),
        (_told([]), True),
        (_told(["EMIT_L2B_CH4ENH_002_20200101T000000_2000000_001"]), False),
        (_told("emit20200101t000000"), False),
    ):
        found = with_metadata(data)
        assert drawn(found) == there, data
        assert found.snapshot.meta["outlines_not_read"] == {}
        assert all(check.passed for check in found.checks)
    for data in (
        b'{"type": "FeatureCollection", "features": [{"geometry"',
        b'{"features": null}',
        _told(7),
        _told([7]),
        _told([scene], geometry={"type": "Point"}),
    ):
        found = with_metadata(data)
        assert scene in found.snapshot.nodes
        assert label in found.snapshot.nodes
        assert not drawn(found), data
        unread = {check.name: check for check in found.checks if not check.passed}
        assert list(unread) == ["outlines_read"]
        assert unread["outlines_read"].detail["not drawn"].startswith(f"{label}: no ")
        labels = inventory(ws).labels
        assert [each.item_id for each in labels if each.problem is not None] == [label]
        assert training_set.build(ws).snapshot.open("dropped").filter(pl.col("item_id") == scene)[
            "reason"
        ].to_list() == ["label_unreadable"]


def test_enmap_from_catalog_to_cube(logged_in: Sandbox, tmp_path: Path) -> None:
    from geostack_pipeline.sandbox.world.enmap import enmap_scenes

    ws = workspace(logged_in, tmp_path)
    provider = ws.settings.build_provider("dlr_geoservice")
    done = run(ws, provider, DAY)
    scene = next(s for s in enmap_scenes(logged_in.world) if f"{s.start:%Y-%m-%d}" == DAY)
    assert list(done.cube.snapshot.nodes) == [scene.id]
    assert all(check.passed for check in done.cube.checks)
    node = done.cube.snapshot.open()[scene.id].to_dataset()
    with rasterio.open(scene.files["SPECTRAL_IMAGE"]) as raster:
        column, row = ~raster.transform @ (node["x"].values[0], node["y"].values[0])
        window = rasterio.windows.Window(int(column), int(row), node.sizes["x"], node.sizes["y"])
        numbers = raster.read(node["band_number"].values.tolist(), window=window)
    expected = np.where(numbers == -32768, np.nan, numbers.astype(np.float64) * 1e-4)
    assert node["reflectance"].values == pytest.approx(expected, abs=1e-12, nan_ok=True)


def test_enmap_radiance_from_catalog_to_cube(logged_in: Sandbox, tmp_path: Path) -> None:
    """L1B and L1C of one scene are two nodes, where the settings ask for them."""
    from geostack_pipeline.sandbox.world.enmap_level1 import radiance_products

    ws = workspace(
        logged_in,
        tmp_path,
        only="dlr_geoservice",
        collections=["ENMAP_HSI_L1B", "ENMAP_HSI_L1C"],
        bands=["SPECTRAL_IMAGE", "QUALITY_CLASSES", "QUALITY_PIXELMASK"],
    )
    done = run(ws, ws.settings.build_provider("dlr_geoservice"), DAY)
    l1b, l1c = (radiance_products(logged_in.world, level)[0] for level in ("L1B", "L1C"))
    assert set(done.cube.snapshot.nodes) == {l1b.id, l1c.id}
    assert all(check.passed for check in done.cube.checks)
    assert set(cube.summary(done.cube.snapshot)["variable"]) == {"radiance_swir", "radiance"}
    tree = done.cube.snapshot.open()
    on_map, sensor = tree[l1c.id].to_dataset(), tree[l1b.id].to_dataset()
    with rasterio.open(l1c.files["SPECTRAL_IMAGE"]) as raster:
        column, row = ~raster.transform @ (on_map["x"].values[0], on_map["y"].values[0])
        window = rasterio.windows.Window(int(column), int(row), on_map.sizes["x"], on_map.sizes["y"])
        numbers = raster.read(on_map["band_number"].values.tolist(), window=window).astype(np.float64)
    gain, offset = (on_map[name].values[:, None, None] for name in ("gain", "offset"))
    expected = np.where(numbers == 0, np.nan, 100.0 * (numbers * gain + offset))
    np.testing.assert_allclose(on_map["radiance"].values, expected, rtol=2e-7)
    with rasterio.open(l1b.files["SPECTRAL_IMAGE_SWIR"]) as raster:
        bands = sensor["swir_band_number"].values - 91
        numbers = np.moveaxis(raster.read(bands.tolist()).astype(np.float64), 0, -1)
    expected = 100.0 * (numbers * sensor["swir_gain"].values + sensor["swir_offset"].values)
    np.testing.assert_allclose(sensor["radiance_swir"].values, expected, rtol=2e-7)
    assert sensor["quality_classes"].dims == ("vnir_downtrack", "vnir_crosstrack")
    assert on_map.attrs["scene"] == sensor.attrs["scene"]
    for name in (l1b.id, l1c.id):
        assert done.cube.snapshot.read(f"quicklook-{name}.png").startswith(b"\x89PNG")


@pytest.mark.slow  # a retrieval, its pictures and its catalog
def test_enmap_is_published(logged_in: Sandbox, tmp_path: Path) -> None:
    """Fields of EnMAP as STAC: COGs that equal the retrieval, valid items, links to what they were made from."""
    ws = workspace(logged_in, tmp_path, only="dlr_geoservice")
    provider = ws.settings.build_provider("dlr_geoservice")
    done = run(ws, provider, DAY)
    retrieved = methane.build(ws, provider, DAY, done.cube.snapshot).snapshot
    assert retrieved.meta["plumes"] >= 1
    counted = plumes.build(ws, DAY)
    outcome = published.build(ws, DAY)
    assert all(check.passed for check in outcome.checks)
    snapshot = outcome.snapshot
    folder = snapshot.local_path()
    assert folder is not None
    (name,) = retrieved.nodes
    node = retrieved.open()[name].to_dataset()
    found = published.items(snapshot)
    fields = [item for item in found.values() if item["collection"] == "methane-enhancement-enmap"]
    assert len(fields) == 1
    assert len(found) == 1 + counted.snapshot.meta["rows"]
    listed = done.scenes.snapshot.open()
    for item in found.values():
        assert problems(item) == []
        sources = {
            link["title"]: link["href"]
            for link in item["links"]
            if link["rel"] == "derived_from" and link["href"].startswith("http")
        }
        assert sources
        assert set(sources) == set(item["properties"]["geostack:source_items"]) <= set(listed["id"])
        # The catalog links to its items by paths on its own server.
        home = ws.settings.build_provider("dlr_geoservice").url
        assert all(urlsplit(href)[:2] == urlsplit(home)[:2] for href in sources.values())
        stored = [link for link in item["links"] if link["href"].endswith("complete.json")]
        assert {json.loads((folder / item["collection"] / item["id"] / link["href"]).read_text())["version"]
                for link in stored} >= {retrieved.version}  # fmt: skip
    (item,) = fields
    here = folder / item["collection"] / item["id"]
    for variable in ("ch4_enhancement", "ch4_uncertainty", "spectral_misfit", "quality_flags"):
        path = here / item["assets"][variable]["href"]
        assert cog_validate(path, strict=True) == (True, [], [])
        with rasterio.open(path) as source:
            np.testing.assert_array_equal(source.read(1), node[variable].values[0])
            assert item["properties"]["proj:code"] == source.crs.to_string()
    assert item["properties"]["instruments"] == ["hsi"]


def test_a_day_without_granules_is_a_value(logged_in: Sandbox, tmp_path: Path) -> None:
    ws = workspace(logged_in, tmp_path)
    for key in ("cmr_stac", "dlr_geoservice"):
        done = run(ws, ws.settings.build_provider(key), "2024-06-10")
        assert done.cube.snapshot.nodes == {}
        assert not done.cube.snapshot.open().children
        assert all(check.passed for check in done.cube.checks)
