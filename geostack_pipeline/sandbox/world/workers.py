"""Scenes rendered by a few processes: GDAL writes a COG while it holds Python's lock, so threads do not help.

A worker is ``python -m geostack_pipeline.sandbox.world.workers``; it reads one job per line and ends when its
input closes, so it never outlives the process that feeds it by more than one scene (about three seconds).
"""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Lock, Thread
from typing import IO, Any

from geostack_pipeline.errors import StorageError
from geostack_pipeline.sandbox.processes import keep_tail

Job = dict[str, Any]
"""Plain JSON: ``scene``, ``tile`` (jobs of one tile share its ground) and ``encodings``; or ``granule``, the number of one
of the campaign, and an empty ``tile``."""


class _Queue:
    """Jobs not yet given out; a worker gets the tile it knows, otherwise the tile with most left to do."""

    def __init__(self, jobs: list[Job]) -> None:
        self._jobs = list(jobs)
        self._lock = Lock()
        self._taken: set[str] = set()

    def next(self, known: set[str]) -> Job | None:
        with self._lock:
            if not self._jobs:
                return None
            tiles = [job["tile"] for job in self._jobs]

            def merit(job: Job) -> tuple[bool, bool, int]:
                return (job["tile"] in known, job["tile"] not in self._taken, tiles.count(job["tile"]))

            best = max(self._jobs, key=merit)
            self._jobs.remove(best)
            self._taken.add(best["tile"])
            known.add(best["tile"])
            return best

    def drop(self) -> None:
        with self._lock:
            self._jobs.clear()


def render_in_processes(
    world: dict[str, Any], jobs: list[Job], count: int, done: Callable[[str], None], subject: Path
) -> None:
    """Render jobs in ``count`` processes; ``done`` hears each finished scene.

    Raises:
        StorageError: A worker failed; its last words are in the message.  Finished scenes are kept.
    """
    queue = _Queue(jobs)
    problems: list[str] = []

    def feed() -> None:
        known: set[str] = set()
        with subprocess.Popen(
            [sys.executable, "-m", "geostack_pipeline.sandbox.world.workers"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        ) as process:
            assert process.stdin is not None
            assert process.stdout is not None
            assert process.stderr is not None
            tail: list[str] = []
            reader = Thread(target=keep_tail, args=(process.stderr, tail), daemon=True)
            reader.start()
            try:
                _say(process.stdin, world)
                while (job := queue.next(known)) is not None:
                    _say(process.stdin, job)
                    reply = json.loads(_hear(process.stdout))
                    if "error" in reply:
                        problems.append(reply["error"])
                        queue.drop()
                        break
                    done(reply["done"])
            except BrokenPipeError:
                queue.drop()
                process.wait(timeout=10)
                reader.join(timeout=2)
                problems.append(f"a render process ended with {process.returncode}: {' '.join(tail[-3:])}")
            finally:
                # The worker ends when its input does; only then may the pipes that are still read be closed.
                with contextlib.suppress(BrokenPipeError):
                    process.stdin.close()
                process.wait()
                reader.join()

    threads = [Thread(target=feed, name=f"sandbox-feed-{number}") for number in range(count)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if problems:
        raise StorageError(
            "the sandbox's scenes could not be rendered",
            subject=str(subject),
            found="; ".join(problems),
            action="free about 0.5 GB there, or choose another folder, and start again: finished scenes are kept",
        )


def _hear(stream: IO[str]) -> str:
    answer = stream.readline()
    if not answer:
        raise BrokenPipeError
    return answer


def _say(stream: IO[str], message: dict[str, Any]) -> None:
    stream.write(json.dumps(message) + "\n")
    stream.flush()


def main() -> None:
    """Render jobs from standard input until it closes."""
    from geostack_pipeline.sandbox.world.campaign import render_granule  # noqa: PLC0415 - both modules import this one
    from geostack_pipeline.sandbox.world.world import Encoding, World  # noqa: PLC0415

    world = World(**json.loads(sys.stdin.readline()))
    for line in sys.stdin:
        job = json.loads(line)
        try:
            if "granule" in job:
                render_granule(world, job["granule"])
            else:
                world.render(
                    world.scene(job["scene"]), [Encoding(**encoding) for encoding in job["encodings"]]
                )
        except OSError as error:
            _say(sys.stdout, {"error": str(error)})
            return
        _say(sys.stdout, {"done": str(job.get("scene", job.get("granule")))})


if __name__ == "__main__":
    main()
