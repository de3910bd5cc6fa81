"""A process that does what Dagster's sensor daemon does, turn by turn, and dies where it is told to.

Commands come as lines on standard input: ``turn``, or ``die RUN_CREATED`` (a place that Dagster's own crash tests know).
After each turn it says ``done``.  Runs are queued and nobody launches them.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from pathlib import Path

import dagster as dg
from dagster._core.scheduler.instigation import TickStatus
from dagster._core.test_utils import create_test_daemon_workspace_context
from dagster._core.workspace.load_target import WorkspaceFileTarget
from dagster._daemon.sensor import execute_sensor_iteration

SENSOR = "new_emit_granules"


def ended(instance: dg.DagsterInstance) -> int:
    """Return how many turns of the sensor have ended."""
    states = [state for state in instance.all_instigator_state() if state.instigator_name == SENSOR]
    ticks = [
        tick for state in states for tick in instance.get_ticks(state.instigator_origin_id, state.selector_id)
    ]
    return sum(tick.status is not TickStatus.STARTED for tick in ticks)


def main() -> None:
    """Do turns until standard input ends."""
    home = os.environ["DAGSTER_HOME"]
    answers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # Dagster logs to standard output; the test reads answers only.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    target = WorkspaceFileTarget([str(Path(home) / "workspace.yaml")])
    with (
        dg.DagsterInstance.get() as instance,
        create_test_daemon_workspace_context(target, instance) as context,
    ):
        for line in sys.stdin:
            command, _, place = line.strip().partition(" ")
            flags = {SENSOR: {place: signal.SIGKILL}} if command == "die" else None
            before, until = ended(instance), time.monotonic() + 120.0
            while ended(instance) == before:
                assert time.monotonic() < until, "no turn ended"
                list(
                    execute_sensor_iteration(
                        context,
                        logging.getLogger("daemon"),
                        None,
                        None,
                        debug_crash_flags=flags,  # type: ignore[arg-type]
                    )
                )
                time.sleep(0.2)
            answers.write("done\n")


if __name__ == "__main__":
    main()
