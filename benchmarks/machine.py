"""What the figures were measured on."""

from __future__ import annotations

import os
import platform
import re
import subprocess
from datetime import UTC, datetime
from importlib import metadata
from pathlib import Path
from typing import Any

_PACKAGES = (
    "geostack_pipeline",
    "rustac",
    "obstore",
    "jax",
    "optax",
    "dagster",
    "pyarrow",
    "httpx",
    "zarr",
    "xarray",
    "h5py",
    "h5netcdf",
    "numba",
    "rasterio",
    "imagecodecs",
    "odc-stac",
    "stackstac",
    "rioxarray",
    "dask",
    "pystac-client",
    "stac-geoparquet",
    "fsspec",
    "aiohttp",
    "jax",
    "numpy",
    "torch",
    "mag1c",
)


def describe() -> dict[str, Any]:
    """Return date, processor, cores, memory, load, kernel and versions; a missing package is None."""
    return {
        "date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "cpu": _cpu(),
        "cores": os.cpu_count(),
        "memory_gb": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9, 1),
        "load_before": round(os.getloadavg()[0], 2),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "curl": _curl(),
        "packages": {name: _version(name) for name in _PACKAGES},
    }


def text(machine: dict[str, Any]) -> str:
    """Return the description as two lines."""
    versions = ", ".join(
        f"{name} {version or 'not installed'}" for name, version in machine["packages"].items()
    )
    return (
        f"{machine['date']}; {machine['cpu']}, {machine['cores']} cores, {machine['memory_gb']} GB, "
        f"kernel {machine['kernel']}, load before {machine['load_before']}\n"
        f"Python {machine['python']}, curl {machine['curl'] or 'not installed'}, {versions}\n"
    )


def _cpu() -> str:
    try:
        found = re.search(r"^model name\s*:\s*(.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        found = None
    return found[1].strip() if found else platform.processor() or platform.machine()


def _curl() -> str | None:
    try:
        said = subprocess.run(["curl", "--version"], capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return said.split()[1]


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
