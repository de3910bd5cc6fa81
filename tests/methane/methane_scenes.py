"""Synthetic Sentinel-2 cube nodes with planted plumes, in NumPy float64 alone (the oracle's side of the tests)."""

from __future__ import annotations

import csv
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyproj
import xarray as xr
from scipy import ndimage

import geostack_pipeline

TABLE = Path(geostack_pipeline.__file__).parent / "data" / "ch4_sentinel2.csv"
BANDS = ("B02", "B03", "B04", "B11", "B12")
PIXEL_M = 20.0
WEST, NORTH = 591_000.0, 4_262_000.0  # EPSG:32639, near the east coast of the Caspian Sea
KG_PER_PPM_M_M2 = 1e-6 * 0.01604 / 22.4e-3


def table_columns() -> dict[str, np.ndarray]:
    lines = [line for line in TABLE.read_text().splitlines() if not line.startswith("#")]
    rows = list(csv.DictReader(lines))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def transmittances(enhancement: np.ndarray, platform: str, air_mass: float) -> tuple[np.ndarray, np.ndarray]:
    columns = table_columns()
    slant = enhancement * air_mass / 2.0
    t11, t12 = (
        np.interp(slant, columns["enhancement_ppm_m"], columns[f"{platform}_{b}"]) for b in ("B11", "B12")
    )
    return t11, t12


@dataclass(frozen=True, kw_only=True)
class Plume:
    row: float
    col: float
    rate_kg_h: float = 8000.0
    wind_m_s: float = 3.0
    direction_deg: float = 30.0
    length_m: float = 2500.0


def plume_field(shape: tuple[int, int], plume: Plume) -> np.ndarray:
    """Gaussian plume, ppm m: Q/(U sigma sqrt(2 pi)) exp(-y2/2 sigma2), sigma growing as 0.1 x + 15 m, fading out."""
    row, col = np.mgrid[0 : shape[0], 0 : shape[1]].astype(float)
    east, north = (col - plume.col) * PIXEL_M, (plume.row - row) * PIXEL_M
    angle = np.radians(plume.direction_deg)
    along = east * np.cos(angle) + north * np.sin(angle)
    across = -east * np.sin(angle) + north * np.cos(angle)
    wiggle = 60.0 * np.sin(along / 400.0) * np.clip(along / 800.0, 0, 1)
    sigma = 15.0 + 0.1 * np.clip(along, 0, None) ** 0.95
    kg_m2 = (
        plume.rate_kg_h / 3600.0 / (plume.wind_m_s * sigma * np.sqrt(2 * np.pi))
        * np.exp(-((across - wiggle) ** 2) / (2 * sigma**2))
    )  # fmt: skip
    fade = np.clip((along + 10.0) / 20.0, 0, 1) * np.exp(-((np.clip(along, 0, None) / plume.length_m) ** 4))
    return kg_m2 * fade / KG_PER_PPM_M_M2


def surface(shape: tuple[int, int], seed: int, heterogeneity: float) -> dict[str, np.ndarray]:
    """Reflectances of a desert with dunes, patches, fields with sharp edges and a road."""
    rng = np.random.default_rng(seed)

    def texture(scale: float) -> np.ndarray:
        image = ndimage.gaussian_filter(rng.standard_normal(shape), scale, mode="wrap")
        return image / image.std()

    smooth, fine = texture(25.0), texture(2.5)
    r11 = 0.42 * np.exp(0.10 * heterogeneity * smooth + 0.05 * heterogeneity * fine)
    ratio = 0.86 * np.exp(
        heterogeneity * (0.020 * texture(30.0) + 0.012 * texture(3.0) + 0.004 * rng.standard_normal(shape))
    )
    for _ in range(round(6 * heterogeneity)):
        row, col = rng.integers(0, shape[0] - 30), rng.integers(0, shape[1] - 30)
        high, wide = rng.integers(8, 30, 2)
        patch = (slice(row, row + high), slice(col, col + wide))
        r11[patch] *= rng.uniform(0.6, 1.2)
        ratio[patch] *= rng.uniform(0.85, 1.08)
    road = int(rng.integers(5, shape[0] - 5))
    r11[road : road + 2] *= 1 - 0.2 * heterogeneity
    ratio[road : road + 2] *= 1 - 0.06 * heterogeneity
    bands = {"B11": r11, "B12": r11 * ratio}
    for name, factor in (("B02", 0.32), ("B03", 0.48), ("B04", 0.62)):
        bands[name] = factor * r11 * np.exp(0.03 * texture(4.0))
    return bands


