"""What a run of a date would move, found without moving it.

The catalog is asked where its list is due, in memory, and the selection is the run's own.  Of a tiled TIFF only the
header is read, which tells the ranges that the crop will move; of a whole file the catalog tells the size, or a GET of
one byte.  What is in the cache counts nothing.  Nothing is stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

import obstore
from obstore.exceptions import BaseError

from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.scene_table import to_parquet
from geostack_pipeline.catalog.search import search
from geostack_pipeline.errors import GeostackError
from geostack_pipeline.providers.contract import ObjectRef, Provider, SearchReport
from geostack_pipeline.stages import scenes, selected
from geostack_pipeline.stages.granules import FETCH_THREADS
from geostack_pipeline.stages.pictures import distinct, rendering_of, shots
from geostack_pipeline.stages.plan import Step
from geostack_pipeline.stages.routes import by_first_route
from geostack_pipeline.stages.tables import Tables, Unstored
from geostack_pipeline.stages.traffic import Traffic
from geostack_pipeline.stages.wishes import Wish, wishes
from geostack_pipeline.stages.workspace import Workspace, asset_name, parse_day
from geostack_pipeline.storage.ranges import Meter
from geostack_pipeline.storage.retry import transfer_error

if TYPE_CHECKING:
    from obstore.store import ObjectStore

Purpose = Literal["search", "fetch"]


@dataclass(frozen=True, kw_only=True)
class Move:
    """What one host, bucket or container would be asked for."""

    purpose: Purpose
    host: str
    requests: int
    bytes_moved: int | None
    """None where the client that a run uses does not show them."""
    objects: int
    """Objects that would be fetched."""
    cached: int
    """Objects that are in the cache already."""


@dataclass(frozen=True, kw_only=True)
class Forecast:
    """What a run of one date of one provider would move."""

    provider: str
    day: str
    scenes: int | None = None
    """Scenes in the list; None where it is not known."""
    selected: int | None = None
    moves: tuple[Move, ...] = ()
    skipped: int = 0
    """Scenes that lack a wanted asset."""
    estimated: bool = False
    """Whether bytes of pictures that a service makes are among them, at their size without compression."""
    spent: Traffic = field(default_factory=Traffic)
    """What this forecast itself moved."""

    def total(self, purpose: Purpose | None = None) -> tuple[int, int]:
        """Return requests and bytes of one purpose, or of all."""
        chosen = [move for move in self.moves if purpose in {None, move.purpose}]
        return sum(move.requests for move in chosen), sum(move.bytes_moved or 0 for move in chosen)


def forecast(
    ws: Workspace, provider: Provider, day: str, steps: Sequence[Step], *, refresh: bool = False
) -> Forecast:
    """Return what a run would move for a date.

    Args:
        steps: The date's steps of :func:`~geostack_pipeline.stages.plan.make_plan`, as far as the run would go.
        refresh: The run would ask again for everything that is cached whether it changed.

    Raises:
        GeostackError: As the run's search and fetch, where catalog or store do not answer.
    """
    actions = {step.stage: step.action for step in steps}
    spent = Traffic()
    moves: list[Move] = []
    rows: Tables | None
    if actions.get(scenes.NAME) == "ask":
        rows, asked = _ask(ws, provider, day, spent)
        moves.append(asked)
    else:
        rows = ws.current(asset_name(provider.key, scenes.NAME), day)
    if rows is None:
        return Forecast(provider=provider.key, day=day, spent=spent)
    listed = selected.scene_rows(rows, "scenes")
    known = Forecast(provider=provider.key, day=day, scenes=listed.num_rows, moves=tuple(moves), spent=spent)
    if selected.NAME not in actions:
        return known
    chosen: Tables | None = None
    if actions[selected.NAME] == "fresh":
        chosen = ws.current(asset_name(provider.key, selected.NAME), day)
    if chosen is None:
        chosen = Unstored(selected.files_of(selected.choose(ws, provider, day, listed)))
    count = chosen.open("selected").height
    fetching = "granules" in actions and (refresh or actions["granules"] != "fresh")
    if not fetching or not count:
        return Forecast(
            provider=provider.key,
            day=day,
            scenes=known.scenes,
            selected=count,
            moves=known.moves,
            spent=spent,
        )
    pictures = rendering_of(provider) is not None
    work = _pictures if pictures else _files
    traffic, skipped = work(ws, provider, chosen, spent, refresh=refresh)
    moves += [
        Move(
            purpose="fetch",
            host=host,
            requests=counts.requests,
            bytes_moved=counts.moved,
            objects=counts.fetched,
            cached=counts.hits,
        )
        for host, counts in sorted(traffic.stores.items())
    ]
    return Forecast(
        provider=provider.key,
        day=day,
        scenes=known.scenes,
        selected=count,
        moves=tuple(moves),
        skipped=skipped,
        estimated=pictures,
        spent=spent,
    )


def _ask(ws: Workspace, provider: Provider, day: str, spent: Traffic) -> tuple[Tables, Move]:
    """Return the list that the catalog has now; the run will ask the same once more."""
    host = urlsplit(provider.url).netloc

    def done(report: SearchReport) -> None:
        spent.add(host, requests=report.requests, moved=report.bytes_moved or 0)

    result = search(provider, parse_day(day), ws.areas, done=done)
    items = normalise(provider, result.items, parse_day(day), ws.areas).items
    asked = Move(
        purpose="search",
        host=host,
        requests=result.report.requests,
        bytes_moved=result.report.bytes_moved,
        objects=0,
        cached=0,
    )
    return Unstored(to_parquet(items, provider.template())), asked


def _pictures(
    ws: Workspace, provider: Provider, chosen: Tables, spent: Traffic, *, refresh: bool
) -> tuple[Traffic, int]:
    del spent, refresh  # nothing is asked, and a picture is never asked for again
    wanted, skipped = shots(ws, provider, chosen)
    traffic = Traffic()
    for key, shot in distinct(wanted).items():
        if ws.blobs.find(key) is not None:
            traffic.add(shot.request.service, hits=1)
        else:
            traffic.add(shot.request.service, requests=1, moved=shot.request.expected_bytes, fetched=1)
    return traffic, len(skipped)


def _files(
    ws: Workspace, provider: Provider, chosen: Tables, spent: Traffic, *, refresh: bool
) -> tuple[Traffic, int]:
    wanted, skipped = wishes(ws, provider, chosen)
    traffic = Traffic()
    groups: dict[str, list[Wish]] = {}
    for wish in wanted:
        groups.setdefault(wish.canonical, []).append(wish)
    with ThreadPoolExecutor(FETCH_THREADS) as pool:
        # Wishes for one object go one after the other in a run too: the later ones find what the first has fetched.
        jobs = [
            pool.submit(_one_object, ws, provider, group, traffic, spent, refresh=refresh)
            for group in groups.values()
        ]
        try:
            for job in jobs:
                job.result()
        except BaseException:
            for job in jobs:
                job.cancel()
            raise
    return traffic, len(skipped)


def _one_object(
    ws: Workspace,
    provider: Provider,
    group: Sequence[Wish],
    traffic: Traffic,
    spent: Traffic,
    *,
    refresh: bool,
) -> None:
    fetched: set[str] = set()
    for wish in group:
        keys = {wish.whole_key, *([wish.window_key] if wish.want.how == "window" else [])}
        here = keys & fetched or any(ws.blobs.find(key) is not None for key in keys)
        if here:
            # A refresh asks with a GET of one byte.
            traffic.add(wish.routes[0].store_id, hits=1, requests=int(refresh), moved=int(refresh))
            continue

        def measure(ref: ObjectRef, store: ObjectStore, subject: str, wish: Wish = wish) -> str | None:
            del subject
            return _measure(wish, ref, store, traffic, spent)

        key = by_first_route(provider, wish, measure)
        if key is not None:
            fetched.add(key)


def _measure(wish: Wish, ref: ObjectRef, store: ObjectStore, traffic: Traffic, spent: Traffic) -> str | None:
    """Add what fetching one object from one place will move; return the cache key that it will have then."""
    meter = Meter()
    try:
        return _planned(wish, ref, store, traffic, meter)
    except GeostackError:
        # A place that refuses is asked by the run as well.
        traffic.add(ref.store_id, requests=meter.requests, moved=meter.bytes_moved)
        raise
    finally:
        spent.add(ref.store_id, requests=meter.requests, moved=meter.bytes_moved)


def _planned(wish: Wish, ref: ObjectRef, store: ObjectStore, traffic: Traffic, meter: Meter) -> str | None:
    if wish.want.how == "window":
        plan = wish.plan(store, ref, meter)
        if plan is not None:
            traffic.add(
                ref.store_id,
                requests=meter.requests + (plan.requests if plan.intersects else 0),
                moved=meter.bytes_moved + (plan.bytes if plan.intersects else 0),
                fetched=int(plan.intersects),
            )
            return wish.window_key if plan.intersects else None
    # What is no tiled TIFF costs the run the look at its beginning, too.
    requests, moved = meter.requests, meter.bytes_moved
    size = wish.item["assets"][wish.asset].get("file:size")
    if size is None or len(wish.routes) > 1:
        # Also where there are several places: which of them answers must be tried, as the run will.
        size = _size(store, ref, meter)
    traffic.add(ref.store_id, requests=requests + 1, moved=moved + int(size), fetched=1)
    return wish.whole_key


def _size(store: ObjectStore, ref: ObjectRef, meter: Meter) -> int:
    """Return an object's size by a GET of its first byte: anonymous buckets may refuse HEAD."""
    meter.add(requests=1)
    try:
        answer = obstore.get(store, ref.key, options={"range": (0, 1)})
        meter.add(bytes_moved=len(bytes(answer.bytes())))
    except (BaseError, OSError) as error:
        raise transfer_error(error, ref.key) from error
    return answer.meta["size"]


def by_host(forecasts: Sequence[Forecast]) -> Mapping[tuple[str, Purpose, str], Move]:
    """Return the moves of several dates summed by provider, purpose and host."""
    sums: dict[tuple[str, Purpose, str], Move] = {}
    for one in forecasts:
        for move in one.moves:
            key = (one.provider, move.purpose, move.host)
            before = sums.get(key)
            if before is None:
                sums[key] = move
                continue
            unseen = before.bytes_moved is None or move.bytes_moved is None
            sums[key] = Move(
                purpose=move.purpose,
                host=move.host,
                requests=before.requests + move.requests,
                bytes_moved=None if unseen else (before.bytes_moved or 0) + (move.bytes_moved or 0),
                objects=before.objects + move.objects,
                cached=before.cached + move.cached,
            )
    return sums
