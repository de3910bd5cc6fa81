"""One measured task in a process of its own: imports first, then the work, timed and weighed.

A task is a function ``prepare(**arguments)`` that imports what it needs and returns the work as a function without
arguments; the work returns facts (counts, bytes) as a dict.  A function under ``after`` is called when the clock has
stopped and the memory is weighed, and gives further facts: whether the result is right.
"""

from __future__ import annotations

import importlib
import json
import os
import re
import resource
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_ROOT = Path(__file__).parents[1]
_MARK = "benchmark result: "


@dataclass(frozen=True, kw_only=True)
class Measured:
    """What one run of a task took and gave."""

    wall_s: float
    """Of the work, without imports."""
    cpu_s: float
    """User and system, of all threads and ended children, during the work."""
    peak_mb: float
    """Peak resident memory of the whole process, imports included, in MB (10^6 bytes)."""
    base_mb: float
    """Resident memory after the imports, before the work."""
    facts: Mapping[str, Any]
    """What the work returned; ``error`` where it raised."""
    exit_code: int
    """Of the process after the work: other than 0 where it crashed at its end."""


def measure(task: str, *, timeout_s: float = 900.0, python: str | None = None, **arguments: Any) -> Measured:
    """Run ``module:function`` once in a fresh process, of another interpreter where one is named."""
    # Modules are compiled once, not by each process: an environment may keep Python from storing what it compiled.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    environment.setdefault("PYTHONPYCACHEPREFIX", str(_ROOT / ".geostack" / "compiled"))
    done = subprocess.run(
        [python or sys.executable, "-m", "benchmarks.worker", task, json.dumps(arguments)],
        cwd=_ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    for line in done.stdout.splitlines():
        if line.startswith(_MARK):
            return Measured(**json.loads(line.removeprefix(_MARK)), exit_code=done.returncode)
    raise RuntimeError(f"{task} ended with {done.returncode} and no result:\n{done.stderr[-2000:]}")


def _cpu_s() -> float:
    own, ended = resource.getrusage(resource.RUSAGE_SELF), resource.getrusage(resource.RUSAGE_CHILDREN)
    return own.ru_utime + own.ru_stime + ended.ru_utime + ended.ru_stime


def _memory_mb(name: str) -> float:
    # not ru_maxrss: a process inherits its parent's there
    found = re.search(rf"^{name}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    assert found is not None
    return int(found[1]) * 1024 / 1e6


def _main() -> None:
    module, _, name = sys.argv[1].partition(":")
    work = getattr(importlib.import_module(module), name)(**json.loads(sys.argv[2]))
    base = _memory_mb("VmRSS")
    cpu, start = _cpu_s(), time.perf_counter()
    try:
        facts = work()
    except Exception as error:
        facts = {"error": f"{type(error).__name__}: {' '.join(str(error).split())}"[:400]}
    wall, cpu = time.perf_counter() - start, _cpu_s() - cpu
    result = {
        "wall_s": wall,
        "cpu_s": cpu,
        "peak_mb": facts.pop("own_peak_mb", None) or _memory_mb("VmHWM"),
        "base_mb": base,
    }
    after = facts.pop("after", dict)
    result["facts"] = {**facts, **after()}
    print(_MARK + json.dumps(result), flush=True)


if __name__ == "__main__":
    _main()
