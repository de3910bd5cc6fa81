"""Roots in Azure, on Azurite: artifacts appear once, pointers move by compare and swap, nothing is shown."""

from __future__ import annotations

import base64
import pickle
from collections.abc import Iterator

import obstore
import pytest
from azure_loopback import ACCOUNT, CONTAINER, KEY, azurite_blobs
from obstore import exceptions as obs_errors

from geostack_pipeline.errors import SettingsError, StorageError
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import Root, open_root, open_store

pytestmark = pytest.mark.slow
SECRET = base64.b64encode(KEY).decode()


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with azurite_blobs(tmp_path_factory.mktemp("azurite")) as running:
        yield running.url


@pytest.fixture
def root(url: str, request: pytest.FixtureRequest) -> Root:
    return open_root(f"az://{CONTAINER}/{request.node.name.replace('[', '-').strip(']')}", options_of(url))


def options_of(url: str, key: str = SECRET) -> dict[str, str]:
    return {
        "account_name": ACCOUNT,
        "access_key": key,
        "endpoint": f"{url}/{ACCOUNT}",
        "allow_http": "true",
    }


def test_objects_are_written_read_listed_and_removed(root: Root) -> None:
    root.put("a/b.txt", b"one")
    assert root.read("a/b.txt") == b"one"
    assert root.size("a/b.txt") == 3
    assert root.size("a/c.txt") is None
    assert root.create("a/c.txt", b"two")
    assert not root.create("a/c.txt", b"three")
    assert root.read("a/c.txt") == b"two"
    assert [each["path"] for each in root.objects("a")] == ["a/b.txt", "a/c.txt"]
    assert root.folders("") == (["a"], [])
    root.delete("a/b.txt")
    root.delete("a/b.txt")
    assert root.size("a/b.txt") is None


def test_a_replaced_object_cannot_be_replaced_by_who_saw_the_old_one(root: Root) -> None:
    first = obstore.put(root.store, "pointer", b"1")
    obstore.put(root.store, "pointer", b"2")
    with pytest.raises(obs_errors.PreconditionError):
        obstore.put(root.store, "pointer", b"3", mode={"e_tag": str(first["e_tag"])})
    assert root.read("pointer") == b"2"


def test_artifacts_live_in_azure(root: Root) -> None:
    store = ArtifactStore(root)
    for number, version in enumerate(("a" * 16, "b" * 16)):
        with store.begin(
            "pc/scenes", "2024-06-01", version, kind="table", code_version="1", upstream={}
        ) as one:
            one.put("note.txt", bytes([number]))
            snapshot = one.commit(meta={"n": number})
        store.point(snapshot)
        current = store.current("pc/scenes", "2024-06-01")
        assert current is not None
        assert current.version == version
        assert current.read("note.txt") == bytes([number])
        assert current.verify() == []
        again = pickle.loads(pickle.dumps(current))
        assert again.read("note.txt") == bytes([number])
        assert SECRET.encode() not in pickle.dumps(current)
    assert store.versions("pc/scenes", "2024-06-01") == ["a" * 16, "b" * 16]


def test_a_wrong_key_is_an_error_without_the_key(url: str) -> None:
    wrong = base64.b64encode(KEY[::-1]).decode()
    root = open_root(f"az://{CONTAINER}/x", options_of(url, wrong))
    with pytest.raises(StorageError) as caught:
        root.read("a")
    for text in (str(caught.value), repr(caught.value), repr(root)):
        assert wrong not in text


def test_plain_http_has_to_be_allowed(url: str) -> None:
    options = {name: value for name, value in options_of(url).items() if name != "allow_http"}
    with pytest.raises(SettingsError, match="plain http"):
        open_store(f"az://{CONTAINER}", options)
