"""A real ``dagster dev`` for tests: loopback only, bounded in time, ended with its whole process group."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil

PROJECT = Path(__file__).parents[2]
START_SECONDS = 300
STOP_SECONDS = 30


def project_folder(folder: Path) -> Path:
    """Copy what a user starts Dagster with: the project's workspace.yaml and dagster.yaml, nothing else."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("workspace.yaml", "dagster.yaml"):
        shutil.copy(PROJECT / name, folder / name)
    return folder


def environment(settings: Path) -> dict[str, str]:
    """Return an environment that names the settings and no Dagster home."""
    env = {name: value for name, value in os.environ.items() if not name.startswith("DAGSTER")}
    return env | {"GEOSTACK_SETTINGS": str(settings), "PYTHONWARNINGS": "ignore"}


class DagsterDev:
    """A running UI with its daemon and code server."""

    def __init__(self, folder: Path, port: int, process: subprocess.Popen[bytes], log: Path) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.log = log
        self._process = process
        self._client = httpx.Client(base_url=self.url, trust_env=False, timeout=60)

    def graphql(self, query: str, **variables: Any) -> dict[str, Any]:
        """Return the data of a query, or fail with the errors of the answer."""
        answer = self._client.post("/graphql", json={"query": query, "variables": variables}).json()
        assert not answer.get("errors"), answer["errors"]
        data: dict[str, Any] = answer["data"]
        return data

    def wait_until_loaded(self) -> None:
        """Return when the code location is loaded; fail with its error or with the end of the log."""
        query = """{ workspaceOrError { ... on Workspace { locationEntries { loadStatus locationOrLoadError {
            __typename ... on PythonError { message } } } } } }"""
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"dagster dev ended:\n{self.tail()}"
            try:
                entries = self.graphql(query)["workspaceOrError"]["locationEntries"]
            except (httpx.HTTPError, ValueError):
                entries = []
            for entry in entries:
                location = entry["locationOrLoadError"] or {}
                assert location.get("__typename") != "PythonError", location.get("message")
            if entries and all(entry["loadStatus"] == "LOADED" for entry in entries):
                return
            time.sleep(0.5)
        raise AssertionError(f"dagster dev did not load within {START_SECONDS} s:\n{self.tail()}")

    def wait_for(self, what: str, ask: Callable[[], Any], *, seconds: float) -> Any:
        """Return the first answer that is not empty; fail with the end of the log."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            assert self._process.poll() is None, f"dagster dev ended:\n{self.tail()}"
            answer = ask()
            if answer:
                return answer
            time.sleep(1)
        raise AssertionError(f"waited {seconds} s in vain for {what}:\n{self.tail()}")

    def foreign_addresses(self) -> set[str]:
        """Return addresses beyond loopback that the processes listen on or are connected to."""
        found = set()
        for process in _members(self._process.pid):
            try:
                connections = process.net_connections(kind="inet")
            except psutil.NoSuchProcess:
                continue
            for connection in connections:
                ends = (connection.laddr, connection.raddr)
                found |= {
                    end.ip for end in ends if end and not end.ip.startswith(("127.", "::1", "::ffff:127."))
                }
        return found

    def tail(self, lines: int = 40) -> str:
        """Return the end of the processes' output."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def stop(self) -> list[int]:
        """End all processes; return those that had to be killed."""
        self._client.close()
        members = _members(self._process.pid)
        # The group's leader alone gets the signal: it ends its children itself, in order.
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(timeout=STOP_SECONDS)
        _, alive = psutil.wait_procs(members, timeout=STOP_SECONDS)
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        for process in alive:
            # Runs are started in groups of their own.
            if process.is_running():
                process.kill()
        self._process.wait(timeout=STOP_SECONDS)
        return [process.pid for process in alive]


@contextmanager
def dagster_dev(folder: Path, settings: Path) -> Iterator[DagsterDev]:
    """Start the UI in a folder as the README does, and end it however the block ends."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = folder / f"dagster-dev-{port}.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "dagster",
                "dev",
                "-w",
                "workspace.yaml",
                "-h",
                "127.0.0.1",
                "-p",
                str(port),
            ],
            cwd=folder,
            env=environment(settings),
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            # A test run in the background ignores Ctrl-C, and Dagster would inherit that.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    dev = DagsterDev(folder, port, process, log)
    try:
        dev.wait_until_loaded()
        yield dev
    finally:
        dev.stop()


def _members(pid: int) -> list[psutil.Process]:
    try:
        leader = psutil.Process(pid)
        return [leader, *leader.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []
