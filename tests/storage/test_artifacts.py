"""The artifact store on a local disk and on S3: what is written is what is read, or an error that helps."""

from __future__ import annotations

import json
import os
import pickle
import time
from collections import Counter
from datetime import datetime
from pathlib import Path

import numpy as np
import obstore
import polars as pl
import pytest
import xarray as xr
from storage_steps import DAY, parquet, write

from geostack_pipeline.errors import ArtifactNotFoundError, SettingsError, StorageError
from geostack_pipeline.storage import pointer as pointer_module
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.digest import canonical_json, sha256_bytes
from geostack_pipeline.storage.roots import Root, open_root


def test_a_version_is_found_only_once_committed_and_current_only_once_pointed_at(
    any_store: ArtifactStore,
) -> None:
    store = any_store
    assert store.current("es/scenes", DAY) is None
    assert store.pointer("es/scenes", DAY) is None
    with store.begin("es/scenes", DAY, "v1", kind="table", code_version="7", upstream={}) as attempt:
        attempt.put("a.bin", b"abc")
        attempt.put("sub/b.bin", iter([b"x" * 10, b"y" * 5]))
        assert store.find("es/scenes", DAY, "v1") is None
        snapshot = attempt.commit(meta={"rows": 3, "deep": {"a": [1, None]}})
    assert store.find("es/scenes", DAY, "v1") == snapshot
    assert store.current("es/scenes", DAY) is None
    pointer = store.point(snapshot, run_id="run-1")
    assert store.current("es/scenes", DAY) == snapshot
    assert store.pointer("es/scenes", DAY) == pointer
    assert (pointer.version, pointer.run_id, pointer.files, pointer.bytes) == ("v1", "run-1", 2, 18)
    assert datetime.fromisoformat(pointer.pointed_at).utcoffset() is not None
    assert snapshot.meta == {"rows": 3, "deep": {"a": [1, None]}}
    assert snapshot.files["a.bin"].size == 3
    assert snapshot.files["a.bin"].sha256 == sha256_bytes(b"abc")
    assert snapshot.read("sub/b.bin") == b"x" * 10 + b"y" * 5
    assert snapshot.verify() == []


def test_nothing_but_the_version_remains_of_a_commit(root: Root, store: ArtifactStore) -> None:
    snapshot = write(store)
    keys = [meta["path"] for meta in root.objects("artifacts")]
    folder = f"artifacts/earth_search/scenes/{DAY}"
    assert keys == [
        f"{folder}/current.json",
        f"{folder}/v1/{snapshot.attempt}/data.bin",
        f"{folder}/v1/complete.json",
    ]


def test_complete_json_names_size_and_sha256_of_each_file(root: Root, store: ArtifactStore) -> None:
    snapshot = write(store, files={"a": b"12345"}, upstream={"es/x/2024": "u1"})
    document = json.loads(root.read(f"artifacts/earth_search/scenes/{DAY}/v1/complete.json"))
    assert document["files"] == {"a": [5, sha256_bytes(b"12345")]}
    assert document["attempt"] == snapshot.attempt
    assert document["upstream"] == {"es/x/2024": "u1"}


def test_the_loser_of_a_race_adopts_the_winner(any_store: ArtifactStore) -> None:
    store = any_store
    first = store.begin("a", "p", "v", kind="table", code_version="1", upstream={})
    second = store.begin("a", "p", "v", kind="table", code_version="1", upstream={})
    with first, second:
        first.put("f", b"first")
        second.put("f", b"second")
        won = second.commit(meta={"who": "second"})
        adopted = first.commit(meta={"who": "first"})
    assert adopted == won
    assert (first.adopted, second.adopted) == (True, False)
    assert adopted.read("f") == b"second"
    assert [m["path"] for m in store.root.objects("artifacts") if first.id in m["path"]] == []


