"""A real training beats the blurred matched filter and is promoted; one on wrong labels is refused, with its numbers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest
from learning_world import START, made, replace, store, workspace

from geostack_pipeline.stages import candidate_model, champion_model, evaluation, training_set
from geostack_pipeline.stages.workspace import Outcome, Workspace


def cycle(ws: Workspace) -> Outcome | None:
    training_set.build(ws, now=START + timedelta(days=400))
    candidate_model.build(ws)
    evaluation.build(ws)
    return champion_model.build(ws)


@pytest.mark.slow
def test_wrong_labels_do_not_get_through_the_gate(tmp_path: Path) -> None:
    ws = workspace(tmp_path, steps=150, batch=8, test_share=0.5, bootstrap=500)
    granules = [made(number, plume=bool(number % 3), noise=350.0) for number in range(72)]
    store(ws, granules)
    first = cycle(ws)
    assert first is not None, "the first model must beat the blurred matched filter"
    assert first.checks[0].passed
    table = first.snapshot
    assert table.meta["auprc"] > 0.8
    members = ws.artifacts.current(training_set.NAME, "all")
    assert members is not None
    assert members.meta["test_granules"] >= 40
    test = {row["item_id"] for row in members.open("members").to_dicts() if row["split"] == "test"}
    moved = [
        replace(each, outline_moved=(17, 19), revision=1) for each in granules if each.item_id not in test
    ]
    store(ws, [*(each for each in granules if each.item_id in test), *moved])
    second = cycle(ws)
    assert second is not None
    assert second.reused
    assert second.snapshot.version == first.snapshot.version
    assert not second.checks[0].passed
    assert second.checks[0].detail["auprc_better"].startswith("NOT passed")
