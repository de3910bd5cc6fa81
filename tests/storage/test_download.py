"""Downloads from a server that breaks every way a server breaks."""

from __future__ import annotations

import hashlib
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import obstore
import pytest
from faulty_server import OK, Fault, FaultyServer, serving

from geostack_pipeline.errors import AuthError, IntegrityError, StorageError, TransferError
from geostack_pipeline.storage import retry as retry_module
from geostack_pipeline.storage.retry import Retry, is_temporary
from geostack_pipeline.storage.roots import Root
from geostack_pipeline.storage.transfer import download

BODY = bytes((n * 7 + n // 251) % 256 for n in range(5_000_000))
SHA = hashlib.sha256(BODY).hexdigest()
QUICK = Retry(attempts=4, first_wait_s=0.001, longest_wait_s=0.002)


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(BODY) as state:
        yield state


@pytest.fixture
def dest(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "file.tif"


def left(dest: Path) -> list[str]:
    return sorted(path.name for path in dest.parent.iterdir())


def test_a_whole_object_comes_in_one_request(server: FaultyServer, dest: Path) -> None:
    steps: list[int] = []
    done = download(
        server.store(), "a/b.tif", dest, expected_size=len(BODY), checksum=f"1220{SHA}", progress=steps.append
    )
    assert dest.read_bytes() == BODY
    assert (done.size, done.sha256, done.etag) == (len(BODY), SHA, '"v1"')
    assert (done.bytes_moved, done.requests, done.resumed) == (len(BODY), 1, False)
    assert sum(steps) == len(BODY)
    assert len(steps) > 1
    assert left(dest) == ["file.tif"]


@pytest.mark.parametrize("name", ["md5", "sha3_256"])
def test_other_checksums_are_checked(server: FaultyServer, dest: Path, name: str) -> None:
    code = {"md5": "d50110", "sha3_256": "1620"}[name]
    digest = hashlib.new(name, BODY).hexdigest()
    server.script = [Fault(cut_after=1_500_000)]
    download(server.store(), "k", dest, checksum=code + digest, retry=QUICK)
    wrong = code + digest[:-1] + ("0" if digest[-1] != "0" else "1")
    dest.unlink()
    with pytest.raises(IntegrityError, match=rf"its {name} is not the promised one\. Found: {digest}"):
        download(server.store(), "k", dest, checksum=wrong)
    assert left(dest) == []


def test_a_malformed_checksum_is_told_before_anything_moves(server: FaultyServer, dest: Path) -> None:
    with pytest.raises(IntegrityError, match="checksum cannot be read"):
        download(server.store(), "k", dest, checksum="12zz")
    assert server.seen == []


def test_an_empty_object_makes_an_empty_file(dest: Path) -> None:
    with serving(b"") as server:
        done = download(server.store(), "k", dest)
    assert (done.size, done.sha256, dest.read_bytes()) == (0, hashlib.sha256(b"").hexdigest(), b"")
    assert left(dest) == ["file.tif"]


def test_a_cut_body_is_continued_by_range_under_the_same_etag(server: FaultyServer, dest: Path) -> None:
    server.script = [Fault(cut_after=3_000_000), Fault(cut_after=500_000)]
    done = download(server.store(), "k", dest, retry=QUICK)
    assert dest.read_bytes() == BODY
    assert done.sha256 == SHA
    assert done.requests == 3
    assert server.ranges[0] is None
    first, second = (int(asked.removeprefix("bytes=").removesuffix("-")) for asked in server.ranges[1:])
    assert 0 < first <= 3_000_000
    assert first < second <= 3_500_000
    assert [request["if-match"] for request in server.seen] == [None, '"v1"', '"v1"']
    assert done.bytes_moved == len(BODY), "no byte came twice"


@pytest.mark.parametrize("etag", [None, 'W/"weak"'])
def test_without_a_strong_etag_a_cut_body_begins_again(dest: Path, etag: str | None) -> None:
    with serving(BODY, etag=etag) as server:
        server.script = [Fault(cut_after=3_000_000)]
        done = download(server.store(), "k", dest, retry=QUICK)
        assert server.ranges == [None, None]
    assert dest.read_bytes() == BODY
    assert done.bytes_moved > len(BODY)


def test_a_source_that_changes_in_between_is_never_mixed(server: FaultyServer, dest: Path) -> None:
    other = bytes(reversed(BODY))
    server.script = [Fault(cut_after=3_000_000), Fault(body=other, etag='"v2"')]
    done = download(server.store(), "k", dest, retry=QUICK)
    assert dest.read_bytes() == other
    assert done.etag == '"v2"'
    assert server.ranges[1] is not None
    assert server.ranges[2] is None


def test_a_server_that_ignores_if_match_is_noticed_by_its_etag(server: FaultyServer, dest: Path) -> None:
    other = bytes(reversed(BODY))
    server.script = [Fault(cut_after=3_000_000), Fault(body=other, etag='"v2"', ignore_if_match=True)]
    download(server.store(), "k", dest, retry=QUICK)
    assert dest.read_bytes() == other


def test_a_source_that_keeps_changing_is_given_up(server: FaultyServer, dest: Path) -> None:
    server.script = [
        fault
        for n in range(20)
        for fault in (Fault(cut_after=900_000, etag=f'"{n}"'), Fault(etag=f'"{n}x"', cut_after=900_000))
    ]
    with pytest.raises(TransferError, match=r"kept changing|could not be read in 4 tries") as caught:
        download(server.store(), "k", dest, retry=QUICK)
    assert caught.value.retryable
    assert len(server.seen) <= 8
    assert not dest.exists()


def test_a_server_that_ignores_ranges_is_read_from_the_start(server: FaultyServer, dest: Path) -> None:
    server.script = [Fault(cut_after=3_000_000), Fault(ignore_range=True), OK]
    done = download(server.store(), "k", dest, retry=QUICK)
    assert dest.read_bytes() == BODY
    assert done.requests == 3
    assert server.ranges[2] is None


@pytest.mark.parametrize("status", [429, 500, 503])
def test_busy_servers_are_asked_again_after_growing_pauses(
    server: FaultyServer, dest: Path, monkeypatch: pytest.MonkeyPatch, status: int
) -> None:
    waits: list[float] = []
    monkeypatch.setattr(retry_module.time, "sleep", waits.append)
    server.script = [Fault(status=status, headers={"Retry-After": "2"})] * 3
    done = download(server.store(), "k", dest, retry=Retry(attempts=4))
    assert dest.read_bytes() == BODY
    assert done.requests == 4
    assert [0.25 <= waits[0] <= 0.5, 0.5 <= waits[1] <= 1.0, 1.0 <= waits[2] <= 2.0] == [True] * 3
    assert sum(waits) >= 1.75, (
        "a usual Retry-After of a second or two is respected by the second or third try"
    )


def test_a_server_that_stays_busy_is_given_up_with_its_status(server: FaultyServer, dest: Path) -> None:
    server.script = [Fault(status=503)] * 10
    with pytest.raises(
        TransferError, match=r"k: the object could not be read in 4 tries.*503.*Next: try again later"
    ) as caught:
        download(server.store(), "k", dest, retry=QUICK)
    assert caught.value.retryable
    assert len(server.seen) == 4
    assert left(dest) == []


def test_progress_earns_new_tries(server: FaultyServer, dest: Path) -> None:
    server.script = [
        Fault(status=503),
        Fault(status=503),
        Fault(cut_after=2_200_000),
        Fault(status=503),
        Fault(status=503),
    ]
    assert download(server.store(), "k", dest, retry=QUICK).requests == 6
    assert dest.read_bytes() == BODY


@pytest.mark.parametrize(
    ("status", "kind", "text"),
    [
        (404, TransferError, "does not exist"),
        (401, AuthError, "refuses"),
        (403, AuthError, "refuses"),
        (400, TransferError, "could not be read"),
    ],
)
def test_answers_that_will_not_change_are_not_asked_again(
    server: FaultyServer, dest: Path, status: int, kind: type[Exception], text: str
) -> None:
    server.script = [Fault(status=status)] * 5
    with pytest.raises(kind, match=text) as caught:
        download(server.store(), "k", dest, retry=QUICK)
    assert not caught.value.retryable
    assert len(server.seen) == 1
    assert left(dest) == []


@pytest.mark.parametrize("announce", [len(BODY) + 10, len(BODY) - 10])
def test_a_wrong_content_length_is_not_believed(server: FaultyServer, dest: Path, announce: int) -> None:
    server.script = [Fault(announce=announce, cut_after=10**9)] * 4
    with pytest.raises((TransferError, IntegrityError)):
        download(server.store(), "k", dest, expected_size=len(BODY), retry=QUICK)
    assert not dest.exists()


def test_a_promised_size_is_checked_before_the_body(server: FaultyServer, dest: Path) -> None:
    with pytest.raises(IntegrityError, match=r"5000000 bytes, promised 4999999"):
        download(server.store(), "k", dest, expected_size=len(BODY) - 1)
    with pytest.raises(IntegrityError, match=r"larger than allowed.*limit 1000"):
        download(server.store(), "k", dest, max_size=1000)
    assert left(dest) == []


def test_a_connection_that_hangs_is_left(server: FaultyServer, dest: Path) -> None:
    server.script = [Fault(stall_s=1.5)]
    start = time.monotonic()
    done = download(server.store(read_timeout="200ms"), "k", dest, retry=QUICK)
    assert done.requests == 2
    assert time.monotonic() - start < 1.4


def test_a_refused_connection_is_a_transfer_error(dest: Path) -> None:
    with serving(BODY) as server:
        store = server.store()
    with pytest.raises(TransferError, match="could not be read in 4 tries") as caught:
        download(store, "k", dest, retry=QUICK)
    assert caught.value.retryable


# -- resuming in another process --------------------------------------------------------------------

KILLED = """
import os, signal, sys
from pathlib import Path
sys.path.insert(0, sys.argv[4])
from obstore.store import HTTPStore
from geostack_pipeline.storage.transfer import download
moved = 0
def count(n):
    global moved
    moved += n
    if moved > 2_000_000:
        os.kill(os.getpid(), signal.SIGKILL)
store = HTTPStore.from_url(sys.argv[1], client_options={"allow_http": True})
download(store, sys.argv[3], Path(sys.argv[2]), progress=count)
"""


def kill_midway(server: FaultyServer, dest: Path, key: str = "k") -> int:
    done = subprocess.run([sys.executable, "-c", KILLED, server.url, str(dest), key, "."], timeout=60)
    assert done.returncode == -signal.SIGKILL
    assert left(dest) == ["file.tif.part", "file.tif.part.json"]
    server.seen.clear()
    return (dest.parent / "file.tif.part").stat().st_size


def test_what_a_killed_process_left_is_continued(server: FaultyServer, dest: Path) -> None:
    have = kill_midway(server, dest)
    done = download(server.store(), "k", dest, checksum=f"1220{SHA}")
    assert done.resumed
    assert done.bytes_moved == len(BODY) - have < len(BODY)
    assert server.ranges == [f"bytes={have}-"]
    assert dest.read_bytes() == BODY
    assert done.sha256 == SHA
    assert left(dest) == ["file.tif"]


def test_what_is_left_of_an_older_version_is_thrown_away(server: FaultyServer, dest: Path) -> None:
    kill_midway(server, dest)
    server.body, server.etag = bytes(reversed(BODY)), '"v2"'
    done = download(server.store(), "k", dest, retry=QUICK)
    assert dest.read_bytes() == server.body
    assert not done.resumed
    assert done.bytes_moved == len(BODY)


def test_what_is_left_of_another_object_is_thrown_away(server: FaultyServer, dest: Path) -> None:
    kill_midway(server, dest, key="other")
    assert not download(server.store(), "k", dest).resumed
    assert server.ranges == [None]


@pytest.mark.parametrize("state", ["", "[]", "{}", '{"identity": 1}', None])
def test_a_part_whose_state_is_damaged_is_thrown_away(
    server: FaultyServer, dest: Path, state: str | None
) -> None:
    kill_midway(server, dest)
    path = dest.parent / "file.tif.part.json"
    path.unlink() if state is None else path.write_text(state)
    assert not download(server.store(), "k", dest).resumed
    assert dest.read_bytes() == BODY


def test_a_part_that_was_whole_still_asks_the_source(server: FaultyServer, dest: Path) -> None:
    kill_midway(server, dest)
    (dest.parent / "file.tif.part").write_bytes(BODY)
    done = download(server.store(), "k", dest)
    assert (done.bytes_moved, done.resumed, server.ranges) == (1, True, [f"bytes={len(BODY) - 1}-"])
    assert dest.read_bytes() == BODY


def test_a_part_with_foreign_bytes_fails_its_checksum_and_goes(server: FaultyServer, dest: Path) -> None:
    have = kill_midway(server, dest)
    (dest.parent / "file.tif.part").write_bytes(b"\0" * have)
    with pytest.raises(IntegrityError, match="sha256"):
        download(server.store(), "k", dest, checksum=f"1220{SHA}")
    assert left(dest) == []


def test_an_interrupted_download_is_kept_for_the_next(server: FaultyServer, dest: Path) -> None:
    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        download(server.store(), "k", dest, progress=interrupt)
    state = json.loads((dest.parent / "file.tif.part.json").read_text())
    assert (state["etag"], state["size"]) == ('"v1"', len(BODY))
    assert download(server.store(), "k", dest).resumed
    assert dest.read_bytes() == BODY


def test_two_downloads_of_one_destination_do_not_mix(server: FaultyServer, dest: Path) -> None:
    server.script = [Fault(stall_s=0.3), Fault(stall_s=0.3), Fault(stall_s=0.3)]
    results: list[str] = []
    threads = [
        threading.Thread(target=lambda: results.append(download(server.store(), "k", dest).sha256))
        for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [SHA] * 3
    assert dest.read_bytes() == BODY
    assert left(dest) == ["file.tif"]


# -- the local side ---------------------------------------------------------------------------------


def test_a_full_disk_is_a_storage_error_and_gives_the_room_back(server: FaultyServer, dest: Path) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_500_000, before[1]))
    try:
        with pytest.raises(
            StorageError, match=r"file\.tif: no space left while writing a download.*Next: free space"
        ):
            download(server.store(), "k", dest, retry=QUICK)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    assert left(dest) == []
    assert len(server.seen) == 1


def test_memory_does_not_grow_with_the_object(tmp_path: Path) -> None:
    body = os.urandom(1 << 20) * 96
    code = (
        "import resource, sys; from pathlib import Path; from obstore.store import HTTPStore;"
        "from geostack_pipeline.storage.transfer import download;"
        "store = HTTPStore.from_url(sys.argv[1], client_options={'allow_http': True});"
        "download(store, 'small', Path(sys.argv[2] + '/s'), max_size=10**9);"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)"
    )
    peaks = []
    for part in (body[: 1 << 20], body):
        with serving(part) as server:
            done = subprocess.run(
                [sys.executable, "-c", code, server.url, str(tmp_path)],
                capture_output=True,
                text=True,
                timeout=900,
            )
        peaks.append(int(done.stdout))
    assert (tmp_path / "s").stat().st_size == len(body)
    assert peaks[1] - peaks[0] < 48 * 1024, f"KiB for 1 and 96 MiB: {peaks}"


def test_from_s3(s3_root: Root, dest: Path) -> None:
    obstore.put(s3_root.store, "a/b.bin", BODY, use_multipart=False)
    done = download(s3_root.store, "a/b.bin", dest, checksum=f"1220{SHA}")
    assert (done.size, done.sha256, done.requests) == (len(BODY), SHA, 1)
    assert done.etag == f'"{hashlib.md5(BODY).hexdigest()}"'
    with pytest.raises(TransferError, match="does not exist"):
        download(s3_root.store, "a/nope", dest)


def test_waits_grow_and_end() -> None:
    policy = Retry(first_wait_s=0.5, longest_wait_s=4)
    for failures, limit in ((1, 0.5), (2, 1), (3, 2), (4, 4), (5, 4), (400, 4)):
        waits = [policy.wait_s(failures) for _ in range(50)]
        assert limit / 2 <= min(waits)
        assert max(waits) <= limit
        assert len(set(waits)) > 1, "without jitter all clients come back at once"


def test_what_is_temporary() -> None:
    def told(status: int) -> obstore.exceptions.GenericError:
        return obstore.exceptions.GenericError(f"Server returned non-2xx status code: {status} X: y")

    assert [status for status in (400, 404, 408, 409, 410, 425, 429, 500, 502, 503, 504) if is_temporary(told(status))] == [
        408, 425, 429, 500, 502, 503, 504,
    ]  # fmt: skip
    assert is_temporary(obstore.exceptions.GenericError("HTTP error: error sending request"))
    assert not is_temporary(FileNotFoundError())
