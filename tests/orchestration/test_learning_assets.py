"""The learning loop in the graph: there where it is switched on, with checks that say why a candidate was refused."""

from __future__ import annotations

import json
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
    # The model in use is an input of what it judges, and of nothing else.
    champion, methane = dg.AssetKey("champion_model"), dg.AssetKey(["cmr_stac", "methane"])
    assert graph.get(champion).child_keys == {methane}
    off = definitions().resolve_asset_graph()
    assert off.get(methane).parent_keys == graph.get(methane).parent_keys - {champion}


@pytest.mark.slow
def test_the_job_retrain_trains_judges_and_says_why_it_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from learning_world import TINY_RECIPE, some, store, workspace

    from geostack_pipeline.learning.profiles import PROFILES
    from geostack_pipeline.orchestration.learning_job import label_state
    from geostack_pipeline.stages import candidate_model, training_set

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
    pages = {
        event.asset_key.to_user_string(): event.materialization.metadata
        for event in done.get_asset_materialization_events()
        if event.asset_key
    }
    tiles = pages["training_set"]["version"].value
    assert f"- [training_set](/assets/training_set) {tiles}" in pages["candidate_model"]["made from"].value
    day = some(2)[1].day
    cube = ws.artifacts.current("cmr_stac/cube", day)
    assert cube is not None
    link = f"- [cmr_stac/cube/{day}](/assets/cmr_stac/cube?partition={day}) {cube.version}"
    assert link in pages["training_set"]["made from"].value
    rows = {row.data["item_id"]: row.data for row in pages["training_set"]["items"].records}
    assert set(rows) == {granule.item_id for granule in some(10)}
    assert rows[some(2)[1].item_id]["cube"] == cube.version
    assert gate.passed == ("champion_model" in made)
    # The run says which process it lived in; the sensor hears what it learnt from, also if it was refused.
    assert json.loads(done.dagster_run.tags["geostack/process"])["run"] == done.run_id
    known = label_state(ws)
    assert set(known.judged or ()) == known.labelled == training_set.labelled_now(ws)
    assert known.judged_at is not None
    assert (known.champion is not None) == gate.passed


def test_the_sensor_hears_of_labels_and_of_the_champion(tmp_path: Path) -> None:
    from learning_world import some, store, workspace

    from geostack_pipeline.orchestration.learning_job import label_state
    from geostack_pipeline.stages.retraining import Known

    ws = workspace(tmp_path)
    assert label_state(ws) == Known(labelled=set())
    granules = some(4)
    store(ws, granules)
    known = label_state(ws)
    assert {item for item, _ in known.labelled} == {
        granule.item_id for granule in granules if granule.outlined
    }
    assert known.champion is None
    assert known.judged is None


@pytest.mark.slow
def test_a_model_that_is_brought_back_is_on_its_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from learning_world import workspace
    from typer.testing import CliRunner

    from geostack_pipeline.cli import app
    from geostack_pipeline.orchestration.instance import shared_instance
    from geostack_pipeline.stages import candidate_model, champion_model

    ws = workspace(tmp_path)
    for version in ("old", "new"):
        with ws.artifacts.begin(
            "champion_model", "all", version, kind="model", code_version="1", upstream={"evaluation/all": "e"}
        ) as attempt:
            attempt.put("README.md", f"card of {version}".encode())
            snapshot = attempt.commit(meta={"labelled": [["a", "1"]], "f1": 0.5})
        ws.artifacts.point(snapshot, run_id=None)
    monkeypatch.setattr(candidate_model, "load", lambda snapshot: None)
    text = (Path(__file__).parents[2] / "dagster.yaml").read_text("utf-8")
    (tmp_path / "dagster.yaml").write_text(text, encoding="utf-8")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = ["--settings", str(tmp_path / "geostack.yaml")]
    done = CliRunner().invoke(app, ["model", "rollback", "old", *settings])
    assert done.exit_code == 0, done.output
    assert champion_model.champion(ws).version == "old"  # type: ignore[union-attr]
    with shared_instance() as instance:
        (record,) = instance.fetch_materializations(dg.AssetKey("champion_model"), limit=5).records
    shown = record.asset_materialization
    assert shown is not None
    assert shown.metadata["version"].value == "old"
    assert shown.metadata["model card"].value == "card of old"
    assert shown.metadata["made from"].value == "- [evaluation](/assets/evaluation) e"
    # By this tag Dagster marks the dates as stale that another model judged.
    assert (shown.tags or {})["dagster/data_version"] == "old"
    # A model that does not exist leaves everything as it is.
    assert CliRunner().invoke(app, ["model", "rollback", "none", *settings]).exit_code == 1
    with shared_instance() as instance:
        assert len(instance.fetch_materializations(dg.AssetKey("champion_model"), limit=5).records) == 1
