"""Processes that search, fetch and end: none may crash on its way out."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.pipeline.processes import await_ready, finish, go, start

DAY = "2024-06-06"
STAGES = ("scenes", "selected", "granules")
COUNT = int(os.environ.get("GEOSTACK_EXITS", "40"))


def _one(file: Path) -> tuple[int, str]:
    process = start(file, DAY, *STAGES)
    await_ready(process)
    go(process)
    code, out, err = finish(process, timeout=900)
    assert len(re.findall(r"^granules ", out, re.MULTILINE)) == 1, err
    return code, err


def test_a_few_processes_end_well(sandbox_settings: Callable[..., Path]) -> None:
    results = [_one(sandbox_settings(f"p{index}.yaml", root=f"file:p{index}")) for index in range(2)]
    assert [code for code, _ in results] == [0, 0], results


@pytest.mark.slow
@pytest.mark.timeout(2400)
def test_many_processes_end_well(sandbox_settings: Callable[..., Path]) -> None:
    """Each has a store of its own, so each one searches and fetches for real."""
    files = [sandbox_settings(f"p{index}.yaml", root=f"file:p{index}") for index in range(COUNT)]
    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(_one, files))
    codes = Counter(code for code, _ in results)
    assert codes == {0: COUNT}, [err[-300:] for code, err in results if code][:3]


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_the_command_line_ends_well(sandbox_settings: Callable[..., Path], tmp_path: Path) -> None:
    codes = Counter()
    for index in range(5):
        file = sandbox_settings(f"c{index}.yaml", root=f"file:c{index}")
        ended = subprocess.run(
            [sys.executable, "-m", "geostack_pipeline.cli", "run", "--settings", str(file), "--provider", "earth_search",
             "--from", DAY, "--until", "cube", "--json"],
            cwd=tmp_path, capture_output=True, text=True, timeout=900, check=False,
        )  # fmt: skip
        assert '"failed": {}' in ended.stdout, ended.stderr
        codes[ended.returncode] += 1
    assert codes == {0: 5}
