"""The Dagster instance that the command line shares with the UI."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import dagster as dg
from dagster import DagsterInstance
from dagster._core.instance.ref import InstanceRef


@contextmanager
def shared_instance(folder: Path | None = None) -> Iterator[DagsterInstance]:
    """Open the instance that ``dagster dev`` in the same folder uses, so that its runs show in the UI.

    With ``DAGSTER_HOME`` set, that home decides.  Otherwise ``dagster.yaml`` of the folder does, which keeps runs
    and events under ``.dagster``; without that file nothing is kept.
    """
    if os.environ.get("DAGSTER_HOME"):
        with DagsterInstance.get() as instance:
            yield instance
        return
    here = folder or Path.cwd()
    if not (here / "dagster.yaml").is_file():
        with dg.DagsterInstance.ephemeral() as instance:
            yield instance
        return
    with (
        tempfile.TemporaryDirectory(prefix="geostack-dagster-") as home,
        DagsterInstance.from_ref(InstanceRef.from_dir(home, config_dir=str(here))) as instance,
    ):
        yield instance
