"""The supervised search against a loopback catalog: every paging style, every fault."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from loopback_catalog import LoopbackCatalog, Reply, StubProvider, page, serving, thing

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog.normalise import normalise
from geostack_pipeline.catalog.retry import RetryPolicy, exhausted_for, retry_after
from geostack_pipeline.catalog.search import search, stream
from geostack_pipeline.errors import (
    AuthError,
    CatalogError,
    CatalogUnavailableError,
    IncompleteSearchError,
    SettingsError,
)

DAY = date(2024, 6, 1)
AREAS = [Area(name="here", bbox=(10.2, 50.2, 10.4, 50.4))]
QUICK = RetryPolicy(attempts=3, base_s=0.01, cap_s=0.02, deadline_s=30.0)
STYLES = ["post-false", "post-plain", "post-true", "get", "context"]


def ids(items: list[dict[str, Any]]) -> list[str]:
    return sorted(item["id"] for item in items)


@pytest.mark.parametrize("paging", STYLES)
@pytest.mark.parametrize("empty_last", [True, False])
@pytest.mark.parametrize("count", ["exact", "none"])
def test_every_paging_style_gives_every_item_once(paging: str, empty_last: bool, count: str) -> None:
    items = [thing(number) for number in range(37)]
    decoy = thing(99, lon=60.0)
    with serving(
        LoopbackCatalog([*items, decoy], paging=paging, empty_last=empty_last, counts=count == "exact")
    ) as catalog:
        result = search(StubProvider(catalog.url, count=count), DAY, AREAS, policy=QUICK)
    assert ids(result.items) == ids(items)
    assert result.items[0] == items[0]
    assert result.report.returned == 37
    assert result.report.matched == (37 if count == "exact" else None)
    # page size 10: four pages (and the empty one after a next link on the last), twice without a count
    once = 5 if empty_last else 4
    assert len(catalog.log) == result.report.requests == (once if count == "exact" else 2 * once)
    # a merged or complete body keeps the window on every page
    assert all("datetime" in body and "bbox" in body for _, _, body, _ in catalog.log)


def test_rustac_is_right_for_links_with_a_complete_body_and_an_empty_last_page() -> None:
    """Earth Search's style; ``merge: true`` and ``context.next`` are left to our pager."""
    items = [thing(number) for number in range(40)]
    with serving(LoopbackCatalog(items, paging="post-false", empty_last=True)) as catalog:
        result = search(StubProvider(catalog.url, walker="rustac"), DAY, AREAS, policy=QUICK)
    assert ids(result.items) == ids(items)
    assert [body.get("limit") for _, _, body, _ in catalog.log] == [1, 10, 10, 10, 10, 10]
    assert result.report.requests == 6
    assert [body.get("next") for _, _, body, _ in catalog.log] == [None, None, "10", "20", "30", "40"]
    assert all(item == other for item, other in zip(result.items, items, strict=True)), (
        "raw items arrive unchanged"
    )


def test_rustac_and_the_pager_give_the_same() -> None:
    items = [thing(number) for number in range(23)]
    with serving(LoopbackCatalog(items)) as catalog:
        results = [
            search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
            for walker in ("rustac", "pager")
        ]
    assert results[0].items == results[1].items == items


def test_pystac_client_walks_the_same_catalog_to_the_same_items() -> None:
    """An independent client against the same server."""
    pystac_client = pytest.importorskip("pystac_client")
    items = [thing(number) for number in range(25)]
    with serving(LoopbackCatalog(items)) as catalog:
        ours = search(StubProvider(catalog.url), DAY, AREAS, policy=QUICK)
        walked = pystac_client.ItemSearch(
            f"{catalog.url}/search",
            method="POST",
            limit=10,
            max_items=None,
            collections=["things"],
            bbox=[10.2, 50.2, 10.4, 50.4],
            datetime="2024-06-01T00:00:00Z/2024-06-02T00:00:00Z",
        )
        theirs = list(walked.items_as_dicts())
    assert ids(ours.items) == ids(theirs)


