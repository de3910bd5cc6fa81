"""The learning loop in the graph: there where it is switched on, with checks that say why a candidate was refused."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.settings import Settings

sys.path.append(str(Path(__file__).parents[1] / "learning"))

LOOP = {"training_set", "candidate_model", "evaluation", "champion_model"}


def definitions(**learning: Any) -> dg.Definitions:
    return build_definitions(Settings.model_validate({"providers": {"cmr_stac": {}}, "learning": learning}))


def names(found: dg.Definitions) -> set[str]:
    return {key.to_user_string() for key in found.resolve_asset_graph().get_all_asset_keys()}


def test_the_loop_is_there_where_it_is_switched_on() -> None:
    assert not LOOP & names(definitions())
    on = definitions(enabled=True)
    assert names(on) >= LOOP
    assert on.resolve_job_def("retrain").name == "retrain"
    other = build_definitions(
        Settings.model_validate({"providers": {"earth_search": {}}, "learning": {"enabled": True}})
    )
    assert not LOOP & names(other)
    graph = on.resolve_asset_graph()
    assert {key.to_user_string() for key in graph.get(dg.AssetKey("training_set")).parent_keys} == {
        "cmr_stac/cube"
    }
    assert "enough_new_labels" in {sensor.name for sensor in on.sensors or []}
    assert "enough_new_labels" not in {sensor.name for sensor in other.sensors or []}
    assert {graph.get(dg.AssetKey(name)).group_name for name in LOOP} == {"learning"}


@pytest.mark.slow
def test_the_job_retrain_trains_judges_and_says_why_it_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learning_world import TINY_RECIPE, some, store, workspace

    from geostack_pipeline.learning.profiles import PROFILES
    from geostack_pipeline.stages import candidate_model

    monkeypatch.setattr(candidate_model, "PROFILES", {**PROFILES, "demo": TINY_RECIPE})
    ws = workspace(tmp_path, test_share=0.5)
    file = tmp_path / "geostack.yaml"
    found = build_definitions(ws.settings, str(file))
    instance = dg.DagsterInstance.ephemeral()
    empty = found.resolve_job_def("retrain").execute_in_process(instance=instance, raise_on_error=False)
    assert not empty.success
    message = str(empty.failure_data_for_node("candidate_model"))
    assert (
        "nothing can be learnt from the training set" in message or "no granule has outlines yet" in message
    )
    store(ws, some(10))
    done = found.resolve_job_def("retrain").execute_in_process(instance=instance)
    assert done.success
    made = {
        event.asset_key.to_user_string()
        for event in done.get_asset_materialization_events()
        if event.asset_key
    }
    assert made >= LOOP - {"champion_model"}
    checks = {each.check_name: each for each in done.get_asset_check_evaluations()}
    gate = checks["promotion_gate"]
    assert gate.severity == dg.AssetCheckSeverity.WARN
    assert "auprc_better" in gate.metadata
    assert gate.passed == ("champion_model" in made)


def test_the_sensor_hears_of_labels_and_of_the_champion(tmp_path: Path) -> None:
    from learning_world import some, store, workspace

    from geostack_pipeline.orchestration.learning_job import label_state

    ws = workspace(tmp_path)
    assert label_state(ws) == (set(), None, None)
    granules = some(4)
    store(ws, granules)
    labelled, champion, _ = label_state(ws)
    assert {item for item, _ in labelled} == {granule.item_id for granule in granules if granule.outlined}
    assert champion is None
