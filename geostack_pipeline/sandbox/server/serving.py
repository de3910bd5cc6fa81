"""Ports on loopback and the applications behind them."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Sequence

import uvicorn
from starlette.types import ASGIApp

from geostack_pipeline.errors import SettingsError

HOST = "127.0.0.1"


class Server(uvicorn.Server):
    """A server that leaves signals to the process."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do nothing: whoever starts the servers hears the signals."""
        yield


def listen(port: int) -> socket.socket:
    """Return a listening socket; 0 takes a free port.

    Raises:
        SettingsError: The port is taken.
    """
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


def address(listener: socket.socket) -> str:
    """Return the origin that a listening socket answers under."""
    host, port = listener.getsockname()
    return f"http://{host}:{port}"


async def serve_all(
    apps: Sequence[ASGIApp],
    listeners: Sequence[socket.socket],
    ready: Callable[[], None],
    stop: threading.Event,
) -> None:
    """Serve each application on its socket until a signal, or until ``stop`` is set; ``ready`` hears when all answer."""
    servers = [
        Server(
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
