"""The ways to build a cube that are compared; each runs in a process of its own (see worker).

Every way ends with the whole cube in memory as uint16 numbers, and is compared with GDAL's exact one after the clock
has stopped.
"""

from __future__ import annotations

import contextlib
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.cube_scenes import BANDS, DAYS, Scene, items, parts, scenes, target

Work = Callable[[], dict[str, Any]]
THREADS = 2
"""Of every way that takes a number: the cores of a small machine."""
_CLOUD = {"GDAL_DISABLE_READDIR_ON_OPEN": "EMPTY_DIR", "GDAL_HTTP_MAX_RETRY": "3"}
"""What the peers' manuals advise for files over HTTP."""


def _compared(bands: Sequence[np.ndarray], folder: str, days: int = DAYS) -> dict[str, Any]:
    """Return the facts of a cube, given band by band as (day, row, column); it is compared after the measurement."""

    def after() -> dict[str, Any]:
        exact = np.load(Path(folder, "reference.npy"), mmap_mode="r")
        if len(bands) != len(BANDS) or any(band.shape != (days, *exact.shape[2:]) for band in bands):
            return {"error": f"bands shaped {[band.shape for band in bands]} for {days} x {exact.shape[2:]}"}
        same = sum(
            int(np.count_nonzero(band[day] == exact[day % DAYS, number]))
            for number, band in enumerate(bands)
            for day in range(days)
        )
        return {"equal": same / sum(band.size for band in bands)}

    return {"pixels": sum(int(band.size) for band in bands), "after": after}


def _by_day(found: Sequence[Scene]) -> list[list[Scene]]:
    days: dict[Any, list[Scene]] = {}
    for scene in found:
        days.setdefault(scene.when.date(), []).append(scene)
    return list(days.values())


def ours(
    folder: str,
    base: str,
    side: int,
    share: int = 1,
    only: int | None = None,
    one_day: bool = False,
    shared_by: int | None = None,
) -> Work:
    """Our engine.

    Args:
        folder: Where the COGs lie, and the exact cube.
        base: How their addresses begin: the folder, or a server's URL.
        side: Rows and columns of a scene.
        share: 2 or 4 takes a quarter or a sixteenth of the area.
        only: Takes this many scenes, the list repeated as often as it must; None takes all.
        one_day: All scenes are offered for one picture.
        shared_by: Takes so many scenes that each cover a part of a quarter of the area, in place of all that.
    """
    from geostack_pipeline.cube.build import build_packed

    grid, layers = _grid(side, share), _layers(base, side, only=only, one_day=one_day, shared_by=shared_by)

    def work() -> dict[str, Any]:
        cube = build_packed(grid, layers, BANDS, threads=THREADS)
        numbers = cube.reflectance.to_numpy()
        if share == 1 and only is None:
            return _compared([numbers[:, band] for band in range(len(BANDS))], folder)

        def after() -> dict[str, Any]:
            return {
                "valid": float(np.count_nonzero(numbers) / numbers.size),
                "used": int((np.unique(cube.source_scene.to_numpy()) >= 0).sum()),
            }

        return {"pixels": int(numbers.size), "after": after}

    return work


def ours_stored(folder: str, base: str, side: int, days: int = DAYS) -> Work:
    """Our engine straight into a Zarr store on the disk."""
    from obstore.store import LocalStore
    from zarr.storage import ObjectStore

    from geostack_pipeline.cube.stream import write_cube
    from geostack_pipeline.cube.write import finish_tree

    grid, layers = _grid(side), _layers(base, side, days=days)

    def work() -> dict[str, Any]:
        place = tempfile.mkdtemp(prefix="stored-", dir=Path(folder).parent)
        store = ObjectStore(LocalStore(place))
        write_cube(store, "cube", grid, layers, BANDS, threads=THREADS)
        finish_tree(store, {})
        return _stored(place, "cube", folder, days)

    return work


def _grid(side: int, share: int = 1) -> Any:
    from geostack_pipeline.cube.grid import GridSpec

    grid_of = target(side, share)
    return GridSpec(crs=grid_of.crs, transform=grid_of.transform, width=grid_of.side, height=grid_of.side)