def test_a_put_whose_answer_was_lost_is_recognised_as_our_own(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The store sends the create again after a lost answer, and is told that the object exists: by itself.
    real = Root.create

    def create_twice(self: Root, key: str, data: bytes) -> bool:
        assert real(self, key, data)
        return real(self, key, data)

    monkeypatch.setattr(Root, "create", create_twice)
    with store.begin("a", "p", "v", kind="table", code_version="1", upstream={}) as attempt:
        attempt.put("f", b"mine")
        snapshot = attempt.commit(meta={})
    assert not attempt.adopted
    assert snapshot.read("f") == b"mine"


def test_a_pointer_put_whose_answer_was_lost_is_recognised(
    s3_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(s3_root)
    one, two = write(store, version="v1"), write(store, version="v2", point=False)
    assert one != two
    real, calls = obstore.put, []

    def put_twice(*args: object, **kwargs: object) -> object:
        calls.append(args[1])
        real(*args, **kwargs)
        return real(*args, **kwargs)

    monkeypatch.setattr(pointer_module.obstore, "put", put_twice)
    store.point(two)
    assert len(calls) == 1
    assert store.pointer("earth_search/scenes", DAY).version == "v2"


def test_pointing_again_changes_nothing_and_back_to_an_older_version_works(any_store: ArtifactStore) -> None:
    store = any_store
    one = write(store, version="v1")
    before = store.pointer("earth_search/scenes", DAY)
    assert store.point(one, run_id="other") == before
    write(store, version="v2")
    assert store.current("earth_search/scenes", DAY).version == "v2"
    store.point(one)
    assert store.current("earth_search/scenes", DAY) == one
    assert store.versions("earth_search/scenes", DAY) == ["v1", "v2"]


def test_a_version_that_is_gone_cannot_be_pointed_at(any_store: ArtifactStore) -> None:
    snapshot = write(any_store, point=False)
    any_store.root.delete(f"artifacts/earth_search/scenes/{DAY}/v1/complete.json")
    with pytest.raises(ArtifactNotFoundError, match="not complete"):
        any_store.point(snapshot)
    assert any_store.pointer("earth_search/scenes", DAY) is None


def test_a_condemned_version_cannot_be_pointed_at(s3_root: Root) -> None:
    store = ArtifactStore(s3_root)
    snapshot = write(store, point=False)
    s3_root.put(f"artifacts/earth_search/scenes/{DAY}/v1/condemned.json", b"{}")
    with pytest.raises(ArtifactNotFoundError, match="gc is removing it"):
        store.point(snapshot)


def test_a_fence_makes_a_move_that_began_before_it_start_over(
    s3_root: Root, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ArtifactStore(s3_root)
    write(store, version="v1")
    two = write(store, version="v2", point=False)
    real, calls = pointer_module._require_complete, []

    def fenced_in_between(root: Root, snapshot: object) -> None:
        real(root, snapshot)
        calls.append(snapshot)
        if len(calls) == 1:
            assert pointer_module.fence(root, "earth_search/scenes", DAY).version == "v1"

    monkeypatch.setattr(pointer_module, "_require_complete", fenced_in_between)
    store.point(two)
    assert len(calls) == 2, "the first try must have failed its condition"
    assert store.pointer("earth_search/scenes", DAY).version == "v2"


def test_a_fence_before_the_first_pointer_shows_no_version(s3_root: Root) -> None:
    store = ArtifactStore(s3_root)
    snapshot = write(store, point=False)
    assert pointer_module.fence(s3_root, "earth_search/scenes", DAY) is None
    assert store.pointer("earth_search/scenes", DAY) is None
    assert store.current("earth_search/scenes", DAY) is None
    assert store.partitions("earth_search/scenes") == []
    store.point(snapshot)
    assert store.current("earth_search/scenes", DAY) == snapshot


def test_an_attempt_that_fails_leaves_nothing(any_store: ArtifactStore) -> None:
    def fail() -> None:
        with any_store.begin("a", "p", "v", kind="table", code_version="1", upstream={}) as attempt:
            attempt.put("f", b"x")
            attempt.put("g/h", b"x")
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert any_store.root.objects("artifacts") == []
    assert any_store.versions("a", "p") == []


def test_a_generator_that_fails_leaves_no_file(any_store: ArtifactStore) -> None:
    def chunks():
        yield b"x" * 6_000_000
        raise ZeroDivisionError

    attempt = any_store.begin("a", "p", "v", kind="table", code_version="1", upstream={})
    with attempt:
        with pytest.raises(ZeroDivisionError):
            attempt.put("f", chunks())
        attempt.put("g", b"1")
        assert set(attempt.commit(meta={}).files) == {"g"}


def test_a_commit_of_nothing_is_refused(store: ArtifactStore) -> None:
    with (
        store.begin("a", "p", "v", kind="table", code_version="1", upstream={}) as attempt,
        pytest.raises(StorageError, match="nothing was written"),
    ):
        attempt.commit(meta={})
    assert store.find("a", "p", "v") is None


def test_an_attempt_is_used_once(store: ArtifactStore) -> None:
    attempt = store.begin("a", "p", "v", kind="table", code_version="1", upstream={})
    with pytest.raises(RuntimeError, match="is new"):
        attempt.put("f", b"")
    with attempt:
        attempt.put("f", b"1")
        attempt.commit(meta={})
        with pytest.raises(RuntimeError, match="is committed"):
            attempt.put("f", b"2")
        with pytest.raises(RuntimeError, match="is committed"):
            attempt.commit(meta={})


@pytest.mark.parametrize("meta", [{"x": float("nan")}, {"x": object()}, {1: 2}])
def test_meta_that_is_no_json_is_refused_before_anything_is_completed(
    store: ArtifactStore, meta: dict
) -> None:
    with store.begin("a", "p", "v", kind="table", code_version="1", upstream={}) as attempt:
        attempt.put("f", b"1")
        with pytest.raises((TypeError, ValueError)):
            attempt.commit(meta=meta)
    assert store.find("a", "p", "v") is None


def test_blobs_must_exist_and_be_named_by_their_path(store: ArtifactStore) -> None:
    with store.begin("a", "p", "v", kind="table", code_version="1", upstream={}) as attempt:
        attempt.put("f", b"1")
        with pytest.raises(SettingsError, match=r"Blob\.path"):
            attempt.commit(meta={}, blobs=["abc"])
        with pytest.raises(StorageError, match="are gone"):
            attempt.commit(meta={}, blobs=["blobs/ab/c/d.tif"])
        store.root.put("blobs/ab/c/d.tif", b"1")
        assert attempt.commit(meta={}, blobs=["blobs/ab/c/d.tif"] * 2).blobs == ("blobs/ab/c/d.tif",)


BAD_NAMES = [
    "",
    ".",
    "..",
    "a#1",
    "a b",
    "a\\b",
    "a\0",
    "complete.json",
    "current.json",
    "attempt-1",
    "é",
    "x" * 200,
    "-a",
    "a%2e",
]


@pytest.mark.parametrize("name", BAD_NAMES)
def test_names_that_are_unsafe_in_a_path_are_refused(store: ArtifactStore, name: str) -> None:
    for asset, partition, version in (
        (name, "p", "v"),
        (f"a/{name}", "p", "v"),
        ("a", name, "v"),
        ("a", "p", name),
    ):
        with pytest.raises(SettingsError, match="cannot be part of a path"):
            store.begin(asset, partition, version, kind="table", code_version="1", upstream={})
        with pytest.raises(SettingsError, match="cannot be part of a path"):
            store.find(asset, partition, version)
    assert os.listdir(store.root.path) == []


@pytest.mark.parametrize(
    "path", ["", "/abs", "a/../b", "a//b", "./a", "a#1", "a/", "..", "a\\b", "a\n", "x" * 1000]
)
def test_file_paths_that_are_not_plain_are_refused(store: ArtifactStore, path: str) -> None:
    with (
        store.begin("a", "p", "v", kind="table", code_version="1", upstream={}) as attempt,
        pytest.raises(SettingsError, match="not plain"),
    ):
        attempt.put(path, b"")


def test_upstreams_are_named_by_asset_and_partition(store: ArtifactStore) -> None:
    with pytest.raises(SettingsError, match="asset and partition"):
        store.begin("a", "p", "v", kind="table", code_version="1", upstream={"scenes": "v"})


# -- opening ----------------------------------------------------------------------------------------


def test_a_table_opens_by_the_assets_name_and_others_by_theirs(any_store: ArtifactStore) -> None:
    frame, side = pl.DataFrame({"id": ["a", "b"], "n": [1, 2]}), pl.DataFrame({"why": ["cloud"]})
    snapshot = write(any_store, files={"scenes.parquet": parquet(frame), "rejected.parquet": parquet(side)})
    assert snapshot.open().equals(frame)
    assert snapshot.open("rejected").equals(side)
    with pytest.raises(
        ArtifactNotFoundError, match=r"no table or tree 'nope'.*rejected.parquet, scenes.parquet"
    ):
        snapshot.open("nope")


def test_a_table_of_no_rows_keeps_its_schema(store: ArtifactStore) -> None:
    frame = pl.DataFrame({"id": ["a"], "t": [datetime(2024, 1, 1)], "s": [{"x": 1.0}]}).clear()
    opened = write(store, files={"scenes.parquet": parquet(frame)}).open()
    assert opened.height == 0
    assert opened.schema == frame.schema


def test_a_table_split_by_schema_opens_as_one(store: ArtifactStore) -> None:
    frames = [pl.DataFrame({"id": [f"{n}"], f"only{n}": [n], "s": [{f"f{n}": n}]}) for n in range(11)]
    files = {f"scenes-{n}.parquet": parquet(frame) for n, frame in enumerate(frames)}
    opened = write(store, files={**files, "scenes_other.parquet": parquet(frames[0])}).open()
    assert opened["id"].to_list() == [f"{n}" for n in range(11)], "in the order they were numbered"
    assert opened.width == 13
    assert opened["s"].to_list()[10]["f10"] == 10
    assert opened["only3"].to_list() == [None] * 3 + [3] + [None] * 7


def tree() -> xr.DataTree:
    values = np.arange(400, dtype="uint16").reshape(20, 20)
    nodes = {"/": xr.Dataset(attrs={"title": "t"})}
    for name, shift in (("north", 0), ("south", 1000)):
        nodes[f"/{name}"] = xr.Dataset({"r": (("y", "x"), values + np.uint16(shift))})
    return xr.DataTree.from_dict(nodes)


def write_tree(store: ArtifactStore, version: str, content: xr.DataTree, **more: object):
    with store.begin("es/cube", DAY, version, kind="tree", code_version="1", upstream={}) as attempt:
        content.to_zarr(attempt.zarr_store(), zarr_format=3, consolidated=True)
        for path, data in more.get("files", {}).items():
            attempt.put(path, data)
        return attempt.commit(meta={}, nodes={name: f"n-{name}" for name in content.children})


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_tree_opens_lazily_and_may_hold_a_table(any_store: ArtifactStore) -> None:
    frame = pl.DataFrame({"plume": [1]})
    snapshot = write_tree(any_store, "v1", tree(), files={"plumes.parquet": parquet(frame)})
    opened = snapshot.open()
    variable = opened["north"]["r"].variable
    assert not variable._in_memory
    assert opened["north"]["r"].chunks is None
    xr.testing.assert_identical(opened.load(), tree())
    assert snapshot.open("plumes").equals(frame)
    if any_store.root.path is not None:
        xr.testing.assert_identical(
            xr.open_datatree(snapshot.local_path("tree.zarr"), engine="zarr").load(), tree()
        )


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_a_tree_without_nodes_opens(store: ArtifactStore) -> None:
    snapshot = write_tree(store, "v1", xr.DataTree.from_dict({"/": xr.Dataset(attrs={"empty": 1})}))
    assert dict(snapshot.open().children) == {}
    assert snapshot.open().attrs == {"empty": 1}


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_an_opened_tree_cannot_be_written(store: ArtifactStore, monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = write_tree(store, "v1", tree())
    real, stores = xr.open_datatree, []
    monkeypatch.setattr(
        xr, "open_datatree", lambda where, **kwargs: (stores.append(where), real(where, **kwargs))[1]
    )
    snapshot.open()
    with pytest.raises(ValueError, match=r"read.only"):
        tree().to_zarr(stores[0], mode="w", zarr_format=3)
    assert snapshot.verify() == []


# -- references -------------------------------------------------------------------------------------


@pytest.mark.filterwarnings("ignore:Consolidated metadata")
def test_unchanged_nodes_are_referenced_and_survive_the_other_version(any_store: ArtifactStore) -> None:
    store = any_store
    old = write_tree(store, "v1", tree())
    with store.begin("es/cube", DAY, "v2", kind="tree", code_version="1", upstream={}) as attempt:
        count = attempt.reference(old, "tree.zarr/north")
        attempt.reference(old, "tree.zarr/zarr.json")
        attempt.put("tree.zarr/zarr.json", old.read("tree.zarr/zarr.json").replace(b'"t"', b'"u"'))
        new = attempt.commit(meta={})
    assert count == sum(path.startswith("tree.zarr/north/") for path in old.files) > 1
    assert new.verify() == []
    assert new.files["tree.zarr/north/zarr.json"] == old.files["tree.zarr/north/zarr.json"]
    # A reference that was written over counts with its new bytes, and the source keeps its own.
    assert new.files["tree.zarr/zarr.json"] != old.files["tree.zarr/zarr.json"]
    assert old.verify() == []
    if store.root.path is not None:
        assert new.local_path("tree.zarr/north/zarr.json").samefile(
            old.local_path("tree.zarr/north/zarr.json")
        )
    for path in old.files:
        store.root.delete(old.key(path))
    assert new.verify() == []


def test_a_reference_needs_files_there_and_the_same_root(store: ArtifactStore, tmp_path: Path) -> None:
    old = write(store, files={"tree.zarr/a": b"1", "tree.zarr-b/a": b"2"})
    elsewhere = write(ArtifactStore(open_root(str(tmp_path / "elsewhere"))))
    with store.begin("a", "p", "v", kind="tree", code_version="1", upstream={}) as attempt:
        with pytest.raises(SettingsError, match="nothing to reference"):
            attempt.reference(old, "tree")
        with pytest.raises(SettingsError, match="same root"):
            attempt.reference(elsewhere, "data.bin")
        assert attempt.reference(old, "tree.zarr") == 1


def test_a_reference_may_take_another_path(any_store: ArtifactStore) -> None:
    old = write_tree(any_store, "v1", tree())
    with any_store.begin("results", DAY, "v1", kind="table", code_version="1", upstream={}) as attempt:
        count = attempt.reference(old, "tree.zarr/north", to="zarr/es/north/")
        with pytest.raises(SettingsError, match="not plain"):
            attempt.reference(old, "tree.zarr/north", to="../north")
        new = attempt.commit(meta={})
    assert count == len(new.files)
    assert new.verify() == []
    for path, entry in new.files.items():
        assert entry == old.files[path.replace("zarr/es/", "tree.zarr/", 1)]


def test_a_reference_whose_source_is_damaged_is_an_error(store: ArtifactStore) -> None:
    old = write(store, files={"t/a": b"1", "t/b": b"2"})
    store.root.delete(old.key("t/b"))
    with (
        store.begin("a", "p", "v", kind="tree", code_version="1", upstream={}) as attempt,
        pytest.raises(StorageError, match="t/b is gone"),
    ):
        attempt.reference(old, "t")


# -- snapshots --------------------------------------------------------------------------------------


def test_a_snapshot_travels_without_secrets(s3_root: Root, s3_options: dict[str, str]) -> None:
    snapshot = write(ArtifactStore(s3_root), files={"a": b"1"}, upstream={"x/y": "z"}, meta={"m": [1]})
    data = pickle.dumps(snapshot)
    assert s3_options["secret_access_key"].encode() not in data
    assert b"obstore" not in data
    again = pickle.loads(data)
    assert again == snapshot
    assert hash(again) == hash(snapshot)
    assert again.read("a") == b"1"
    assert s3_options["secret_access_key"] not in repr(snapshot) + repr(s3_root) + repr(pickle.dumps(s3_root))
    assert pickle.loads(pickle.dumps(s3_root)) == s3_root


def test_a_snapshot_says_where_its_files_lie(store: ArtifactStore, s3_root: Root) -> None:
    snapshot = write(store, files={"a/b": b"12"})
    assert snapshot.local_path("a/b").read_bytes() == b"12"
    assert snapshot.url("a/b") == snapshot.local_path("a/b").as_uri()
    remote = write(ArtifactStore(s3_root), files={"a/b": b"12"})
    assert remote.local_path("a/b") is None
    assert remote.url("a/b") == f"{s3_root.url}/artifacts/earth_search/scenes/{DAY}/v1/{remote.attempt}/a/b"


def test_equal_content_has_an_equal_digest_whatever_the_attempt(store: ArtifactStore) -> None:
    files = {"b": b"2", "a": b"1"}
    one, two = (
        write(store, version="v1", files=files),
        write(store, version="v2", files=dict(reversed(files.items()))),
    )
    assert one.content_digest() == two.content_digest()
    expected = sha256_bytes(canonical_json([["a", sha256_bytes(b"1")], ["b", sha256_bytes(b"2")]]))
    assert one.content_digest() == expected
    assert write(store, version="v3", files={"b": b"2", "a": b"0"}).content_digest() != expected
    assert write(store, version="v4", files={"b": b"2", "c": b"1"}).content_digest() != expected


def test_verify_finds_each_kind_of_damage(any_store: ArtifactStore) -> None:
    snapshot = write(any_store, files=dict.fromkeys(("good", "gone", "cut", "flipped"), b"12345"))
    any_store.root.delete(snapshot.key("gone"))
    any_store.root.put(snapshot.key("cut"), b"123")
    any_store.root.put(snapshot.key("flipped"), b"12346")
    problems = snapshot.verify()
    assert [problem.split(":")[0] for problem in problems] == ["cut", "flipped", "gone"]
    assert "3 bytes instead of 5" in problems[0]
    with pytest.raises(StorageError, match="cut has 3 bytes, recorded are 5"):
        snapshot.read("cut")
    with pytest.raises(StorageError, match="gone is gone"):
        snapshot.read("gone")
    with pytest.raises(ArtifactNotFoundError, match="holds no nope"):
        snapshot.read("nope")


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b"{}", b'{"format": 2}', b'{"format": 1}', b"\0" * 50])
@pytest.mark.parametrize("name", ["current.json", "v1/complete.json"])
def test_a_damaged_document_is_an_error_that_names_it(store: ArtifactStore, name: str, text: bytes) -> None:
    write(store)
    store.root.put(f"artifacts/earth_search/scenes/{DAY}/{name}", text)
    with pytest.raises(
        StorageError,
        match=rf"earth_search/scenes {DAY}.*{name.rsplit('/', maxsplit=1)[-1]} cannot be read.*Next: ",
    ):
        store.current("earth_search/scenes", DAY)


def test_a_document_of_another_place_is_an_error(store: ArtifactStore) -> None:
    write(store, version="v1")
    write(store, version="v2")
    base = f"artifacts/earth_search/scenes/{DAY}"
    store.root.put(f"{base}/v2/complete.json", store.root.read(f"{base}/v1/complete.json"))
    with pytest.raises(StorageError, match=r"v2: its complete\.json cannot be read"):
        store.current("earth_search/scenes", DAY)
    write(store, partition="2024-06-02")
    store.root.put(
        "artifacts/earth_search/scenes/2024-06-02/current.json", store.root.read(f"{base}/current.json")
    )
    with pytest.raises(StorageError, match=r"2024-06-02: its current\.json cannot be read"):
        store.pointer("earth_search/scenes", "2024-06-02")


def test_a_pointer_that_leads_nowhere_is_an_error(store: ArtifactStore) -> None:
    write(store)
    store.root.delete(f"artifacts/earth_search/scenes/{DAY}/v1/complete.json")
    with pytest.raises(StorageError, match=r"leads to a version that is not there.*version v1"):
        store.current("earth_search/scenes", DAY)


def test_a_reader_that_meets_a_moving_pointer_follows_it_anew(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, version="v1")
    two = write(store, version="v2", point=False)
    real = ArtifactStore.find
    seen = []

    def find_after_a_move(self: ArtifactStore, asset: str, partition: str, version: str):
        seen.append(version)
        if version == "v1":  # the pointer moves and gc removes v1 before the reader gets there
            store.point(two)
            store.root.delete(f"artifacts/earth_search/scenes/{DAY}/v1/complete.json")
        return real(self, asset, partition, version)

    monkeypatch.setattr(ArtifactStore, "find", find_after_a_move)
    assert store.current("earth_search/scenes", DAY) == two
    assert seen == ["v1", "v2"]


# -- listing ----------------------------------------------------------------------------------------


def test_assets_partitions_and_versions_are_listed(any_store: ArtifactStore) -> None:
    store = any_store
    assert (store.assets(), store.partitions("es/scenes"), store.versions("es/scenes", DAY)) == ([], [], [])
    for asset in ("es/scenes", "es/cube", "plumes", "a/b/c"):
        for day in ("2024-06-02", "2024-06-01"):
            write(store, asset, day, "v1")
    write(store, "es/cube", "2024-06-03", "v1", point=False)
    attempt = store.begin("only/attempt", "p", "v", kind="table", code_version="1", upstream={}).__enter__()
    attempt.put("f", b"1")
    assert store.assets() == ["a/b/c", "es/cube", "es/scenes", "only/attempt", "plumes"]
    assert store.partitions("es/cube") == ["2024-06-01", "2024-06-02"]
    assert store.versions("es/cube", "2024-06-03") == ["v1"]
    assert store.versions("only/attempt", "p") == []
    attempt.__exit__(None, None, None)


def test_versions_come_oldest_first_whatever_their_names(store: ArtifactStore) -> None:
    for name in ("m", "z", "a"):
        write(store, version=name)
    assert store.versions("earth_search/scenes", DAY) == ["m", "z", "a"]


# -- cost -------------------------------------------------------------------------------------------


def test_finding_out_that_nothing_is_to_be_done_is_cheap(
    store: ArtifactStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(store, files={f"tree.zarr/c/{n}": b"x" for n in range(300)})
    for name in ("list", "list_with_delimiter", "get", "head"):
        monkeypatch.setattr(
            obstore, name, lambda *_, name=name, **__: pytest.fail(f"obstore.{name} was called")
        )
    monkeypatch.setattr(os, "scandir", lambda *_: pytest.fail("a folder was listed"))
    times = []
    for _ in range(200):
        start = time.perf_counter()
        assert store.current("earth_search/scenes", DAY) is not None
        times.append(time.perf_counter() - start)
    monkeypatch.undo()
    # Measured: 0.15-0.3 ms with 300 files; the median is robust against a busy machine.
    assert sorted(times)[100] < 0.001


def test_on_an_object_store_a_check_is_two_requests(s3_root: Root, monkeypatch: pytest.MonkeyPatch) -> None:
    store = ArtifactStore(s3_root)
    write(store)
    calls: Counter[str] = Counter()
    for name in ("list", "list_with_delimiter", "get", "head", "put"):
        real = getattr(obstore, name)

        def counted(*args: object, real=real, name=name, **kwargs: object) -> object:
            calls[name] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(obstore, name, counted)
    store.current("earth_search/scenes", DAY)
    assert calls == {"get": 2}


def test_a_durable_store_flushes_before_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = open_root(str(tmp_path))
    order: list[str] = []
    real_fsync, real_link, real_rename = os.fsync, os.link, Path.rename

    def fsync(descriptor: int) -> None:
        order.append(Path(os.readlink(f"/proc/self/fd/{descriptor}")).name.split("#")[0])
        real_fsync(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", lambda a, b: (order.append(f"name {Path(b).name}"), real_link(a, b)))
    monkeypatch.setattr(
        Path, "rename", lambda a, b: (order.append(f"name {Path(b).name}"), real_rename(a, b))[1]
    )
    snapshot = write(ArtifactStore(root, durable=True), files={"data.bin": b"1"})
    order = [step for step in order if not step.startswith("name attempt-")]
    named = order.index("name complete.json")
    assert {"data.bin", snapshot.attempt, "complete.json"} <= set(order[:named])
    assert order.index("data.bin") < order.index(snapshot.attempt)
    assert order[named + 1 :] == ["v1", "current.json", "name current.json", DAY]
    assert ArtifactStore(root).current("earth_search/scenes", DAY) == snapshot
    with ArtifactStore(root, durable=True).begin(
        "earth_search/scenes", DAY, "v1", kind="table", code_version="1", upstream={}
    ) as late:
        late.put("data.bin", b"2")
        assert late.commit(meta={}) == snapshot
