"""Roots: URLs, options, what leaks and what does not."""

from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from obstore.store import AzureStore, S3Store

from geostack_pipeline.errors import SettingsError, StorageError
from geostack_pipeline.storage.roots import Root, open_root, open_store, reopen


def test_local_spellings_give_the_same_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    roots = [
        open_root(url)
        for url in (f"{tmp_path}/a b", f"file://{tmp_path}/a%20b", "file:a%20b", "a b", "file:./a%20b/")
    ]
    assert {root.url for root in roots} == {f"file://{tmp_path}/a%20b"}
    assert {root.path for root in roots} == {tmp_path / "a b"}
    roots[0].put("x/y", b"1")
    assert [root.read("x/y") for root in roots] == [b"1"] * 5
    assert reopen(roots[0].url).read("x/y") == b"1"
    assert pickle.loads(pickle.dumps(roots[0])) == roots[0]


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("", "empty root"),
        ("  ", "empty root"),
        ("file:", "empty path"),
        ("file://host/x", "a host in a file URL"),
        ("http://host/x", "the scheme 'http'"),
        ("memory:///x", "the scheme 'memory'"),
        ("s3://", "no bucket"),
        ("s3:///key", "no bucket"),
        ("s3://bucket/a/../b", "relative"),
        ("s3://bucket/a//b", "empty, relative"),
        ("s3://bucket/%2e%2e/b", "encoded"),
        ("s3://bucket/x?versionId=1", "a query"),
        ("s3://bucket/x#y", "a fragment"),
    ],
)
def test_other_urls_are_refused(url: str, found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        open_root(url)


def test_credentials_in_a_url_are_refused_and_not_shown() -> None:
    with pytest.raises(SettingsError, match="credentials in the URL") as caught:
        open_root("s3://key:hush@bucket/x")
    assert "hush" not in str(caught.value)
    with pytest.raises(SettingsError) as caught:
        open_root("s3://bucket/x?X-Amz-Signature=hush")
    assert "hush" not in str(caught.value)


def test_remote_urls_are_parsed_with_their_prefix() -> None:
    root = open_root("s3://bucket/a/b/", {"region": "eu-west-1", "skip_signature": "true"})
    assert (root.url, root.path) == ("s3://bucket/a/b", None)
    assert isinstance(root.store, S3Store)
    assert (root.store.config["bucket"], root.store.prefix) == ("bucket", "a/b")
    assert root.prefixed("c/d").prefix == "a/b/c/d"
    azure = open_root("az://container/p", {"account_name": "acc", "account_key": "aHVzaA=="})
    assert isinstance(azure.store, AzureStore)
    assert (azure.store.config["container_name"], azure.store.prefix) == ("container", "p")
    assert azure.prefixed("q").prefix == "p/q"
    assert open_root("az://container", {"account_name": "acc"}).store.prefix is None
    assert "aHVzaA" not in repr(azure)


@pytest.mark.parametrize(
    ("url", "options", "found"),
    [
        ("az://container/p", {}, "Account must be specified"),
        ("s3://bucket", {"bogus": "1"}, "bogus"),
        ("s3://bucket", {"allow_http": "maybe"}, "'maybe'"),
        ("s3://bucket", {"endpoint": "http://127.0.0.1:1"}, "plain http"),
    ],
)
def test_options_that_make_no_store_are_told(url: str, options: dict[str, str], found: str) -> None:
    with pytest.raises(SettingsError, match=found):
        open_root(url, options)


def test_a_local_root_takes_no_options(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"takes no options.*region"):
        open_root(str(tmp_path), {"region": "x"})


def test_the_machines_cloud_variables_do_not_leak_in(
    s3_url: str, s3_options: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_SKIP_SIGNATURE", "true")
    monkeypatch.setenv("AZURE_STORAGE_ACCOUNT_NAME", "leaked")
    options = {**s3_options, "allow_http": "true"}
    open_root(s3_url, options).put("x", b"1")
    assert open_root(s3_url, options).read("x") == b"1"
    with pytest.raises(SettingsError, match="Account must be specified"):
        open_root("az://container/p", {})
    assert os.environ["AWS_SKIP_SIGNATURE"] == "true", "the variables themselves stay"
    # Asked for, the account comes from the environment: the same options make a store now.
    assert isinstance(open_root("az://container/p", {"use_environment": "true"}).store, AzureStore)


def test_options_may_come_from_one_variable(s3_url: str, s3_options: dict[str, str]) -> None:
    open_root(s3_url, s3_options).put("x", b"seen")
    code = f"from geostack_pipeline.storage.roots import reopen; print(reopen({s3_url!r}).read('x'))"
    env = {**os.environ, "GEOSTACK_STORE_OPTIONS": json.dumps(s3_options)}
    done = subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, text=True, timeout=60)
    assert done.stdout == "b'seen'\n", done.stderr


def test_a_malformed_variable_is_told_without_its_text(monkeypatch: pytest.MonkeyPatch) -> None:
    for text in ("hush", '["hush"]'):
        monkeypatch.setenv("GEOSTACK_STORE_OPTIONS", text)
        with pytest.raises(SettingsError, match="not a JSON object") as caught:
            open_root("s3://other-bucket")
        assert "hush" not in str(caught.value)


def test_a_store_of_someone_elses_bucket_is_not_remembered(
    s3_url: str, s3_options: dict[str, str], s3_root: Root
) -> None:
    s3_root.put("x", b"1")
    assert bytes(open_store(s3_url, s3_options).get("x").bytes()) == b"1"
    open_store(s3_url, {**s3_options, "endpoint": "http://127.0.0.1:9"})
    assert reopen(s3_url).read("x") == b"1"


def test_objects_are_created_once_listed_and_removed(any_root: Root) -> None:
    root = any_root
    assert root.create("a/b", b"1") is True
    assert root.create("a/b", b"2") is False
    assert root.read("a/b") == b"1"
    root.put("a/c", b"22")
    root.put("ab/c", b"333")
    assert [(m["path"], m["size"]) for m in root.objects("a")] == [("a/b", 1), ("a/c", 2)]
    assert root.folders("") == (["a", "ab"], [])
    assert root.folders("a") == ([], ["b", "c"])
    assert (root.size("a/c"), root.size("a"), root.size("nope"), root.size("a/b/c")) == (2, None, None, None)
    root.delete("a/b")
    root.delete("a/b")
    for key in ("a/b", "a", "a/c/d"):
        with pytest.raises(FileNotFoundError):
            root.read(key)


# -- failures ---------------------------------------------------------------------------------------


def test_an_unreachable_root_is_a_storage_error(s3_options: dict[str, str]) -> None:
    root = open_root("s3://bucket/x", {**s3_options, "endpoint": "http://127.0.0.1:9"})
    with pytest.raises(
        StorageError, match=r"s3://bucket/x/key: failed while reading.*Next: check the endpoint"
    ) as caught:
        root.read("key")
    assert caught.value.retryable
    assert s3_options["secret_access_key"] not in str(caught.value)


def test_a_missing_bucket_and_a_refused_login_are_storage_errors(s3_options: dict[str, str]) -> None:
    root = open_root("s3://no-such-bucket-here/x", s3_options)
    with pytest.raises((StorageError, FileNotFoundError)):
        root.put("key", b"1")


def test_a_403_is_a_storage_error_that_speaks_of_rights() -> None:
    from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

    class Forbidden(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(403)
            self.send_header("Content-Length", "0")
            self.end_headers()

        do_PUT = do_HEAD = do_GET

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Forbidden)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    options = {"endpoint": f"http://127.0.0.1:{server.server_port}", "allow_http": "true", "region": "x"}
    root = open_root("s3://bucket", {**options, "access_key_id": "k", "secret_access_key": "hush"})
    for act in (
        lambda: root.read("k"),
        lambda: root.put("k", b""),
        lambda: root.objects("k"),
        lambda: root.create("k", b""),
    ):
        with pytest.raises(StorageError, match=r"right to read and write") as caught:
            act()
        assert not caught.value.retryable
        assert "hush" not in str(caught.value)
    server.shutdown()
    server.server_close()


FULL = """
import resource, signal, sys
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
from geostack_pipeline.errors import StorageError
from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import open_root
store = ArtifactStore(open_root(sys.argv[1]))
def write(version, size):
    with store.begin("a", "p", version, kind="table", code_version="1", upstream={}) as attempt:
        attempt.put("big.bin", b"x" * size)
        store.point(attempt.commit(meta={}))
write("v1", 1000)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
try:
    write("v2", 500_000)
except StorageError as error:
    print(error)
print(store.current("a", "p").version, store.versions("a", "p"), [m["path"].split("/")[3] for m in store.root.objects("artifacts")])
"""


def test_a_disk_that_takes_no_more_is_told_and_the_old_version_stays(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(tmp_path)], capture_output=True, text=True, timeout=60
    )
    lines = done.stdout.splitlines()
    assert len(lines) == 2, done.stderr
    assert lines[0].startswith("a p v2 big.bin: no space left while writing.")
    assert "Next: free space" in lines[0]
    assert lines[1] == "v1 ['v1'] ['current.json', 'v1', 'v1']"


def test_a_folder_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"file/root: failed while creating the root folder"):
        open_root(str(tmp_path / "file" / "root"))
