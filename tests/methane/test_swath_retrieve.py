"""Granules of imaging spectrometers to methane fields: masks, maps, clusters, and what cannot be retrieved."""

from __future__ import annotations

import json

import numpy as np
import pytest
import xarray as xr
from swath_nodes import emit_node, enmap_node, mask_node, product_node

from benchmarks.filter_twins import cmf_twin
from geostack_pipeline.cube.swath_conventions import QUALITY
from geostack_pipeline.methane.misfit import UNLIKE
from geostack_pipeline.methane.plumes import NO_MAP, detect
from geostack_pipeline.methane.swath_fields import NotRetrievedError
from geostack_pipeline.methane.swath_quality import SwathQuality
from geostack_pipeline.methane.swath_retrieve import _check_any, is_readable, retrieve_granule
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


def test_each_column_is_filtered_by_the_centres_of_its_own_bands(granule):
    """A smile of 2 nm at the edges: the twin with each column's own target, and not with the nominal one."""
    node, _, mask, dilated = granule
    nominal = node["wavelength"].values
    smile = 2.0 * np.linspace(-1.0, 1.0, node.sizes["crosstrack"]) ** 2
    own = nominal[None, :] + smile[:, None]
    told = node.assign_coords(wavelength_of_column=(("crosstrack", "wavelength"), own))
    fields = retrieve_granule(told, [mask], method="cmf")
    turned = fields["ch4_enhancement"].values[0, 2:-2, 2:-2].T
    air_mass = 1 / np.cos(np.radians(30)) + 1 / np.cos(np.radians(5))
    for column in (0, 20, 39):
        spectra, good = node["radiance"].values[:, column, 1:], ~dilated[:, column]
        unit = unit_absorption(own[column, 1:], node["fwhm"].values[1:], air_mass=air_mass)
        expected, _, _ = cmf_twin(spectra, good, unit)
        assert np.nanmax(np.abs(turned[:, column] - expected)) < 1e-3 * np.nanstd(expected)
    plain, _, _ = cmf_twin(
        spectra, good, unit_absorption(nominal[1:], node["fwhm"].values[1:], air_mass=air_mass)
    )
    assert np.nanmax(np.abs(turned[:, 39] - plain)) > 0.05 * np.nanstd(plain)


def test_a_detector_with_a_look_up_table_comes_onto_its_map(granule):
    """EnMAP L1B: the same radiance under the names of the detector gives the same map."""
    node, _, _, _ = granule
    names = {
        name: f"swir_{name}"
        for name in (
            "downtrack",
            "crosstrack",
            "wavelength",
            "fwhm",
            "glt_x",
            "glt_y",
            "ortho_x",
            "ortho_y",
            "spatial_ref",
        )
    }
    l1b = node.rename({**names, "radiance": "radiance_swir"}).drop_vars(["solar_zenith", "sensor_zenith"])
    l1b.attrs |= {"sun_elevation_deg": 60.0, "across_off_nadir_deg": -4.54}  # 5 degrees at the ground
    fields = retrieve_granule(l1b, [], method="cmf")
    assert fields.sizes == {"time": 1, "y": 44, "x": 224, "scene": 1}
    expected = retrieve_granule(node, [], method="cmf")["ch4_enhancement"].values
    np.testing.assert_allclose(fields["ch4_enhancement"].values, expected, rtol=1e-3, atol=0.5)
    blind = l1b.drop_vars(["swir_glt_x", "swir_glt_y"])
    assert retrieve_granule(blind, [], method="cmf").sizes["downtrack"] == node.sizes["downtrack"]


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


