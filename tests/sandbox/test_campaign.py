"""EMIT's campaign: places apart, products on one lattice, outlines of what stands out, the same bytes again."""

from __future__ import annotations

import json
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import rasterio
import shapely

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.config import LARGEST_CAMPAIGN, ServeConfig
from geostack_pipeline.sandbox.dialects.emit_granules import records
from geostack_pipeline.sandbox.world import campaign
from geostack_pipeline.sandbox.world.emit import EmitGranule
from geostack_pipeline.sandbox.world.world import World

COUNT = 5


@pytest.fixture(scope="module")
def world(swath_world: World) -> World:
    """Return the world of the other tests, with a campaign."""
    return World(swath_world.folder.parent, small=True, campaign=COUNT)


@pytest.fixture(scope="module")
def granules(world: World) -> list[EmitGranule]:
    return list(campaign.campaign_granules(world))


def raster(path: Path) -> tuple[npt.NDArray[Any], Any]:
    with rasterio.open(path) as opened:
        values = opened.read(1)
        return np.where(values == opened.nodata, np.nan, values), opened.transform


@pytest.mark.slow
def test_every_place_and_every_moment_is_seen_once() -> None:
    passes = [campaign.planned(7, number)[1] for number in range(LARGEST_CAMPAIGN)]
    boxes = np.array([each.swath.outline().bounds for each in passes])
    # All of a granule lies in a cell of its own, so that no split of cells of this size or a multiple cuts it.
    low, high = np.floor(boxes[:, :2] / campaign.SPACING_DEG), np.floor(boxes[:, 2:] / campaign.SPACING_DEG)
    assert (low == high).all()
    assert len(np.unique(low, axis=0)) == LARGEST_CAMPAIGN
    west, south, east, north = campaign.AREA.bbox
    assert (boxes[:, :2] > [west, south]).all()
    assert (boxes[:, 2:] < [east, north]).all()
    starts = sorted(each.start for each in passes)
    # Outlines are joined to scenes of one pass within a minute.
    assert min(b - a for a, b in pairwise(starts)) > timedelta(seconds=60)
    numbers = [number for each in passes for number, _ in each.plumes]
    assert len(numbers) == len(set(numbers)) > LARGEST_CAMPAIGN
    assert all(len(number) == 6 and number.isdecimal() for number in numbers)
    assert numbers != sorted(numbers)
    assert len({each.stem for each in passes}) == LARGEST_CAMPAIGN
    assert {each.start.hour < 10 for each in passes} == {True}


def test_a_granule_is_the_same_in_every_campaign_and_in_every_process(
    granules: list[EmitGranule], tmp_path: Path
) -> None:
    work = tmp_path / "again"
    work.mkdir()
    campaign.render(World(tmp_path, small=True).seed, COUNT - 1, work)
    kept = granules[-1].files["CH4ENH"].parent
    assert {path.name for path in work.iterdir()} == {path.name for path in kept.iterdir()}
    for path in work.iterdir():
        assert path.read_bytes() == (kept / path.name).read_bytes()


def test_products_share_a_lattice_and_outlines_lie_on_it(granules: list[EmitGranule]) -> None:
    outlined = 0
    for granule in granules:
        assert set(granule.files) == {"CH4ENH", "CH4UNCERT", "CH4SENS"}
        fields = {name: raster(path) for name, path in granule.files.items()}
        enhancement, transform = fields["CH4ENH"]
        assert {tuple(place) for _, place in fields.values()} == {tuple(transform)}
        assert np.nanmin(fields["CH4UNCERT"][0]) > 0.0
        assert abs(np.nanmedian(fields["CH4SENS"][0]) - 1.0) < 0.2
        truth = {each.name: each for each in granule.truth}
        assert len(granule.plumes) <= len(truth)
        for plume in granule.plumes:
            values, place = raster(plume.files["CH4PLM"])
            column, row = ~transform @ (place.c, place.f)
            assert abs(column - round(column)) < 1e-6
            assert abs(row - round(row)) < 1e-6
            inside = np.isfinite(values)
            part = enhancement[
                round(row) : round(row) + inside.shape[0], round(column) : round(column) + inside.shape[1]
            ]
            assert np.array_equal(part[inside], values[inside])
            # What is outlined stands out of the granule, and some planted plume lies there.
            assert np.quantile(values[inside], 0.9) > np.nanmedian(enhancement) + np.nanstd(enhancement)
            about = json.loads(plume.files["CH4PLMMETA"].read_text())["features"]
            drawn = shapely.geometry.shape(about[0]["geometry"])
            sources = [shapely.Point(each.longitude, each.latitude) for each in truth.values()]
            assert min(drawn.distance(source) for source in sources) < 0.01
            assert about[0]["properties"]["DAAC Scene Names"] == [f"EMIT_L2B_CH4ENH_002_{granule.name}"]
            outlined += 1
    assert outlined > 0
    assert outlined < sum(len(granule.truth) for granule in granules), "weak plumes are not noticed"


def test_the_catalogs_list_scenes_and_outlines_besides_the_worlds_own(
    world: World, granules: list[EmitGranule]
) -> None:
    listed = records(world)
    names = [each.name for each in listed]
    assert len(names) == len(set(names))
    mine = {each.name: each for each in listed if f"{each.start:%d}" == "04"}
    expected = {f"EMIT_L2B_CH4ENH_002_{each.name}" for each in granules}
    expected |= {f"EMIT_L2B_CH4PLM_002_{plume.name}" for each in granules for plume in each.plumes}
    assert set(mine) == expected
    assert len({each.concept for each in listed}) == len(listed)
    assert len(listed) > len(mine)
    # Outlines follow weeks after the scene.
    for record in mine.values():
        assert (record.made - record.start > timedelta(days=20)) == (record.plume is not None)
    assert [area.name for area in world.areas][-1] == "campaign"


def test_a_campaign_has_a_largest_size() -> None:
    with pytest.raises(SettingsError, match="at most"):
        ServeConfig(folder="x", campaign=LARGEST_CAMPAIGN + 1).check()
