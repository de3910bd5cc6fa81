"""One process that prepares the world and serves it: catalogs, buckets and control on three loopback ports."""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import signal
import socket
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import uvicorn
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.config import ServeConfig
from geostack_pipeline.sandbox.dialects import DIALECTS
from geostack_pipeline.sandbox.dialects.base import Addresses, StoredObject
from geostack_pipeline.sandbox.server.bucket import isolate_moto, make_bucket_app
from geostack_pipeline.sandbox.server.control import make_control_app
from geostack_pipeline.sandbox.server.faults import FaultBoard, parse_fault
from geostack_pipeline.sandbox.server.wrap import RequestLog, Watched
from geostack_pipeline.sandbox.world.world import World

HOST = "127.0.0.1"


class _Server(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


def _listen(port: int) -> socket.socket:
    # With the protocol named, asyncio switches Nagle's algorithm off; without, each answer waits 40 ms.
    listener = socket.socket(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((HOST, port))
    except OSError as error:
        listener.close()
        raise SettingsError(
            "the port is taken",
            subject=f"sandbox port {port}",
            found=error.strerror,
            action="choose another port, or 0 for a free one",
        ) from error
    listener.listen(256)
    listener.setblocking(False)
    return listener


def _address(listener: socket.socket) -> str:
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


def _applications(
    config: ServeConfig, world: World, addresses: Mapping[str, str]
) -> tuple[dict[str, Any], dict[str, Callable[[FaultBoard, RequestLog], ASGIApp]]]:
    """Return what the sandbox tells of itself, and makers of the applications by the name of their address."""
    dialects = [DIALECTS[name]() for name in config.providers]
    buckets: dict[str, Mapping[str, StoredObject]] = {}
    mounts: list[tuple[str, str, ASGIApp]] = []
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
        mounts.append((dialect.mount, dialect.key, dialect.app(publication, at)))
        for name, app in dialect.services(publication, at).items():
            services.setdefault(name, app)
        providers[dialect.key] = dialect.settings(at)
        credentials |= dialect.credentials(at)
        endpoints |= {dialect.key: at.root, **at.servers}
    first, last = world.days
    about = {
        "seed": config.seed,
        "small": config.small,
        "folder": str(world.folder),
        "days": [first.isoformat(), last.isoformat()],
        "endpoints": endpoints,
        "settings": {
            "start_date": first.isoformat(),
            "areas": {
                area.name: {"bbox": list(area.bbox), "resolution_m": area.resolution_m}
                for area in world.areas
            },
            "providers": providers,
        },
        "credentials": credentials,
        "truth": [plume.to_json() for plume in world.truth],
    }

    def catalogs(board: FaultBoard, log: RequestLog) -> ASGIApp:
        return _Mounted({path: Watched(_At(path, app), key, board, log) for path, key, app in mounts})

    def storage(board: FaultBoard, log: RequestLog) -> ASGIApp:
        return Watched(make_bucket_app(buckets), None, board, log)

    def service(name: str) -> Callable[[FaultBoard, RequestLog], ASGIApp]:
        return lambda board, log: Watched(services[name], name, board, log)

    return about, {"catalogs": catalogs, "buckets": storage, **{name: service(name) for name in services}}


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
    world = World(config.folder, seed=config.seed, small=config.small)
    wanted = {
        scene.id: [each for name in config.providers for each in DIALECTS[name]().encodings(scene)]
        for scene in world.scenes
    }
    world.prepare(wanted, progress=progress)
    extra = sorted({name for key in config.providers for name in DIALECTS[key].servers})
    names = ["catalogs", "buckets", "control", "private", *extra]
    listeners = {
        name: _listen(config.port + number if config.port else 0) for number, name in enumerate(names)
    }
    board = FaultBoard([parse_fault(text) for text in config.faults])
    log = RequestLog()
    about, makers = _applications(
        config, world, {name: _address(listener) for name, listener in listeners.items()}
    )
    about["endpoints"]["control"] = _address(listeners["control"])
    apps: dict[str, ASGIApp] = {name: make(board, log) for name, make in makers.items()}
    apps["control"] = make_control_app(about, board, log)
    for name in listeners.keys() - apps.keys():
        listeners.pop(name).close()
    asyncio.run(
        _serve(
            [apps[name] for name in listeners],
            list(listeners.values()),
            lambda: ready(about),
            stop or threading.Event(),
        )
    )


async def _serve(
    apps: Sequence[ASGIApp],
    listeners: Sequence[socket.socket],
    ready: Callable[[], None],
    stop: threading.Event,
) -> None:
    servers = [
        _Server(
            uvicorn.Config(
                app,
                log_config=None,
                log_level="critical",
                access_log=False,
                lifespan="off",
                timeout_keep_alive=30,
                timeout_graceful_shutdown=1,
            )
        )
        for app in apps
    ]
    loop = asyncio.get_running_loop()
    if threading.current_thread() is threading.main_thread():
        for name in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(name, stop.set)
    tasks = [
        asyncio.create_task(server.serve(sockets=[listener]))
        for server, listener in zip(servers, listeners, strict=True)
    ]
    while not all(server.started for server in servers) and not any(task.done() for task in tasks):  # noqa: ASYNC110 - uvicorn tells by a flag
        await asyncio.sleep(0.01)
    ready()
    while not stop.is_set() and not any(task.done() for task in tasks):  # noqa: ASYNC110 - set from a thread
        await asyncio.sleep(0.05)
    for server in servers:
        server.should_exit = True
    await asyncio.gather(*tasks)


def end_with_parent(parent: int, stop: threading.Event, grace_s: float = 3.0) -> None:
    """Watch standard input and the parent's id from a thread; end this process when either tells the parent is gone.

    Standard input closes when the parent dies in whatever way.  The id is asked as well, because a process that the
    parent has forked may hold the pipe open.
    """

    def watch() -> None:
        while True:
            readable, _, _ = select.select([sys.stdin], [], [], 0.5)
            if (readable and not os.read(sys.stdin.fileno(), 4096)) or os.getppid() != parent:
                break
        stop.set()
        if not done.wait(grace_s):
            os._exit(0)

    done = threading.Event()
    threading.Thread(target=watch, name="sandbox-parent-watch", daemon=True).start()
