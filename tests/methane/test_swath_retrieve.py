"""Granules of imaging spectrometers to methane fields: masks, maps, clusters, and what cannot be retrieved."""

from __future__ import annotations

import numpy as np
import pytest
import xarray as xr
from swath_nodes import emit_node, enmap_node, mask_node, product_node

from benchmarks.filter_twins import cmf_twin
from geostack_pipeline.methane.plumes import NO_MAP, detect
from geostack_pipeline.methane.swath_fields import NotRetrievedError
from geostack_pipeline.methane.swath_quality import SwathQuality
from geostack_pipeline.methane.swath_retrieve import is_readable, retrieve_granule
from geostack_pipeline.methane.target import unit_absorption
from geostack_pipeline.stages.methane_swath import choose


@pytest.fixture(scope="module")
def granule():
    node, planted = emit_node()
    cloud = np.zeros(planted.shape, bool)
    cloud[10:30, 5:15] = True
    dilated = np.zeros_like(cloud)
    dilated[8:32, 3:17] = True
    return node, planted, mask_node(node, cloud=cloud, dilated=dilated), dilated


def test_a_map_holds_each_columns_own_filter(granule):
    """Turned back by hand, the map is the float64 twin of each detector column, with the mask's pixels left out."""
    node, _, mask, dilated = granule
    fields = retrieve_granule(node, [mask], method="cmf")
    assert fields.sizes == {"time": 1, "y": 44, "x": 224, "scene": 1}
    assert (fields["y"].values == node["ortho_y"].values).all()
    turned = fields["ch4_enhancement"].values[0, 2:-2, 2:-2].T
    air_mass = 1 / np.cos(np.radians(30)) + 1 / np.cos(np.radians(5))
    wavelength = node["wavelength"].values[1:]
    unit = unit_absorption(wavelength, node["fwhm"].values[1:], air_mass=air_mass)
    assert np.array_equal(np.isnan(turned), dilated)
    for column in (0, 10, 39):
        expected, _, _ = cmf_twin(node["radiance"].values[:, column, 1:], ~dilated[:, column], unit)
        assert np.nanmax(np.abs(turned[:, column] - expected)) < 1e-3 * np.nanstd(expected)
    border = np.ones((44, 224), bool)
    border[2:-2, 2:-2] = False
    flags = fields["quality_flags"].values[0]
    assert (flags[border] == int(SwathQuality.NO_DATA)).all()
    assert np.isnan(fields["ch4_enhancement"].values[0][border]).all()
    inside = flags[2:-2, 2:-2].T
    assert ((inside & int(SwathQuality.CLOUD)) != 0).sum() == 200
    assert np.array_equal(inside != 0, dilated)
    assert set(np.unique(fields["source_scene"].values)) == {-1, 0}
    assert fields["scene"].values.tolist() == ["EMIT_L1B_RAD_001_X"]


def test_mag1c_keeps_the_two_sided_field_beside_the_sparse_one(granule):
    node, planted, mask, _ = granule
    fields = retrieve_granule(node, [mask], method="mag1c")
    sparse, linear = (fields[name].values[0] for name in ("ch4_enhancement", "ch4_enhancement_linear"))
    assert np.nanmin(sparse) == 0.0
    assert np.nanmin(linear) < -50.0
    on_map = np.full(sparse.shape, np.nan)
    on_map[2:-2, 2:-2] = planted.T
    strong = (on_map > 2000) & (on_map < 8000) & np.isfinite(linear)
    assert strong.sum() > 20
    assert np.median(linear[strong] / on_map[strong]) == pytest.approx(1.0, abs=0.25)
    assert fields.attrs["maturity"] == "science"
    assert fields.attrs["instrument"].startswith("EMIT")
    assert fields["ch4_uncertainty"].attrs["units"] == "ppm m"


