"""Colours of the ground under methane fields: from other nodes of the scene, moved to the fields' own grid."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pyproj
import pytest
import xarray as xr

from geostack_pipeline.cube.conventions import spatial_coordinates
from geostack_pipeline.cube.grid import GridSpec
from geostack_pipeline.publish.ground_colours import ground_colours

sys.path.insert(0, str(Path(__file__).parents[1] / "methane"))
from swath_nodes import STEP, enmap_node, product_node

NM = (480.0, 560.0, 660.0, 2300.0)
LINES, SAMPLES = 50, 40


def image() -> np.ndarray:
    """Return (lines, samples, blue green red swir): red along the track, green across it, blue in one corner."""
    values = np.zeros((LINES, SAMPLES, 4), np.float32)
    values[..., 2] = np.linspace(1.0, 9.0, LINES)[:, None]
    values[..., 1] = np.linspace(1.0, 9.0, SAMPLES)[None, :]
    values[..., 0] = 1.0
    values[:25, :20, 0] = 9.0
    return values


def in_sensor_geometry(*, column: int = 0, row: int = 0, prefix: str = "") -> xr.Dataset:
    """Return a node whose lines are rows of a map, and samples columns, that begins some pixels beside the product's."""
    grid = GridSpec(
        crs="EPSG:4326",
        transform=(STEP, 0.0, 54.0 + column * STEP, 0.0, -STEP, 38.5 - row * STEP),
        width=SAMPLES,
        height=LINES,
    )
    spatial = spatial_coordinates(grid)
    lines, samples = np.meshgrid(np.arange(LINES) + 1, np.arange(SAMPLES) + 1, indexing="ij")
    p = prefix
    name = f"radiance_{p}".rstrip("_")  # radiance, radiance_vnir
    return xr.Dataset(
        {
            name: ((f"{p}downtrack", f"{p}crosstrack", f"{p}wavelength"), image()),
            f"{p}glt_x": ((f"{p}ortho_y", f"{p}ortho_x"), samples.astype(np.int32)),
            f"{p}glt_y": ((f"{p}ortho_y", f"{p}ortho_x"), lines.astype(np.int32)),
        },
        {
            f"{p}wavelength": (f"{p}wavelength", np.array(NM)),
            f"{p}spatial_ref": spatial["spatial_ref"],
            f"{p}ortho_y": (f"{p}ortho_y", spatial["y"].values),
            f"{p}ortho_x": (f"{p}ortho_x", spatial["x"].values),
        },
        {"scene": "EMIT_X"},
    )


def check(colours: np.ndarray | None, rows: np.ndarray, columns: np.ndarray) -> None:
    """Compare with the image that was put in: line and sample under each pixel of the fields, -1 for none."""
    assert colours is not None
    inside = (rows >= 0) & (rows < LINES) & (columns >= 0) & (columns < SAMPLES)
    assert inside.any()
    assert not inside.all()
    assert np.ptp(colours[~inside], axis=-1).max() == 0.0
    wanted = image()[rows[inside], columns[inside]]
    for number, band in enumerate((2, 1, 0)):
        shown = colours[inside][:, number]
        # Stretched, but in the same order: a pixel that is one line or sample off breaks it.
        middle = (shown > shown.min()) & (shown < shown.max())
        assert np.ptp(shown) > 0.5
        order = np.argsort(wanted[:, band], kind="stable")
        assert (np.diff(shown[order]) >= -1e-6).all()
        if band != 0:
            assert np.unique(shown[middle]).size == np.unique(wanted[middle][:, band]).size


def test_a_product_takes_those_of_the_radiance_of_its_scene() -> None:
    fields = product_node()
    rows, columns = np.meshgrid(np.arange(64) - 7, np.arange(64) - 5, indexing="ij")
    check(ground_colours([fields, in_sensor_geometry(column=5, row=7)], fields), rows, columns)


def test_the_other_detector_of_enmap_has_a_map_of_its_own() -> None:
    node = in_sensor_geometry(column=3, row=9, prefix="vnir_")
    swir = xr.Dataset(
        {
            "radiance_swir": (
                ("swir_downtrack", "swir_crosstrack", "swir_wavelength"),
                np.ones((4, 5, 2), np.float32),
            )
        },
        {"swir_wavelength": ("swir_wavelength", np.array([2200.0, 2300.0]))},
    )
    fields = product_node()
    rows, columns = np.meshgrid(np.arange(64) - 9, np.arange(64) - 3, indexing="ij")
    check(ground_colours([xr.merge([node, swir])], fields), rows, columns)


def test_fields_in_metres_take_the_pixel_below_them() -> None:
    fields = product_node()
    west, north = pyproj.Transformer.from_crs("EPSG:4326", "EPSG:32640", always_xy=True).transform(54.0, 38.5)
    grid = GridSpec(
        crs="EPSG:32640",
        transform=(30.0, 0.0, west, 0.0, -30.0, north),
        width=60,
        height=60,
    )
    spatial = spatial_coordinates(grid)
    fields = xr.Dataset({"ch4_enhancement": (("y", "x"), np.ones((60, 60), np.float32))}, spatial)
    x, y = np.meshgrid(spatial["x"].values, spatial["y"].values)
    longitude, latitude = pyproj.Transformer.from_crs("EPSG:32640", "EPSG:4326", always_xy=True).transform(
        x, y
    )
    rows = np.floor((38.5 - latitude) / STEP).astype(int)
    columns = np.floor((longitude - 54.0) / STEP).astype(int)
    check(ground_colours([in_sensor_geometry()], fields), rows, columns)


def test_maps_on_both_sides_of_the_antimeridian_meet() -> None:
    node, fields = in_sensor_geometry(column=5, row=7), product_node()
    node["ortho_x"] = node["ortho_x"] + 125.98
    about = node["spatial_ref"].attrs
    parts = about["GeoTransform"].split()
    about["GeoTransform"] = " ".join([repr(float(parts[0]) + 125.98), *parts[1:]])
    fields["x"] = fields["x"] + 125.98 - 360.0
    rows, columns = np.meshgrid(np.arange(64) - 7, np.arange(64) - 5, indexing="ij")
    check(ground_colours([node], fields), rows, columns)


@pytest.mark.parametrize("case", ["no node", "no visible band", "no map", "another place", "nothing seen"])
def test_without_colours_there_are_none(case: str) -> None:
    fields, node = product_node(), in_sensor_geometry()
    nodes = {
        "no node": [fields],
        "no visible band": [enmap_node(size=20)[0]],
        "no map": [node.drop_vars(["glt_x", "glt_y"])],
        "another place": [in_sensor_geometry(column=200)],
        "nothing seen": [node.assign(radiance=node["radiance"] * np.nan)],
    }
    assert ground_colours(nodes[case], fields) is None
    # The next node is asked.
    assert ground_colours([*nodes[case], node], fields) is not None
