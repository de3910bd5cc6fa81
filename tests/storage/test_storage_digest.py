"""Digests against hashlib and json themselves, and against published multihash values."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import MappingProxyType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from geostack_pipeline.storage.digest import (
    CHUNK,
    Multihash,
    canonical_json,
    sha256_bytes,
    sha256_chunks,
    sha256_file,
    version_of,
)
from geostack_pipeline.storage.layout import ATTEMPT, place_of, version_key

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(codec="utf-8")),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.text(st.characters(codec="utf-8")), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(JSON)
def test_canonical_json_round_trips_and_does_not_depend_on_order(value: object) -> None:
    text = canonical_json(value)
    assert json.loads(text) == value

    def reverse(node: object) -> object:
        if isinstance(node, dict):
            return {key: reverse(node[key]) for key in reversed(node)}
        return tuple(map(reverse, node)) if isinstance(node, list) else node

    assert canonical_json(reverse(value)) == text


def test_canonical_json_is_exactly_this() -> None:
    assert (
        canonical_json(MappingProxyType({"b": (1, 2.5), "a": "é", "A": None}))
        == '{"A":null,"a":"é","b":[1,2.5]}'.encode()
    )


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"x": [float("-inf")]}, "\ud800"])
def test_what_has_no_canonical_value_is_refused(value: object) -> None:
    with pytest.raises(ValueError):
        canonical_json(value)


@pytest.mark.parametrize("value", [{1: 2}, {"a": {None: 1}}, {1, 2}, b"x", object()])
def test_what_has_no_canonical_type_is_refused(value: object) -> None:
    with pytest.raises(TypeError):
        canonical_json(value)


def test_version_of_is_stable() -> None:
    # Computed once with sha256sum of the text {"a":1}: versions on disk must not change with a release.
    assert version_of({"a": 1}) == hashlib.sha256(b'{"a":1}').hexdigest()[:16] == "015abd7f5cc57a2d"


@given(st.lists(st.binary(max_size=50)))
def test_chunks_hash_like_their_whole(chunks: list[bytes]) -> None:
    whole = b"".join(chunks)
    assert sha256_chunks(map(memoryview, chunks)) == (len(whole), hashlib.sha256(whole).hexdigest())


def test_files_hash_like_their_bytes(tmp_path: Path) -> None:
    for size in (0, 1, CHUNK - 1, CHUNK, 3 * CHUNK + 7):
        data = bytes(range(256)) * (size // 256 + 1)
        (tmp_path / "f").write_bytes(data[:size])
        assert sha256_file(tmp_path / "f") == (size, sha256_bytes(data[:size]))


@pytest.mark.parametrize(
    ("code", "name"),
    [("1220", "sha256"), ("d50110", "md5"), ("1620", "sha3_256"), ("1114", "sha1"), ("1340", "sha512")],
)
def test_multihashes_are_read_and_checked(code: str, name: str) -> None:
    digest = hashlib.new(name, b"data").hexdigest()
    parsed = Multihash.parse(code + digest.upper())
    assert (parsed.algorithm, parsed.hexdigest) == (name, digest)
    assert parsed.matches(b"data")
    assert not parsed.matches(b"Data")


def test_a_published_multihash_is_understood() -> None:
    # From the multihash specification: sha2-256 of "multihash".
    text = "12209cbc07c3f991725836a3aa2a581ca2029198aa420b9d99bc0e131d9f3e2cbe47"
    assert Multihash.parse(text).matches(b"multihash")


@pytest.mark.parametrize(
    "text", ["", "zz", "12", "1220", "1220ab", "1221" + "00" * 33, "9920" + "00" * 32, "80" * 12, "d501"]
)
def test_malformed_multihashes_are_refused(text: str) -> None:
    with pytest.raises(ValueError):
        Multihash.parse(text)


PART = st.from_regex(r"[A-Za-z0-9_][A-Za-z0-9_.=+@-]{0,20}", fullmatch=True).filter(
    lambda part: (
        not part.startswith(ATTEMPT)
        and not part.endswith(".")
        and part not in {"complete.json", "current.json", "condemned.json"}
    )
)


@given(st.lists(PART, min_size=1, max_size=4), PART, PART, st.lists(PART, min_size=1, max_size=3))
def test_every_key_is_read_back_as_what_it_was_made_from(
    asset: list[str], partition: str, version: str, file: list[str]
) -> None:
    name = "/".join(asset)
    folder = version_key(name, partition, version)
    pointer = place_of(f"{folder.rpartition('/')[0]}/current.json")
    assert (pointer.asset, pointer.partition, pointer.version) == (name, partition, None)
    for key, attempt, path in (
        (f"{folder}/complete.json", None, "complete.json"),
        (f"{folder}/attempt-1/{'/'.join(file)}", "attempt-1", "/".join(file)),
        (f"{folder}/attempt-1/complete.json", "attempt-1", "complete.json"),
        (f"{folder}/attempt-1.json", "attempt-1", ""),
    ):
        place = place_of(key)
        assert (place.asset, place.partition, place.version) == (name, partition, version)
        assert (place.attempt, place.file) == (attempt, path)


@pytest.mark.parametrize(
    "key",
    [
        "artifacts",
        "artifacts/a",
        "artifacts/a/b",
        "blobs/a/b/c/complete.json",
        "artifacts/a/current.json",
        "artifacts/a/p/complete.json",
        "artifacts/a/p/v/stray",
        "artifacts/a/p/v/attempt-1",
    ],
)
def test_other_keys_belong_to_nothing(key: str) -> None:
    assert place_of(key) is None
