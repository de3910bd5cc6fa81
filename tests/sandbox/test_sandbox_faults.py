"""Faults, one by one: each shows what it says, as often as it says, and only there."""

from __future__ import annotations

import time
from collections.abc import Iterator

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.sandbox.server.faults import (
    KINDS,
    Fault,
    FaultBoard,
    make_fault,
    parse_fault,
)


@pytest.fixture
def search(sandbox: Sandbox) -> Iterator:
    with httpx.Client(base_url=sandbox.endpoints["earth_search"], trust_env=False, timeout=20) as client:
        yield lambda **body: client.post("/search", json=body)


@pytest.fixture
def read(sandbox: Sandbox) -> Iterator:
    key = "sentinel-s2-l2a-cogs/31/S/ES/2024/6/S2A_31SES_20240611_0_L2A/SCL.tif"
    with httpx.Client(base_url=sandbox.endpoints["sentinel-cogs"], trust_env=False, timeout=20) as client:
        yield lambda: client.get(f"/sentinel-cogs/{key}")


def test_too_many_requests_names_a_pause_and_ends(sandbox, search):
    sandbox.fault("429@earth_search?count=2&seconds=3")
    for _ in range(2):
        answer = search()
        assert answer.status_code == 429
        assert answer.headers["retry-after"] == "3"
    assert search().status_code == 200
    assert sandbox.faults() == []


@pytest.mark.parametrize("status", [400, 401, 403, 404, 500, 502, 503, 504])
def test_any_status(sandbox, search, status):
    sandbox.fault(f"{status}@earth_search?count=1")
    answer = search()
    assert answer.status_code == status
    assert "retry-after" not in answer.headers
    assert search().status_code == 200


def test_always_until_cleared_and_only_at_its_target(sandbox, search, read):
    sandbox.fault("503@earth_search?count=always&seconds=1")
    assert [search().status_code for _ in range(4)] == [503] * 4
    assert read().status_code == 200
    sandbox.clear_faults()
    assert search().status_code == 200


def test_skip_and_path(sandbox, search):
    sandbox.fault("500@earth_search?count=1&skip=1&path=/search")
    root = sandbox.endpoints["earth_search"]
    assert httpx.get(root, trust_env=False).status_code == 200
    assert [search().status_code for _ in range(3)] == [200, 500, 200]


def test_hang_outlasts_the_client(sandbox):
    sandbox.fault("hang@earth_search?count=1&seconds=30")
    began = time.monotonic()
    with pytest.raises(httpx.ReadTimeout):
        httpx.post(sandbox.endpoints["earth_search"] + "/search", json={}, timeout=1.0, trust_env=False)
    assert time.monotonic() - began < 10


def test_drip_is_slow_but_whole(sandbox, search):
    whole = search().json()
    sandbox.fault("drip@earth_search?count=1&seconds=1")
    began = time.monotonic()
    assert search().json() == whole
    assert time.monotonic() - began > 0.8


def test_cut_breaks_off_in_the_body(sandbox, search, read):
    sandbox.fault("cut@earth_search?count=1")
    with pytest.raises(httpx.RemoteProtocolError):
        search()
    sandbox.fault("cut@sentinel-cogs?count=1")
    with pytest.raises(httpx.RemoteProtocolError):
        read()
    assert search().status_code == 200
    assert read().status_code == 200


def test_truncated_json_and_html(sandbox, search):
    sandbox.fault("truncated@earth_search?count=1")
    answer = search()
    assert answer.status_code == 200
    with pytest.raises(ValueError):
        answer.json()
    sandbox.fault("html@earth_search?count=1")
    answer = search()
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/html")
    assert "password" in answer.text


def test_corrupt_bytes_keep_their_length(sandbox, read):
    whole = read().content
    sandbox.fault("corrupt@sentinel-cogs?count=1&path=SCL")
    spoiled = read().content
    assert len(spoiled) == len(whole)
    assert spoiled != whole
    assert read().content == whole


def test_wrong_count_and_dropped_item(sandbox, search):
    sandbox.fault("wrong-count@earth_search?count=1")
    page = search(limit=50).json()
    assert (page["numberMatched"], page["context"]["matched"], len(page["features"])) == (13, 13, 12)
    sandbox.fault("drop-item@earth_search?count=1")
    page = search(limit=50).json()
    assert (page["numberMatched"], page["numberReturned"], len(page["features"])) == (12, 12, 11)
    assert len(search(limit=50).json()["features"]) == 12


def test_repeated_token_leads_back_to_the_same_page(sandbox, search):
    sandbox.fault("repeat-token@earth_search?count=always")
    body = {"limit": 5}
    seen = []
    for _ in range(3):
        page = search(**body).json()
        seen.append([item["id"] for item in page["features"]])
        body = next(link["body"] for link in page["links"] if link["rel"] == "next")
    assert seen[0] == seen[1] == seen[2]
    sandbox.clear_faults()
    second = search(limit=5).json()["links"][0]["body"]
    sandbox.fault("repeat-token@earth_search?count=1")
    assert search(**second).json()["links"][0]["body"]["next"] == second["next"]