@dataclass(frozen=True, kw_only=True)
class Scene:
    time: str = "2024-06-01T07:21:31"
    shape: tuple[int, int] = (160, 192)
    plumes: tuple[Plume, ...] = ()
    seed: int = 1
    surface_seed: int = 100
    heterogeneity: float = 0.5
    noise: float = 0.004
    drift: float = 0.0
    """Relative change of surface patches between dates."""
    platform: str = "sentinel-2a"
    orbit: int | None = 106
    sun_zenith: float = 25.0
    view_zenith: float = 5.0
    clouds: tuple[tuple[int, int, int], ...] = ()
    """Row, column, radius in pixels."""
    gain: float = 1.0
    item: str = ""
    missing_columns: int = 0
    truth: list[np.ndarray] = field(default_factory=list)


def air_mass(sun: float, view: float) -> float:
    return 1 / np.cos(np.radians(sun)) + 1 / np.cos(np.radians(view))


def make_images(scene: Scene) -> tuple[dict[str, np.ndarray], np.ndarray, np.ndarray]:
    bands = {
        name: image * scene.gain
        for name, image in surface(scene.shape, scene.surface_seed, scene.heterogeneity).items()
    }
    rng = np.random.default_rng(scene.seed)
    truth = np.zeros(scene.shape)
    for plume in scene.plumes:
        truth += plume_field(scene.shape, plume)
    scene.truth.append(truth)
    view = scene.view_zenith if np.isfinite(scene.view_zenith) else 0.0
    name = f"S2{scene.platform[-1].upper()}"
    t11, t12 = transmittances(truth, name, air_mass(scene.sun_zenith, view))
    bands["B11"] = bands["B11"] * t11
    bands["B12"] = bands["B12"] * t12
    if scene.drift:
        for _ in range(8):
            row, col = (int(rng.integers(0, n - 24)) for n in scene.shape)
            patch = (slice(row, row + int(rng.integers(6, 24))), slice(col, col + int(rng.integers(6, 24))))
            wet = rng.uniform(0, scene.drift)
            bands["B11"][patch] *= 1 - wet
            bands["B12"][patch] *= 1 - 1.6 * wet
        slow = ndimage.gaussian_filter(rng.standard_normal(scene.shape), 30, mode="wrap")
        bands["B12"] = bands["B12"] * np.exp(0.1 * scene.drift * slow / slow.std())
    scl = np.full(scene.shape, 5, dtype=np.uint8)
    for row, col, radius in scene.clouds:
        y, x = np.ogrid[: scene.shape[0], : scene.shape[1]]
        inside = (y - row) ** 2 + (x - col) ** 2 <= radius**2
        scl[inside] = 9
        for image in bands.values():
            image[inside] = 0.6
    bands = {
        name: np.round(image * (1 + scene.noise * rng.standard_normal(scene.shape)), 4)
        for name, image in bands.items()
    }
    return bands, scl, truth


def make_cube(*scenes: Scene) -> xr.Dataset:
    """A cube node with one time per scene."""
    shape = scenes[0].shape
    reflectance = np.full((len(scenes), len(BANDS), *shape), np.nan)
    scl = np.zeros((len(scenes), *shape), dtype=np.uint8)
    source = np.full((len(scenes), *shape), -1, dtype=np.int16)
    for index, scene in enumerate(scenes):
        bands, classes, _ = make_images(scene)
        seen = slice(0, shape[1] - scene.missing_columns)
        for number, name in enumerate(BANDS):
            reflectance[index, number, :, seen] = bands[name][:, seen]
        scl[index, :, seen] = classes[:, seen]
        source[index, :, seen] = index
    ids = [s.item or f"S2{s.platform[-1].upper()}_39SYC_{s.time[:10].replace('-', '')}_0_L2A" for s in scenes]
    times = np.array([s.time for s in scenes], dtype="datetime64[ns]")
    return xr.Dataset(
        {
            "reflectance": (("time", "band", "y", "x"), reflectance.astype(np.float32)),
            "scl": (("time", "y", "x"), scl),
            "source_scene": (("time", "y", "x"), source),
        },
        coords={
            "time": times,
            "band": np.array(BANDS, dtype=object),
            "y": NORTH - PIXEL_M * (np.arange(shape[0]) + 0.5),
            "x": WEST + PIXEL_M * (np.arange(shape[1]) + 0.5),
            "spatial_ref": ((), 0, {
                "crs_wkt": pyproj.CRS("EPSG:32639").to_wkt(),
                "GeoTransform": f"{WEST} {PIXEL_M} 0.0 {NORTH} 0.0 -{PIXEL_M}",
            }),
            "scene": np.array(ids, dtype=object),
            "scene_datetime": ("scene", times),
            "relative_orbit": ("scene", [float("nan") if s.orbit is None else float(s.orbit) for s in scenes]),
            "sun_zenith": ("scene", [s.sun_zenith for s in scenes]),
            "view_zenith": ("scene", [s.view_zenith for s in scenes]),
            "platform": ("scene", np.array([s.platform for s in scenes], dtype=object)),
        },
    )  # fmt: skip
