"""Small habits for child processes."""

from __future__ import annotations

import os
import select
import subprocess
import sys
import threading
from typing import IO


def keep_tail(stream: IO[str], tail: list[str]) -> None:
    """Read a process's standard error until it closes; ``tail`` holds its last lines."""
    for line in stream:
        tail.append(line.strip())
        del tail[:-20]


def read_line() -> bytes:
    """Return the first line of standard input without taking more than that."""
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(sys.stdin.fileno(), 1)
        if not part:
            break
        line += part
    return line


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


def end_child(process: subprocess.Popen[str]) -> None:
    """End a child: by closing its input, then by its own id."""
    if process.stdin is not None and not process.stdin.closed:
        process.stdin.close()
    for last_resort in (None, process.terminate, process.kill):
        if last_resort is not None:
            last_resort()
        try:
            process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            continue
        break
