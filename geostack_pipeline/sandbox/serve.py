"""The sandbox as users and tests start it."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import cached_property
from pathlib import Path
from threading import Thread
from types import TracebackType
from typing import IO, TYPE_CHECKING, Any, Self

import httpx

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.config import DEFAULT_SEED, ServeConfig
from geostack_pipeline.sandbox.processes import end_child, keep_tail
from geostack_pipeline.sandbox.server.faults import parse_fault
from geostack_pipeline.sandbox.wind import wind_table

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.world.world import World


class Sandbox:
    """A running sandbox: one child process on loopback, which never outlives this process.

    Use :meth:`start`, best as a context manager::

        with Sandbox.start("~/.cache/geostack/sandbox") as sandbox:
            settings = sandbox.settings()
    """

    def __init__(self, process: subprocess.Popen[str], about: dict[str, Any]) -> None:
        self._process = process
        self._about = about
        self.endpoints: dict[str, str] = dict(about["endpoints"])
        """Provider key, bucket name and ``control`` -> address."""
        self._control = httpx.Client(base_url=self.endpoints["control"], trust_env=False, timeout=10.0)

    @classmethod
    def start(
        cls,
        folder: str | Path,
        *,
        seed: int = DEFAULT_SEED,
        providers: Sequence[str] = ("earth_search",),
        small: bool = False,
        port: int = 0,
        faults: Sequence[str] = (),
        held: Sequence[str] = (),
        campaign: int = 0,
        progress: Callable[[int, int], None] | None = None,
        timeout_s: float = 300.0,
    ) -> Sandbox:
        """Start the servers and return when they answer.

        The first start in a folder renders the scenes (about 20 s on two cores, 0.3 GB); later ones take about
        two seconds.

        Args:
            folder: Where generated worlds are kept.
            seed: What the world's randomness starts from.
            providers: Which catalogs are served.
            small: The small world, rendered in about 3 s.
            port: Port of the catalogs; the other servers take the ports after it; 0 takes free ones.
            faults: Faults from the start, e.g. ``429@earth_search?count=2&seconds=1``.
            held: Parts of names of EMIT granules that are not listed until :meth:`change` releases them.
            campaign: Small granules of EMIT that its catalogs list besides, each a random scenario at a place of its own
                with the outlines of its plumes; the first start renders them, about 0.2 s each on two cores.
            progress: Hears (scenes rendered, scenes to render).
            timeout_s: Longest time to wait for readiness.

        Raises:
            SettingsError: A provider or a fault is unknown, the port is taken, or the servers did not come up.
        """
        config = ServeConfig(
            folder=str(Path(folder).expanduser()),
            seed=seed,
            small=small,
            providers=tuple(providers),
            port=port,
            faults=tuple(faults),
            held=tuple(held),
            campaign=campaign,
        )
        config.check()
        process = subprocess.Popen(
            [sys.executable, "-m", "geostack_pipeline.sandbox.server.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        try:
            about = _await_ready(process, config, progress, timeout_s)
        except BaseException:
            end_child(process)
            raise
        return cls(process, about)

    @property
    def pid(self) -> int:
        """Process id of the servers."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the servers' process runs."""
        return self._process.poll() is None

    def settings(self) -> dict[str, Any]:
        """Return the part of ``geostack.yaml`` that points at this sandbox: start date, areas, providers."""
        copied: dict[str, Any] = json.loads(json.dumps(self._about["settings"]))
        return copied

    def credentials(self) -> dict[str, str]:
        """Return the logins that the sandbox takes: environment variable -> value."""
        return dict(self._about["credentials"])

    def truth(self) -> list[dict[str, Any]]:
        """Return the planted plumes: see :class:`~geostack_pipeline.sandbox.world.world.PlumeTruth`."""
        copied: list[dict[str, Any]] = json.loads(json.dumps(self._about["truth"]))
        return copied

    def wind(self) -> bytes:
        """Return the wind as a reanalysis would give it, Parquet: see :func:`~geostack_pipeline.sandbox.wind.wind_table`."""
        return wind_table(self._about["winds"], self._about["seed"])

    @property
    def days(self) -> tuple[str, str]:
        """First and last day of the world, ISO dates."""
        first, last = self._about["days"]
        return first, last

    @cached_property
    def world(self) -> World:
        """The world that is served, for its truth in pixels."""
        from geostack_pipeline.sandbox.world.world import World  # noqa: PLC0415 - it brings GDAL and numba

        folder = Path(self._about["folder"]).parent
        about = self._about
        return World(folder, seed=about["seed"], small=about["small"], campaign=about["campaign"])

    def fault(self, text: str) -> None:
        """Switch a fault on, e.g. ``cut@sentinel-cogs?count=1&path=B12``."""
        self._control.post("/faults", json=dict(parse_fault(text).__dict__)).raise_for_status()

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._control.delete("/faults").raise_for_status()

    def faults(self) -> list[dict[str, Any]]:
        """Return the faults that are on, with what is left of their counts."""
        listed: list[dict[str, Any]] = self._control.get("/faults").raise_for_status().json()["faults"]
        return listed

    def change(self, action: str, item: str | Sequence[str], **more: str) -> list[str]:
        """Release, revise or delete every EMIT granule with a text in its name; return which ones.  All in one instant.

        Args:
            action: ``release``, ``revise`` or ``delete``.
            item: Part of the name, e.g. ``CH4PLM_002_20240607``; or several such.
            more: ``label`` (``wider``, ``wrong`` or ``true``) redraws a plume's outline; ``at`` is the revision date.

        Raises:
            SettingsError: No such change, or no such granule.
        """
        wanted = item if isinstance(item, str) else list(item)
        # Outlines are drawn anew, one by one, before the answer.
        answer = self._control.post(
            "/changes", json={"action": action, "item": wanted, **more}, timeout=10.0 + 2.0 * len(wanted)
        )
        if answer.status_code == 400:
            raise SettingsError(
                "the change was refused", subject="sandbox", found=str(answer.json()["error"])
            )
        changed: list[str] = answer.raise_for_status().json()["changed"]
        return changed

    def take_back_changes(self) -> list[str]:
        """Take every change back, as if the sandbox had just started; return the granules that this changes."""
        changed: list[str] = self._control.delete("/changes").raise_for_status().json()["changed"]
        return changed

    def changes(self) -> dict[str, Any]:
        """Return the EMIT granules that are listed (with their revision), held back and deleted."""
        report: dict[str, Any] = self._control.get("/changes").raise_for_status().json()
        return report

    def log(self, target: str | None = None) -> dict[str, Any]:
        """Return the requests so far: ``{"totals": {target: {requests, bytes, …}}, "entries": […]}``."""
        report: dict[str, Any] = (
            self._control.get("/log", params={"target": target} if target else None).raise_for_status().json()
        )
        return report

    def clear_log(self) -> None:
        """Forget the requests so far."""
        self._control.delete("/log").raise_for_status()

    def stop(self) -> None:
        """End the servers; a second call does nothing."""
        self._control.close()
        end_child(self._process)

    def __enter__(self) -> Self:
        """Return this sandbox."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the servers."""
        self.stop()


