"""Ranges of one object: exactly what was asked, few requests, one version."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import obstore
import pytest
from faulty_server import Fault, FaultyServer, serving
from hypothesis import given
from hypothesis import strategies as st
from obstore.store import MemoryStore

from geostack_pipeline.errors import AuthError, TransferError
from geostack_pipeline.storage.ranges import Meter, plan_spans, read_ranges
from geostack_pipeline.storage.retry import Retry
from geostack_pipeline.storage.roots import Root

BODY = bytes((n * 13 + n // 253) % 256 for n in range(300_000))
QUICK = Retry(attempts=3, first_wait_s=0.001, longest_wait_s=0.002)
RANGES = st.lists(
    st.tuples(st.integers(0, 5000), st.integers(0, 600)).map(lambda pair: (pair[0], min(5000, sum(pair)))),
    max_size=20,
)
MEMORY = MemoryStore()
obstore.put(MEMORY, "k", BODY[:5000])


@pytest.fixture
def server() -> Iterator[FaultyServer]:
    with serving(BODY) as state:
        yield state


@given(RANGES, st.integers(0, 700), st.integers(1, 900), st.integers(1, 4))
def test_exactly_the_ranges_come_back(
    ranges: list[tuple[int, int]], gap: int, largest: int, threads: int
) -> None:
    meter = Meter()
    data = read_ranges(MEMORY, "k", ranges, max_gap=gap, max_request=largest, threads=threads, meter=meter)
    assert data == [BODY[start:stop] for start, stop in ranges]
    wanted = {byte for start, stop in ranges for byte in range(start, stop)}
    spans = plan_spans(ranges, max_gap=gap)
    assert meter.bytes_moved == sum(stop - start for start, stop in spans) >= len(wanted)
    assert meter.requests == sum(-(-(stop - start) // largest) for start, stop in spans)


@given(RANGES, st.integers(0, 700))
def test_spans_cover_all_and_bridge_no_large_gap(ranges: list[tuple[int, int]], gap: int) -> None:
    spans = plan_spans(ranges, max_gap=gap)
    wanted = {byte for start, stop in ranges for byte in range(start, stop)}
    covered = {byte for start, stop in spans for byte in range(start, stop)}
    assert wanted <= covered
    for start, stop in spans:
        assert start in wanted
        assert stop - 1 in wanted
    for before, after in pairwise(spans):
        assert after[0] - before[1] > gap
    extra = sorted(covered - wanted)
    run = 0
    for index, byte in enumerate(extra):
        run = run + 1 if index and byte == extra[index - 1] + 1 else 1
        assert run <= gap


def test_neighbours_come_with_one_request_under_one_etag(server: FaultyServer) -> None:
    meter = Meter()
    ranges = [(200_000, 210_000), (0, 10), (10, 1000), (1500, 2000)]
    data = read_ranges(server.store(), "k", ranges, if_match='"v1"', meter=meter)
    assert data == [BODY[start:stop] for start, stop in ranges]
    assert sorted(server.ranges) == ["bytes=0-1999", "bytes=200000-209999"]
    assert {request["if-match"] for request in server.seen} == {'"v1"'}
    assert (meter.requests, meter.bytes_moved) == (2, 12_000)


def test_nothing_asked_is_nothing_requested(server: FaultyServer) -> None:
    assert read_ranges(server.store(), "k", []) == []
    assert read_ranges(server.store(), "k", [(5, 5)]) == [b""]
    assert server.seen == []


def test_a_long_span_is_split(server: FaultyServer) -> None:
    assert read_ranges(server.store(), "k", [(0, 250_000)], max_request=100_000) == [BODY[:250_000]]
    assert sorted(server.ranges) == ["bytes=0-99999", "bytes=100000-199999", "bytes=200000-249999"]


@pytest.mark.parametrize(
    "fault", [Fault(status=503), Fault(status=429, headers={"Retry-After": "1"}), Fault(cut_after=100)]
)
def test_a_request_that_fails_is_made_again(server: FaultyServer, fault: Fault) -> None:
    server.script = [fault, fault]
    meter = Meter()
    assert read_ranges(server.store(), "k", [(100, 5000)], retry=QUICK, meter=meter) == [BODY[100:5000]]
    assert meter.requests == 3
    server.script = [fault] * 3
    with pytest.raises(TransferError, match="3 tries") as caught:
        read_ranges(server.store(), "k", [(100, 5000)], retry=QUICK)
    assert caught.value.retryable


@pytest.mark.parametrize(("status", "kind"), [(404, TransferError), (403, AuthError), (401, AuthError)])
def test_answers_that_will_not_change_are_not_asked_again(
    server: FaultyServer, status: int, kind: type[Exception]
) -> None:
    server.script = [Fault(status=status)] * 3
    with pytest.raises(kind):
        read_ranges(server.store(), "k", [(0, 10)], retry=QUICK)
    assert len(server.seen) == 1


def test_an_object_of_another_etag_is_refused(server: FaultyServer) -> None:
    for etag in ('"v0"', 'W/"v0"'):
        with pytest.raises(TransferError, match="the source changed"):
            read_ranges(server.store(), "k", [(0, 10)], if_match=etag, retry=QUICK)


def test_an_object_that_changes_between_two_ranges_is_refused(server: FaultyServer) -> None:
    server.script = [Fault(), Fault(body=bytes(reversed(BODY)), etag='"v2"')]
    with pytest.raises(TransferError, match=r"the source changed.*\"v2\""):
        read_ranges(server.store(), "k", [(0, 10), (200_000, 200_010)], threads=1, retry=QUICK)
    server.body, server.etag = BODY, None
    server.script = [Fault(), Fault(body=BODY + b"1")]
    with pytest.raises(TransferError, match="the source changed"):
        read_ranges(server.store(), "k", [(0, 10), (200_000, 200_010)], threads=1, retry=QUICK)


@pytest.mark.parametrize("bad", [(5, 4), (-1, 3)])
def test_what_is_no_range_is_refused(server: FaultyServer, bad: tuple[int, int]) -> None:
    with pytest.raises(TransferError, match="not a byte range"):
        read_ranges(server.store(), "k", [(0, 1), bad])
    assert server.seen == []


def test_a_range_behind_the_end_is_an_error_not_a_short_answer(server: FaultyServer) -> None:
    for bad in ((299_990, 300_010), (400_000, 400_010)):
        with pytest.raises(TransferError):
            read_ranges(server.store(), "k", [bad], retry=QUICK)
    with pytest.raises(TransferError, match=r"ends behind the object.*299990 to 300010 of 300000"):
        read_ranges(server.store(), "k", [(299_990, 300_010)], retry=QUICK)


def test_a_server_that_ignores_ranges_is_told_of(server: FaultyServer) -> None:
    server.script = [Fault(ignore_range=True)]
    with pytest.raises(TransferError, match="could not be read"):
        read_ranges(server.store(), "k", [(10, 20)], retry=QUICK)


def test_on_s3(s3_root: Root) -> None:
    obstore.put(s3_root.store, "k", BODY)
    etag = obstore.head(s3_root.store, "k")["e_tag"]
    ranges = [(250_000, 300_000), (0, 7)]
    assert read_ranges(s3_root.store, "k", ranges, if_match=etag) == [BODY[250_000:], BODY[:7]]
    with pytest.raises(TransferError, match="the source changed"):
        read_ranges(s3_root.store, "k", ranges, if_match='"0"')
