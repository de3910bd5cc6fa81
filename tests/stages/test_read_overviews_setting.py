"""Overviews as a setting: whose word counts, which versions it changes, and what is fetched and made of it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import rasterio
from obstore.store import LocalStore
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from geostack_pipeline.cube.build import build_packed
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.contract import ObjectRef
from geostack_pipeline.settings import load_settings, parse_settings
from geostack_pipeline.stages import cube, forecast, granules, wishes
from geostack_pipeline.stages.traffic import Traffic
from geostack_pipeline.stages.wishes import Target
from geostack_pipeline.stages.workspace import open_workspace

Versions = Callable[..., tuple[str, str]]


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    """The versions of manifest and cube under settings of an area and of the provider."""

    def of(area: dict[str, Any], provider: dict[str, Any]) -> tuple[str, str]:
        box = {"bbox": [10.0, 45.0, 10.1, 45.1]}
        raw = {"areas": {"one": {**box, **area}, "two": box}, "providers": {"earth_search": provider}}
        settings = parse_settings({"root": (tmp_path / "store").as_uri(), **raw})
        ws, own = open_workspace(settings), settings.build_provider("earth_search")
        return granules.base(ws, own, "selected"), cube.version(ws, own, "granules")

    return of


def test_the_default_leaves_stored_versions_valid_and_another_makes_new_ones(versions: Versions) -> None:
    default = versions({}, {})
    assert versions({"read_overviews": False}, {"read_overviews": False}) == default
    # the area's word goes before the provider's
    one, both, other = (
        versions({"read_overviews": True}, {}),
        versions({}, {"read_overviews": True}),
        versions({"read_overviews": False}, {"read_overviews": True}),
    )
    for index in (0, 1):
        assert len({kind[index] for kind in (default, one, both, other)}) == 4
    assert versions({"read_overviews": True}, {"read_overviews": True}) == both


@pytest.mark.parametrize(
    ("raw", "text"),
    [
        ({"providers": {"earth_search": {"read_overviews": "deep"}}}, "earth_search.read_overviews"),
        ({"areas": {"a": {"bbox": [1, 2, 3, 4], "read_overviews": 4}}}, "a.read_overviews"),
        ({"providers": {"cmr_stac": {"read_overviews": True}}}, "sensor's own geometry"),
    ],
)
def test_what_cannot_be_is_refused(raw: dict[str, Any], text: str) -> None:
    with pytest.raises(SettingsError, match=text):
        parse_settings(raw)


BOX = (10.33, 45.97, 10.36, 46.0)


@pytest.fixture
def bucket(tmp_path: Path) -> Path:
    """A scene of 10 m as COGs with overviews of 20 and 40 m; the classes' overviews are means, which are no classes."""
    folder = tmp_path / "bucket"
    folder.mkdir()
    y, x = np.mgrid[0:1100, 0:1024]
    noise = np.random.default_rng(3).integers(0, 900, y.shape)
    for name, numbers in {
        "B04": 1000 + x + y + noise,
        "B12": 3000 + x - y + noise,
        "SCL": 4 + (x + y) % 2,
    }.items():
        kind = np.uint8 if name == "SCL" else np.uint16
        with rasterio.open(
            folder / f"{name}.tif", "w", driver="GTiff", width=1024, height=1100, count=1, dtype=kind,
            crs="EPSG:32632", transform=Affine(10, 0, 602000, 0, -10, 5096000), nodata=0, tiled=True,
            blockxsize=128, blockysize=128, compress="deflate",
        ) as file:  # fmt: skip
            file.write(numbers.astype(kind), 1)
            file.build_overviews([2, 4], Resampling.average)
    return folder


def _fetched(file: Path, bucket: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any, pl.DataFrame, int]:
    """The workspace, the provider, the manifest, and the bytes that the fetch moved, which the plan told before."""
    settings = load_settings(file)
    ws = open_workspace(settings)
    provider: Any = settings.build_provider("earth_search")
    (area,) = ws.areas
    grid = ws.grid(area)
    about = {"datetime": "2024-06-07T10:20:31Z", "geostack:scene": "S", "view:sun_elevation": 50.0}
    item = {
        "id": "x",
        "collection": "c",
        "properties": about,
        "assets": {
            name: {"href": name, "raster:bands": [{"scale": 1e-4, "offset": -0.1, "nodata": 0}]}
            for name in ("B04", "B12", "SCL")
        },
    }
    target = Target(
        area=area.name,
        bounds=grid.bounds,
        crs=grid.crs,
        item=item,
        coverage=1.0,
        coarse=grid if ws.reads_overviews(provider.key, area) else None,
        blended=None if ws.reads_overviews(provider.key, area) else grid,
    )
    monkeypatch.setattr(wishes, "targets", lambda *_: iter([target]))
    store = LocalStore(bucket)
    monkeypatch.setattr(
        provider,
        "routes",
        lambda item, asset: [ObjectRef(store_id="b", key=f"{asset}.tif", canonical=f"b/{asset}.tif")],
    )
    monkeypatch.setattr(provider, "store", lambda _: store)
    nothing: Any = None
    planned, _ = forecast._files(ws, provider, nothing, Traffic(), refresh=False)
    traffic = Traffic()
    rows, skipped = granules._files(ws, provider, nothing, traffic, lambda _: None, refresh=False)
    assert skipped == []
    assert planned.totals() == traffic.totals()
    manifest = pl.DataFrame(rows, schema=granules.MANIFEST_SCHEMA)
    again, _ = granules._files(ws, provider, nothing, traffic, lambda _: None, refresh=False)
    assert pl.DataFrame(again, schema=granules.MANIFEST_SCHEMA).equals(manifest), "all of it is cached"
    return ws, provider, manifest, int(traffic.totals()["bytes_moved"])


def test_only_the_overview_is_fetched_and_the_cube_is_that_of_gdal(
    bucket: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def settings(name: str, **own: Any) -> Path:
        area = {"bbox": list(BOX), "resolution_m": 50}
        raw = {
            "root": f"file:{name}",
            "areas": {"a": area},
            "providers": {"earth_search": {**own, "bands": ["B04", "B12"]}},
        }
        (tmp_path / name).with_suffix(".yaml").write_text(json.dumps(raw), encoding="utf-8")
        return (tmp_path / name).with_suffix(".yaml")

    _, _, plain, whole = _fetched(settings("plain"), bucket, monkeypatch)
    assert set(plain["form"]) == {"crop"}
    ws, provider, manifest, moved = _fetched(settings("coarse", read_overviews=True), bucket, monkeypatch)
    assert dict(manifest.select("asset", "form").iter_rows()) == {
        "B04": "overview",
        "B12": "overview",
        "SCL": "crop",
    }
    sizes = {
        name: dict(frame.select("asset", "size").iter_rows())
        for name, frame in (("plain", plain), ("coarse", manifest))
    }
    assert sizes["coarse"]["SCL"] == sizes["plain"]["SCL"]
    assert sizes["coarse"]["B04"] < sizes["plain"]["B04"] / 5
    assert moved < whole / 2
    (area,) = ws.areas
    grid = ws.grid(area)
    layers = cube.scene_layers(ws, manifest, ["B04", "B12", "SCL"])
    made = build_packed(grid, layers, ["B04", "B12"], overviews=ws.reads_overviews(provider.key, area))
    for index, (name, level, how) in enumerate(
        [
            ("B04", {"overview_level": 1}, Resampling.average),
            ("B12", {"overview_level": 1}, Resampling.average),
            ("SCL", {}, Resampling.nearest),
        ]
    ):
        with (
            rasterio.open(bucket / f"{name}.tif", **level) as file,
            WarpedVRT(
                file, crs=grid.crs, transform=Affine(*grid.transform), width=grid.width, height=grid.height,
                resampling=how, tolerance=1e-4, src_nodata=0, nodata=0,
            ) as warped,
        ):  # fmt: skip
            expected = warped.read(1).astype(int)
        mine = (made.scl if name == "SCL" else made.reflectance[:, index]).values[0].astype(int)
        assert (expected > 0).mean() > 0.9
        given = (expected > 0) & (mine > 0)
        assert given.sum() >= 0.99 * (expected > 0).sum()
        assert np.abs(mine - expected)[given].max() <= (0 if name == "SCL" else 1)