@pytest.mark.parametrize("packed", [False, True])
def test_pixels_with_many_interpolated_bands_are_left_out(granule, packed):
    """A few bands change nothing; more than a tenth of the window's exclude the pixel, wherever the mask lies."""
    node, _, mask, dilated = granule
    count = node.sizes["wavelength"]
    numbers = np.concatenate([[14], np.arange(200, 200 + count - 1)])
    marked = np.zeros((*dilated.shape, 285), np.uint8)
    marked[100, 20, 200:203] = 1
    marked[101, 21, 199 : 199 + count // 4] = 1
    marked[102, 22, :150] = 1
    told = node.assign_coords(band_number=("wavelength", numbers))
    if packed:
        dims = ("downtrack", "crosstrack", "packed_band")
        masks = mask.assign(band_mask_packed=(dims, np.packbits(marked, axis=-1)))
    else:
        dims = ("downtrack", "crosstrack", "wavelength")
        order = np.arange(284, -1, -1)
        masks = mask.assign(band_mask=(dims, marked[..., order])).assign_coords(
            band_number=("wavelength", order + 1)
        )
    fields = retrieve_granule(told, [masks], method="cmf")
    flags = fields["quality_flags"].values[0, 2:-2, 2:-2].T
    defective = (flags & int(SwathQuality.DEFECTIVE_OR_DARK)) != 0
    assert np.argwhere(defective).tolist() == [[101, 21]]
    turned = fields["ch4_enhancement"].values[0, 2:-2, 2:-2].T
    assert np.isnan(turned[101, 21])
    assert np.isfinite(turned[[100, 102], [20, 22]]).all()


def _spoilt_mask(node, cloud, how):
    """Return a companion whose mask of clouds is wrong in one way."""
    sensor = ("downtrack", "crosstrack")
    values = {"short": cloud[:-1], "turned": cloud.T, "empty": np.full_like(cloud, 255)}[how]
    return xr.Dataset({"mask_cloud": (sensor, values)}, attrs={**node.attrs, "item_id": "RFL_X"})


@pytest.mark.parametrize(("how", "size"), [("short", "219x40"), ("turned", "40x220"), ("empty", None)])
def test_a_mask_that_does_not_fit_is_as_none_and_named(granule, how, size):
    """A line short, turned without saying so, or without a number: pixels are unmasked and the blue test runs."""
    node = granule[0].copy(deep=True)
    node["radiance"].values[100:110, 4:9, 0] = 40.0
    cloud = np.ones(granule[1].shape, np.uint8)
    fields = retrieve_granule(node, [_spoilt_mask(node, cloud, how)], method="cmf")
    flags = fields["quality_flags"].values[0, 2:-2, 2:-2].T
    assert ((flags & int(SwathQuality.NO_CLOUD_MASK)) != 0).all()
    assert ((flags & int(SwathQuality.CLOUD)) != 0).sum() == 50
    if size is None:
        assert "masks_not_used" not in fields.attrs
    else:
        assert fields.attrs["masks_not_used"] == f"RFL_X: {size} beside 220x40"


def test_a_mask_with_its_dimensions_in_the_other_order_is_turned(granule):
    node, _, mask, _ = granule
    expected = retrieve_granule(node, [mask], method="cmf")
    turned = retrieve_granule(node, [mask.transpose("crosstrack", "downtrack")], method="cmf")
    assert np.array_equal(turned["quality_flags"].values, expected["quality_flags"].values)
    assert "masks_not_used" not in expected.attrs


def test_where_one_mask_tells_nothing_the_next_does_and_else_the_pixel_says_so(granule):
    """Three parts of a granule: told by the first node, by the second, by none; only the last is tested in blue."""
    node = granule[0].copy(deep=True)
    node["radiance"].values[:, 5, 0] = 40.0
    first, second = (np.full(granule[1].shape, 255, np.uint8) for _ in range(2))
    first[:60], second[:120] = 0, 1
    sensor = ("downtrack", "crosstrack")
    masks = [
        xr.Dataset({"mask_cloud": (sensor, each)}, attrs=node.attrs)
        for each in (np.where(first == 255, np.nan, first), second)
    ]
    fields = retrieve_granule(node, masks, method="cmf")
    flags = fields["quality_flags"].values[0, 2:-2, 2:-2].T
    cloud = (flags & int(SwathQuality.CLOUD)) != 0
    unmasked = (flags & int(SwathQuality.NO_CLOUD_MASK)) != 0
    assert (unmasked[120:].all(), unmasked[:120].any()) == (True, False)
    assert (cloud[:60].any(), cloud[60:120].all()) == (False, True)
    assert np.flatnonzero(cloud[120:].any(axis=0)).tolist() == [5]


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
        (lambda node: node.isel(wavelength=slice(0, 1)), "0 bands from 2122 to 2488"),
        (lambda node: node.isel(downtrack=slice(0, 0)), "no pixel"),
    ],
)
def test_what_cannot_be_retrieved_says_why(granule, spoil, said):
    node, _, mask, _ = granule
    with xr.set_options(keep_attrs=True), pytest.raises(NotRetrievedError, match=said) as caught:
        retrieve_granule(spoil(node), [mask])
    assert not caught.value.ordinary, "nothing of this is weather"


