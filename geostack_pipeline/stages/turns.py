"""Trainings take turns: of all processes that share a store, one at a time has a network learn.

Whoever starts a training, the command line, the queue, a click in the asset graph, comes through here.  What others think
runs (the sensor, the queue, the command's look at Dagster's runs) spares most of them the wait; this decides.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime

from geostack_pipeline.errors import BusyError, LeaseTakenError
from geostack_pipeline.providers.coerce import format_time
from geostack_pipeline.stages.progress import Event, emit
from geostack_pipeline.stages.workspace import Workspace
from geostack_pipeline.storage.leases import StillHeld, lease

TRAINING = ("training", "all")
"""Name of the lease."""


@dataclass(frozen=True, kw_only=True)
class Turn:
    """The turn of one training."""

    waited_for: str | None
    """Who had the turn before, where this one waited."""
    require: StillHeld
    """Raises where the turn was lost (object stores alone)."""


@contextmanager
def training_turn(ws: Workspace, stage: str, partition: str) -> Iterator[Turn]:
    """Wait for the turn of a training and hold it.  What was decided before must be decided again inside.

    The turn ends with the process, however that ends: at once on a local root, after some minutes on an object store.

    Raises:
        BusyError: Another one kept it for ``learning.wait_hours``; says which process.
    """
    hours = ws.settings.learning.wait_hours
    me = (
        f"process {os.getpid()} on {socket.gethostname()}, {f'run {ws.run_id}, ' if ws.run_id else ''}"
        f"training since {format_time(datetime.now(UTC))}"
    )
    with ExitStack() as stack:
        waited_for = None
        try:
            require = stack.enter_context(lease(ws.artifacts.root, *TRAINING, timeout_s=0.0, holder=me))
        except LeaseTakenError as taken:
            waited_for = taken.found
            emit(
                Event(provider="", stage=stage, day=partition, status="waits", info={"waits for": waited_for})
            )
            try:
                require = stack.enter_context(
                    lease(ws.artifacts.root, *TRAINING, timeout_s=3600.0 * hours, holder=me)
                )
            except LeaseTakenError as still:
                raise BusyError(
                    "another training of the model runs",
                    subject=stage,
                    found=f"{still.found}; waited {hours:g} hour(s) for it",
                    action="wait for its end and run again, end it (in the UI, with Ctrl-C, or by its process), "
                    "or wait longer: learning.wait_hours",
                    retryable=True,
                ) from None
        yield Turn(waited_for=waited_for, require=require)
