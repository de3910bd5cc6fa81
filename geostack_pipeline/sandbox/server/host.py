"""One process that prepares the world and serves it: catalogs, buckets and control on three loopback ports."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from geostack_pipeline.sandbox.config import EMIT_CATALOGS, ServeConfig
from geostack_pipeline.sandbox.dialects import DIALECTS
from geostack_pipeline.sandbox.dialects.base import Addresses, History, StoredObject
from geostack_pipeline.sandbox.server.bucket import isolate_moto, make_bucket_app
from geostack_pipeline.sandbox.server.changes import Changes
from geostack_pipeline.sandbox.server.control import make_control_app
from geostack_pipeline.sandbox.server.faults import FaultBoard, parse_fault
from geostack_pipeline.sandbox.server.forward import Forward
from geostack_pipeline.sandbox.server.serving import address, listen, serve_all
from geostack_pipeline.sandbox.server.strict_bucket import StrictBuckets, end_sessions
from geostack_pipeline.sandbox.server.wrap import RequestLog, Watched
from geostack_pipeline.sandbox.world import campaign
from geostack_pipeline.sandbox.world.emit import winds_of_own_passes
from geostack_pipeline.sandbox.world.world import World

_Maker = Callable[[FaultBoard, RequestLog], ASGIApp]


def _applications(
    config: ServeConfig,
    world: World,
    addresses: Mapping[str, str],
    forget: list[Callable[[], object]],
    histories: list[History],
) -> tuple[dict[str, Any], dict[str, Mapping[str, StoredObject]], dict[str, _Maker]]:
    """Return what the sandbox tells of itself, the private buckets, and makers of the applications by address name.

    A server that gives logins out has ``state.forget_logins``, which ends them; it is added to ``forget``.  What
    changes a catalog while it is served is added to ``histories``.
    """
    dialects = [DIALECTS[name]() for name in config.providers]
    buckets: dict[str, Mapping[str, StoredObject]] = {}
    private: dict[str, Mapping[str, StoredObject]] = {}
    mounts: list[tuple[str, str, ASGIApp]] = []
    neighbours: dict[str, tuple[str, ASGIApp]] = {}
    services: dict[str, ASGIApp] = {}
    providers: dict[str, Any] = {}
    credentials: dict[str, str] = {}
    endpoints: dict[str, str] = {}
    for dialect in dialects:
        at = Addresses(
            root=addresses["catalogs"] + dialect.mount,
            buckets=addresses["buckets"],
            private=addresses["private"],
            servers={name: addresses[name] for name in dialect.servers},
        )
        publication = dialect.publish(world, at)
        for name, objects in publication.buckets.items():
            buckets[name] = {**buckets.get(name, {}), **objects}
            endpoints[name] = at.buckets
        for name, objects in publication.private_buckets.items():
            private[name] = {**private.get(name, {}), **objects}
            endpoints |= {name: at.private, "private": at.private}
        mounts.append((dialect.mount, dialect.key, dialect.app(publication, at)))
        for path, app in dialect.neighbours(publication, at).items():
            neighbours.setdefault(path, (dialect.key, app))
        if publication.history is not None and publication.history not in histories:
            histories.append(publication.history)
        for name, app in dialect.services(publication, at).items():
            if name not in services:
                services[name] = app
                hook = getattr(getattr(app, "state", None), "forget_logins", None)
                if hook is not None:
                    forget.append(hook)
        providers[dialect.key] = dialect.settings(at)
        credentials |= dialect.credentials(at)
        endpoints |= {dialect.key: at.root, **at.servers}
    taken = {path for path, _, _ in mounts}
    mounts += [(path, key, app) for path, (key, app) in neighbours.items() if path not in taken]
    first, last = world.days
    truth = [plume.to_json() for plume in world.truth]
    about = {
        "seed": config.seed,
        "small": config.small,
        "campaign": config.campaign,
        "folder": str(world.folder),
        "days": [first.isoformat(), last.isoformat()],
        "endpoints": endpoints,
        "settings": {
            "start_date": first.isoformat(),
            "end_date": last.isoformat(),
            "areas": {
                area.name: {"bbox": list(area.bbox), "resolution_m": area.resolution_m}
                for area in world.areas
            },
            "providers": providers,
        },
        "credentials": credentials,
        "truth": truth,
        "winds": [*truth, *winds_of_own_passes(world)],
    }

    def catalogs(board: FaultBoard, log: RequestLog) -> ASGIApp:
        return _Mounted({path: Watched(_At(path, app), key, board, log, forget) for path, key, app in mounts})

    def storage(board: FaultBoard, log: RequestLog) -> ASGIApp:
        return Watched(make_bucket_app(buckets), None, board, log, forget)

    def service(name: str) -> Callable[[FaultBoard, RequestLog], ASGIApp]:
        return lambda board, log: Watched(services[name], name, board, log, forget)

    return (
        about,
        private,
        {"catalogs": catalogs, "buckets": storage, **{name: service(name) for name in services}},
    )


class _At:
    """An application that answers below a path, with or without a slash behind it, as if it were the root."""

    def __init__(self, path: str, app: ASGIApp) -> None:
        self._path = path
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self._app({**scope, "path": scope["path"].removeprefix(self._path) or "/"}, receive, send)


class _Mounted:
    """Applications side by side, each below its own path."""

    def __init__(self, apps: Mapping[str, ASGIApp]) -> None:
        self._apps = apps

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        for path, app in self._apps.items():
            if f"{scope['path']}/".startswith(f"{path}/"):
                await app(scope, receive, send)
                return
        await PlainTextResponse("nothing is served here", 404)(scope, receive, send)


def serve(
    config: ServeConfig,
    *,
    ready: Callable[[dict[str, Any]], None],
    progress: Callable[[int, int], None] | None = None,
    stop: threading.Event | None = None,
) -> None:
    """Prepare the world if needed and serve it until a signal, or until ``stop`` is set.

    Changes this process's environment (credentials of AWS are taken away from it), so it belongs into a process
    of its own: :meth:`Sandbox.start <geostack_pipeline.sandbox.Sandbox.start>` or the command line.
    ``ready`` hears the endpoints, settings and truth once every port answers.
    """
    config.check()
    isolate_moto()
    world = World(config.folder, seed=config.seed, small=config.small, campaign=config.campaign)
    wanted = {
        # several catalogs may publish the same files
        scene.id: list(
            dict.fromkeys(each for name in config.providers for each in DIALECTS[name]().encodings(scene))
        )
        for scene in world.scenes
    }
    world.prepare(wanted, progress=progress)
    if EMIT_CATALOGS & set(config.providers):
        campaign.prepare(world, progress=progress)
    extra = sorted({name for key in config.providers for name in DIALECTS[key].servers})
    names = ["catalogs", "buckets", "control", "private", *extra]
    listeners = {
        name: listen(config.port + number if config.port else 0) for number, name in enumerate(names)
    }
    board = FaultBoard([parse_fault(text) for text in config.faults])
    log = RequestLog()
    forget: list[Callable[[], object]] = []
    histories: list[History] = []
    about, private, makers = _applications(
        config, world, {name: address(listener) for name, listener in listeners.items()}, forget, histories
    )
    for history in histories:
        history.hold(config.held)
    about["endpoints"]["control"] = address(listeners["control"])
    strict = StrictBuckets(private) if private else None
    try:
        # The child gets ready while this process imports its own moto.
        apps: dict[str, ASGIApp] = {name: make(board, log) for name, make in makers.items()}
        changes = Changes(histories, None if strict is None else strict.address)
        apps["control"] = make_control_app(about, board, log, changes)
        if strict is not None:
            forget.append(partial(end_sessions, strict.address()))
            apps["private"] = Watched(Forward(strict.address()), None, board, log, forget)
        for name in listeners.keys() - apps.keys():
            listeners.pop(name).close()
        asyncio.run(
            serve_all(
                [apps[name] for name in listeners],
                list(listeners.values()),
                lambda: ready(about),
                stop or threading.Event(),
            )
        )
    finally:
        if strict is not None:
            strict.stop()