def test_spoiled_items(sandbox, search):
    def first(kind: str, more: str = "") -> dict:
        sandbox.fault(f"{kind}@earth_search?count=1{more}")
        return search().json()["features"][0]

    assert "geometry" not in first("missing-geometry")
    assert "bbox" not in first("missing-bbox")
    assert "datetime" not in first("missing-datetime")["properties"]
    null = first("null-geometry")
    assert null["geometry"] is None
    assert "bbox" not in null
    assert "swir22" not in first("missing-asset")["assets"]
    assert "red" not in first("missing-asset", "&asset=red")["assets"]
    assert first("hostile-href")["assets"]["swir22"]["href"].startswith("http://169.254.169.254/")
    before = search().json()["features"][0]["properties"]["earthsearch:boa_offset_applied"]
    assert first("wrong-offset-flag")["properties"]["earthsearch:boa_offset_applied"] is not before
    drifted = first("type-drift")["properties"]
    assert isinstance(drifted["eo:cloud_cover"], str)
    assert isinstance(drifted["platform"], list)
    assert drifted["datetime"].endswith("Z")
    sandbox.fault("missing-bbox@earth_search?count=1&item=31SES")
    page = search(limit=50).json()["features"]
    assert [item["id"] for item in page if "bbox" not in item] == [
        item["id"] for item in page if "31SES" in item["id"]
    ]
    assert all("bbox" in item and "geometry" in item for item in search(limit=50).json()["features"])


def test_page_faults_wait_for_a_search(sandbox, search):
    sandbox.fault("wrong-count?count=1")
    httpx.get(sandbox.endpoints["earth_search"] + "/collections", trust_env=False)
    assert len(sandbox.faults()) == 1
    assert search().json()["numberMatched"] == 13
    assert sandbox.faults() == []


def test_log_counts_requests_and_bytes(sandbox, search, read):
    sizes = [len(search().content), len(read().content)]
    sandbox.fault("500@earth_search?count=1")
    sizes.append(len(search().content))
    report = sandbox.log()
    assert report["totals"]["earth_search"] == {
        "requests": 2,
        "bytes": sizes[0] + sizes[2],
        "status_200": 1,
        "status_500": 1,
        "POST": 2,
    }
    assert report["totals"]["sentinel-cogs"]["bytes"] == sizes[1]
    assert [entry["path"].rpartition("/")[2] for entry in report["entries"]] == [
        "search",
        "SCL.tif",
        "search",
    ]
    assert [entry["faults"] for entry in report["entries"]] == [[], [], ["500"]]


@pytest.mark.parametrize(
    "text",
    ["", "nonsense", "399", "600", "hang@x?seconds=soon", "cut?count=-", "cut?colour=red", "429?count=1.5"],
)
def test_malformed_faults_are_refused(sandbox, text):
    with pytest.raises(SettingsError, match="fault"):
        parse_fault(text)
    answer = httpx.post(sandbox.endpoints["control"] + "/faults", json={"kind": text}, trust_env=False)
    assert answer.status_code == 400 or text not in {"", "nonsense", "399", "600"}


def test_control_refuses_what_is_no_fault(sandbox):
    for body in (b"{", b"[]", b'"cut"', b'{"kind": "nope"}', b'{"kind": "cut", "colour": 1}'):
        answer = httpx.post(sandbox.endpoints["control"] + "/faults", content=body, trust_env=False)
        assert answer.status_code == 400
    assert sandbox.faults() == []


@given(
    kind=st.sampled_from([*sorted(KINDS), "429", "503"]),
    count=st.none() | st.integers(1, 5),
    skip=st.integers(0, 3),
    seconds=st.none() | st.floats(0.1, 9, allow_nan=False),
    target=st.none() | st.sampled_from(["earth_search", "sentinel-cogs"]),
)
def test_text_form_round_trips_and_counts_down(kind, count, skip, seconds, target):
    options = {"count": count, "skip": skip, "seconds": seconds}
    query = "&".join(f"{name}={value}" for name, value in options.items() if value is not None)
    fault = parse_fault(f"{kind}{'@' + target if target else ''}?{query}")
    if kind == "expired-login" and count is None:
        options["count"] = count = 1
    assert fault == Fault(kind=kind, target=target, **options)
    assert make_fault(fault.__dict__) == fault
    board = FaultBoard([fault])
    shown = [bool(board.take("earth_search", "/v1/search")) for _ in range(12)]
    expected = [skip <= i and (count is None or i < skip + count) for i in range(12)]
    assert shown == (expected if target != "sentinel-cogs" else [False] * 12)
