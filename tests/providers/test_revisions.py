"""What CMR changed: every change told once, in order, and never a shorter list."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import emit_loopback
import pytest
from scripted_server import Asked, Say, Server, serving

from geostack_pipeline.errors import (
    AuthError,
    CatalogError,
    CatalogUnavailableError,
    IncompleteSearchError,
    SettingsError,
)
from geostack_pipeline.providers import cmr, registry
from geostack_pipeline.providers.cmr import CmrRevisions
from geostack_pipeline.providers.emit_form import COLLECTIONS
from geostack_pipeline.providers.revisions import Revision, RevisionSource
from geostack_pipeline.sandbox import Sandbox

KINDS = ("cmr_stac", "earthaccess")
ENH = COLLECTIONS["EMITL2BCH4ENH_002"]
NOW = datetime(2024, 7, 1, tzinfo=UTC)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("world")


@pytest.fixture(scope="module")
def nasa(folder: Path) -> Iterator[Sandbox]:
    with emit_loopback.start(folder) as sandbox:
        yield sandbox


def asked(nasa: Sandbox, kind: str, since: datetime, until: datetime | None = None) -> list[Revision]:
    settings = nasa.settings()["providers"][kind]
    provider = emit_loopback.provider(
        nasa,
        kind,
        collections=["EMITL2BCH4ENH_002", "EMITL2BCH4PLM_002"],
        options=settings.get("options", {}),
    )
    assert isinstance(provider, RevisionSource)
    return provider.revisions(since, until or datetime.now(UTC) + timedelta(minutes=1))


@pytest.mark.parametrize("kind", KINDS)
def test_everything_that_is_listed_was_added_once(nasa: Sandbox, kind: str) -> None:
    # The catalog's own report is the oracle; revision dates are days to weeks after the scenes' own.
    listed = {
        name: about
        for name, about in nasa.changes()["listed"].items()
        if "CH4ENH_002" in name or "CH4PLM_002" in name
    }
    found = asked(nasa, kind, datetime(2020, 1, 1, tzinfo=UTC))
    assert {each.item: each.revision_id for each in found} == {
        name: about["revision"] for name, about in listed.items()
    }
    assert [each.revision_date for each in found] == sorted(each.revision_date for each in found)
    for each in found:
        assert each.revision_date == datetime.fromisoformat(listed[each.item]["revised"])
        day = datetime.strptime(each.item.split("_")[4][:8], "%Y%m%d").date()
        assert each.dates == (day,)
        assert each.named == day
        assert not each.deleted
        assert each.bbox is not None
        assert each.bbox[0] < each.bbox[2]
    assert asked(nasa, kind, NOW - timedelta(days=3000), NOW - timedelta(days=2000)) == []


def test_changes_of_a_running_catalog(folder: Path) -> None:
    with Sandbox.start(
        folder, small=True, providers=["cmr_stac"], held=["20240609", "CH4PLM_002_20240606"]
    ) as nasa:
        begin = datetime.now(UTC)
        assert asked(nasa, "cmr_stac", begin) == []
        assert nasa.change("release", "20240609")
        nasa.change("revise", "CH4PLM_002_20240607", label="wrong")
        nasa.change("delete", "CH4ENH_002_20240603")
        changes = asked(nasa, "cmr_stac", begin)
        assert [(each.item[9:24], each.revision_id, each.deleted) for each in changes] == [
            ("CH4ENH_002_2024", 1, False),
            ("CH4PLM_002_2024", 1, False),
            ("CH4PLM_002_2024", 3, False),
            ("CH4ENH_002_2024", None, True),
        ]
        # One release is one instant: two granules share a revision date.
        assert changes[0].revision_date == changes[1].revision_date
        assert changes[3].dates == ()
        assert changes[3].named == date(2024, 6, 3)
        assert len({each.change for each in changes}) == 4
        # A deleted granule that comes back is no deletion any more, and counts on.
        nasa.change("release", "CH4ENH_002_20240603")
        (back,) = (each for each in asked(nasa, "cmr_stac", begin) if each.item == changes[3].item)
        assert (back.revision_id, back.deleted) == (3, False)
        with pytest.raises(SettingsError, match="no such granule"):
            nasa.change("revise", "nothing")
        with pytest.raises(SettingsError, match="no such change"):
            nasa.change("burn", "CH4PLM")


@pytest.mark.parametrize("kind", KINDS)
def test_many_pages_are_one_list(nasa: Sandbox, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = asked(nasa, kind, datetime(2020, 1, 1, tzinfo=UTC))
    for size in (1, 2, 3):
        monkeypatch.setattr(cmr, "PAGE_SIZE", size)
        nasa.clear_log()
        assert asked(nasa, kind, datetime(2020, 1, 1, tzinfo=UTC)) == whole
        pages = [each for each in nasa.log()["entries"] if each["path"].endswith("granules.umm_json")]
        assert len(pages) == sum(-(-n // size) for n in (4, 3))


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ("wrong-count@earthaccess", IncompleteSearchError),
        ("drop-item@earthaccess?count=20", IncompleteSearchError),
        ("repeat-token@earthaccess", IncompleteSearchError),
        ("503@earthaccess", CatalogUnavailableError),
        ("cut@earthaccess", CatalogUnavailableError),
        ("truncated@earthaccess", CatalogError),
        ("html@earthaccess", CatalogError),
        ("403@earthaccess", AuthError),
        ("404@earthaccess", CatalogError),
    ],
)
def test_a_failed_page_is_an_error(
    nasa: Sandbox, fault: str, error: type[Exception], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cmr, "PAGE_SIZE", 2)
    settings = nasa.settings()["providers"]["earthaccess"]
    search = CmrRevisions(settings["url"], subject="earthaccess", sleep=lambda _: None)
    nasa.fault(fault)
    try:
        with pytest.raises(error):
            search.ask([ENH], datetime(2020, 1, 1, tzinfo=UTC), NOW)
    finally:
        nasa.clear_faults()


def test_faults_that_pass_do_not_show(nasa: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cmr, "PAGE_SIZE", 2)
    whole = asked(nasa, "earthaccess", datetime(2020, 1, 1, tzinfo=UTC))
    waits: list[float] = []
    settings = nasa.settings()["providers"]["earthaccess"]
    search = CmrRevisions(settings["url"], subject="earthaccess", sleep=waits.append)
    for fault in ("429?count=2&seconds=7", "cut?count=1&skip=1", "truncated?count=1", "drop-item?count=1"):
        nasa.fault(fault.replace("?", "@earthaccess?"))
    try:
        found = search.ask(
            [ENH, COLLECTIONS["EMITL2BCH4PLM_002"]], datetime(2020, 1, 1, tzinfo=UTC), datetime.now(UTC)
        )
    finally:
        nasa.clear_faults()
    assert found == whole
    assert 7.0 in waits


@pytest.fixture(scope="module")
def script() -> Iterator[Server]:
    with serving() as server:
        yield server


def granule(name: str, revised: str, **more: Any) -> dict[str, Any]:
    return {
        "meta": {"concept-id": f"G{name}", "revision-id": 1, "revision-date": revised, **more},
        "umm": {
            "GranuleUR": name,
            "CollectionReference": {"ShortName": "EMITL2BCH4ENH", "Version": "002"},
        },
    }


def say(content: Any, hits: int, **headers: str) -> Say:
    return Say(body=json.dumps(content).encode(), headers={"CMR-Hits": str(hits), **headers})


COLLECTION = say({"items": [{"meta": {"concept-id": "C1-LPCLOUD"}}]}, 1)
NOTHING = say({"items": []}, 0)


def search(script: Server) -> CmrRevisions:
    return CmrRevisions(script.url, subject="test", sleep=lambda _: None)


def test_what_is_asked_and_what_comes_of_odd_granules(script: Server) -> None:
    moment = datetime.now(UTC).replace(microsecond=0) - timedelta(days=1)
    stamp = moment.strftime("%Y-%m-%dT%H:%M:%S")
    name = "EMIT_L2B_CH4ENH_002_20240609T060433_2416104_011"
    gone = {"granule-ur": name, "concept-id": "G9", "revision-date": f"{stamp}+0000"}
    later = {**gone, "concept-id": "G10", "revision-date": (moment + timedelta(hours=2)).isoformat()}
    script.say(say({"items": [granule("odd", f"{stamp}.250Z")]}, 1), COLLECTION, say([gone, later], 2))
    found = search(script).ask([ENH], moment - timedelta(seconds=0.5), moment + timedelta(seconds=0.5))
    assert [(each.item, each.deleted, each.dates, each.named, each.bbox) for each in found] == [
        (name, True, (), date(2024, 6, 9), None),
        ("odd", False, (), None, None),
    ]
    first, _, third = script.asked
    span = f"{(moment - timedelta(seconds=1)):%Y-%m-%dT%H%%3A%M%%3A%SZ}%2C{(moment + timedelta(seconds=1)):%Y-%m-%dT%H%%3A%M%%3A%SZ}"
    assert f"revision_date%5B%5D={span}" in first.path
    assert "sort_key%5B%5D=revision_date" in first.path
    assert "parent_collection_id=C1-LPCLOUD" in third.path


def test_a_page_that_changes_under_the_walk_is_walked_again(script: Server, monkeypatch: Any) -> None:
    monkeypatch.setattr(cmr, "PAGE_SIZE", 1)
    stamp = "2024-06-30T00:00:00.000Z"
    # The second granule is revised again, after the span, while the pages are walked.
    script.say(
        say({"items": [granule("a", stamp)]}, 2, **{"CMR-Search-After": "1"}),
        say({"items": []}, 1),
        say({"items": [granule("a", stamp)]}, 1, **{"CMR-Search-After": "1"}),
        COLLECTION,
        say([], 0),
    )
    found = search(script).ask([ENH], NOW - timedelta(days=2), datetime.now(UTC))
    assert [each.item for each in found] == ["a"]
    assert script.asked[1].headers["cmr-search-after"] == "1"


@pytest.mark.parametrize(
    ("answers", "message"),
    [
        ([say({"items": [granule("a", "2023-01-01T00:00:00Z")]}, 1)], "not revised in the span"),
        ([say({"items": [granule("a", "soon")]}, 1)], "no list of what"),
        ([say({"items": [{**granule("a", "2024-06-30T00:00:00Z"), "umm": 3}]}, 1)], "no list of what"),
        ([say({"items": 3}, 1)], "no list of what"),
        ([Say(body=b'{"items": []}')], "without a count"),
        ([NOTHING, say({"items": []}, 0)], "exactly one collection"),
        ([NOTHING, COLLECTION, say([{"granule-ur": "a"}], 1)], "no list of what"),
        ([NOTHING, COLLECTION, say([], 2)], "another number of deleted"),
        ([Say(status=302, headers={"Location": "https://user:pw@evil.example/x"})], "to evil.example"),
    ],
)
def test_answers_that_are_refused(script: Server, answers: list[Say], message: str) -> None:
    script.say(*answers)
    with pytest.raises(CatalogError, match=message) as caught:
        search(script).ask([ENH], NOW - timedelta(days=2), datetime.now(UTC))
    assert "pw" not in str(caught.value)


def test_time_runs_out_before_the_attempts_do(script: Server) -> None:
    waited: list[float] = []
    script.say(Say(status=503, headers={"Retry-After": "50"}))
    patient = CmrRevisions(script.url, subject="test", deadline_s=20.0, sleep=waited.append)
    with pytest.raises(CatalogUnavailableError, match=r"1 attempt"):
        patient.ask([ENH], NOW - timedelta(days=2), NOW)
    assert waited == []


def test_deletions_older_than_a_year_are_not_asked_for(script: Server) -> None:
    def answer(request: Asked) -> Say:
        assert "deleted" not in request.path
        return NOTHING

    script.say(answer)
    assert search(script).ask([ENH], NOW - timedelta(days=9), datetime.now(UTC) - timedelta(days=366)) == []


def test_the_option_is_checked() -> None:
    for bad in ("ftp://cmr", "https://user:pw@cmr/search", "cmr"):
        with pytest.raises(SettingsError, match="cmr_url"):
            registry.build_provider("cmr_stac", options={"cmr_url": bad})