@pytest.mark.parametrize("flag", [SwathQuality.SATURATED, SwathQuality.FLARE])
def test_a_granule_that_shines_all_over_is_no_matter_of_weather(flag):
    flags = np.full((4, 4), int(flag), np.uint16)
    with pytest.raises(NotRetrievedError, match=str(flag.name).lower()) as caught:
        _check_any(np.full((4, 4), np.nan, np.float32), flags)
    assert not caught.value.ordinary


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


@pytest.mark.parametrize(
    ("name", "units"),
    [
        ("ch4_enhancement", "mol m-2"),
        ("ch4_enhancement", "ppb"),
        ("ch4_uncertainty", "ppb"),
        ("ch4_sensitivity", "%"),
    ],
)
def test_a_product_in_other_units_is_refused(name, units):
    node = product_node()
    for each, said in (("ch4_enhancement", "ppm m"), ("ch4_uncertainty", "ppm m"), ("ch4_sensitivity", "1")):
        node[each].attrs["units"] = said
    assert retrieve_granule(node, [])["ch4_enhancement"].attrs["units"] == "ppm m"
    node[name].attrs["units"] = units
    with pytest.raises(NotRetrievedError, match=f"{name}.*'{units}', expected is"):
        retrieve_granule(node, [])


@pytest.mark.parametrize(
    ("platform", "collection", "title"),
    [
        ("enmap", "ENMAP_MISSION_L2A", "EnMAP"),
        ("MISSION-1", "ENMAP_HSI_L2A", "EnMAP"),
        ("iss", "EMITL2ARFL_001", "EMIT"),
        ("", "emitl2arfl_001", "EMIT"),
    ],
)
def test_the_instrument_is_known_by_its_names_and_not_by_parts_of_words(platform, collection, title):
    node, _ = enmap_node()
    node.attrs |= {"platform": platform, "collection": collection}
    assert retrieve_granule(node, [], method="cmf").attrs["title"].endswith(f"from {title}")


def test_the_light_leaves_the_ground_more_slantingly_than_the_satellite_looks():
    """25 degrees off nadir: the ray from 643 km meets the round earth, and the angle to its normal there counts."""
    node, _ = enmap_node()
    node.attrs["across_off_nadir_deg"] = -25.0
    radius, look = 6371.0, np.radians(25.0)
    satellite, ray = np.array([0.0, radius + 643.0]), np.array([np.sin(look), -np.cos(look)])
    half = satellite @ ray
    distance = -half - np.sqrt(half**2 - (satellite @ satellite - radius**2))
    ground = satellite + distance * ray
    view = np.arccos(-ray @ ground / radius)
    assert 27.0 < np.degrees(view) < 28.5
    expected = 1.0 / np.sin(np.radians(62.0)) + 1.0 / np.cos(view)
    fields = retrieve_granule(node, [], method="cmf")
    assert fields.attrs["air_mass"] == pytest.approx(expected, rel=1e-9)
    node.attrs["across_off_nadir_deg"] = 70.0
    with pytest.raises(NotRetrievedError, match="70 degrees off nadir"):
        retrieve_granule(node, [], method="cmf")


