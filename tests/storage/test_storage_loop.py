"""The owned event loop, and processes that end right after async work."""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from collections import Counter

import pytest

from geostack_pipeline.storage import drain
from geostack_pipeline.storage import loop as loop_module
from geostack_pipeline.storage.loop import run_async


def test_results_and_errors_come_through() -> None:
    async def answer(value: int) -> int:
        await asyncio.sleep(0)
        return value

    async def fail() -> None:
        raise LookupError("inner")

    assert run_async(answer(41)) == 41
    with pytest.raises(LookupError, match="inner"):
        run_async(fail())


def test_threads_share_one_loop() -> None:
    async def where() -> tuple[int, str]:
        await asyncio.sleep(0.02)
        return id(asyncio.get_running_loop()), threading.current_thread().name

    seen: list[tuple[int, str]] = []
    threads = [threading.Thread(target=lambda: seen.append(run_async(where()))) for _ in range(8)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == 8
    assert set(seen) == {(seen[0][0], "geostack-loop")}
    assert time.monotonic() - start < 1.0, "they must have waited together"


def test_a_time_limit_cancels_the_work() -> None:
    ended: list[str] = []

    async def slow() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            ended.append("cancelled")
            raise

    with pytest.raises(TimeoutError, match=r"did not finish within 0\.05 s"):
        run_async(slow(), timeout=0.05)

    async def settle() -> None:
        await asyncio.sleep(0.01)

    run_async(settle())
    assert ended == ["cancelled"]


def test_the_works_own_timeout_is_told_apart() -> None:
    async def inner() -> None:
        raise TimeoutError("mine")

    with pytest.raises(TimeoutError, match="mine"):
        run_async(inner(), timeout=5)


def test_waiting_on_the_loop_itself_is_an_error() -> None:
    async def nothing() -> None:
        pass

    async def nested() -> None:
        run_async(nothing())

    with pytest.raises(RuntimeError, match="await the coroutine instead"):
        run_async(nested())


def test_stop_cancels_what_runs_and_the_next_call_starts_anew() -> None:
    cancelled = threading.Event()

    async def forever() -> None:
        try:
            await asyncio.sleep(100)
        finally:
            cancelled.set()

    async def spawn() -> None:
        kept.append(asyncio.ensure_future(forever()))
        await asyncio.sleep(0.01)

    kept: list[object] = []
    run_async(spawn())
    before = loop_module._current
    loop_module.stop()
    assert cancelled.is_set()
    assert not before.thread.is_alive()

    async def one() -> int:
        return 1

    assert run_async(one()) == 1
    assert loop_module._current is not before


def test_a_forked_child_has_its_own_loop() -> None:
    async def pid() -> int:
        return os.getpid()

    assert run_async(pid()) == os.getpid()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            os.write(write, str(run_async(pid(), timeout=10)).encode())
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    assert os.read(read, 20) == str(child).encode()
    os.close(read)
    os.close(write)


def test_a_process_without_native_workers_does_not_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(drain, "_worker_switches", dict)
    assert drain.settle() < 0.02


def test_the_drain_waits_while_workers_are_busy_and_not_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    ticks = iter(range(10**6))
    until = time.monotonic() + 0.3
    monkeypatch.setattr(
        drain, "_worker_switches", lambda: {"1": str(next(ticks) if time.monotonic() < until else -1)}
    )
    assert 0.3 <= drain.settle() < 0.6
    monkeypatch.setattr(drain, "_worker_switches", lambda: {"1": str(next(ticks))})
    monkeypatch.setattr(drain, "MOST_S", 0.2)
    assert 0.2 <= drain.settle() < 0.4


def test_the_native_workers_are_found_by_name(tmp_path) -> None:
    import obstore
    from obstore.store import LocalStore

    obstore.put(LocalStore(tmp_path), "a", b"1")
    if not drain._TASKS.is_dir():
        pytest.skip("threads cannot be looked at on this system: no /proc")
    assert len(drain._worker_switches()) >= 1


OWN_LOOP = """
import sys, obstore
from obstore.store import LocalStore
from geostack_pipeline.storage.loop import run_async
async def main():
    store = LocalStore(sys.argv[1])
    for n in range(20):
        await obstore.put_async(store, f"k{n}", b"x" * 1000)
        await (await obstore.get_async(store, f"k{n}")).bytes_async()
run_async(main())
"""
ZARR = """
import sys, numpy, zarr
import geostack_pipeline.storage
from obstore.store import LocalStore
store = zarr.storage.ObjectStore(LocalStore(sys.argv[1]))
array = zarr.create_array(store, name="a", shape=(400,), chunks=(20,), dtype="f4", overwrite=True)
array[:] = numpy.arange(400)
assert array[:].sum() == 79800
"""


def exit_codes(code: str, folder, count: int) -> Counter[int]:
    """Exit codes of scripts, two at a time, each in a folder of its own."""
    codes: Counter[int] = Counter()
    for first in range(0, count, 2):
        children = []
        for number in range(first, min(first + 2, count)):
            own = folder / f"child{number}"
            own.mkdir(exist_ok=True)
            children.append(
                subprocess.Popen([sys.executable, "-c", code, str(own)], stderr=subprocess.DEVNULL)
            )
        codes.update(child.wait(60) for child in children)
    return codes


def _child(folder: str) -> None:
    import obstore
    from obstore.store import LocalStore

    async def work() -> None:
        store = LocalStore(folder)
        for n in range(20):
            await obstore.put_async(store, f"k{n}", b"x" * 1000)
            await (await obstore.get_async(store, f"k{n}")).bytes_async()

    run_async(work())


def spawned_codes(folder, count: int) -> Counter[int]:
    context = multiprocessing.get_context("spawn")
    codes: Counter[int] = Counter()
    for first in range(0, count, 2):
        children = [context.Process(target=_child, args=(str(folder),)) for _ in range(min(2, count - first))]
        for child in children:
            child.start()
        for child in children:
            child.join(60)
            codes[child.exitcode] += 1
    return codes


def test_processes_that_end_right_after_async_work_end_well(tmp_path) -> None:
    assert spawned_codes(tmp_path, 4) == {0: 4}
    assert exit_codes(OWN_LOOP, tmp_path, 4) == {0: 4}


@pytest.mark.slow
def test_many_processes_that_end_right_after_async_work_end_well(tmp_path) -> None:
    assert spawned_codes(tmp_path, 30) == {0: 30}
    assert exit_codes(OWN_LOOP, tmp_path, 30) == {0: 30}
    assert exit_codes(ZARR, tmp_path, 8) == {0: 8}
