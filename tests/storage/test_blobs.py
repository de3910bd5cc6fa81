"""The blob cache: what comes out is what went in, or nothing."""

from __future__ import annotations

import hashlib
import json
import os
import threading
from pathlib import Path

import pytest

from geostack_pipeline.errors import IntegrityError, SettingsError, StorageError
from geostack_pipeline.storage import blobs as blobs_module
from geostack_pipeline.storage.blobs import BlobCache
from geostack_pipeline.storage.digest import CHUNK
from geostack_pipeline.storage.roots import Root

KEY = BlobCache.key("s3://b/k")
ORIGIN = "s3://b/k"


@pytest.fixture
def cache(root: Root) -> BlobCache:
    return BlobCache(root)


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fetched"
    path.write_bytes(b"0123456789" * 1000)
    return path


def add(cache: BlobCache, file: Path, key: str = KEY, **more: object):
    given = {"origin": ORIGIN, "etag": '"e"', "source_size": 99, "suffix": ".tif", **more}
    return cache.add(key, file, **given)


def test_what_is_added_is_found(any_root: Root, file: Path) -> None:
    cache = BlobCache(any_root)
    assert cache.find(KEY) is None
    blob = add(cache, file, extra={"window": [1, 2]})
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    assert blob.path == f"blobs/{KEY[:2]}/{KEY}/{digest}.tif"
    assert (blob.sha256, blob.size, blob.etag, blob.source_size) == (digest, 10_000, '"e"', 99)
    assert BlobCache(any_root).find(KEY) == blob
    assert bytes(any_root.store.get(blob.path).bytes()) == file.read_bytes()
    assert cache.verify(blob)
    assert file.exists()


def test_large_files_are_streamed(any_root: Root, tmp_path: Path) -> None:
    path = tmp_path / "large"
    path.write_bytes(os.urandom(12 * CHUNK + 5))
    cache = BlobCache(any_root)
    assert cache.verify(add(cache, path))


def test_keys_tell_objects_and_crops_apart() -> None:
    keys = [
        BlobCache.key("a"),
        BlobCache.key("b"),
        BlobCache.key("a", {"bounds": [1, 2]}),
        BlobCache.key("a", {"bounds": [1, 3]}),
    ]
    assert len(set(keys)) == 4
    assert BlobCache.key("a", {"x": 1, "y": (2, 3)}) == BlobCache.key("a", {"y": [2, 3], "x": 1})
    for bad in ("", "a", "../" + "a" * 61, "A" * 64, "a" * 63 + "\n"):
        with pytest.raises(SettingsError, match="not a cache key"):
            BlobCache.find(BlobCache.__new__(BlobCache), bad)


