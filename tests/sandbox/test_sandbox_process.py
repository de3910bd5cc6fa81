"""The servers' process: starts on free ports, refuses bad settings, and never outlives its parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import psutil
import pytest

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox import PROVIDERS, Sandbox
from geostack_pipeline.sandbox.dialects import DIALECTS

_PARENT = """
import os, sys, time
from geostack_pipeline.sandbox import Sandbox
sandbox = Sandbox.start(sys.argv[1], small=True)
print(sandbox.pid, sandbox.endpoints["control"], flush=True)
if sys.argv[2] == "exit":
    os._exit(3)
if sys.argv[2] == "fork" and os.fork() == 0:
    time.sleep(60)  # holds the pipe to the servers open
time.sleep(60)
"""


def _gone(pid: int, within_s: float) -> bool:
    deadline = time.monotonic() + within_s
    while time.monotonic() < deadline:
        try:
            if psutil.Process(pid).status() == psutil.STATUS_ZOMBIE:
                return True
        except psutil.NoSuchProcess:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.parametrize("how", ["exit", "kill", "fork"])
def test_servers_end_with_their_parent(worlds: Path, running: Sandbox, how: str):
    parent = subprocess.Popen(
        [sys.executable, "-c", _PARENT, str(worlds), how], stdout=subprocess.PIPE, text=True
    )
    try:
        pid, control = parent.stdout.readline().split()
        children = psutil.Process(parent.pid).children() if how != "exit" else []
        if how != "exit":
            assert httpx.get(control, trust_env=False).status_code == 200
            parent.send_signal(signal.SIGKILL)
        parent.wait(timeout=30)
        assert _gone(int(pid), 20)
        with pytest.raises(httpx.TransportError):
            httpx.get(control, trust_env=False)
        for child in children:
            if child.pid != int(pid) and child.is_running():
                child.kill()
    finally:
        if parent.poll() is None:
            parent.kill()
            parent.wait()
        parent.stdout.close()


def test_stop_ends_the_process_and_leaves_no_listener(worlds: Path, running: Sandbox):
    sandbox = Sandbox.start(worlds, small=True, faults=["503@earth_search?count=1&seconds=2"])
    with sandbox:
        assert sandbox.alive
        answer = httpx.get(sandbox.endpoints["earth_search"], trust_env=False)
        assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
        assert psutil.Process(sandbox.pid).ppid() == os.getpid()
        # One child: no reloaders, no workers.
        assert psutil.Process(sandbox.pid).children() == []
        for address in sandbox.endpoints.values():
            assert address.startswith("http://127.0.0.1:")
    assert not sandbox.alive
    assert _gone(sandbox.pid, 1)
    with pytest.raises(httpx.TransportError):
        httpx.get(sandbox.endpoints["control"], trust_env=False)
    sandbox.stop()


def test_two_sandboxes_share_a_folder(worlds: Path, running: Sandbox):
    with Sandbox.start(worlds, small=True) as other:
        assert set(other.endpoints.values()).isdisjoint(running.endpoints.values())
        assert other.truth() == running.truth()


def test_bad_settings_are_refused_before_anything_starts(worlds: Path, running: Sandbox):
    with pytest.raises(SettingsError, match="no such provider"):
        Sandbox.start(worlds, providers=["nowhere"], small=True)
    with pytest.raises(SettingsError, match="no fault"):
        Sandbox.start(worlds, faults=["explode"], small=True)
    with pytest.raises(SettingsError, match="between 1 and 65500"):
        Sandbox.start(worlds, port=70_000, small=True)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(SettingsError, match="the port is taken"):
            Sandbox.start(worlds, port=taken.getsockname()[1], small=True)


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path):
    file = tmp_path / "file"
    file.write_text("no folder")
    with pytest.raises(SettingsError, match="cannot be written"):
        Sandbox.start(file, small=True)


def test_a_start_that_takes_too_long_is_given_up(tmp_path: Path):
    before = set(psutil.Process().children())
    with pytest.raises(SettingsError, match="not ready within"):
        Sandbox.start(tmp_path, small=True, timeout_s=0.2)
    assert not [child for child in set(psutil.Process().children()) - before if child.is_running()]


def test_serve_forever_ends_on_a_signal(worlds: Path, running: Sandbox):
    code = (
        "import sys\nfrom geostack_pipeline.sandbox import serve_forever\n"
        "serve_forever(sys.argv[1], small=True, on_ready=lambda about: print(about['endpoints']['control'], flush=True))\n"
        "print('ended', flush=True)\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(worlds)], stdout=subprocess.PIPE, text=True)
    try:
        control = process.stdout.readline().strip()
        assert httpx.get(control, trust_env=False).json()["seed"] == running._about["seed"]
        process.send_signal(signal.SIGINT)
        assert process.stdout.readline() == "ended\n"
        assert process.wait(timeout=20) == 0
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
        process.stdout.close()


def test_the_light_list_of_providers_is_the_real_one():
    assert tuple(DIALECTS) == PROVIDERS
