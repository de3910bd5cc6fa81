"""Overviews as a setting: whose word counts, which versions it changes, and what is fetched and made of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import rasterio
import xarray as xr
from rasterio.enums import Resampling
from rasterio.transform import Affine
from rasterio.vrt import WarpedVRT

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.settings import load_settings, parse_settings
from geostack_pipeline.stages import cube, granules, scenes, selected
from geostack_pipeline.stages.forecast import forecast
from geostack_pipeline.stages.plan import make_plan
from geostack_pipeline.stages.workspace import open_workspace

Versions = Callable[..., tuple[str, str]]
DAY = "2024-06-07"


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


def _run(file: Path) -> tuple[Any, Any, Any]:
    """The manifest, the cube and what the fetch moved, of one date."""
    settings = load_settings(file)
    ws, provider = open_workspace(settings), settings.build_provider("earth_search")
    listed = scenes.build(ws, provider, DAY).snapshot
    chosen = selected.build(ws, provider, DAY, listed).snapshot
    planned = forecast(ws, provider, DAY, make_plan(ws, provider, [DAY], until="cube", frozen=[DAY]).steps)
    made = granules.build(ws, provider, DAY, chosen)
    assert planned.total("fetch")[1] == made.stats["bytes_moved"]
    assert granules.build(ws, provider, DAY, chosen).reused
    built = cube.build(ws, provider, DAY, made.snapshot)
    return made, built, ws


def test_only_the_overview_is_fetched_and_the_cube_is_that_of_gdal(
    sandbox_settings: Callable[..., Path], small_sandbox: Any, tmp_path: Path
) -> None:
    areas = {name: {**area, "resolution_m": 40} for name, area in small_sandbox.settings()["areas"].items()}
    bands = {"bands": ["B04", "B12"]}
    plain, _, _ = _run(sandbox_settings("plain.yaml", areas=areas, earth_search=bands, root="file:plain"))
    made, built, ws = _run(
        sandbox_settings("coarse.yaml", areas=areas, earth_search={**bands, "read_overviews": True})
    )
    manifest = made.snapshot.open()
    forms = {(row["asset"], row["form"]) for row in manifest.iter_rows(named=True)}
    assert forms == {("B04", "overview"), ("B12", "overview"), ("SCL", "crop")}
    assert set(plain.snapshot.open()["form"]) == {"crop"}
    assert made.stats["bytes_moved"] < plain.stats["bytes_moved"] / 2
    tree = built.snapshot.open()
    assert isinstance(tree, xr.DataTree)
    compared = 0
    for area, node in tree.children.items():
        assert "overviews" in node["reflectance"].attrs["made_of"]
        rows = manifest.filter((manifest["area"] == area) & (manifest["asset"] == "B04"))
        if rows.height != 1:
            continue  # several scenes: which one gives a pixel is another test's
        row = rows.row(0, named=True)
        grid = ws.grid(next(one for one in ws.areas if one.name == area))
        source = _file(small_sandbox, row["canonical"], tmp_path)
        with rasterio.open(source) as whole:
            level = max(n for n, factor in enumerate(whole.overviews(1)) if factor * whole.res[0] <= 40.0)
        with (
            rasterio.open(source, overview_level=level) as file,
            WarpedVRT(
                file,
                crs=grid.crs,
                transform=Affine(*grid.transform),
                width=grid.width,
                height=grid.height,
                resampling=Resampling.average,
                tolerance=1e-4,
                src_nodata=0,
                nodata=0,
            ) as warped,
        ):
            numbers = warped.read(1)
        mine = node["reflectance"].sel(band="B04").isel(time=0).values
        given = np.isfinite(mine) & (numbers > 0)
        assert given.mean() > 0.1
        expected = numbers * row["scale"] + row["offset"]
        assert np.abs(mine - expected)[given].max() <= 1.01e-4
        compared += 1
    assert compared


def _file(sandbox: Any, canonical: str, folder: Path) -> Path:
    """The published file behind an identity."""
    name = canonical.removeprefix("s3://sentinel-cogs/")
    path = folder / name.replace("/", "-")
    if not path.exists():
        answer = httpx.get(f"{sandbox.endpoints['sentinel-cogs']}/sentinel-cogs/{name}", timeout=60)
        path.write_bytes(answer.raise_for_status().content)
    return path
