"""One filter over one cube; each in a process of its own (see worker)."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Work = Callable[[], dict[str, Any]]


def mag1c(folder: str) -> Work:
    """mag1c's own function, column by column as its program calls it, float64, one thread."""
    import torch
    from mag1c.mag1c import acrwl1mf

    # mag1c calls torch.cholesky, which torch 2.15 took away for torch.linalg.cholesky: the same factor.
    torch.cholesky = torch.linalg.cholesky
    torch.set_num_threads(1)
    _pin(1)
    x = np.load(Path(folder, "in-radiance.npy"))
    template = torch.as_tensor(np.load(Path(folder, "in-unit.npy")) * 1e5)

    def work() -> dict[str, Any]:
        out = np.empty(x.shape[:2])
        every = torch.ones((1, x.shape[1]), dtype=torch.bool)
        for column, spectra in enumerate(x):
            found, _ = acrwl1mf(
                torch.as_tensor(spectra, dtype=torch.float64)[None],
                template,
                30,
                False,
                False,
                False,
                1.0,
                0.0,
                every,
            )
            out[column] = found[0, :, 0].numpy()
        np.save(Path(folder, "out-mag1c.npy"), out)
        return {"torch": torch.__version__}

    return work


def ours(folder: str, method: str, cores: int) -> Work:
    """The project's kernels, block by block."""
    _pin(cores)
    os.environ["XLA_FLAGS"] = f"--xla_force_host_platform_device_count={cores}"
    from geostack_pipeline.methane.columns import COLUMNS, filter_columns

    x = np.load(Path(folder, "in-radiance.npy"))
    unit, noise = np.load(Path(folder, "in-unit.npy")), np.load(Path(folder, "in-noise.npy"))
    targets = np.tile(unit, (COLUMNS, 1))

    def block(start: int) -> Any:
        part = x[start : start + COLUMNS]
        good = np.ones(part.shape[:2], bool)
        return filter_columns(part, good, targets[: len(part)], noise, method=method)  # type: ignore[arg-type]

    begun = time.perf_counter()
    block(0)
    first = time.perf_counter() - begun

    def work() -> dict[str, Any]:
        out = np.empty(x.shape[:2], np.float32)
        for start in range(0, len(x), COLUMNS):
            out[start : start + COLUMNS] = block(start).enhancement
        np.save(Path(folder, f"out-ours-{method}-{cores}.npy"), out)
        return {"first_call_s": first}

    return work


def twin(folder: str, columns: int) -> Work:
    """The NumPy float64 twin that the tests compare with."""
    from benchmarks.filter_twins import mag1c_twin

    _pin(1)
    x = np.load(Path(folder, "in-radiance.npy"), mmap_mode="r")[:columns]
    unit = np.load(Path(folder, "in-unit.npy"))

    def work() -> dict[str, Any]:
        good = np.ones(x.shape[1], bool)
        found = np.stack([mag1c_twin(np.asarray(spectra), good, unit)[0] for spectra in x])
        np.save(Path(folder, "out-twin.npy"), found)
        return {"bands": int(x.shape[2])}

    return work


def _pin(cores: int) -> None:
    if hasattr(os, "sched_setaffinity"):
        allowed = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, allowed[-cores:])
