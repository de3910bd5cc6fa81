"""Which process a run lives in, and putting runs aside whose process is dead.

Dagster asks its default launcher for no sign of life, and a run of the command line has no launcher: a run that is killed
stays *started* for ever, and whatever waits for its end waits with it.  So each run says which process it is, and whoever
is about to wait looks whether that process lives.  Only processes of this host can be judged.
"""

from __future__ import annotations

import json
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import dagster as dg

if TYPE_CHECKING:
    from collections.abc import Sequence

PROCESS_TAG = "geostack/process"
"""Tag of a run: :func:`process_tag`."""
_PROC = Path("/proc")


def process_tag(run_id: str) -> dict[str, str]:
    """Return the tag by which a run says that it lives in this process.

    The run is named in it, because Dagster copies the tags of a run to the one that tries it again.
    """
    pid = os.getpid()
    told = {
        "run": run_id,
        "host": socket.gethostname(),
        "boot": _boot(),
        "space": _space(),
        "pid": pid,
        "began": _began(pid),
    }
    return {PROCESS_TAG: json.dumps(told, separators=(",", ":"))}


def sign(context: dg.AssetExecutionContext) -> None:
    """Have the run of a step say which process it lives in."""
    tag = process_tag(context.run.run_id)
    if context.run.tags.get(PROCESS_TAG) != tag[PROCESS_TAG]:
        context.instance.add_run_tags(context.run.run_id, tag)


def is_dead(run: dg.DagsterRun) -> bool:
    """Return whether the process of a run has surely ended; False also where that cannot be told from here."""
    told = _told(run)
    if told is None or told["host"] != socket.gethostname():
        return False
    if told["boot"] != _boot():
        return True
    if told["space"] != _space():
        # Another container under the same name counts its processes anew.
        return False
    # A number is given to another process one day, which began at another time.
    return _began(told["pid"]) != told["began"]


def put_dead_aside(instance: dg.DagsterInstance) -> list[str]:
    """Report every unfinished run as failed whose process is dead; return their ids."""
    found = []
    for run in unfinished(instance):
        if not is_dead(run):
            continue
        # Its last words may have been written between the two looks.
        now = instance.get_run_by_id(run.run_id)
        if now is None or now.is_finished:
            continue
        message = (
            f"The process of this run ({describe(run)}) has ended without a word: killed, or out of memory."
        )
        if now.status is dg.DagsterRunStatus.CANCELING:
            instance.report_run_canceled(now, message)
        else:
            instance.report_run_failed(now, message)
        found.append(run.run_id)
    return found


def unfinished(instance: dg.DagsterInstance, job: str | None = None) -> Sequence[dg.DagsterRun]:
    """Return the runs, of one job or of all, that have not ended, by whomever they were started."""
    from dagster._core.storage.dagster_run import NOT_FINISHED_STATUSES  # noqa: PLC0415 - no public name

    return instance.get_runs(dg.RunsFilter(job_name=job, statuses=list(NOT_FINISHED_STATUSES)))


def running(instance: dg.DagsterInstance, job: str) -> dg.DagsterRun | None:
    """Return a run of a job that is at work, None where there is none.

    A run that waits in the queue is none, nor is one that was only created: neither begins as long as another one of a
    limited job runs.
    """
    waiting = {dg.DagsterRunStatus.QUEUED, dg.DagsterRunStatus.NOT_STARTED}
    for run in unfinished(instance, job):
        if run.status not in waiting or _told(run) is not None:
            return run
    return None


def describe(run: dg.DagsterRun) -> str:
    """Return where a run lives, for people."""
    told = _told(run)
    return "in a process that is not known" if told is None else f"process {told['pid']} on {told['host']}"


def _told(run: dg.DagsterRun) -> dict[str, object] | None:
    """Return what a run says of its process; None where it says nothing, or only what it copied."""
    try:
        told = json.loads(run.tags[PROCESS_TAG])
        return (
            told
            if told["run"] == run.run_id and {"host", "boot", "space", "pid", "began"} <= set(told)
            else None
        )
    except (KeyError, ValueError, TypeError):
        return None


def _began(pid: object) -> str | None:
    """Return when a process began, in the kernel's count; "" where that is not told, None where it has ended."""
    if not isinstance(pid, int):
        return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        pass
    try:
        # The name, in parentheses, may hold anything.
        fields = (_PROC / str(pid) / "stat").read_text("utf-8", errors="replace").rpartition(")")[2].split()
    except OSError:
        return "" if not (_PROC / "self").exists() else None
    # A zombie has ended; only its parent has not asked yet.
    return None if fields[0] in {"Z", "X"} else fields[19]


def _boot() -> str:
    try:
        return (_PROC / "sys/kernel/random/boot_id").read_text("ascii").strip()
    except OSError:
        return ""


def _space() -> str:
    try:
        return str((_PROC / "self/ns/pid").readlink())
    except OSError:
        return ""
