"""The JAX kernels against NumPy float64 twins; compilations counted."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geostack_pipeline.methane.masking import CLOUD_BUFFER_M, Quality, classify, is_clear, quality_attributes
from geostack_pipeline.methane.mbmp import CLIP_ROUNDS, CLIP_SIGMA, absorbed_fraction, mbmp, mbsp
from geostack_pipeline.methane.padding import MULTIPLE, pad_image
from geostack_pipeline.methane.robust import local_scatter, masked_median


def lower_median(values: np.ndarray) -> float:
    return float(np.sort(values)[(values.size + 1) // 2 - 1])


def mbsp_twin(r11: np.ndarray, r12: np.ndarray, valid: np.ndarray) -> tuple[np.ndarray, float]:
    a, b = r11[valid].astype(np.float64), r12[valid].astype(np.float64)
    kept = np.ones(a.size, dtype=bool)
    for _ in range(CLIP_ROUNDS):
        slope = np.sum(a[kept] * b[kept]) / np.sum(b[kept] ** 2)
        residual = (slope * b - a) / a
        middle = lower_median(residual)
        sigma = 1.4826 * lower_median(np.abs(residual - middle))
        kept = np.abs(residual - middle) <= CLIP_SIGMA * sigma
    slope = np.sum(a[kept] * b[kept]) / np.sum(b[kept] ** 2)
    signal = np.full(r11.shape, np.nan)
    signal[valid] = (slope * b - a) / a
    return signal, slope


def scene(seed: int, shape=(128, 128)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    r11 = (0.4 * np.exp(0.1 * rng.standard_normal(shape))).astype(np.float32)
    r12 = (0.85 * r11 * np.exp(0.01 * rng.standard_normal(shape))).astype(np.float32)
    r12[40:60, 40:60] *= 0.93
    valid = rng.random(shape) > 0.2
    r11[~valid] = np.nan
    return r11, r12, valid


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_mbsp_equals_its_float64_twin(seed):
    r11, r12, valid = scene(seed)
    found = mbsp(jnp.asarray(r11), jnp.asarray(r12), jnp.asarray(valid))
    expected, slope = mbsp_twin(r11, r12, valid)
    assert float(found.slope) == pytest.approx(slope, rel=2e-5)
    np.testing.assert_allclose(found.signal, expected, atol=3e-5)
    assert np.array_equal(np.isnan(found.signal), ~valid)


def test_the_fit_does_not_follow_a_plume():
    r11, r12, valid = scene(4)
    found = mbsp(jnp.asarray(r11), jnp.asarray(r12), jnp.asarray(valid))
    calm = valid.copy()
    calm[40:60, 40:60] = False
    plain = np.sum(r11[calm].astype(float) * r12[calm]) / np.sum(r12[calm].astype(float) ** 2)
    # The plume is 2.4 % of the scene at -7 %: unclipped, it would move c by about 1.7e-3.
    assert float(found.slope) == pytest.approx(plain, rel=4e-4)
    assert np.nanmean(np.asarray(found.signal)[40:60, 40:60]) == pytest.approx(-0.07, abs=0.002)


def test_no_valid_pixel_gives_nan_everywhere():
    nothing = mbsp(jnp.ones((128, 128)), jnp.ones((128, 128)), jnp.zeros((128, 128), bool))
    assert np.isnan(nothing.signal).all()
    assert np.isnan(nothing.sigma)


def test_a_scene_without_scatter_gives_zero_signal():
    flat = mbsp(jnp.full((128, 128), 0.4), jnp.full((128, 128), 0.3), jnp.ones((128, 128), bool))
    assert np.abs(np.asarray(flat.signal)).max() < 1e-6


def test_mbmp_and_the_surface_term():
    rng = np.random.default_rng(5)
    surface, methane = rng.normal(0, 0.1, (64, 64)), rng.normal(0, 1e-3, (64, 64))
    methane[20:36, 10:50] -= rng.uniform(0.005, 0.05, (16, 40))  # a sixth of the scene
    there, here = surface, (1 + surface) * (1 + methane) - 1
    there[0, 0] = np.nan
    signal = mbmp(jnp.asarray(here), jnp.asarray(there)).signal
    np.testing.assert_allclose(signal, here - there, atol=1e-6)
    fraction = np.asarray(absorbed_fraction(jnp.asarray(here), jnp.asarray(there)))
    zero = fraction[1:] - methane[1:]
    assert np.ptp(zero) < 1e-6
    assert abs(zero.mean()) < 1e-4
    assert np.isnan(fraction[0, 0])


@settings(max_examples=30, deadline=None)
@given(
    values=hnp.arrays(np.float32, (3, 41), elements=st.floats(-1e3, 1e3, width=32)),
    mask=hnp.arrays(np.bool_, (3, 41)),
)
def test_masked_median_equals_sorting(values, mask):
    found = np.asarray(masked_median(jnp.asarray(values), jnp.asarray(mask)))
    for row in range(3):
        chosen = values[row][mask[row]]
        if chosen.size == 0:
            assert np.isnan(found[row])
        else:
            span = float(chosen.max()) - float(chosen.min())
            assert found[row] == pytest.approx(lower_median(chosen), abs=1e-6 * span + 1e-4)


def test_local_scatter_follows_the_noise_and_falls_back_where_pixels_are_few():
    rng = np.random.default_rng(6)
    sigma = np.where(np.arange(256)[None, :] < 128, 1.0, 3.0)
    image = (rng.standard_normal((256, 256)) * sigma + 10.0).astype(np.float32)
    valid = np.ones(image.shape, dtype=bool)
    valid[:64, :64] = False
    median, spread = local_scatter(jnp.asarray(image), jnp.asarray(valid), block=64, min_count=400)
    assert np.asarray(spread)[160, 32] == pytest.approx(1.0, rel=0.06)
    assert np.asarray(spread)[160, 224] == pytest.approx(3.0, rel=0.06)
    assert np.asarray(median)[160, 160] == pytest.approx(10.0, abs=0.2)
    whole = 1.4826 * np.median(np.abs(image[valid] - np.median(image[valid])))
    assert np.asarray(spread)[10, 10] == pytest.approx(whole, rel=0.03)


def test_areas_of_like_size_share_one_compilation():
    mbsp.clear_cache()
    for height, width in ((100, 120), (128, 128), (3, 77), (127, 1)):
        image = pad_image(np.full((height, width), 0.4, dtype=np.float32), np.nan)
        assert image.shape == (MULTIPLE, MULTIPLE)
        mbsp(jnp.asarray(image), jnp.asarray(image), jnp.asarray(np.isfinite(image)))
    assert mbsp._cache_size() == 1


@pytest.mark.parametrize(
    ("number", "flag"),
    [
        (0, Quality.NO_DATA), (1, Quality.DEFECTIVE_OR_DARK), (2, Quality.DEFECTIVE_OR_DARK),
        (3, Quality.CLOUD_SHADOW), (4, 0), (5, 0), (6, Quality.WATER), (7, 0), (8, Quality.CLOUD),
        (9, Quality.CLOUD), (10, Quality.CLOUD), (11, Quality.SNOW), (12, Quality.NO_DATA),
    ],
)  # fmt: skip
def test_scene_classes(number, flag):
    scl = np.full((4, 4), number, dtype=np.uint8)
    image = np.full((4, 4), 0.3, dtype=np.float32)
    flags = classify(scl, image, image, np.ones((4, 4), bool), pixel_size_m=20)
    assert (flags == int(flag)).all()
    assert is_clear(flags).all() == (flag == 0)


def test_clouds_get_a_buffer_and_bad_reflectances_no_data():
    scl = np.full((30, 30), 5, dtype=np.uint8)
    scl[15, 15] = 9
    image = np.full((30, 30), 0.3, dtype=np.float32)
    image[0, 0], image[0, 1] = np.nan, 0.0
    seen = np.ones((30, 30), bool)
    seen[1, 1] = False
    flags = classify(scl, image, image, seen, pixel_size_m=20)
    near = np.argwhere(flags & int(Quality.NEAR_CLOUD))
    reach = np.hypot(*(near - 15).T)
    assert reach.max() <= CLOUD_BUFFER_M / 20 + 0.7
    assert {(15, 12), (15, 18), (12, 15), (18, 15)} <= {tuple(p) for p in near}
    assert [flags[0, 0], flags[0, 1], flags[1, 1]] == [int(Quality.NO_DATA)] * 3


def test_flag_attributes_follow_cf():
    attributes = quality_attributes()
    masks = attributes["flag_masks"].tolist()
    assert masks == [2**bit for bit in range(len(masks))]
    assert len(attributes["flag_meanings"].split()) == len(masks)