@pytest.mark.parametrize("walker", ["rustac", "pager"])
def test_the_day_is_half_open_to_the_last_half_second(walker: str) -> None:
    edge = [
        thing(1, when="2024-05-31T23:59:59.999999Z"),
        thing(2, when="2024-06-01T00:00:00Z"),
        thing(3, when="2024-06-01T23:59:59.5Z"),
        thing(4, when="2024-06-01T23:59:59.999999Z"),
        thing(5, when="2024-06-02T00:00:00Z"),
    ]
    days = [date(2024, 5, 31), DAY, date(2024, 6, 2)]
    found = {}
    with serving(LoopbackCatalog(edge)) as catalog:
        provider = StubProvider(catalog.url, walker=walker)
        for day in days:
            raw = search(provider, day, AREAS, policy=QUICK).items
            found[day] = [item["id"] for item in normalise(provider, raw, day, AREAS).items]
    assert found == {
        days[0]: ["thing-00001"],
        DAY: ["thing-00002", "thing-00003", "thing-00004"],
        days[2]: ["thing-00005"],
    }


def test_requests_grow_with_clusters_not_with_areas() -> None:
    near = [Area(name=f"a{n}", bbox=(10.0 + n / 10, 50.0, 10.05 + n / 10, 50.05)) for n in range(12)]
    far = [Area(name="far", bbox=(60.2, 50.2, 60.3, 50.3))]
    items = [thing(1), thing(2, lon=60.0)]
    with serving(LoopbackCatalog(items)) as catalog:
        result = search(StubProvider(catalog.url), DAY, near + far, policy=QUICK)
    assert result.report.windows == 2
    assert ids(result.items) == ["thing-00001", "thing-00002"]


def test_an_item_in_two_windows_comes_once() -> None:
    wide = thing(1)
    wide["bbox"] = [0.0, 40.0, 70.0, 60.0]
    areas = [*AREAS, Area(name="far", bbox=(60.2, 50.2, 60.3, 50.3))]
    with serving(LoopbackCatalog([wide])) as catalog:
        result = search(StubProvider(catalog.url), DAY, areas, policy=QUICK)
    assert ids(result.items) == ["thing-00001"]
    assert (result.report.matched, result.report.returned) == (2, 1)


def test_big_windows_are_halved_and_walked_side_by_side() -> None:
    items = [thing(number) for number in range(0, 1440, 5)]
    policy = RetryPolicy(attempts=3, base_s=0.01, split_above=60, deadline_s=30.0)
    for walker in ("rustac", "pager"):
        with serving(LoopbackCatalog(items, delay=0.002)) as catalog:
            result = search(StubProvider(catalog.url, walker=walker, page_size=50), DAY, AREAS, policy=policy)
        assert ids(result.items) == ids(items), walker
        assert result.report.windows == 8, walker


def test_stream_yields_window_by_window_and_reports_at_the_end() -> None:
    items = [thing(number) for number in range(0, 1440, 10)]
    reports = []
    policy = RetryPolicy(split_above=40)
    with serving(LoopbackCatalog(items)) as catalog:
        batches = list(stream(StubProvider(catalog.url), DAY, AREAS, policy=policy, done=reports.append))
    assert len(batches) == 4
    assert max(len(batch) for batch in batches) <= 40
    assert ids([item for batch in batches for item in batch]) == ids(items)
    assert reports[0].returned == 144


def test_no_items_is_an_answer() -> None:
    for walker, requests in (("rustac", 1), ("pager", 1)):
        with serving(LoopbackCatalog([])) as catalog:
            result = search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
        assert (result.items, result.report.requests, result.report.matched) == ([], requests, 0)


def test_filters_travel_in_either_language() -> None:
    rule = {"op": "<", "args": [{"property": "eo:cloud_cover"}, 50]}
    with serving(LoopbackCatalog([thing(1)])) as catalog:
        # rustac cannot send filter-lang: the pager takes over
        search(StubProvider(catalog.url, walker="rustac", filter_=rule), DAY, AREAS, policy=QUICK)
    assert catalog.log[0][2]["filter"] == rule
    assert catalog.log[0][2]["filter-lang"] == "cql2-json"


