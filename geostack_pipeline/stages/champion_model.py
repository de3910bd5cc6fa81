"""Champion: the model that the daily inference uses."""

from __future__ import annotations

from geostack_pipeline.stages.workspace import Workspace
from geostack_pipeline.storage.snapshot import Snapshot

NAME = "champion_model"
PARTITION = "all"


def champion(ws: Workspace) -> Snapshot | None:
    """Return the model in use, None where none was promoted yet.  Two small reads.

    Its ``meta`` tells ``training_set`` (the version it learnt from) and ``labelled`` ([item id, label revision] of
    the labelled granules in it, see :func:`~geostack_pipeline.stages.training_set.members_of`).
    """
    return ws.current(NAME, PARTITION)
