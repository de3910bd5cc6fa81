"""The ways to bring bytes from a server to files that are compared; each runs in a process of its own (see worker)."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

Work = Callable[[], dict[str, Any]]
THREADS = 8
"""Objects at once in ours, as the granules stage has it."""
CONNECTIONS = 16
"""Connections of the peers: more gained them nothing."""


def _store(url: str) -> Any:
    from obstore.store import HTTPStore

    return HTTPStore.from_url(url, client_options={"allow_http": True, "timeout": "600s"})


def crop_area(url: str, folder: str, names: list[str], bounds: list[float], crs: str) -> Work:
    """Our lossless crops of an area, all files at once."""
    from concurrent.futures import ThreadPoolExecutor

    from geostack_pipeline.raster.crop import crop, plan_crop

    store = _store(url)

    def one(name: str) -> tuple[int, int, int]:
        plan = plan_crop(store, name, tuple(bounds), crs)
        assert plan is not None
        done = crop(store, name, plan, Path(folder, name))
        return done.bytes_moved, done.tiles, done.size

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(THREADS) as pool:
            moved, tiles, sizes = zip(*pool.map(one, names), strict=True)
        return {"files": len(names), "said_moved": sum(moved), "tiles": sum(tiles), "written": sum(sizes)}

    return work


def download_all(url: str, folder: str, names: list[str]) -> Work:
    """Our downloads of whole objects: resumable, checked, hashed."""
    from concurrent.futures import ThreadPoolExecutor

    from geostack_pipeline.storage.transfer import download

    store = _store(url)

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(THREADS) as pool:
            done = list(pool.map(lambda name: download(store, name, Path(folder, name)), names))
        assert len({one.sha256 for one in done}) == len(names)
        return _written(folder, names)

    return work


def fsspec_get(url: str, folder: str, names: list[str]) -> Work:
    """Fsspec's http file system, all objects in one call."""
    import fsspec

    files = fsspec.filesystem("http", skip_instance_cache=True)

    def work() -> dict[str, Any]:
        files.get(
            [f"{url}/{name}" for name in names],
            [str(Path(folder, name)) for name in names],
            batch_size=CONNECTIONS,
        )
        return _written(folder, names)

    return work


def fsspec_cat(url: str, folder: str, names: list[str]) -> Work:
    """Fsspec's http file system into memory, then written: what many programs do."""
    import fsspec

    files = fsspec.filesystem("http", skip_instance_cache=True)

    def work() -> dict[str, Any]:
        found = files.cat([f"{url}/{name}" for name in names], batch_size=CONNECTIONS)
        for name in names:
            Path(folder, name).write_bytes(found[f"{url}/{name}"])
        return _written(folder, names)

    return work


def curl_parallel(url: str, folder: str, names: list[str]) -> Work:
    """``curl --parallel``: no hash, no part files."""
    import resource
    import subprocess

    lines = "".join(f'url = "{url}/{name}"\noutput = "{Path(folder, name)}"\n' for name in names)
    command = ["curl", "--silent", "--show-error", "--fail", "--parallel", "--parallel-max", str(CONNECTIONS)]

    def work() -> dict[str, Any]:
        subprocess.run([*command, "--config", "-"], input=lines.encode(), check=True)
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6
        return {**_written(folder, names), "own_peak_mb": peak}

    return work


def obstore_get(url: str, folder: str, names: list[str]) -> Work:
    """Obstore alone: whole objects through memory, written, not hashed: what our checks cost is the difference."""
    from concurrent.futures import ThreadPoolExecutor

    import obstore

    store = _store(url)

    def one(name: str) -> None:
        Path(folder, name).write_bytes(obstore.get(store, name).bytes())

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(THREADS) as pool:
            list(pool.map(one, names))
        return _written(folder, names)

    return work


def _written(folder: str, names: list[str]) -> dict[str, Any]:
    sizes = [Path(folder, name).stat().st_size for name in names]
    return {"files": len(sizes), "written": sum(sizes)}