# -- counts ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("walker", ["rustac", "pager"])
@pytest.mark.parametrize("lie", [-3, 4])
def test_a_wrong_count_is_an_error_never_a_list(walker: str, lie: int) -> None:
    with (
        serving(LoopbackCatalog([thing(number) for number in range(15)], lie=lie)) as catalog,
        pytest.raises(IncompleteSearchError) as caught,
    ):
        search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
    text = str(caught.value)
    assert "stub 2024-06-01" in text
    assert f"{15 + lie} counted, 15 received" in text
    assert text.count("received") == 2, "walked twice before giving up"


@pytest.mark.parametrize("walker", ["rustac", "pager"])
def test_a_count_that_was_wrong_once_is_forgiven(walker: str) -> None:
    items = [thing(number) for number in range(15)]
    catalog = LoopbackCatalog(items, lie=2)

    def fault(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        if number > 3:
            catalog.lie = 0
        return None

    catalog.fault = fault
    with serving(catalog):
        result = search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
    assert ids(result.items) == ids(items)
    assert result.report.matched == 15


def test_an_estimate_does_not_bind_but_two_walks_must_agree() -> None:
    items = [thing(number) for number in range(15)]
    with serving(LoopbackCatalog(items, lie=5)) as catalog:
        result = search(StubProvider(catalog.url, count="estimate"), DAY, AREAS, policy=QUICK)
    assert ids(result.items) == ids(items)
    assert "estimates 20" in result.report.notes[0]
    assert len(catalog.log) == 6


def test_without_a_count_walks_that_never_agree_are_an_error() -> None:
    catalog = LoopbackCatalog([thing(number) for number in range(5)], counts=False)

    def fault(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        catalog.items = [thing(number)]
        return None

    catalog.fault = fault
    with serving(catalog), pytest.raises(IncompleteSearchError, match="no count"):
        search(StubProvider(catalog.url, count="none"), DAY, AREAS, policy=QUICK)


def test_a_catalog_that_stops_counting_is_walked_twice() -> None:
    with serving(LoopbackCatalog([thing(1)], counts=False)) as catalog:
        result = search(StubProvider(catalog.url, walker="rustac"), DAY, AREAS, policy=QUICK)
    assert ids(result.items) == ["thing-00001"]
    assert result.report.matched is None
    assert result.report.notes == ("the catalog gave no count; two walks agree",)


# -- walks that go wrong --------------------------------------------------------------------------


def endless_same_link(catalog: LoopbackCatalog) -> Callable[[int, str, dict[str, Any]], Reply | None]:
    def fault(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        document = catalog.document({**body, "next": "0"})
        document["links"] = [{"rel": "next", "method": "POST", "href": f"{catalog.url}/search", "body": body}]
        return page(document)

    return fault


def endless_fresh_tokens(catalog: LoopbackCatalog) -> Callable[[int, str, dict[str, Any]], Reply | None]:
    def fault(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        document = catalog.document({**body, "next": "0"})
        link = {
            "rel": "next",
            "method": "POST",
            "href": f"{catalog.url}/search",
            "body": {**body, "next": f"t{number}"},
        }
        return page({**document, "links": [link]})

    return fault


def endless_empty_pages(catalog: LoopbackCatalog) -> Callable[[int, str, dict[str, Any]], Reply | None]:
    def fault(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        link = {
            "rel": "next",
            "method": "POST",
            "href": f"{catalog.url}/search",
            "body": {**body, "next": f"t{number}"},
        }
        return page({"type": "FeatureCollection", "features": [], "numberMatched": 5, "links": [link]})

    return fault


@pytest.mark.parametrize("make", [endless_same_link, endless_fresh_tokens, endless_empty_pages])
@pytest.mark.parametrize("counts", ["exact", "none"])
def test_pages_without_progress_are_an_error_never_an_endless_loop(make: Any, counts: str) -> None:
    catalog = LoopbackCatalog([thing(number) for number in range(5)], counts=counts == "exact")
    with serving(catalog):
        catalog.fault = make(catalog)
        with pytest.raises(IncompleteSearchError):
            search(StubProvider(catalog.url, count=counts), DAY, AREAS, policy=QUICK)
    assert len(catalog.log) < 20


@pytest.mark.parametrize("make", [endless_same_link, endless_fresh_tokens])
def test_rustac_is_stopped_by_its_ceiling_when_a_link_repeats(make: Any) -> None:
    catalog = LoopbackCatalog([thing(number) for number in range(5)])
    with serving(catalog):
        catalog.fault = make(catalog)
        with pytest.raises(IncompleteSearchError, match="does not end"):
            search(StubProvider(catalog.url, walker="rustac"), DAY, AREAS, policy=QUICK)
    assert len(catalog.log) < 30


def test_a_next_link_to_another_host_is_refused_and_sees_no_credentials() -> None:
    evil = LoopbackCatalog([])
    with serving(evil), serving(LoopbackCatalog([thing(n) for n in range(3)])) as catalog:

        def fault(number: int, method: str, body: dict[str, Any]) -> Reply | None:
            document = catalog.document(body)
            document["links"] = [{"rel": "next", "href": f"{evil.url}/search?secret=abc"}]
            return page(document)

        catalog.fault = fault
        provider = StubProvider(catalog.url, headers={"Authorization": "Bearer hush-hush"})
        with pytest.raises(CatalogError, match="next link") as caught:
            search(provider, DAY, AREAS, policy=QUICK)
    assert evil.log == []
    assert "hush" not in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "link",
    [
        {"rel": "next", "method": "DELETE", "href": "/search"},
        {"rel": "next", "method": "POST", "href": 5},
        {"rel": "next", "method": "POST", "href": "/search", "body": [1]},
        {"rel": "next", "href": "http://[::1/search"},
    ],
)
def test_a_next_link_that_cannot_be_read_is_an_error(link: dict[str, Any]) -> None:
    with serving(LoopbackCatalog([thing(1)])) as catalog:
        catalog.fault = lambda number, method, body: page({**catalog.document(body), "links": [link]})
        with pytest.raises(CatalogError, match="stub 2024-06-01"):
            search(StubProvider(catalog.url), DAY, AREAS, policy=QUICK)


# -- statuses, silence, nonsense ------------------------------------------------------------------


def always(reply: Reply) -> Callable[[int, str, dict[str, Any]], Reply | None]:
    return lambda number, method, body: reply


def once(reply: Reply, at: int = 1) -> Callable[[int, str, dict[str, Any]], Reply | None]:
    return lambda number, method, body: reply if number == at else None


@pytest.mark.parametrize("walker", ["rustac", "pager"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_login_is_an_auth_error_without_the_secret(walker: str, status: int) -> None:
    secret = "Bearer abcdefgh-very-secret"
    reply = page({"message": f"bad token {secret.split()[1]}"}, status)
    with serving(LoopbackCatalog([], fault=always(reply))) as catalog:
        provider = StubProvider(catalog.url, walker=walker, headers={"Authorization": secret})
        with pytest.raises(AuthError, match=f"stub 2024-06-01.*{status}") as caught:
            search(provider, DAY, AREAS, policy=QUICK)
    assert len(catalog.log) == 1, "a refused login is not retried"
    assert catalog.log[0][3]["authorization"] == secret
    assert "abcdefgh" not in str(caught.value)


@pytest.mark.parametrize("walker", ["rustac", "pager"])
def test_404_names_collection_and_url(walker: str) -> None:
    with (
        serving(LoopbackCatalog([], fault=always(page({"detail": "Not Found"}, 404)))) as catalog,
        pytest.raises(CatalogError, match=r"404 from http://127.0.0.1:\d+/search.*things"),
    ):
        search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
    assert len(catalog.log) == 1


def test_400_says_what_the_catalog_said() -> None:
    with (
        serving(LoopbackCatalog([], fault=always((400, {}, b"<p>bbox is\nwrong</p>")))) as catalog,
        pytest.raises(CatalogError, match=r"400 .*: bbox is wrong"),
    ):
        search(StubProvider(catalog.url), DAY, AREAS, policy=QUICK)


def test_a_redirect_to_a_login_page_is_told() -> None:
    reply = (302, {"location": "https://user:pw@login.example.com/cas?ticket=1"}, b"")
    with (
        serving(LoopbackCatalog([], fault=always(reply))) as catalog,
        pytest.raises(CatalogError, match=r"to login.example.com\. ") as caught,
    ):
        search(StubProvider(catalog.url), DAY, AREAS, policy=QUICK)
    assert "pw" not in str(caught.value)
    assert "ticket" not in str(caught.value)


@pytest.mark.parametrize("walker", ["rustac", "pager"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_one_503_costs_a_retry_and_nothing_else(walker: str, at: int) -> None:
    items = [thing(number) for number in range(25)]
    with serving(LoopbackCatalog(items, fault=once(page({}, 503), at))) as catalog:
        result = search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
    assert ids(result.items) == ids(items)
    assert result.report.retries == 1


@pytest.mark.parametrize("walker", ["rustac", "pager"])
@pytest.mark.parametrize("status", [429, 500, 502, 503, 504])
def test_a_catalog_that_stays_down_is_unavailable(walker: str, status: int) -> None:
    with (
        serving(LoopbackCatalog([], fault=always(page({}, status)))) as catalog,
        pytest.raises(
            CatalogUnavailableError, match=f"stub 2024-06-01.*{status}.*3 attempts.*Next: run again"
        ) as caught,
    ):
        search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
    assert caught.value.retryable
    assert len(catalog.log) == 3


def test_nobody_at_the_door_is_unavailable() -> None:
    with serving(LoopbackCatalog([])) as catalog:
        pass
    with pytest.raises(CatalogUnavailableError, match="ConnectError"):
        search(StubProvider(catalog.url), DAY, AREAS, policy=QUICK)


@pytest.mark.parametrize("walker", ["rustac", "pager"])
@pytest.mark.parametrize("at", [1, 2, 3])
def test_retry_after_is_waited_for(walker: str, at: int) -> None:
    items = [thing(number) for number in range(25)]
    times: list[float] = []

    def fault(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        times.append(time.monotonic())
        return page({}, 429, retry_after="1") if number == at else None

    with serving(LoopbackCatalog(items, fault=fault)) as catalog:
        result = search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
    assert ids(result.items) == ids(items)
    if walker == "pager" or at == 1:
        assert times[at] - times[at - 1] >= 0.95
        assert result.report.waited_s >= 0.95
    else:  # rustac hides the header of a page; the probe that follows found the catalog ready
        assert result.report.retries == 1


def test_a_rate_limited_walk_by_rustac_ends_with_the_pager_that_sees_retry_after() -> None:
    items = [thing(number) for number in range(25)]
    limited: list[float] = []

    def fault(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        if body.get("limit") != 1 and len(limited) < 3:
            limited.append(time.monotonic())
            return page({}, 429, retry_after="1")
        return None

    with serving(LoopbackCatalog(items, fault=fault)) as catalog:
        result = search(StubProvider(catalog.url, walker="rustac"), DAY, AREAS, policy=QUICK)
    assert ids(result.items) == ids(items)
    assert result.report.waited_s >= 0.95


def test_a_429_holds_all_windows() -> None:
    items = [thing(1), thing(2, lon=60.0), thing(3, lon=120.0)]
    areas = [Area(name=f"a{lon}", bbox=(lon + 0.2, 50.2, lon + 0.3, 50.3)) for lon in (10.0, 60.0, 120.0)]
    with serving(LoopbackCatalog(items, fault=once(page({}, 429, retry_after="1")))) as catalog:
        start = time.monotonic()
        result = search(StubProvider(catalog.url, max_parallel_windows=1), DAY, areas, policy=QUICK)
    assert len(result.items) == 3
    assert 0.95 <= time.monotonic() - start < 5.0


def test_a_spent_rate_limit_is_respected_before_the_429() -> None:
    items = [thing(number) for number in range(15)]
    times: list[float] = []

    def fault(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        times.append(time.monotonic())
        return (
            page(catalog.document(body), x_ratelimit_remaining="0", x_ratelimit_reset="1")
            if number == 1
            else None
        )

    catalog = LoopbackCatalog(items, fault=fault)
    with serving(catalog):
        search(StubProvider(catalog.url), DAY, AREAS, policy=QUICK)
    assert times[1] - times[0] >= 0.95


@pytest.mark.parametrize("walker", ["rustac", "pager"])
@pytest.mark.parametrize(
    ("reply", "found"),
    [
        ((200, {"content-type": "text/html"}, b"<html><body>Log in</body></html>"), "HTML page"),
        (
            (200, {"content-type": "application/json"}, b'{"type":"FeatureCollection","features":[{"id":'),
            "no complete JSON",
        ),
        ((200, {"content-type": "application/json"}, b'{"type":"Feature"}'), "no FeatureCollection"),
        ((200, {"content-type": "application/json"}, b'{"features":[1]}'), "no objects"),
        ((200, {"content-type": "application/json"}, b"[" * 100_000), "no complete JSON"),
    ],
)
def test_nonsense_is_retried_then_an_error(walker: str, reply: Reply, found: str) -> None:
    with (
        serving(LoopbackCatalog([], fault=always(reply))) as catalog,
        pytest.raises(CatalogError, match=found) as caught,
    ):
        search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
    assert not isinstance(caught.value, CatalogUnavailableError)
    assert len(catalog.log) == 3
    items = [thing(number) for number in range(25)]
    for at in (1, 2, 3):
        with serving(LoopbackCatalog(items, fault=once(reply, at))) as catalog:
            result = search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
        assert ids(result.items) == ids(items)


@pytest.mark.parametrize("walker", ["rustac", "pager"])
def test_a_body_cut_in_the_middle_is_retried(walker: str) -> None:
    items = [thing(number) for number in range(25)]
    whole = json.dumps({"type": "FeatureCollection", "features": []}).encode()
    cut = (200, {"content-type": "application/json", "content-length": "5000"}, whole)
    for at in (1, 2):
        with serving(LoopbackCatalog(items, fault=once(cut, at))) as catalog:
            result = search(StubProvider(catalog.url, walker=walker), DAY, AREAS, policy=QUICK)
        assert ids(result.items) == ids(items)


@pytest.mark.parametrize("walker", ["rustac", "pager"])
def test_a_window_that_times_out_is_halved(walker: str) -> None:
    items = [thing(number) for number in range(0, 1440, 60)]

    def slow_for_long_windows(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        first, last = (datetime.fromisoformat(text) for text in body["datetime"].split("/"))
        if body.get("limit") != 1 and last - first > timedelta(hours=13):
            time.sleep(0.6)
        return None

    policy = RetryPolicy(attempts=2, timeouts=1, base_s=0.01, walk_timeout_s=0.3, deadline_s=30.0)
    with serving(LoopbackCatalog(items, fault=slow_for_long_windows)) as catalog:
        provider = StubProvider(catalog.url, walker=walker, request_timeout_s=0.3)
        result = search(provider, DAY, AREAS, policy=policy)
    assert ids(result.items) == ids(items)
    assert result.report.windows == 2
    assert "halved" in result.report.notes[0]


@pytest.mark.parametrize("walker", ["rustac", "pager"])
def test_a_catalog_that_hangs_ends_in_one_error(walker: str) -> None:
    release = threading.Event()

    def hang(number: int, method: str, body: dict[str, Any]) -> Reply | None:
        release.wait(10.0)
        return None

    policy = RetryPolicy(attempts=2, timeouts=1, base_s=0.01, deadline_s=30.0, floor=timedelta(hours=6))
    with serving(LoopbackCatalog([thing(1)], fault=hang)) as catalog:
        start = time.monotonic()
        with pytest.raises(CatalogUnavailableError, match="shortest that is tried"):
            search(StubProvider(catalog.url, walker=walker, request_timeout_s=0.1), DAY, AREAS, policy=policy)
        took = time.monotonic() - start
        release.set()
    assert took < 5.0


def test_an_answer_that_drips_for_ever_times_out() -> None:
    """A server that sends a byte now and then never trips a read timeout."""
    import socket

    stop = threading.Event()
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(0.05)

    def drip(connection: socket.socket) -> None:
        with connection:
            connection.sendall(
                b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: 100000\r\n\r\n"
            )
            while not stop.wait(0.03):
                try:
                    connection.sendall(b" ")
                except OSError:
                    return

    def accept() -> None:
        while not stop.is_set():
            try:
                connection, _ = listener.accept()
            except TimeoutError:
                continue
            threading.Thread(target=drip, args=(connection,), daemon=True).start()

    thread = threading.Thread(target=accept, daemon=True)
    thread.start()
    policy = RetryPolicy(attempts=2, timeouts=1, base_s=0.01, floor=timedelta(hours=12))
    try:
        with pytest.raises(CatalogUnavailableError, match=r"0\.3 s"):
            search(
                StubProvider(f"http://127.0.0.1:{listener.getsockname()[1]}", request_timeout_s=0.3),
                DAY,
                AREAS,
                policy=policy,
            )
    finally:
        stop.set()
        thread.join(5)
        listener.close()


def test_the_deadline_ends_a_search_that_only_waits() -> None:
    policy = RetryPolicy(attempts=50, base_s=0.01, cap_s=0.02, deadline_s=1.0)
    with serving(LoopbackCatalog([], fault=always(page({}, 429, retry_after="3600")))) as catalog:
        start = time.monotonic()
        with pytest.raises(CatalogUnavailableError, match=r"ran out of time.*429.*asks to wait 3600 s"):
            search(StubProvider(catalog.url), DAY, AREAS, policy=policy)
    assert time.monotonic() - start < 3.0


def test_a_search_that_fails_leaves_no_work_behind() -> None:
    areas = [Area(name=f"a{lon}", bbox=(lon + 0.2, 50.2, lon + 0.3, 50.3)) for lon in (10.0, 60.0, 120.0)]
    with serving(LoopbackCatalog([], fault=once(page({}, 404)), delay=0.05)) as catalog:
        with pytest.raises(CatalogError, match="404"):
            search(StubProvider(catalog.url), DAY, areas, policy=QUICK)
        time.sleep(0.3)
        sent = len(catalog.log)
        time.sleep(0.2)
        assert len(catalog.log) == sent <= 3


def test_no_areas_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="no area"):
        search(StubProvider("http://127.0.0.1:9"), DAY, [])


def test_retry_after_is_read_as_seconds_or_date() -> None:
    now = datetime(2024, 6, 1, 12, tzinfo=UTC)
    later = format_datetime(now + timedelta(seconds=90), usegmt=True)
    earlier = format_datetime(now - timedelta(seconds=90), usegmt=True)
    cases = {
        "7": 7.0,
        " 0.5 ": 0.5,
        later: 90.0,
        earlier: 0.0,
        "-1": None,
        "soon": None,
        "": None,
        "nan": None,
        "inf": None,
    }
    for text, seconds in cases.items():
        assert retry_after({"retry-after": text}, now=now) == seconds, text
    assert retry_after({}) is None


def test_rate_headers() -> None:
    assert exhausted_for({"x-ratelimit-remaining": "0", "x-ratelimit-reset": "12"}) == 12.0
    assert exhausted_for({"x-ratelimit-remaining": "3", "x-ratelimit-reset": "12"}) is None
    assert exhausted_for({"x-ratelimit-limit": "2000;w=60"}) is None
    unix = exhausted_for({"ratelimit-remaining": "0", "ratelimit-reset": str(int(time.time()) + 50)})
    assert unix is not None
    assert 40.0 < unix <= 50.0
