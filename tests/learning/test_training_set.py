"""The training set: what is known and nothing else, with a version that anybody can come back to."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from learning_world import START, STEP, Made, geojson, made, replace, some, store, workspace

from geostack_pipeline.errors import ArtifactNotFoundError
from geostack_pipeline.learning.sites import Splitter
from geostack_pipeline.stages import candidate_model, training_members, training_set, training_tiles
from geostack_pipeline.stages.stored_tiles import StoredTiles
from geostack_pipeline.storage.gc import collect

LATER = START + timedelta(days=400)


def reasons(outcome: training_set.Outcome) -> dict[str, str]:
    table = outcome.snapshot.open("dropped")
    return dict(zip(table["item_id"], table["reason"], strict=True))


def test_tiles_are_the_granule_with_its_outline(tmp_path: Path) -> None:
    ws = workspace(tmp_path, test_share=0.01)
    granule = made(1)
    store(ws, [granule])
    found = training_set.build(ws, now=LATER)
    assert {check.name: check.passed for check in found.checks} == {"trainable": True, "testable": False}
    tiles = found.snapshot.open()[granule.item_id].to_dataset()
    assert tiles["target"].shape == (4, 32, 32)
    for number in range(4):
        one = tiles.isel(tile=number)
        row, column = int(one["row"]), int(one["column"])
        box = np.s_[row : row + 32, column : column + 32]
        expected = np.where(
            granule.fields["ch4_enhancement"][box] == -9999.0, np.nan, granule.fields["ch4_enhancement"][box]
        )
        assert np.array_equal(one["ch4_enhancement"].values, expected, equal_nan=True)
        # Inside is plume or ring, far outside neither.
        assert not ((one["target"].values == 1) & ~granule.truth[box]).any()
        assert not ((one["target"].values == 0) & granule.truth[box]).any()
    assert (tiles["target"].values == 1).any()
    (row,) = found.snapshot.open("members").to_dicts()
    assert (row["state"], row["labels"], row["rates_kg_h"]) == (
        "labelled",
        [granule.label_id],
        [granule.rate],
    )
    assert training_set.labelled_now(ws) == training_set.members_of(found.snapshot)


def test_the_same_inputs_give_the_same_version_and_bytes_in_another_store(tmp_path: Path) -> None:
    granules = some(4)
    found = []
    for name, order in (("a", granules), ("b", granules[::-1])):
        ws = workspace(tmp_path / name)
        store(ws, order)
        found.append(training_set.build(ws, now=LATER).snapshot)
    assert found[0].version == found[1].version
    assert found[0].content_digest() == found[1].content_digest()
    assert training_set.build(ws, now=LATER + timedelta(days=9)).reused


def test_every_change_of_a_label_is_a_new_version_and_going_back_is_the_old_one(tmp_path: Path) -> None:
    ws = workspace(tmp_path, test_share=0.01)
    one, two = made(1), made(2)
    store(ws, [one, two])
    first = training_set.build(ws, now=LATER).snapshot
    before = training_set.labelled_now(ws)
    seen = {first.version}
    for changed in (
        replace(one, revision=1),
        replace(one, metadata=geojson(one, reviewed="again")),
        replace(one, outlined=False),
        replace(one, outline_moved=(5, 5), revision=2),
    ):
        store(ws, [changed])
        version = training_set.build(ws, now=LATER).snapshot.version
        assert version not in seen
        seen.add(version)
        assert training_set.labelled_now(ws) != before or changed.revision == 1
    store(ws, [one])
    again = training_set.build(ws, now=LATER)
    assert again.reused
    assert again.snapshot.version == first.version


def test_a_past_version_is_rebuilt_exactly_though_its_cubes_were_replaced_and_gc_ran(tmp_path: Path) -> None:
    ws = workspace(tmp_path, test_share=0.01)
    one, two = made(1), made(2)
    store(ws, [one, two])
    old = training_set.build(ws, now=LATER).snapshot
    from geostack_pipeline.storage.pins import pin

    pin(ws.artifacts.root, "kept", asset="training_set", partition="all", version=old.version, reason="test")
    store(ws, [replace(one, outline_moved=(6, 0), revision=1)])
    new = training_set.build(ws, now=LATER).snapshot
    assert new.version != old.version
    collect(ws.artifacts, grace=timedelta(0), dry_run=False)
    assert training_set.rebuild(ws, old.version) == []
    assert training_set.rebuild(ws, new.version) == []
    table = old.open("members")
    assert table["tiles_sha256"].null_count() == 0
    assert (
        table["tiles_sha256"][0]
        != new.open("members").filter(pl.col("item_id") == one.item_id)["tiles_sha256"][0]
    )
    with pytest.raises(ArtifactNotFoundError, match="no such training set"):
        training_set.rebuild(ws, "0" * 16)


def test_only_granules_that_changed_are_cut_and_nobody_can_tell(tmp_path: Path) -> None:
    ws = workspace(tmp_path / "grown", test_share=0.01)
    before = some(4)
    store(ws, before)
    first = training_set.build(ws, now=LATER)
    assert first.stats == {"computed": 4, "taken_over": 0}
    # One outline was revised; a new granule came on the day of another, whose cube so has a new version.
    changed, new = replace(before[2], outline_moved=(5, 0), revision=1), made(21)
    assert new.day == before[1].day
    after = [before[0], before[1], changed, before[3], new]
    store(ws, after)
    second = training_set.build(ws, now=LATER)
    assert second.stats == {"computed": 2, "taken_over": 3}
    rows = {row["item_id"]: row for row in second.snapshot.open("members").to_dicts()}
    assert rows[before[1].item_id]["cube"] == ws.artifacts.current("cmr_stac/cube", new.day).version  # type: ignore[union-attr]
    alone = workspace(tmp_path / "alone", test_share=0.01)
    store(alone, after)
    fresh = training_set.build(alone, now=LATER)
    assert fresh.stats == {"computed": 5, "taken_over": 0}
    assert fresh.snapshot.version == second.snapshot.version
    assert fresh.snapshot.content_digest() == second.snapshot.content_digest()
    # What was taken over belongs to the new version, also when the old one goes.
    collect(ws.artifacts, grace=timedelta(0), dry_run=False)
    assert ws.artifacts.find("training_set", "all", first.snapshot.version) is None
    assert second.snapshot.verify() == []
    assert training_set.rebuild(ws, second.snapshot.version) == []
    # Another recipe cuts everything anew.
    again = training_set.build(workspace(tmp_path / "grown", test_share=0.01, ring_pixels=3), now=LATER)
    assert again.stats == {"computed": 5, "taken_over": 0}


def test_versions_of_the_product_never_mix(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    store(ws, [made(1), replace(made(2), version="001")])
    found = training_set.build(ws, now=LATER)
    assert [row["item_id"][16:19] for row in found.snapshot.open("members").to_dicts()] == ["002"]
    assert set(reasons(found).values()) == {"product_version"}
    assert len(reasons(found)) == 2, "the granule and its outline"


def test_what_two_providers_have_counts_once(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    settings = ws.settings.model_copy(
        update={"providers": {**ws.settings.providers, "earthaccess": ws.settings.providers["cmr_stac"]}}
    )
    ws = replace(ws, settings=settings)
    store(ws, [made(1)])
    alone = training_set.build(ws, now=LATER).snapshot
    store(ws, [made(1)], provider="earthaccess")
    both = training_set.build(ws, now=LATER).snapshot
    assert both.version == alone.version
    assert both.meta["rows"] == 1


def refused(tmp_path: Path, granules: list[Made], **learning: object) -> tuple[str, dict[str, str]]:
    """Return why nothing can be learnt, and what was dropped."""
    ws = workspace(tmp_path, test_share=0.01, **learning)
    store(ws, granules)
    found = training_set.build(ws, now=LATER if granules else None)
    assert not found.checks[0].passed
    with pytest.raises(candidate_model.NotTrainableError) as raised:
        candidate_model.build(ws)
    assert raised.value.found == found.checks[0].detail["what is missing"]
    return str(raised.value.found), reasons(found)


def test_no_granule_at_all(tmp_path: Path) -> None:
    assert refused(tmp_path, []) == ("no granule has outlines yet, and no review window has ended", {})


def test_no_labels_yet(tmp_path: Path) -> None:
    granules = [made(1, outlined=False)]
    why, drops = refused(tmp_path, granules, review_days=3000)
    assert why == "no granule has outlines yet, and no review window has ended"
    assert drops == {granules[0].item_id: "unlabelled"}


def test_all_negative(tmp_path: Path) -> None:
    why, _ = refused(tmp_path, [made(1, plume=False), made(2, plume=False)])
    assert why == "no granule has an outline: all are weak negatives"


def test_one_class_only(tmp_path: Path) -> None:
    granule = made(1)
    why, _ = refused(tmp_path, [replace(granule, truth=np.ones_like(granule.truth))])
    assert why == "every pixel of the tiles to train on is plume or ignored"


def test_outlines_without_a_valid_pixel(tmp_path: Path) -> None:
    granule = made(1)
    masked = granule.fields["ch4_enhancement"] == -9999.0
    why, _ = refused(tmp_path, [replace(granule, truth=masked), made(2, plume=False)])
    assert why == "no pixel of the tiles to train on is plume"


@pytest.mark.parametrize("plume_for", ["train", "validation"])
def test_what_only_thresholds_are_chosen_on_teaches_nothing(tmp_path: Path, plume_for: str) -> None:
    rule = Splitter(cell_deg=0.5, test_share=0.01, validation_share=0.5)

    def split(granule: Made) -> str | None:
        edge = 48 * STEP
        box = (granule.west, granule.north - edge, granule.west + edge, granule.north)
        return rule.of(box, granule.start)

    numbers = {
        wanted: [n for n in range(1, 80) if split(made(n)) == wanted] for wanted in ("train", "validation")
    }
    granules = [made(n, plume=wanted == plume_for) for wanted, those in numbers.items() for n in those[:2]]
    ws = workspace(tmp_path, test_share=0.01, validation_share=0.5)
    store(ws, granules)
    found = training_set.build(ws, now=LATER).snapshot
    table = found.open("members")
    assert table["plume_pixels"].sum() > 0
    assert table["split"].to_list().count("validation") == table["split"].to_list().count("train") == 2
    if plume_for == "train":
        assert training_set.problem(found) is None
        assert found.meta["plume_pixels"] == table.filter(pl.col("split") == "train")["plume_pixels"].sum()
    else:
        assert found.meta["plume_pixels"] == 0
        assert training_set.problem(found) == "no pixel of the tiles to train on is plume"


def test_only_test_cells(tmp_path: Path) -> None:
    ws = workspace(tmp_path, test_share=0.99)
    store(ws, [made(1)])
    assert training_set.problem(training_set.build(ws, now=LATER).snapshot) == (
        "no tile lies in a cell for learning: all granules are for the test or between the splits"
    )


def test_corrupt_metadata_and_labels_of_unknown_scenes_are_named_and_left_out(tmp_path: Path) -> None:
    broken = replace(made(1), metadata=b'{"type": "FeatureCollection"')
    stray = replace(
        made(2),
        metadata=geojson(
            made(2), **{"DAAC Scene Names": ["EMIT_L2B_CH4ENH_002_20200101T000000_2000000_001"]}
        ),
    )
    _, drops = refused(tmp_path, [broken, stray])
    assert drops[broken.item_id] == "label_unreadable"
    assert drops[stray.label_id] == "label_without_granule"
    table = workspace(tmp_path).artifacts.current("training_set", "all").open("dropped")  # type: ignore[union-attr]
    details = dict(zip(table["item_id"], table["detail"], strict=True))
    assert details[broken.item_id].startswith(f"{broken.label_id}: its metadata are no GeoJSON of features")
    assert details[stray.label_id] == "no granule"


def test_a_plume_of_an_earlier_scene_of_the_pass_is_joined(tmp_path: Path) -> None:
    ws = workspace(tmp_path)
    one = made(1)
    spanning = replace(one, label_start=one.start - timedelta(seconds=24))
    store(ws, [spanning])
    assert len(training_set.labelled_now(ws)) == 1


def test_what_was_read_of_granules_does_not_stay_in_memory(tmp_path: Path) -> None:
    """The trees of some dates stay open, and xarray keeps what is read of a variable with the variable."""
    ws = workspace(tmp_path, test_share=0.5)
    store(ws, some(6))
    tiles = training_set.build(ws, now=START + timedelta(days=400)).snapshot
    training_tiles._tree.cache_clear()
    assert list(candidate_model.granules_of(ws, tiles, ["test", "train", "validation", "several"]))
    (member, cubes), *_ = training_members.stored_members(ws, tiles)
    tree = training_tiles._tree(cubes[member.granule.provider, member.granule.day])
    stored = StoredTiles(tiles)
    assert stored.of("train").plumes.size
    for opened in (tree, stored._tree):
        fields = {
            (node, name): variable
            for node, each in opened.children.items()
            for name, variable in each.to_dataset(inherit=False).variables.items()
            if variable.ndim > 1
        }
        assert fields
        assert [place for place, variable in fields.items() if variable._in_memory] == []
