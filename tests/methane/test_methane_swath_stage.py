"""The methane stage on stored swath cubes: which granules, which versions, and what becomes of those that give nothing."""

from __future__ import annotations

import numpy as np
import pytest
from swath_nodes import emit_node, mask_node, product_node

from geostack_pipeline.cube.write import finish_tree, write_node
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.methane.plume_table import plume_schema
from geostack_pipeline.settings import parse_settings
from geostack_pipeline.stages import methane
from geostack_pipeline.stages.workspace import open_workspace

DAY = "2024-06-07"


def _workspace(folder, **own):
    settings = {
        "root": "file:store",
        "areas": {"korpezhe": {"bbox": [53.95, 38.45, 54.25, 38.60]}},
        "providers": {"cmr_stac": {}},
        "methane": {"compilation_cache": False, **own},
    }
    return open_workspace(parse_settings(settings, base=folder))


def _cube(ws, nodes, version="c1", versions=None):
    """Store a date's cube as the cube stage does."""
    with ws.artifacts.begin(
        "cmr_stac/cube", DAY, version, kind="tree", code_version="1", upstream={}
    ) as attempt:
        zarr = attempt.zarr_store("tree.zarr")
        for name, node in nodes.items():
            write_node(zarr, name, node)
        finish_tree(zarr, {"provider": "cmr_stac"})
        return attempt.commit(
            meta={"rows": len(nodes)}, nodes=versions or {name: f"{name}-1" for name in nodes}
        )


@pytest.fixture(scope="module")
def granules():
    node, planted = emit_node(lines=200, samples=12)
    cloudy = emit_node(lines=200, samples=12, seed=8, item="EMIT_L1B_RAD_001_C")[0]
    cloudy.attrs["scene"] = "EMIT_C"
    overcast = mask_node(cloudy, cloud=np.ones(planted.shape, bool))
    overcast.attrs["scene"] = "EMIT_C"
    blind = emit_node(lines=200, samples=12, seed=9, angles=False, item="EMIT_L1B_RAD_001_B")[0]
    blind.attrs["scene"] = "EMIT_B"
    return {
        "rad": node,
        "rfl": mask_node(node),
        "enh": product_node(),
        "cloudy": cloudy,
        "cloudy_rfl": overcast,
        "blind": blind,
    }


def test_each_granule_gives_a_node_or_a_reason(tmp_path, granules):
    ws = _workspace(tmp_path, filter="cmf")
    provider = ws.settings.build_provider("cmr_stac")
    done = methane.build(ws, provider, DAY, _cube(ws, granules))
    assert set(done.snapshot.nodes) == {"rad"}
    meta = done.snapshot.meta
    assert "OBS" in meta["not_retrieved"]["blind"]
    assert set(meta["not_retrieved"]) == {"blind"}
    assert "cloud 100%" in meta["left_out"]["cloudy"]
    assert "filtered by cmf" in meta["left_out"]["enh"]
    assert set(meta["left_out"]) == {"cloudy", "cloudy_rfl", "enh", "rfl"}
    checks = {check.name: check for check in done.checks}
    assert checks["enhancement_range"].passed
    assert not checks["granules_retrieved"].passed
    assert "blind" in checks["granules_retrieved"].detail["not retrieved"]
    fields = done.snapshot.open()["rad"].to_dataset()
    assert fields["ch4_enhancement"].dims == ("time", "y", "x")
    assert np.isfinite(fields["ch4_enhancement"].values).sum() == 200 * 12
    assert done.snapshot.open("plumes").columns == plume_schema().names
    assert done.snapshot.read("quicklook-rad.png").startswith(b"\x89PNG")
    (row,) = methane.summary(done.snapshot).iter_rows(named=True)
    assert (row["method"], row["maturity"], row["cloud_mask"]) == ("cmf", "science", True)
    again = methane.build(ws, provider, DAY, ws.artifacts.find("cmr_stac/cube", DAY, "c1"))
    assert again.reused
    assert again.snapshot.version == done.snapshot.version


def test_a_version_follows_its_inputs_and_unchanged_nodes_are_taken_over(tmp_path, granules):
    ws = _workspace(tmp_path, filter="product")
    provider = ws.settings.build_provider("cmr_stac")
    other = product_node()
    other.attrs["scene"] = "EMIT_OTHER"
    two = {"enh": granules["enh"], "other": other}
    first = methane.build(ws, provider, DAY, _cube(ws, two))
    assert first.stats == {"computed": 2, "taken_over": 0}
    changed = _cube(ws, two, "c2", {"enh": "enh-1", "other": "other-2"})
    second = methane.build(ws, provider, DAY, changed)
    assert second.stats == {"computed": 1, "taken_over": 1}
    assert second.snapshot.version != first.snapshot.version
    assert second.snapshot.meta["plumes"] == first.snapshot.meta["plumes"] == 2
    assert second.snapshot.nodes["enh"] == first.snapshot.nodes["enh"]
    versions = {methane.version(ws, provider, "c1", {})}
    table = tmp_path / "mine.csv"
    table.write_text("wavelength_nm,unit_absorption_per_ppm_m\n2300,-1e-5\n2310,-1e-5\n")
    for own in ({"filter": "cmf"}, {"filter": "mag1c"}, {"filter": "cmf", "target": "mine.csv"}):
        versions.add(methane.version(_workspace(tmp_path, **own), provider, "c1", {}))
    table.write_text("wavelength_nm,unit_absorption_per_ppm_m\n2300,-1e-5\n2310,-2e-5\n")
    versions.add(methane.version(_workspace(tmp_path, filter="cmf", target="mine.csv"), provider, "c1", {}))
    versions.add(
        methane.version(_workspace(tmp_path, filter="cmf", detection={"seed_z": 9}), provider, "c1", {})
    )
    assert len(versions) == 6
    with pytest.raises(SettingsError, match="cannot be read"):
        methane.version(_workspace(tmp_path, target="none.csv"), provider, "c1", {})


def test_an_empty_day_is_a_value(tmp_path):
    ws = _workspace(tmp_path)
    provider = ws.settings.build_provider("cmr_stac")
    done = methane.build(ws, provider, DAY, _cube(ws, {}))
    assert done.snapshot.nodes == {}
    assert done.snapshot.open("plumes").height == 0
    assert all(check.passed for check in done.checks)
    assert methane.references(ws, provider, DAY) == {}


@pytest.mark.parametrize(("lines", "masked"), [(30, True), (190, False)])
def test_a_granule_has_a_cloud_mask_where_one_tells_of_most_of_its_pixels(tmp_path, granules, lines, masked):
    rfl = granules["rfl"].copy(deep=True)
    rfl["mask_cloud"].values[:lines] = 255
    ws = _workspace(tmp_path, filter="cmf")
    provider = ws.settings.build_provider("cmr_stac")
    done = methane.build(ws, provider, DAY, _cube(ws, {"rad": granules["rad"], "rfl": rfl}))
    (row,) = methane.summary(done.snapshot).iter_rows(named=True)
    assert row["cloud_mask"] is masked
