"""Quicklooks: they are what they show, small, and the same every time."""

from __future__ import annotations

import io
import sys
import warnings
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from geostack_pipeline.methane.plumes import detect
from geostack_pipeline.methane.retrieve import retrieve
from geostack_pipeline.publish.quicklook import MAX_BYTES, methane, true_colour

sys.path.insert(0, str(Path(__file__).parents[1] / "methane"))
from methane_scenes import Plume, Scene, make_cube

CYAN = np.array([0x19, 0xE6, 0xFF])


@pytest.fixture(autouse=True)
def no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def world():
    cube = make_cube(Scene(plumes=(Plume(row=90, col=50, rate_kg_h=9000),), noise=0.003, missing_columns=5))
    fields = retrieve(cube, [make_cube(Scene(time="2024-05-22T07:21:31", seed=2, noise=0.003))])
    return cube, fields, detect(fields, area="korpezhe")


def pixels(data: bytes) -> np.ndarray:
    image = Image.open(io.BytesIO(data))
    assert image.format == "PNG"
    assert image.info.get("Software") is None
    return np.asarray(image.convert("RGB")).astype(int)


def cyan(image: np.ndarray) -> int:
    return int((np.abs(image - CYAN).sum(axis=-1) < 60).sum())


def test_methane_shows_plume_outline_and_heat(world):
    cube, fields, plumes = world
    data = methane(cube, fields, plumes, title="korpezhe")
    assert len(data) <= MAX_BYTES
    shown = pixels(data)
    bare = pixels(methane(cube, fields, plumes.slice(0, 0), title="korpezhe"))
    assert cyan(shown) > 200
    assert cyan(bare) == 0
    assert shown.shape == bare.shape


def test_plumes_of_other_times_are_not_drawn(world):
    cube, fields, plumes = world
    later = fields["time"] + np.timedelta64(1, "D")
    assert cyan(pixels(methane(cube, fields.assign_coords(time=later), plumes))) == 0


def test_true_colour_keeps_north_up_and_marks_missing_pixels(world):
    cube, _, _ = world
    marked = cube.copy(deep=True)
    marked["reflectance"][0, :, :80, :96] = 0.9  # bright upper left
    image = pixels(true_colour(marked))
    height, width = image.shape[:2]
    assert image[height // 4, width // 4].min() > 240
    assert image[3 * height // 4, width // 4].mean() < 230
    assert len(true_colour(cube)) <= MAX_BYTES


def test_same_input_same_bytes(world):
    cube, fields, plumes = world
    assert methane(cube, fields, plumes) == methane(cube, fields, plumes)
    assert true_colour(cube) == true_colour(cube)


def test_a_large_noisy_scene_stays_small():
    rng = np.random.default_rng(1)
    cube = make_cube(Scene(shape=(1100, 1000)))
    cube["reflectance"][:] = rng.uniform(0, 1, cube["reflectance"].shape).astype(np.float32)
    assert len(true_colour(cube)) <= MAX_BYTES


@pytest.mark.parametrize("shape", [(1, 1), (3, 40), (60, 2)])
def test_odd_shapes_and_no_data_are_drawn(shape):
    cube = make_cube(Scene(shape=(64, 64))).isel(y=slice(0, shape[0]), x=slice(0, shape[1]))
    fields = retrieve(cube, [])
    assert pixels(true_colour(cube)).size
    assert pixels(methane(cube, fields, None)).size
    blank = cube.assign(reflectance=cube["reflectance"] * np.nan)
    assert pixels(true_colour(blank)).size
    assert pixels(methane(blank, retrieve(blank, []), None)).size


def test_without_visible_bands_the_picture_is_grey(world):
    cube, _, _ = world
    image = pixels(true_colour(cube.sel(band=["B11", "B12"])))
    middle = image[image.shape[0] // 2, 40:120]
    assert np.ptp(middle, axis=-1).max() < 12
