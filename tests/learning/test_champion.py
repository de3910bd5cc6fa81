"""From tiles to the model in use: promoted, refused, rolled back, followed in both directions."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from learning_world import START, made, some, store, workspace
from typer.testing import CliRunner

from geostack_pipeline.cli import app
from geostack_pipeline.errors import ArtifactNotFoundError, GeostackError, IntegrityError
from geostack_pipeline.learning.profiles import Recipe
from geostack_pipeline.methane.plume_table import plume_schema
from geostack_pipeline.publish.schemas import problems
from geostack_pipeline.stages import (
    candidate_model,
    champion_model,
    evaluation,
    methane_swath,
    model_trail,
    training_set,
)
from geostack_pipeline.stages.workspace import Workspace
from geostack_pipeline.storage.gc import collect
from geostack_pipeline.storage.snapshot import Snapshot

LATER = START + timedelta(days=400)
OTHER_CELLS = (
    "it may have learnt from places of this test: its site_degrees and test_share were 0.5 and 0.5, "
    "now they are {}"
)


def seeded(ws: Workspace, seed: int) -> Workspace:
    """Return the workspace with another seed of the training."""
    learning = ws.settings.learning.model_copy(update={"seed": seed})
    return replace(ws, settings=ws.settings.model_copy(update={"learning": learning}))


def judged(ws: Workspace, source: Snapshot, candidate: Snapshot, *, promoted: bool) -> Snapshot:
    """Store an evaluation like ``source`` with the verdict that a test needs."""
    now = ws.artifacts.pointer(champion_model.NAME, "all")
    meta: dict[str, Any] = json.loads(json.dumps(dict(source.meta)))
    meta |= {"candidate": candidate.version, "champion": now and now.version}
    meta["verdict"] |= {"promoted": promoted}
    version = f"{candidate.version}{'yes' if promoted else 'no'}{now and now.version}"
    upstream = {f"{candidate.asset}/all": candidate.version}
    with ws.artifacts.begin(
        evaluation.NAME, "all", version, kind="table", code_version="1", upstream=upstream
    ) as attempt:
        attempt.put("report.json", json.dumps(meta).encode())
        return attempt.commit(meta=meta)


@pytest.mark.slow
def test_the_loop_from_labels_to_the_model_in_use(
    tmp_path: Path, tiny_profile: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    ws = workspace(tmp_path, test_share=0.5)
    granules = some(10)
    store(ws, granules)
    with pytest.raises(ArtifactNotFoundError, match="no training set"):
        candidate_model.build(ws)
    with pytest.raises(ArtifactNotFoundError, match="no evaluation"):
        champion_model.build(ws)
    assert champion_model.champion(ws) is None
    assert "model" not in methane_swath._with_model(ws, {})
    tiles = training_set.build(ws, now=LATER).snapshot

    # A candidate: its version is known before, its weights are safetensors, its item is STAC.
    first = candidate_model.build(ws)
    assert first.snapshot.version == candidate_model.version(ws.settings.learning, tiles.version)
    assert first.stats["resumed_at"] == 0
    assert not candidate_model.scratch(ws, first.snapshot.version).exists()
    assert candidate_model.build(ws).reused
    candidate = first.snapshot
    item = json.loads(candidate.read("item.json"))
    assert item["properties"]["mlm:name"] == "plume-unet"
    assert problems(item) == []
    assert item["assets"]["weights"]["file:checksum"] == f"1220{candidate.files['model.safetensors'].sha256}"
    assert not [path for path in candidate.files if path.endswith((".pkl", ".pickle"))]

    # Its evaluation names all methods; the same numbers come out again.
    report = evaluation.build(ws).snapshot
    assert set(report.meta["results"]) == {"candidate", "blurred_matched_filter"}
    assert report.meta["rows"] == tiles.meta["test_granules"] > 0
    rows = report.open()
    assert rows.height == 2 * report.meta["rows"]
    # Which granules plumes were laid into, and whether they have outlines, as the gate counts them.
    planted = rows.filter((pl.col("method") == "candidate") & pl.col("injected_kg_h").is_not_null())
    said = next(each for each in report.meta["verdict"]["criteria"] if each["name"] == "plumes_injected")[
        "detail"
    ]
    assert planted.height == said["injected"] > 0
    assert planted["injected_beside_outlines"].sum() == said["beside outlines"]
    outlined = {granule.item_id for granule in granules if granule.outlined}
    for row in planted.iter_rows(named=True):
        assert row["injected_beside_outlines"] == (row["item_id"] in outlined)
    assert evaluation.build(ws).reused

    # Refused: no champion, a reason.
    no = judged(ws, report, candidate, promoted=False)
    assert champion_model.build(ws, no) is None
    assert champion_model.champion(ws) is None
    assert not champion_model.gate_check(no).passed
    assert "candidate" in champion_model.gate_check(no).detail["auprc_better"]

    # Promoted.
    yes = judged(ws, report, candidate, promoted=True)
    done = champion_model.build(ws, yes)
    assert done is not None
    assert done.checks[0].passed
    one = champion_model.champion(ws)
    assert one is not None
    assert one.version == candidate.version
    assert one.meta["training_set"] == tiles.version
    assert training_set.members_of(one) == training_set.labelled_now(ws)
    assert "Gate" in one.read("README.md").decode()
    assert methane_swath._with_model(ws, {}) == {"model": one.version, "judged": methane_swath.JUDGED_VERSION}
    again = champion_model.build(ws, yes)
    assert again is not None
    assert again.reused
    for name, values in vars(candidate_model.load(one)).items():
        if name != "network":
            assert values == vars(candidate_model.load(replace(candidate)))[name]

    # Another candidate is judged against it; refused, the champion stays.
    other = candidate_model.build(seeded(ws, 1)).snapshot
    assert other.version != candidate.version
    against = evaluation.build(ws).snapshot
    assert set(against.meta["results"]) == {"candidate", "blurred_matched_filter", "champion"}
    assert against.meta["verdict"]["against"] == "champion"
    stays = champion_model.build(ws, judged(ws, against, other, promoted=False))
    assert stays is not None
    assert stays.snapshot.version == one.version
    assert not stays.checks[0].passed
    stale = judged(ws, against, other, promoted=True)
    champion_model.build(ws, stale)
    assert champion_model.champion(ws).version == other.version  # type: ignore[union-attr]
    third = candidate_model.build(seeded(ws, 2)).snapshot
    old = judged(ws, against, third, promoted=True)
    champion_model.rollback(ws, one.version[:8])
    with pytest.raises(GeostackError, match="changed since the evaluation"):
        champion_model.build(ws, old)

    # Both stay although gc runs; the trail leads in both directions.
    collect(ws.artifacts, grace=timedelta(0), dry_run=False)
    assert [row["version"] for row in model_trail.models(ws)] == [one.version, other.version]
    assert [row["current"] for row in model_trail.models(ws)] == [True, False]
    assert training_set.rebuild(ws, tiles.version) == []
    back = model_trail.back(ws)
    assert back["training_set"] == tiles.version
    assert {each["item_id"] for each in back["items"]} == {granule.item_id for granule in granules}
    for name in (granules[1].item_id, granules[1].label_id):
        forth = model_trail.forth(ws, name)
        assert forth["models"] == [one.version, other.version]
        assert forth["training_sets"] == [tiles.version]
    assert model_trail.forth(ws, "EMIT_of_nobody")["models"] == []
    with pytest.raises(ArtifactNotFoundError, match="no champion has this version"):
        champion_model.rollback(ws, "zzz")

    # The same by command, which tells the Dagster of the folder it is in.
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.chdir(tmp_path)
    settings = ["--settings", str(tmp_path / "geostack.yaml")]
    run = CliRunner().invoke
    listed = json.loads(run(app, ["model", "list", "--json", *settings]).stdout)
    assert [row["current"] for row in listed["models"]] == [True, False]
    assert run(app, ["model", "rollback", other.version, *settings]).exit_code == 0
    assert champion_model.champion(ws).version == other.version  # type: ignore[union-attr]
    assert run(app, ["model", "rollback", "nothing", *settings]).exit_code == 1
    assert json.loads(run(app, ["model", "trail", "--json", *settings]).stdout)["model"] == other.version
    assert one.version in run(app, ["model", "trail", granules[1].item_id, *settings]).stdout
    assert one.version in run(app, ["model", "list", *settings]).stdout


@pytest.mark.slow
@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"test_share": 0.45}, OTHER_CELLS.format("0.5 and 0.45")),
        ({"site_degrees": 0.6}, OTHER_CELLS.format("0.6 and 0.5")),
        ({"product_version": "001"}, "it learnt from product version 002, the test is of 001"),
    ],
    ids=["share", "degrees", "product"],
)
def test_a_champion_that_cannot_be_judged_fairly_counts_as_none(
    tmp_path: Path, tiny_profile: Recipe, changed: dict[str, Any], why: str
) -> None:
    ws = workspace(tmp_path, test_share=0.5)
    both = [*some(10), *(replace(each, version="001", number=each.number + 500) for each in some(10))]
    store(ws, both)
    training_set.build(ws, now=LATER)
    candidate = candidate_model.build(ws).snapshot
    assert candidate.meta["product_version"] == candidate_model.load(candidate).product_version == "002"
    report = evaluation.build(ws).snapshot
    assert report.meta["champion_left_out"] is None
    champion_model.build(ws, judged(ws, report, candidate, promoted=True))
    # Under the same splits it is the opponent, also when other months are held back for thresholds.
    same = workspace(tmp_path, test_share=0.5, validation_share=0.3)
    training_set.build(same, now=LATER)
    candidate_model.build(same)
    fair = evaluation.build(same).snapshot
    assert fair.meta["verdict"]["against"] == "champion"

    other = workspace(tmp_path, **{"test_share": 0.5, **changed})
    tiles = training_set.build(other, now=LATER).snapshot
    assert tiles.meta["test_granules"] > 0
    second = candidate_model.build(other).snapshot
    unfair = evaluation.build(other).snapshot
    assert unfair.meta["champion"] == candidate.version
    assert unfair.meta["champion_left_out"] == why
    assert set(unfair.meta["results"]) == {"candidate", "blurred_matched_filter"}
    assert unfair.meta["verdict"]["against"] == "blurred_matched_filter"
    shown = champion_model.gate_check(unfair).detail
    assert shown["champion_left_out"] == f"{candidate.version}: {why}"
    assert shown["against"] == "blurred_matched_filter"
    refused = champion_model.build(other, judged(other, unfair, second, promoted=False))
    assert refused is not None
    assert refused.snapshot.version == candidate.version
    assert {row["against"] for row in model_trail.refusals(other) if row["candidate"] == second.version} == {
        "blurred_matched_filter"
    }
    done = champion_model.build(other, judged(other, unfair, second, promoted=True))
    assert done is not None
    assert done.snapshot.version == second.version
    assert why in done.snapshot.read("README.md").decode()


def test_without_a_test_granule_nothing_is_promoted(tmp_path: Path, tiny_profile: Recipe) -> None:
    ws = workspace(tmp_path, test_share=0.01)
    store(ws, [made(1), made(3, plume=False)])
    training_set.build(ws, now=LATER)
    candidate_model.build(ws)
    found = evaluation.build(ws)
    assert not found.checks[0].passed
    assert (
        found.snapshot.meta["verdict"]["criteria"][0]["detail"]["reason"]
        == "no granule lies in a cell of the test set"
    )
    assert champion_model.build(ws) is None


def test_a_model_with_weights_of_another_architecture_is_refused(
    tmp_path: Path, tiny_profile: Recipe
) -> None:
    ws = workspace(tmp_path, test_share=0.01)
    store(ws, [made(1), made(3, plume=False)])
    training_set.build(ws, now=LATER)
    snapshot = candidate_model.build(ws).snapshot
    other = replace(
        snapshot, meta={**snapshot.meta, "architecture": {"widths": [8, 16], "groups": 4, "family": "x"}}
    )
    with pytest.raises(IntegrityError, match="another architecture"):
        candidate_model.load(other)


@pytest.mark.slow
def test_emit_methane_is_made_with_the_champion_and_only_with_one(
    tmp_path: Path, tiny_profile: Recipe
) -> None:
    from geostack_pipeline.stages import lineage, methane

    ws = workspace(tmp_path, test_share=0.5)
    granules = some(10)
    day = granules[1].day
    older = replace(made(21), version="001")
    assert older.day == day
    store(ws, [*granules, older])
    provider = ws.settings.build_provider("cmr_stac")
    cube = ws.artifacts.current("cmr_stac/cube", day)
    assert cube is not None
    without = methane.build(ws, provider, day, cube).snapshot
    assert "plume_probability" not in without.open()[granules[1].item_id]
    off = replace(ws, settings=ws.settings.model_copy(update={"learning": type(ws.settings.learning)()}))
    assert methane.version(off, provider, cube.version, {}) == without.version

    training_set.build(ws, now=LATER)
    candidate = candidate_model.build(ws).snapshot
    report = evaluation.build(ws).snapshot
    champion_model.build(ws, judged(ws, report, candidate, promoted=True))
    assert methane.version(off, provider, cube.version, {}) == without.version
    made_with = methane.build(ws, provider, day, cube).snapshot
    assert made_with.version == methane.version(ws, provider, cube.version, {}) != without.version
    assert made_with.upstream["champion_model/all"] == candidate.version == made_with.meta["model_version"]
    # Its candidates are the model's, and say so; without a model the table is what it was.
    columns = [
        pl.read_parquet(each.read(f"plumes-{granules[1].item_id}.parquet")).columns
        for each in (without, made_with)
    ]
    assert columns == [plume_schema().names, plume_schema(judged=True).names]
    node = made_with.open()[granules[1].item_id].to_dataset()
    assert node.attrs["model_version"] == candidate.version
    values = node["plume_probability"].values
    assert np.isfinite(values).any()
    assert np.array_equal(np.isfinite(values), np.isfinite(node["ch4_enhancement"].values))
    known = values[np.isfinite(values)]
    assert ((known >= 0) & (known <= 1)).all()
    assert [row["methane"] for row in model_trail.forth(ws, granules[2].item_id)["methane"]] == [
        f"cmr_stac/methane/{day}"
    ]
    # What is of another product version than the model learnt from is not judged, and says why.
    why = "it learnt from product version 002, this is 001"
    foreign = made_with.open()[older.item_id].to_dataset()
    assert "plume_probability" not in foreign
    assert foreign.attrs["plume_model"] == f"plume-unet {candidate.version} not asked: {why}"
    assert made_with.meta["not_judged"] == {older.item_id: why}
    # A champion from before this was written down: its training set tells.
    one = champion_model.champion(ws)
    assert one is not None
    silent = replace(one, meta={name: value for name, value in one.meta.items() if name != "product_version"})
    assert candidate_model.load(silent).product_version is None
    assert methane_swath._loaded(ws, silent).product_version == "002"
    # A date of the other version alone was judged by nobody.
    store(ws, [older])
    cube = ws.artifacts.current("cmr_stac/cube", day)
    assert cube is not None
    alone = methane.build(ws, provider, day, cube).snapshot
    assert "model_version" not in alone.meta
    assert model_trail.forth(ws, granules[2].item_id)["methane"] == []
    # What the model learnt from is no source of the date.
    assert not [name for name in lineage.ancestors(ws, made_with) if name.startswith("training_set")]


def test_emit_methane_holds_the_probability_and_names_the_model(tmp_path: Path, tiny_profile: Recipe) -> None:
    import xarray as xr

    from geostack_pipeline.learning.inference import PlumeModel
    from geostack_pipeline.learning.network import new_network

    model = PlumeModel(
        network=new_network(tiny_profile.architecture, 0),
        version="v1",
        name="plume-unet",
        tile=32,
        overlap=8,
        threshold=0.5,
    )
    values = {name: (("time", "y", "x"), field[None]) for name, field in made(1).fields.items()}
    found = methane_swath._judged(xr.Dataset(values, attrs={"item_id": "a"}), model)
    assert found["plume_probability"].dims == ("time", "y", "x")
    assert found.attrs["model_version"] == found["plume_probability"].attrs["model_version"] == "v1"
    assert np.isfinite(found["plume_probability"].values).any()
    # What the product may lack: without sensitivity the model judges all the same, without uncertainty nobody does.
    lacking = {name: (dims, np.full_like(field, np.nan)) for name, (dims, field) in values.items()}
    blunt = values | {"ch4_sensitivity": lacking["ch4_sensitivity"]}
    assert np.isfinite(methane_swath._judged(xr.Dataset(blunt), model)["plume_probability"].values).any()
    unsure = methane_swath._judged(
        xr.Dataset(values | {"ch4_uncertainty": lacking["ch4_uncertainty"]}), model
    )
    assert "plume_probability" not in unsure
    assert unsure.attrs["plume_model"] == "plume-unet v1 not asked: no ch4_uncertainty"