@pytest.mark.slow  # compiles a kernel of its own
def test_a_short_granule_takes_neighbouring_columns_together():
    node, _ = emit_node(lines=60, samples=30, plumes=0)
    fields = retrieve_granule(node, [mask_node(node)], method="cmf")
    assert fields.attrs["columns_filtered_together"] in {4, 5}
    assert np.isfinite(fields["ch4_enhancement"].values[0, 2:-2, 2:-2]).all()
    assert fields.attrs["columns_not_retrieved"] == 0


def test_a_dead_column_is_masked_and_named_in_the_flags(granule):
    node, _, mask, dilated = granule
    broken = node.copy(deep=True)
    broken["radiance"].values[:, 7, :] = 1.0
    broken["radiance"].values[:, 8, :] = np.nan
    broken["radiance"].values[50, 20, :] = 60.0
    fields = retrieve_granule(broken, [mask], method="cmf")
    whole = retrieve_granule(node, [mask], method="cmf")
    turned, flags = (fields[name].values[0, 2:-2, 2:-2].T for name in ("ch4_enhancement", "quality_flags"))
    assert np.isnan(turned[:, 7:9]).all()
    assert ((flags[:, 7] & int(SwathQuality.COLUMN_NOT_RETRIEVED)) != 0)[~dilated[:, 7]].all()
    assert ((flags[:, 8] & int(SwathQuality.NO_DATA)) != 0).all()
    assert flags[50, 20] & int(SwathQuality.SATURATED)
    assert flags[50, 20] & int(SwathQuality.FLARE)
    kept = [c for c in range(40) if c not in (7, 8, 20)]
    before = whole["ch4_enhancement"].values[0, 2:-2, 2:-2].T
    assert np.array_equal(turned[:, kept], before[:, kept], equal_nan=True)
    assert np.isfinite(turned[:, 20]).sum() == np.isfinite(before[:, 20]).sum() - 1


def test_without_a_mask_pixels_say_so_and_bright_blue_is_cloud(granule):
    node = granule[0].copy(deep=True)
    node["radiance"].values[100:110, 4:9, 0] = 40.0
    fields = retrieve_granule(node, [], method="cmf")
    flags = fields["quality_flags"].values[0, 2:-2, 2:-2].T
    assert ((flags & int(SwathQuality.NO_CLOUD_MASK)) != 0).all()
    assert ((flags & int(SwathQuality.CLOUD)) != 0).sum() == 50
    assert np.isnan(fields["ch4_enhancement"].values[0, 2:-2, 2:-2].T[100:110, 4:9]).all()


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda node: node.drop_vars(["solar_zenith", "sensor_zenith"]), "OBS"),
        (lambda node: node.assign(solar_zenith=node["solar_zenith"] + 60.0), "sun is too low"),
        (lambda node: node.assign(solar_zenith=node["solar_zenith"] * np.nan), "missing"),
        (lambda node: node.isel(wavelength=slice(0, 4)), "3 bands from 2122 to 2488"),
        (lambda node: node.assign(radiance=node["radiance"].assign_attrs(units="W m-2")), "W m-2"),
        (lambda node: node.assign(radiance=node["radiance"] * np.nan), "no_data 100%"),
    ],
)
def test_what_cannot_be_retrieved_says_why(granule, spoil, said):
    node, _, mask, _ = granule
    with xr.set_options(keep_attrs=True), pytest.raises(NotRetrievedError, match=said) as caught:
        retrieve_granule(spoil(node), [mask])
    assert not caught.value.ordinary, "nothing of this is weather"


def test_a_granule_under_clouds_is_an_ordinary_result(granule):
    node, planted, _, _ = granule
    with pytest.raises(NotRetrievedError, match="cloud 100%") as caught:
        retrieve_granule(node, [mask_node(node, cloud=np.ones(planted.shape, bool))])
    assert caught.value.ordinary