def _await_ready(
    process: subprocess.Popen[str],
    config: ServeConfig,
    progress: Callable[[int, int], None] | None,
    timeout_s: float,
) -> dict[str, Any]:
    assert process.stdin is not None
    assert process.stdout is not None
    assert process.stderr is not None
    tail: list[str] = []
    Thread(target=keep_tail, args=(process.stderr, tail), daemon=True, name="sandbox-errors").start()
    lines: queue.Queue[str] = queue.Queue()

    def listen(stream: IO[str]) -> None:
        for line in stream:
            lines.put(line)
        lines.put("")

    Thread(target=listen, args=(process.stdout,), daemon=True, name="sandbox-messages").start()
    process.stdin.write(json.dumps({"parent": os.getpid(), "config": config.to_json()}) + "\n")
    process.stdin.flush()
    deadline = time.monotonic() + timeout_s
    while True:
        try:
            line = lines.get(timeout=max(deadline - time.monotonic(), 0.01))
        except queue.Empty:
            raise SettingsError(
                f"the servers were not ready within {timeout_s:g} s",
                subject="sandbox",
                found=" ".join(tail[-2:]) or None,
                action="start again (finished scenes are kept), or allow more time",
            ) from None
        if not line:
            process.wait(timeout=10)
            raise SettingsError(
                f"the servers' process ended with {process.returncode} before it was ready",
                subject="sandbox",
                found=" ".join(tail[-3:]) or None,
                action="see the message; is the package installed with its `sandbox` extra?",
            )
        message = json.loads(line)
        if "progress" in message and progress is not None:
            progress(*message["progress"])
        elif "error" in message:
            raise SettingsError(
                message["error"]["problem"],
                subject=message["error"]["subject"],
                found=message["error"]["found"],
                action=message["error"]["action"],
            )
        elif "ready" in message:
            about: dict[str, Any] = message["ready"]
            return about


def serve_forever(
    folder: str | Path,
    *,
    seed: int = DEFAULT_SEED,
    port: int = 0,
    providers: Sequence[str] = ("earth_search",),
    faults: Sequence[str] = (),
    small: bool = False,
    campaign: int = 0,
    held: Sequence[str] = (),
    on_ready: Callable[[dict[str, Any]], None] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Serve the sandbox in this process until SIGINT or SIGTERM; for ``geostack sandbox``.

    ``on_ready`` hears ``{"endpoints", "settings", "truth", "winds", "days", "folder", "seed", "small"}`` once every port
    answers.  Ends normally on a signal; raises ``SettingsError`` and ``StorageError`` as :meth:`Sandbox.start`.
    """
    config = ServeConfig(
        folder=str(Path(folder).expanduser()),
        seed=seed,
        small=small,
        providers=tuple(providers),
        port=port,
        faults=tuple(faults),
        campaign=campaign,
        held=tuple(held),
    )
    from geostack_pipeline.sandbox.server.host import serve  # noqa: PLC0415 - it brings the servers

    serve(config, ready=on_ready or (lambda _: None), progress=on_progress)
