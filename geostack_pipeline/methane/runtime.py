"""How JAX runs here: a compilation cache on disk, all cores as devices, and no threads that wait for each other."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
from threadpoolctl import threadpool_limits

_LEAST_COMPILE_S = 0.2
"""Kernels that take less to compile are not worth a file."""
_MOST_DEVICES = 16


def cache_folder(local_root: Path | None) -> Path:
    """Return where compiled kernels are kept: beside a local store's data, else in the user's cache folder."""
    if local_root is not None:
        return local_root / "compiled"
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "geostack_pipeline" / "compiled"


def prepare(folder: Path | None) -> None:
    """Keep compiled kernels in a folder (None: nowhere) and make a device of each core, where JAX has not started yet.

    What was compiled is found again by its program, its options, the versions of JAX and XLA, and the processor; so a
    folder may serve several processes and versions at once, and may be deleted at any time.  A folder that was
    configured before (``JAX_COMPILATION_CACHE_DIR``) is left alone.
    """
    options: Any = jax.config
    if folder is not None and not options.jax_compilation_cache_dir:
        options.update("jax_compilation_cache_dir", str(folder))
        options.update("jax_persistent_cache_min_compile_time_secs", _LEAST_COMPILE_S)
        options.update("jax_persistent_cache_min_entry_size_bytes", -1)
    cores = min(len(os.sched_getaffinity(0)), _MOST_DEVICES) if hasattr(os, "sched_getaffinity") else 1
    devices = 1 << (cores.bit_length() - 1)
    forced = "xla_force_host_platform_device_count" in os.environ.get("XLA_FLAGS", "")
    if devices > 1 and not forced and options.jax_num_cpu_devices < 1:
        try:
            options.update("jax_num_cpu_devices", devices)
        except RuntimeError:
            return  # JAX has started: the devices are as they are


@contextmanager
def one_thread_per_factor() -> Iterator[None]:
    """Keep LAPACK from sharing out the factors of 50 x 50 matrices.

    jaxlib calls SciPy's OpenBLAS for them, whose threads wait for each other in a loop: on a machine with other work
    that takes ten times the time of all the rest.
    """
    with threadpool_limits(limits=1, user_api="blas"):
        yield
