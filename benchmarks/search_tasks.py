"""The ways from a catalog to stac-geoparquet that are compared; each runs in a process of its own (see worker)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.items import AREA, COLLECTION, FIRST_DAY

if TYPE_CHECKING:
    from geostack_pipeline.providers.contract import SearchReport
    from geostack_pipeline.storage.snapshot import Snapshot

Work = Callable[[], dict[str, Any]]
PAGE = 200
"""Items per page for all: what the catalog's answers have room for."""
TOGETHER = 4
"""Dates at once, as a ranged run's ``scenes`` step has it."""


def _span(days: int, first: int = 0) -> str:
    start = FIRST_DAY + timedelta(days=first)
    return f"{start}T00:00:00Z/{start + timedelta(days=days)}T00:00:00Z"


def _counted(*files: Path) -> dict[str, Any]:
    import pyarrow.parquet as pq

    return {
        "items": sum(pq.read_metadata(file).num_rows for file in files),
        "file_mb": sum(file.stat().st_size for file in files) / 1e6,
        "files": len(files),
    }


def search_to(url: str, folder: str, days: int) -> Work:
    """One ``rustac.search_to`` for the whole span."""
    import asyncio

    import rustac

    out = Path(folder, "search_to.parquet")

    async def walk() -> int:
        return await rustac.search_to(
            str(out), url, collections=[COLLECTION], bbox=list(AREA), datetime=_span(days), limit=PAGE
        )

    def work() -> dict[str, Any]:
        said = asyncio.run(walk())
        return {**_counted(out), "said": said}

    return work


def search_to_days(url: str, folder: str, days: int) -> Work:
    """One ``rustac.search_to`` per date, four at once, unsupervised: what windows alone give."""
    import asyncio

    import rustac

    files = [Path(folder, f"day-{day}.parquet") for day in range(days)]

    async def walk() -> None:
        gate = asyncio.Semaphore(4)

        async def one(day: int) -> None:
            async with gate:
                await rustac.search_to(
                    str(files[day]),
                    url,
                    collections=[COLLECTION],
                    bbox=list(AREA),
                    datetime=_span(1, day),
                    limit=PAGE,
                )

        await asyncio.gather(*(one(day) for day in range(days)))

    def work() -> dict[str, Any]:
        asyncio.run(walk())
        return _counted(*files)

    return work


def pystac_client(url: str, folder: str, days: int) -> Work:
    """pystac-client's pages as dicts, then stac-geoparquet."""
    import pyarrow.parquet as pq
    import pystac_client as peer
    import stac_geoparquet.arrow as arrow

    out = Path(folder, "pystac-client.parquet")

    def work() -> dict[str, Any]:
        found = peer.Client.open(url).search(
            collections=[COLLECTION], bbox=AREA, datetime=_span(days), limit=PAGE
        )
        items = list(found.items_as_dicts())
        arrow.to_parquet(arrow.parse_stac_items_to_arrow(items), out)
        assert pq.read_metadata(out).num_rows == len(items)
        return {**_counted(out), "said": len(items)}

    return work


def supervised(url: str, folder: str, days: int, attempts: int = 5) -> Work:
    """Our search as a ranged run does it, to the bytes of the scene list, each row checked, written."""
    from concurrent.futures import ThreadPoolExecutor

    from geostack_pipeline.areas import Area
    from geostack_pipeline.catalog.normalise import normalise
    from geostack_pipeline.catalog.retry import RetryPolicy
    from geostack_pipeline.catalog.scene_table import to_parquet
    from geostack_pipeline.catalog.search import stream
    from geostack_pipeline.providers.earth_search import EarthSearch

    provider = EarthSearch(url=url)
    assert provider.dialect.page_size == PAGE
    area = Area(name="area", bbox=AREA)
    policy = RetryPolicy(attempts=attempts, base_s=0.05)

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(TOGETHER) as pool:
            return _counted(*chain.from_iterable(pool.map(one, range(days))))

    def one(number: int) -> list[Path]:
        day = FIRST_DAY + timedelta(days=number)
        reports: list[SearchReport] = []
        batches = stream(provider, day, [area], policy=policy, done=reports.append)
        rows = normalise(provider, chain.from_iterable(batches), day, [area])
        assert len(rows.items) + len(rows.rejected) == reports[0].returned
        files = []
        for name, data in to_parquet(rows.items, provider.template()).items():
            files.append(Path(folder, f"{day}-{name}"))
            files[-1].write_bytes(data)
        return files

    return work


