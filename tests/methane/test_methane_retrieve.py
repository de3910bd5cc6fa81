"""The retrieval on synthetic cube nodes: values, choice of the reference, flags, storage."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import xarray as xr
import zarr
from methane_scenes import Plume, Scene, make_cube

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.methane.masking import EXCLUDED, Quality
from geostack_pipeline.methane.retrieve import retrieve

PLUME = Plume(row=80, col=60, rate_kg_h=10_000)
EARLIER = Scene(time="2024-05-22T07:21:31", seed=2)


@pytest.fixture(scope="module")
def pair() -> tuple[Scene, xr.Dataset, xr.Dataset]:
    target = Scene(plumes=(PLUME,), clouds=((20, 150, 10),), missing_columns=6)
    cube = make_cube(target)
    return target, cube, retrieve(cube, [make_cube(EARLIER)])


def test_enhancement_is_unbiased_over_plume_and_background(pair):
    target, _, fields = pair
    truth, found = target.truth[0], fields["ch4_enhancement"].values[0]
    plume, calm = (truth > 2000) & np.isfinite(found), (truth < 1) & np.isfinite(found)
    noise = np.std(found[calm])
    assert plume.sum() > 200
    assert found[plume].mean() == pytest.approx(truth[plume].mean(), abs=4 * noise / np.sqrt(plume.sum()))
    assert abs(found[calm].mean()) < 4 * noise / np.sqrt(calm.sum()) + 60
    # The uncertainty is the noise that is really there.
    assert np.median(fields["ch4_uncertainty"].values[0][calm]) == pytest.approx(noise, rel=0.1)


def test_a_lower_sun_is_taken_into_account():
    shared = {"plumes": (PLUME,), "noise": 0.0005}
    means = []
    for zenith in (10.0, 65.0):
        target = Scene(sun_zenith=zenith, **shared)
        found = retrieve(
            make_cube(target), [make_cube(Scene(time=EARLIER.time, sun_zenith=zenith, noise=0.0005))]
        )
        plume = target.truth[0] > 2000
        means.append(found["ch4_enhancement"].values[0][plume].mean() / target.truth[0][plume].mean())
    assert means == pytest.approx([1.0, 1.0], abs=0.04)


def test_masks_and_flags(pair):
    _, cube, fields = pair
    flags = fields["quality_flags"].values[0]
    bad = (flags & int(EXCLUDED)) != 0
    for name in ("mbsp", "mbmp", "ch4_enhancement", "ch4_uncertainty"):
        assert np.isnan(fields[name].values[0][bad]).all(), name
        assert np.isfinite(fields[name].values[0][~bad]).all(), name
    assert (flags[:, -6:] & int(Quality.NO_DATA)).all()
    assert (flags[cube["scl"].values[0] == 9] & int(Quality.CLOUD)).all()
    assert (fields["signal_source"].values[0] == np.where(bad, 0, 2)).all()


def test_provenance_is_recorded(pair):
    _, cube, fields = pair
    assert fields["reference_time"].values[0] == np.datetime64(EARLIER.time)
    assert fields["reference_scene"].values[0] == "S2A_39SYC_20240522_0_L2A"
    assert 0 < fields["reference_sigma"].values[0] < 0.02
    assert fields.attrs["maturity"] == "screening"
    assert fields.attrs["method"] == "MBMP"
    assert fields.attrs["air_mass_bias_relative"] == 0.15
    assert list(fields["scene"].values) == list(cube["scene"].values)
    assert fields["spatial_ref"].attrs == cube["spatial_ref"].attrs
    assert fields["mbmp"].attrs["grid_mapping"] == "spatial_ref"


def test_without_reference_the_single_pass_is_used_and_flagged():
    cube = make_cube(Scene(plumes=(PLUME,)))
    fields = retrieve(cube, [])
    assert np.isnan(fields["mbmp"].values).all()
    assert np.isnat(fields["reference_time"].values[0])
    assert fields["reference_scene"].values[0] == ""
    assert (fields["quality_flags"].values & int(Quality.NO_REFERENCE)).all()
    assert (fields["signal_source"].values == 1).all()
    assert np.isfinite(fields["ch4_enhancement"].values).all()
    assert fields.attrs["method"] == "MBSP"


@pytest.mark.parametrize(
    "reference",
    [
        Scene(time="2024-05-22T07:21:31", orbit=6),
        Scene(time="2024-05-22T07:21:31", orbit=None),
        Scene(time="2024-06-11T07:21:31"),
        Scene(time="2024-06-01T07:21:17"),
        Scene(time="2024-05-22T07:21:31", clouds=((80, 96, 75),)),
    ],
    ids=["other orbit", "unknown orbit", "later", "same pass", "cloudy"],
)
def test_unfit_references_are_not_taken(reference):
    fields = retrieve(make_cube(Scene()), [make_cube(reference)])
    assert np.isnat(fields["reference_time"].values[0])
    assert np.isnan(fields["mbmp"].values).all()


def test_unknown_orbits_do_not_match_each_other():
    fields = retrieve(make_cube(Scene(orbit=None)), [make_cube(Scene(time=EARLIER.time, orbit=None))])
    assert np.isnan(fields["mbmp"].values).all()


def test_the_reference_that_cancels_the_surface_best_wins_whatever_the_order():
    good = make_cube(Scene(time="2024-05-12T07:21:31", seed=3, platform="sentinel-2b"))
    changed = make_cube(Scene(time="2024-05-27T07:21:31", seed=4, drift=0.2, noise=0.012))
    for order in ([good, changed], [changed, good]):
        fields = retrieve(make_cube(Scene()), order)
        assert fields["reference_time"].values[0] == np.datetime64("2024-05-12T07:21:31")
    assert fields.attrs["reference_candidates"] == 2
    assert (fields["quality_flags"].values & int(Quality.OTHER_PLATFORM)).all()


def test_a_reference_on_another_grid_is_left_out_and_counted():
    other = make_cube(EARLIER)
    fields = retrieve(make_cube(Scene()), [other.assign_coords(x=other["x"] + 20.0)])
    assert np.isnan(fields["mbmp"].values).all()
    assert fields.attrs["references_on_another_grid"] == 1


def test_missing_geometry_is_said_not_invented():
    reference = [make_cube(EARLIER)]
    cube = make_cube(Scene())
    no_sun = retrieve(cube.assign_coords(sun_zenith=("scene", [np.nan])), reference)
    assert np.isfinite(no_sun["mbmp"].values).all()
    assert np.isnan(no_sun["ch4_enhancement"].values).all()
    assert (no_sun["quality_flags"].values & int(Quality.NO_CONVERSION)).all()
    no_view = retrieve(cube.assign_coords(view_zenith=("scene", [np.nan])), reference)
    assert np.isfinite(no_view["ch4_enhancement"].values).all()
    assert (no_view["quality_flags"].values & int(Quality.VIEW_ASSUMED)).all()
    odd = retrieve(cube.assign_coords(platform=("scene", np.array(["sentinel-2z"], dtype=object))), reference)
    assert np.isnan(odd["ch4_enhancement"].values).all()


def test_a_mosaic_of_two_orbits_is_fitted_and_matched_by_orbit():
    one, two = make_cube(Scene()), make_cube(Scene(orbit=6, platform="sentinel-2b", gain=1.0, seed=9))
    cube = xr.concat(
        [one, two], dim="scene", data_vars="minimal", coords="minimal", compat="override", join="override"
    )
    cube["relative_orbit"] = ("scene", [106.0, 6.0])
    cube["platform"] = ("scene", np.array(["sentinel-2a", "sentinel-2b"], dtype=object))
    source = np.zeros((1, 160, 192), dtype=np.int16)
    source[..., 140:] = 1
    reflectance = one["reflectance"].values.copy()
    reflectance[:, 4, :, 140:] *= 1.2  # the other orbit's B12 has another gain
    cube["source_scene"] = (("time", "y", "x"), source)
    cube["reflectance"] = (("time", "band", "y", "x"), reflectance)
    fields = retrieve(cube, [make_cube(EARLIER)])
    assert (fields["signal_source"].values[..., :140] == 2).all()
    assert (fields["signal_source"].values[..., 140:] == 1).all()
    # One common factor would leave a step of 20 % between the halves.
    assert abs(np.nanmedian(fields["mbsp"].values[..., 140:])) < 0.01
    assert abs(np.nanmedian(fields["mbsp"].values[..., :140])) < 0.01


def test_each_time_of_a_node_is_retrieved():
    cube = make_cube(Scene(), Scene(time="2024-06-01T23:00:00", orbit=6, plumes=(PLUME,)))
    fields = retrieve(cube, [make_cube(EARLIER)])
    assert np.isnat(fields["reference_time"].values).tolist() == [False, True]
    assert [np.unique(fields["signal_source"].values[i]).tolist() for i in (0, 1)] == [[2], [1]]


def test_empty_and_all_cloud_nodes_are_values():
    cube = make_cube(Scene())
    none = retrieve(cube.isel(time=slice(0, 0)), [make_cube(EARLIER)])
    assert none.sizes["time"] == 0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cloudy = retrieve(cube.assign(scl=xr.full_like(cube["scl"], 9)), [make_cube(EARLIER)])
    assert np.isnan(cloudy["ch4_enhancement"].values).all()
    assert (cloudy["quality_flags"].values & int(Quality.CLOUD)).all()


def test_a_cube_without_b12_is_named():
    cube = make_cube(Scene())
    with pytest.raises(GeostackError, match="no B12 among B02, B03, B04, B11") as caught:
        retrieve(cube.isel(band=slice(0, 4)), [])
    assert "settings" in str(caught.value)
    with pytest.raises(GeostackError, match="no scl"):
        retrieve(cube.drop_vars("scl"), [])


def test_same_input_same_bytes(pair):
    _, cube, fields = pair
    again = retrieve(cube.copy(deep=True), [make_cube(EARLIER)])
    assert again.attrs == fields.attrs
    for name in fields.variables:
        if fields[name].dtype != object:
            assert again[name].values.tobytes() == fields[name].values.tobytes(), name


def test_fields_survive_zarr(pair):
    _, _, fields = pair
    store = zarr.storage.MemoryStore()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        fields.to_zarr(store, zarr_format=3, consolidated=False)
        back = xr.open_zarr(store, consolidated=False, chunks=None).load()
    xr.testing.assert_equal(back.drop_vars("reference_scene"), fields.drop_vars("reference_scene"))
    assert back["reference_scene"].values.tolist() == fields["reference_scene"].values.tolist()
    assert np.asarray(back["quality_flags"].attrs["flag_masks"]).tolist()[:3] == [1, 2, 4]


def test_a_cube_lazily_opened_from_zarr_gives_the_same(pair):
    _, cube, fields = pair
    store = zarr.storage.MemoryStore()
    cube.to_zarr(store, zarr_format=3, consolidated=False)
    found = retrieve(xr.open_zarr(store, consolidated=False, chunks=None), [make_cube(EARLIER)])
    np.testing.assert_array_equal(found["ch4_enhancement"].values, fields["ch4_enhancement"].values)