def test_pixels_that_enmap_calls_defective_or_saturated_are_left_out():
    """Of the mask of defective pixels a tenth of the window's bands counts; of the test flags those of SWIR do."""
    node, _ = enmap_node()
    bands = node.sizes["wavelength"]
    about = QUALITY["QUALITY_TESTFLAGS"]
    bit = dict(zip(about["flag_meanings"].split(), about["flag_values"].tolist(), strict=True))
    tests, defects = np.zeros((90, 90), np.uint8), np.zeros((bands, 90, 90), np.uint8)
    tests[10, 10] = bit["saturated_swir"] | bit["quality_low"]
    tests[11, 11] = bit["artefact_swir"]
    tests[12, 12] = bit["saturated_vnir"] | bit["artefact_vnir"] | bit["interpolated_swir"]
    defects[: bands // 4, 20, 20] = 1
    defects[:2, 21, 21] = 1
    defects[:, 22, 22] = 255
    told = node.assign(
        quality_testflags=(("y", "x"), tests, about), quality_pixelmask=(("wavelength", "y", "x"), defects)
    )
    fields = retrieve_granule(told, [], method="cmf")
    flags, found = fields["quality_flags"].values[0], fields["ch4_enhancement"].values[0]
    saturated, defective = (
        np.argwhere((flags & int(flag)) != 0).tolist()
        for flag in (SwathQuality.SATURATED, SwathQuality.DEFECTIVE_OR_DARK)
    )
    assert (saturated, defective) == ([[10, 10]], [[11, 11], [20, 20]])
    assert np.argwhere(np.isnan(found)).tolist() == [[10, 10], [11, 11], [20, 20]]
    one_plane = node.assign(quality_pixelmask=(("x", "y"), (tests == bit["artefact_swir"]).astype(np.uint8)))
    fields = retrieve_granule(one_plane, [], method="cmf")
    assert np.argwhere(np.isnan(fields["ch4_enhancement"].values[0])).tolist() == [[11, 11]]


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


@pytest.mark.parametrize(
    ("spoil", "said", "ordinary"),
    [
        (lambda node: node.assign_attrs(sun_elevation_deg=None), "METADATA", False),
        (lambda node: node.assign_attrs(sun_elevation_deg=3.0), "sun is too low", False),
        (lambda node: node.isel(wavelength=slice(0, 2)), "2 bands from 2122", False),
        (lambda node: node.rename(reflectance="radiance"), "no units", False),
        (lambda node: node.isel(y=slice(0, 0)), "no pixel", False),
        (lambda node: node.assign(reflectance=node["reflectance"] * np.nan), "no_data 100%", False),
        (lambda node: node.assign(reflectance=node["reflectance"] * 0.01), "defective_or_dark 100%", True),
        (
            lambda node: node.assign(quality_cloud=(("y", "x"), np.ones((90, 90), np.uint8))),
            "cloud 100%",
            True,
        ),
        (
            lambda node: node.assign(quality_pixelmask=(("y", "x"), np.ones((90, 90), np.uint8))),
            "defective_or_dark 100%",
            True,
        ),
    ],
)
def test_a_map_that_cannot_be_retrieved_says_why(spoil, said, ordinary):
    node, _ = enmap_node()
    with xr.set_options(keep_attrs=True), pytest.raises(NotRetrievedError, match=said) as caught:
        retrieve_granule(spoil(node), [], method="cmf")
    assert caught.value.ordinary is ordinary


@pytest.mark.parametrize(("rough", "lost"), [(0.0, 0), (0.02, 1)])
def test_what_absorbs_like_methane_alone_is_a_candidate_and_with_other_departures_a_surface(rough, lost):
    """3000 ppm m over even ground stay; the same over ground whose spectra differ by 2 % from band to band do not."""
    node, _ = enmap_node()
    nm, fwhm = node["wavelength"].values, node["fwhm"].values
    patch = node["reflectance"].values[:, 60:66, 6:16]
    patch *= np.exp(3000.0 * unit_absorption(nm, fwhm, air_mass=2.1))[:, None, None]
    patch *= 1.0 + rough * np.random.default_rng(3).standard_normal(patch.shape)
    fields = retrieve_granule(node, [], method="cmf")
    told, blind = (detect(each, area="a") for each in (fields, fields.drop_vars("spectral_misfit")))
    # The planted plume and the patch.
    assert (blind.num_rows, told.num_rows) == (2, 2 - lost)
    rejected = json.loads(told.schema.metadata[b"geostack:rejected"])
    assert rejected == ({UNLIKE: 1} if lost else {})


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


def test_of_several_levels_of_a_scene_one_is_used():
    l2a, l1c = (enmap_node(size=20, reflectance=each)[0] for each in (True, False))
    blind = xr.Dataset({"radiance_swir": ((), 0.0)}, attrs=l1c.attrs)
    placed = blind.assign(swir_glt_x=((), 0))
    other = l2a.assign_attrs(scene="ENMAP_Y")
    every = {"l1b": placed, "l1b_blind": blind, "l1c": l1c, "l2a": l2a, "other": other}
    for given, best in (
        (("l1b", "l1c", "l2a"), "l1b"),
        (("l1b", "l1b_blind"), "l1b"),
        (("l1b_blind", "l1c", "l2a"), "l1c"),
        (("l1b_blind", "l2a"), "l2a"),
        (("l1b_blind",), "l1b_blind"),
    ):
        tree = xr.DataTree.from_dict({name: every[name] for name in (*given, "other")})
        found = choose(tree, dict.fromkeys((*given, "other"), "v"), "cmf")
        rest = sorted(set(given) - {best})
        # Those left may still hold masks.
        assert found.wanted == {best: rest, "other": []}
        assert found.left == dict.fromkeys(rest, f"{best} of its scene is used")
    again = xr.DataTree.from_dict({"X_V01": l2a, "X_V02": l2a})
    assert set(choose(again, dict.fromkeys(("X_V01", "X_V02"), "v"), "cmf").wanted) == {"X_V02"}