def rustac_walk(url: str, folder: str, days: int) -> Work:
    """One ``rustac.search`` for the whole span."""
    del folder
    import asyncio

    import rustac

    async def walk() -> int:
        items = await rustac.search(
            url, collections=[COLLECTION], bbox=list(AREA), datetime=_span(days), limit=PAGE
        )
        return len(items)

    return lambda: {"items": asyncio.run(walk())}


def pystac_walk(url: str, folder: str, days: int) -> Work:
    """pystac-client's items as dicts, counted and dropped: its best in memory."""
    del folder
    import pystac_client as peer

    def work() -> dict[str, Any]:
        found = peer.Client.open(url).search(
            collections=[COLLECTION], bbox=AREA, datetime=_span(days), limit=PAGE
        )
        return {"items": sum(1 for _ in found.items_as_dicts())}

    return work


def supervised_walk(
    url: str,
    folder: str,
    days: int,
    together: int = TOGETHER,
    walker: str | None = None,
    split_above: int | None = None,
) -> Work:
    """Our supervised windows, counted and dropped; some dates at once, with another walker or other windows if asked."""
    del folder
    from concurrent.futures import ThreadPoolExecutor
    from dataclasses import replace

    from geostack_pipeline.areas import Area
    from geostack_pipeline.catalog.retry import RetryPolicy
    from geostack_pipeline.catalog.search import stream
    from geostack_pipeline.providers.earth_search import EarthSearch

    provider = EarthSearch(url=url)
    if walker is not None:
        provider.dialect = replace(provider.dialect, walker=walker)  # type: ignore[arg-type]
    policy = RetryPolicy()
    if split_above is not None:
        policy = replace(policy, split_above=split_above)
    area = Area(name="area", bbox=AREA)

    def one(number: int) -> int:
        day = FIRST_DAY + timedelta(days=number)
        return sum(len(batch) for batch in stream(provider, day, [area], policy=policy))

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(together) as pool:
            return {"items": sum(pool.map(one, range(days)))}

    return work


def rustac_windows(url: str, folder: str, days: int) -> Work:
    """The same with rustac's walk in place of our own pager."""
    return supervised_walk(url, folder, days, walker="rustac")


def stage(url: str, folder: str, days: int) -> Work:
    """The whole ``scenes`` stage as a ranged run does it: also digest, rejections, picture, commit and checks."""
    from concurrent.futures import ThreadPoolExecutor

    from geostack_pipeline.providers.earth_search import EarthSearch
    from geostack_pipeline.publish import figures
    from geostack_pipeline.settings import parse_settings
    from geostack_pipeline.stages import scenes
    from geostack_pipeline.stages.workspace import open_workspace

    assert figures.footprint_map
    settings = parse_settings(
        {
            "root": f"file://{Path(folder, 'store').resolve()}",
            "areas": {"area": {"bbox": list(AREA)}},
            "providers": {"earth_search": {"url": url}},
        }
    )
    ws = open_workspace(settings)
    provider = EarthSearch(url=url)

    def one(number: int) -> Snapshot:
        return scenes.build(ws, provider, (FIRST_DAY + timedelta(days=number)).isoformat()).snapshot

    def work() -> dict[str, Any]:
        with ThreadPoolExecutor(TOGETHER) as pool:
            stored = list(pool.map(one, range(days)))
        names = [(one, name) for one in stored for name in one.files if name.startswith("scenes")]
        counted = _counted(*(path for one, name in names if (path := one.local_path(name)) is not None))
        assert counted["items"] == sum(one.meta["rows"] for one in stored)
        return counted

    return work