def test_the_same_bytes_are_stored_once(
    cache: BlobCache, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    blob = add(cache, file)
    monkeypatch.setattr(
        blobs_module.obstore,
        "put",
        lambda *a, **k: pytest.fail("the bytes were copied again") if "blob.json" not in a[1] else None,
    )
    monkeypatch.setattr(BlobCache, "_copy", lambda *_: pytest.fail("the bytes were copied again"))
    assert add(cache, file) == blob


def test_a_changed_source_moves_the_sidecar_and_keeps_the_old_bytes(cache: BlobCache, file: Path) -> None:
    old = add(cache, file)
    file.write_bytes(b"other")
    new = add(cache, file, etag='"f"')
    assert cache.find(KEY) == new
    assert new.path != old.path
    assert cache.verify(old)
    assert cache.verify(new)


@pytest.mark.parametrize("damage", ["gone", "cut"])
def test_bytes_that_are_gone_or_cut_are_a_miss_and_are_stored_anew(
    cache: BlobCache, file: Path, damage: str
) -> None:
    blob = add(cache, file)
    cache.root.delete(blob.path) if damage == "gone" else cache.root.put(blob.path, b"0123")
    assert cache.find(KEY) is None
    assert not cache.verify(blob)
    assert add(cache, file) == blob
    assert cache.find(KEY) == blob
    assert cache.verify(blob)


def test_flipped_bytes_are_found_by_verify_and_repaired_by_add(cache: BlobCache, file: Path) -> None:
    blob = add(cache, file)
    cache.root.put(blob.path, b"x" * blob.size)
    assert not cache.verify(blob)
    assert add(cache, file) == blob
    assert cache.verify(blob)


@pytest.mark.parametrize("text", [b"", b"{", b"[]", b'{"format": 9}', b"null"])
def test_a_damaged_sidecar_is_a_miss(cache: BlobCache, file: Path, text: bytes) -> None:
    blob = add(cache, file)
    sidecar = f"{blob.path.rpartition('/')[0]}/blob.json"
    cache.root.put(sidecar, text)
    assert cache.find(KEY) is None
    assert add(cache, file) == blob


@pytest.mark.parametrize(
    "name", ["../../../../secret", "x", "/etc/passwd", "a" * 64 + "/../../x", "a" * 64 + "\n"]
)
def test_a_sidecar_cannot_point_elsewhere(cache: BlobCache, file: Path, name: str) -> None:
    blob = add(cache, file)
    sidecar = f"{blob.path.rpartition('/')[0]}/blob.json"
    document = json.loads(cache.root.read(sidecar))
    cache.root.put(sidecar, json.dumps({**document, "name": name}).encode())
    assert cache.find(KEY) is None


def test_symbolic_links_out_of_the_cache_are_refused(cache: BlobCache, file: Path, tmp_path: Path) -> None:
    blob = add(cache, file)
    data = cache.root.path / blob.path
    outside = tmp_path / "outside"
    outside.mkdir()
    data.rename(outside / data.name)
    data.symlink_to(outside / data.name)
    for act in (lambda: cache.find(KEY), lambda: cache.verify(blob), lambda: add(cache, file)):
        with pytest.raises(StorageError, match="symbolic link leads out"):
            act()
    data.unlink()
    folder = data.parent
    (folder / "blob.json").unlink()
    folder.rmdir()
    folder.symlink_to(outside)
    with pytest.raises(StorageError, match="symbolic link leads out"):
        add(cache, file)
    assert [path.name for path in outside.iterdir()] == [data.name], "nothing was written outside"


def test_the_cache_as_a_whole_may_lie_on_another_disk(cache: BlobCache, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other disk"
    other.mkdir()
    (cache.root.path / "blobs").symlink_to(other)
    blob = add(cache, file)
    assert cache.find(KEY) == blob
    assert cache.verify(blob)


def test_a_file_that_changes_while_it_is_copied_never_gets_the_name(
    any_root: Root, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BlobCache(any_root)
    real = blobs_module.sha256_file

    def hash_then_change(path: Path) -> tuple[int, str]:
        result = real(path)
        path.write_bytes(b"9" * 10_000)
        return result

    monkeypatch.setattr(blobs_module, "sha256_file", hash_then_change)
    with pytest.raises(IntegrityError, match="changed while it was cached"):
        add(cache, file)
    assert any_root.objects("blobs") == []


def test_origins_hold_no_secrets(cache: BlobCache, file: Path) -> None:
    for origin in ("https://u:HUSH@host/k", "https://host/k?sig=HUSH"):
        with pytest.raises(SettingsError, match="no credentials") as caught:
            add(cache, file, origin=origin)
        assert "HUSH" not in str(caught.value)


@pytest.mark.parametrize(
    ("suffix", "kept"),
    [
        (".tif", ".tif"),
        (".nc.gz", ".nc.gz"),
        ("", ""),
        (".a/b", ""),
        (".t#1", ""),
        ("..", ""),
        (".json", ".json"),
    ],
)
def test_unusual_suffixes_are_left_out(cache: BlobCache, file: Path, suffix: str, kept: str) -> None:
    blob = add(cache, file, suffix=suffix)
    assert blob.path.endswith(blob.sha256 + kept)
    assert cache.find(KEY) == blob


def test_threads_adding_the_same_key_agree(cache: BlobCache, file: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.write_bytes(b"other")
    results = []
    threads = [
        threading.Thread(target=lambda n=n: results.append(add(cache, file if n % 2 else other)))
        for n in range(12)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(results) == 12
    assert all(cache.verify(blob) for blob in results)
    assert cache.find(KEY) in results
    assert len(cache.root.objects("blobs")) == 3


def test_a_find_is_seen_by_gc(root: Root, file: Path) -> None:
    cache = BlobCache(root)
    blob = add(cache, file)
    sidecar = root.path / blob.path.rpartition("/")[0] / "blob.json"
    os.utime(sidecar, (1, 1))
    cache.find(KEY)
    assert sidecar.stat().st_mtime > 1


def test_on_an_object_store_an_old_sidecar_is_renewed_when_found(
    s3_root: Root, file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = BlobCache(s3_root)
    blob = add(cache, file)
    puts: list[str] = []
    real = Root.put
    monkeypatch.setattr(Root, "put", lambda self, key, data: (puts.append(key), real(self, key, data)))
    assert cache.find(KEY) == blob
    assert puts == []
    monkeypatch.setattr(blobs_module, "RENEW_S", -10.0)
    assert cache.find(KEY) == blob
    assert puts == [f"{blob.path.rpartition('/')[0]}/blob.json"]
    monkeypatch.undo()
    assert cache.find(KEY) == blob