def _layers(
    base: str,
    side: int,
    *,
    days: int = DAYS,
    only: int | None = None,
    one_day: bool = False,
    shared_by: int | None = None,
) -> list[Any]:
    with contextlib.suppress(ImportError):
        # Where it is there, xarray loads it when it first makes a variable; the peers have loaded it by now.
        import dask.array  # noqa: F401
    from obstore.store import HTTPStore, LocalStore

    from geostack_pipeline.cube.layers import BandLayer, SceneLayer

    store: Any = (
        HTTPStore.from_url(base, client_options={"allow_http": True})
        if base.startswith("http")
        else LocalStore(base)
    )
    listed = scenes(side, days) if shared_by is None else parts(side, shared_by)
    if only is not None:
        listed = [listed[index % len(listed)] for index in range(only)]
    return [
        SceneLayer(
            item_id=f"{scene.id}-{number}",
            scene=scene.id,
            datetime=listed[0].when if one_day else scene.when,
            platform="sentinel-2a",
            relative_orbit=None,
            sun_zenith=None,
            view_zenith=None,
            bands={
                band: BandLayer(store=store, key=name, scale=1e-4, offset=-0.1, nodata=0)
                for band, name in scene.files.items()
            },
        )
        for number, scene in enumerate(listed)
    ]


def _stored(place: str, group: str | None, folder: str, days: int) -> dict[str, Any]:
    """Return the facts of a cube in a Zarr store, which is compared and removed after the measurement."""

    def after() -> dict[str, Any]:
        import xarray as xr

        size = sum(path.stat().st_size for path in Path(place).rglob("*") if path.is_file())
        found = xr.open_zarr(place, group=group, chunks=None, mask_and_scale=False)
        bands = (
            [found["reflectance"].to_numpy()[:, band] for band in range(len(BANDS))]
            if "reflectance" in found
            else [found[band].to_numpy() for band in BANDS]
        )
        facts = _compared(bands, folder, days)
        shutil.rmtree(place, ignore_errors=True)
        return {"stored_bytes": size, **facts["after"]()}

    return {"after": after}


def odc_stac_stored(folder: str, base: str, side: int, days: int = DAYS, dask: bool = False) -> Work:
    """``odc.stac.load`` and ``to_zarr`` with the chunks and the codec of our nodes; with ``dask`` chunk by chunk."""
    import odc.stac
    from zarr.codecs import BloscCodec, BloscShuffle

    found = items(scenes(side, days), base)
    box = _geobox(side)
    odc.stac.configure_rio(cloud_defaults=True)
    codec = BloscCodec(cname="zstd", clevel=1, shuffle=BloscShuffle.shuffle)
    chunk = min(512, target(side).side)

    def work() -> dict[str, Any]:
        place = tempfile.mkdtemp(prefix="stored-", dir=Path(folder).parent)
        more: dict[str, Any] = {"chunks": {"x": chunk, "y": chunk}} if dask else {"pool": THREADS}
        cube = odc.stac.load(
            found, bands=list(BANDS), geobox=box, groupby="solar_day", resampling="nearest", **more
        )
        storage = {band: {"chunks": (1, chunk, chunk), "compressors": [codec]} for band in BANDS}
        with _threads(dask):
            cube.to_zarr(place, mode="w", zarr_format=3, consolidated=False, encoding=storage)
        return _stored(place, None, folder, days)

    return work


@contextlib.contextmanager
def _threads(dask: bool) -> Iterator[None]:
    if not dask:
        yield
        return
    import dask as library

    with library.config.set(scheduler="threads", num_workers=THREADS):
        yield


def odc_stac(folder: str, base: str, side: int, one_array: bool = False) -> Work:
    """``odc.stac.load`` with its own pool of threads, without Dask; ``one_array`` puts its bands together, as ours are."""
    import odc.stac

    found = items(scenes(side), base)
    box = _geobox(side)
    odc.stac.configure_rio(cloud_defaults=True)

    def work() -> dict[str, Any]:
        cube = odc.stac.load(
            found, bands=list(BANDS), geobox=box, groupby="solar_day", resampling="nearest", pool=THREADS
        )
        if one_array:
            joined = cube[list(BANDS)].to_dataarray(dim="band")
            return _compared([joined.sel(band=band).to_numpy() for band in BANDS], folder)
        return _compared([cube[band].to_numpy() for band in BANDS], folder)

    return work


def odc_stac_dask(folder: str, base: str, side: int) -> Work:
    """``odc.stac.load`` as Dask arrays in chunks of 1024, computed by threads."""
    import dask
    import odc.stac

    found = items(scenes(side), base)
    box = _geobox(side)
    odc.stac.configure_rio(cloud_defaults=True)

    def work() -> dict[str, Any]:
        with dask.config.set(scheduler="threads", num_workers=THREADS):
            cube = odc.stac.load(
                found,
                bands=list(BANDS),
                geobox=box,
                groupby="solar_day",
                resampling="nearest",
                chunks={"x": 1024, "y": 1024},
            ).compute()
        return _compared([cube[band].to_numpy() for band in BANDS], folder)

    return work