def test_the_catalogs_own_product_is_taken_as_it_is():
    node = product_node()
    fields = retrieve_granule(node, [], method="mag1c")
    assert np.array_equal(fields["ch4_enhancement"].values[0], node["ch4_enhancement"].values, equal_nan=True)
    assert (fields.attrs["method"], fields.attrs["maturity"]) == ("l2b", "science")
    table = detect(fields, area="korpezhe", provider="cmr_stac")
    (row,) = table.to_pylist()
    assert row["method"] == "l2b"
    assert row["item_ids"] == ["EMIT_L2B_CH4ENH_002_X"]
    assert row["max_enhancement_ppm_m"] == pytest.approx(2500.0, rel=0.15)
    # 48 pixels of about 47 m x 60 m, and the rim that the smoothing adds
    assert 48 <= row["pixels"] <= 160
    assert row["area_m2"] == pytest.approx(row["pixels"] * 47.2 * 60.2, rel=0.01)
    with pytest.raises(NotRetrievedError, match="no valid pixel"):
        retrieve_granule(product_node(nan=True), [])


@pytest.mark.parametrize("reflectance", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_a_map_is_filtered_as_a_whole_and_called_experimental(reflectance):
    node, planted = enmap_node(reflectance=reflectance)
    fields = retrieve_granule(node, [], method="cmf")
    assert fields.attrs["maturity"] == "experimental"
    assert fields.attrs["clusters"] == 1
    assert fields["spatial_ref"].attrs["crs_wkt"]
    found = fields["ch4_enhancement"].values[0]
    strong = (planted > 1500) & (planted < 8000) & np.isfinite(found)
    assert strong.sum() > 10
    assert np.corrcoef(found[strong], planted[strong])[0, 1] > 0.7
    # The noise of EnMAP is not known: the uncertainty is what the map scatters by.
    sigma = fields["ch4_uncertainty"].values * fields["ch4_sensitivity"].values
    assert np.nanmedian(sigma) == pytest.approx(np.nanstd(found), rel=0.05)
    table = detect(fields, area="korpezhe", provider="dlr_geoservice")
    assert table.num_rows >= 1
    assert {row["maturity"] for row in table.to_pylist()} == {"experimental"}


@pytest.mark.slow  # compiles a kernel of its own
def test_the_strongest_planted_plume_is_a_candidate_and_the_map_without_gives_none(granule):
    node, _, mask, _ = granule
    fields = retrieve_granule(node, [mask], method="mag1c")
    table = detect(fields, area="korpezhe", provider="cmr_stac")
    assert table.num_rows >= 1
    empty, _ = emit_node(plumes=0, seed=11)
    none = detect(retrieve_granule(empty, [mask_node(empty)], method="mag1c"), area="korpezhe")
    assert none.num_rows == 0


def test_fields_without_a_map_give_no_candidates_and_the_reason():
    fields = xr.Dataset(
        {"ch4_enhancement": (("time", "downtrack", "crosstrack"), np.zeros((1, 4, 4), np.float32))}
    )
    table = detect(fields, area="korpezhe")
    assert table.num_rows == 0
    assert NO_MAP.encode() in table.schema.metadata[b"geostack:rejected"]


def test_one_granule_of_a_scene_is_used_and_the_others_say_why(granule):
    node, _, mask, _ = granule
    angles = node[["solar_zenith", "sensor_zenith"]].assign_attrs(scene="EMIT_OTHER")
    tree = xr.DataTree.from_dict({"rad": node, "rfl": mask, "enh": product_node(), "obs": angles})
    names = dict.fromkeys(("rad", "rfl", "enh", "obs"), "v")
    filtered = choose(tree, names, "mag1c")
    assert filtered.wanted == {"rad": ["enh", "rfl"]}
    assert "filtered by mag1c" in filtered.left["enh"]
    assert "mask of its scene" in filtered.left["rfl"]
    assert "neither radiance nor methane" in filtered.left["obs"]
    product = choose(tree, names, "product")
    assert set(product.wanted) == {"enh"}
    assert "product of its scene" in product.left["rad"]
    assert not is_readable(mask)