def _geobox(side: int) -> Any:
    from affine import Affine
    from odc.geo.geobox import GeoBox

    grid = target(side)
    return GeoBox((grid.side, grid.side), Affine(*grid.transform), grid.crs)


def stackstac(folder: str, base: str, side: int) -> Work:
    """``stackstac.stack`` and ``mosaic`` per day, computed by Dask's threads."""
    import dask
    import pandas as pd
    import stackstac as library
    from rasterio.enums import Resampling

    # stackstac 0.5.0 passes an option that pandas 3 no longer has, and which said what is now the rule
    to_datetime: Any = pd.to_datetime

    def without(*given: Any, infer_datetime_format: bool = True, **more: Any) -> Any:
        del infer_datetime_format
        return to_datetime(*given, **more)

    pd.to_datetime = without

    found = [item.to_dict() for item in items(scenes(side), base)]
    grid = target(side)
    pixel, _, west, _, _, north = grid.transform
    extent = pixel * grid.side

    def work() -> dict[str, Any]:
        with dask.config.set(scheduler="threads", num_workers=THREADS):
            stack = library.stack(
                found,
                assets=list(BANDS),
                epsg=int(grid.crs.split(":")[1]),
                bounds=(west, north - extent, west + extent, north),
                resolution=pixel,
                resampling=Resampling.nearest,
                dtype="uint16",
                fill_value=np.uint16(0),
                rescale=False,
                sortby_date="asc",
                xy_coords="topleft",
                snap_bounds=False,
            )
            # the first valid scene of a day: reverse counts from the first one on
            cube = (
                stack.groupby("time.date").map(library.mosaic, dim="time", reverse=True, nodata=0).compute()
            )
        return _compared([cube.to_numpy()[:, band] for band in range(len(BANDS))], folder)

    return work


def rioxarray(folder: str, base: str, side: int) -> Work:
    """``open_rasterio``, ``reproject`` and ``concat``, file by file: the pattern of many notebooks."""
    import rioxarray as library
    import xarray as xr
    from affine import Affine
    from rasterio.enums import Resampling

    grid = target(side)

    def one(name: str) -> xr.DataArray:
        with library.open_rasterio(f"{base}/{name}", chunks=True) as file:
            return file.rio.reproject(
                grid.crs,
                transform=Affine(*grid.transform),
                shape=(grid.side, grid.side),
                resampling=Resampling.nearest,
            )

    def picture(found: list[Scene]) -> xr.DataArray:
        result: xr.DataArray | None = None
        for scene in found:
            bands = xr.concat([one(name) for name in scene.files.values()], dim="band")
            result = bands if result is None else xr.where(result == 0, bands, result)
        assert result is not None
        return result

    def work() -> dict[str, Any]:
        cube = xr.concat([picture(day) for day in _by_day(scenes(side))], dim="time")
        return _compared([cube.to_numpy()[:, band] for band in range(len(BANDS))], folder)

    return work


def gdal(folder: str, base: str, side: int, tolerance: float | None = None) -> Work:
    """GDAL's ``WarpedVRT``, one file at a time in each thread; a tolerance of 1e-4 pixels is the exact one."""
    from concurrent.futures import ThreadPoolExecutor

    import rasterio
    from affine import Affine
    from rasterio.vrt import WarpedVRT

    grid = target(side)
    more = {} if tolerance is None else {"tolerance": tolerance}

    def work() -> dict[str, Any]:
        cube = np.zeros((DAYS, len(BANDS), grid.side, grid.side), np.uint16)

        def fill(choice: tuple[int, int, list[Scene]]) -> None:
            day, band, found = choice
            for scene in found:
                with (
                    rasterio.Env(**_CLOUD),
                    rasterio.open(f"{base}/{scene.files[BANDS[band]]}") as source,
                    WarpedVRT(
                        source,
                        crs=grid.crs,
                        transform=Affine(*grid.transform),
                        width=grid.side,
                        height=grid.side,
                        **more,
                    ) as warped,
                ):
                    np.copyto(cube[day, band], warped.read(1), where=cube[day, band] == 0)

        with ThreadPoolExecutor(THREADS) as pool:
            list(
                pool.map(
                    fill,
                    [
                        (day, band, found)
                        for day, found in enumerate(_by_day(scenes(side)))
                        for band in range(len(BANDS))
                    ],
                )
            )
        return _compared([cube[:, band] for band in range(len(BANDS))], folder)

    return work
