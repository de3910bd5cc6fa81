"""DLR's Geoservice: recorded items, file places, and the login against servers that answer as told."""

from __future__ import annotations

import base64
import copy
import io
import json
import pickle
import re
import threading
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.catalog.scene_table import from_parquet, to_parquet
from geostack_pipeline.errors import AuthError, HrefRefusedError, SettingsError, TransferError
from geostack_pipeline.providers import enmap_items
from geostack_pipeline.providers.cas_pages import cause_of, forms, login_form
from geostack_pipeline.providers.contract import (
    CANONICAL_PROPERTIES,
    Endpoint,
    Provider,
    RejectedItemError,
    SearchWindow,
)
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.dlr_geoservice import FILES, URL, DlrGeoservice
from geostack_pipeline.providers.registry import build_provider, spec
from geostack_pipeline.settings import parse_settings
from tests.providers.cas_loopback import (
    EXECUTION,
    POLICY_PAGE,
    RIGHTS_PAGE,
    Answer,
    Rule,
    Seen,
    Server,
    login_page,
    serving,
)

USER, PASSWORD = "someone", "Pa55&word+/="
LOGIN = {"username": Secret(USER), "password": Secret(PASSWORD)}
ID = "ENMAP01-____L2A-DT0000140097_20250708T104407Z_001_V010502_20250709T035921Z"


def _recorded(shared: Path) -> list[dict[str, Any]]:
    folder = shared / "samples" / "dlr-eoc"
    read = {path.name: json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("*.json")}
    return [
        read["enmap_l2a.item_2024.json"],
        *read["enmap_l2a.items_2026style.json"]["features"],
        *read["search_mixed_enmap_2025.exchange.json"]["json"]["features"],
    ]


def _item(**properties: Any) -> dict[str, Any]:
    href = f"{FILES}/ENMAP/files/L2A/2025/07/08/DT0000140097/01/{ID}"
    return {
        "type": "Feature",
        "id": ID,
        "collection": "ENMAP_HSI_L2A",
        "geometry": {
            "type": "Polygon",
            "coordinates": [[[14.0, 57.0], [14.1, 56.0], [15.0, 56.0], [15.1, 57.0], [14.0, 57.0]]],
        },
        "bbox": [14.0, 56.0, 15.1, 57.0],
        "properties": {"datetime": "2025-07-08T10:44:07Z", "eo:cloud_cover": "72", **properties},
        "assets": {
            "image": {"href": f"{href}-SPECTRAL_IMAGE_COG.TIF", "proj:epsg": 32633},
            "metadata": {"href": f"{href}-METADATA.XML"},
        },
        "links": [],
    }


# -- items ----------------------------------------------------------------------------------------


def test_every_recorded_item_is_canonical_and_the_mixed_set_is_one_table(shared_dir: Path) -> None:
    provider = DlrGeoservice()
    raw = _recorded(shared_dir)
    items = [provider.canonical(item) for item in raw]
    assert len(items) == 10
    assert {type(item["properties"]["eo:cloud_cover"]) for item in raw} == {str, int}
    for item in items:
        assert provider.canonical(item) == item
        for name, kind in CANONICAL_PROPERTIES.items():
            value = item["properties"][name]
            assert value is None or type(value) is kind, (name, value)
    files = to_parquet(items, provider.template())
    assert list(files) == ["scenes.parquet"], "drifting types share one table"
    back = {item["id"]: item for item in from_parquet(files["scenes.parquet"])}
    assert back == {item["id"]: item for item in items}


def test_nothing_of_a_recorded_item_is_lost(shared_dir: Path) -> None:
    provider = DlrGeoservice()
    for raw in _recorded(shared_dir):
        item = provider.canonical(raw)
        extra = json.loads(item["properties"]["geostack:extra"])
        for name, value in raw["properties"].items():
            if value is None:
                continue
            kept = extra.get(f"/properties/{name}", item["properties"].get(name))
            assert kept is not None, name
            if isinstance(value, int | float):
                assert float(kept) == float(value), name
        kept_files = {asset["href"] for asset in item["assets"].values()}
        kept_files |= {
            asset["href"] for key, asset in extra.items() if key.count("/") == 2 and "/assets/" in key
        }
        assert kept_files == {asset["href"] for asset in raw["assets"].values()}


def test_the_image_of_224_bands_becomes_four_short_columns(shared_dir: Path) -> None:
    raw = _recorded(shared_dir)[0]
    item = DlrGeoservice().canonical(raw)
    image = item["assets"]["SPECTRAL_IMAGE"]
    bands = raw["assets"]["image"]["eo:bands"]
    assert len(bands) == 224
    assert image["enmap:wavelength_nm"] == [band["center_wavelength"] for band in bands]
    assert image["enmap:fwhm_nm"] == [band["full_width_half_max"] for band in bands]
    assert set(image["enmap:gain"]) == {0.0001}
    assert "eo:bands" not in image
    assert not [key for key in json.loads(item["properties"]["geostack:extra"]) if "eo:bands" in key]
    assert image["raster:bands"] == [{"nodata": -32768.0, "offset": 0.0, "scale": 0.0001}]


def test_the_table_stays_small(shared_dir: Path) -> None:
    provider = DlrGeoservice()
    raw = _recorded(shared_dir)
    items = [provider.canonical(item) for item in raw if item["collection"] == "ENMAP_HSI_L2A"]
    one = to_parquet(items[:1], provider.template())["scenes.parquet"]
    all_of_them = to_parquet(items, provider.template())["scenes.parquet"]
    assert pq.ParquetFile(io.BytesIO(one)).metadata.num_columns < 300
    assert len(json.dumps(raw[0])) > 40_000
    assert (len(all_of_them) - len(one)) / (len(items) - 1) < 6_000, "bytes that one more item costs"


def test_bands_that_a_list_would_not_hold_are_kept_as_they_are() -> None:
    item = _item()
    item["assets"]["image"]["eo:bands"] = [
        {"name": 1, "center_wavelength": 418.4},
        {"name": 2, "center_wavelength": 424.0},
    ]
    found = DlrGeoservice().canonical(item)
    extra = json.loads(found["properties"]["geostack:extra"])
    assert extra["/assets/image/eo:bands"] == item["assets"]["image"]["eo:bands"]


@pytest.mark.parametrize(
    ("properties", "name", "expected"),
    [
        ({"eo:cloud_cover": "72"}, "eo:cloud_cover", 72.0),
        ({"eo:cloud_cover": 72}, "eo:cloud_cover", 72.0),
        ({"eo:cloud_cover": "cloudy"}, "eo:cloud_cover", None),
        ({"proj:epsg": None}, "proj:code", "EPSG:32633"),
        ({"sat:relative_orbit": "17597"}, "sat:relative_orbit", 17597),
        ({"platform": "EnMAP"}, "platform", "enmap"),
        ({"view:sun_azimuth": 351.08, "enmap:sunAzimuthAngle": "171.08"}, "view:sun_azimuth", 171.08),
        ({"enmap:sunElevationAngle": "55.31"}, "view:sun_elevation", 55.31),
        ({}, "processing:baseline", "01.05.02"),
        ({}, "processing:datetime", "2025-07-09T03:59:21.000000Z"),
        ({}, "geostack:scene", "ENMAP_DT0000140097_001"),
        ({}, "geostack:product", "ENMAP_HSI_L2A"),
    ],
)
def test_what_the_catalog_writes_in_several_ways(properties: Any, name: str, expected: Any) -> None:
    assert DlrGeoservice().canonical(_item(**properties))["properties"].get(name) == expected


def test_a_text_that_is_no_number_is_kept_as_text() -> None:
    found = DlrGeoservice().canonical(_item(**{"raster:nodata": "null", "eo:cloud_cover": "cloudy"}))
    extra = json.loads(found["properties"]["geostack:extra"])
    assert extra == {"/properties/raster:nodata": "null", "/properties/eo:cloud_cover": "cloudy"}


def test_the_view_angle_is_that_of_the_ground() -> None:
    found = DlrGeoservice().canonical(
        _item(**{"enmap:acrossOffNadirAngle": "26.1770955445", "enmap:alongOffNadirAngle": "0"})
    )["properties"]
    # By vectors: from a satellite 653 km up, along the line of sight, to the sphere.
    satellite, tilt = np.array([0.0, 6371.0 + 653.0]), np.radians(26.1770955445)
    sight = np.array([np.sin(tilt), -np.cos(tilt)])
    reach = -satellite @ sight - np.sqrt((satellite @ sight) ** 2 - satellite @ satellite + 6371.0**2)
    ground = satellite + reach * sight
    expected = np.degrees(np.arccos(-sight @ ground / 6371.0))
    assert found["view:off_nadir"] == pytest.approx(26.1770955, abs=1e-6)
    assert found["view:incidence_angle"] == pytest.approx(expected, abs=1e-5)


@pytest.mark.parametrize(
    ("item", "reason"),
    [
        ({**_item(), "collection": "DESIS_HSI_L2A"}, "collection"),
        ({**_item(), "id": "something else"}, "scene"),
        (_item(datetime="yesterday"), "datetime"),
        ({**_item(), "geometry": None}, "geometry"),
        ({**_item(), "assets": {}}, "assets"),
    ],
)
def test_what_is_no_enmap_scene_is_rejected_with_a_reason(item: Any, reason: str) -> None:
    with pytest.raises(RejectedItemError) as caught:
        DlrGeoservice().canonical(item)
    assert caught.value.reason == reason


def test_a_scene_is_also_known_by_its_properties() -> None:
    item = _item(**{"enmap:datatakeID": "0000140097", "enmap:tileID": "01"})
    item["id"] = "renamed"
    assert DlrGeoservice().canonical(item)["properties"]["geostack:scene"] == "ENMAP_DT0000140097_001"


_JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@given(
    where=st.sampled_from(
        [
            ("properties", "datetime"),
            ("properties", "eo:cloud_cover"),
            ("properties", "proj:code"),
            ("properties", "platform"),
            ("properties", "enmap:sunAzimuthAngle"),
            ("properties", "enmap:nodata"),
            ("assets", "image", "proj:epsg"),
            ("assets", "image", "eo:bands"),
            ("assets", "image", "href"),
            ("assets", "image", "raster:bands"),
            ("assets", "metadata"),
            ("assets",),
            ("id",),
            ("bbox",),
        ]
    ),
    value=_JSON,
)
@settings(max_examples=150)
def test_a_spoiled_item_is_canonical_or_rejected_and_canonical_stays(where: Any, value: Any) -> None:
    provider = DlrGeoservice()
    item: Any = copy.deepcopy(_item(**{"view:sun_azimuth": 1.0}))
    holder = item
    for part in where[:-1]:
        holder = holder[part]
    holder[where[-1]] = value
    try:
        found = provider.canonical(item)
    except RejectedItemError as error:
        found = None
        reason = error.reason
    if found is None:
        assert reason
    else:
        assert provider.canonical(found) == found


# -- settings, places, wants ----------------------------------------------------------------------


def test_it_is_a_provider_and_says_what_it_wants() -> None:
    provider = build_provider("dlr_geoservice")
    assert isinstance(provider, Provider)
    assert spec("dlr_geoservice").product.kind == "swath"
    item = provider.canonical(_item())
    wants = [(want.asset, want.how) for want in provider.wants(item, ("SPECTRAL_IMAGE", "QUALITY_CLASSES"))]
    assert wants == [("SPECTRAL_IMAGE", "window"), ("QUALITY_CLASSES", "whole"), ("METADATA", "whole")]


def test_the_image_of_level_1b_is_one_per_detector() -> None:
    item = _item()
    base = item["assets"]["image"]["href"].removesuffix("SPECTRAL_IMAGE_COG.TIF")
    item["collection"] = "ENMAP_HSI_L1B"
    item["assets"] = {
        "data_vnir": {"href": f"{base}SPECTRAL_IMAGE_VNIR.TIF"},
        "data_swir": {"href": f"{base}SPECTRAL_IMAGE_SWIR.TIF"},
        "metadata": {"href": f"{base}METADATA.XML"},
    }
    provider = DlrGeoservice(collections=("ENMAP_HSI_L1B",))
    found = provider.canonical(item)
    assert [(want.asset, want.how) for want in provider.wants(found, ("SPECTRAL_IMAGE",))] == [
        ("SPECTRAL_IMAGE_VNIR", "whole"),
        ("SPECTRAL_IMAGE_SWIR", "whole"),
        ("METADATA", "whole"),
    ]
    assert found["properties"]["geostack:radiometry"] == enmap_items.FILE


def test_a_search_has_a_box_a_filter_and_no_query() -> None:
    window = SearchWindow(
        start=datetime(2024, 6, 7, tzinfo=UTC),
        end=datetime(2024, 6, 8, tzinfo=UTC),
        bbox=(53.0, 38.0, 54.0, 39.0),
    )
    plain = build_provider("dlr_geoservice").search_body(window)
    assert plain == {
        "collections": ["ENMAP_HSI_L2A"],
        "bbox": [53.0, 38.0, 54.0, 39.0],
        "datetime": "2024-06-07T00:00:00Z/2024-06-08T00:00:00Z",
    }
    cloud = {"op": "<", "args": [{"property": "eo:cloud_cover"}, 50]}
    asked = build_provider("dlr_geoservice", options={"filter": cloud}).search_body(window)
    assert asked == {**plain, "filter": cloud, "filter-lang": "cql2-json"}
    text = build_provider("dlr_geoservice", options={"filter": '"eo:cloud_cover" < 50'}).search_body(window)
    assert text["filter-lang"] == "cql2-text"


@pytest.mark.parametrize(
    "given",
    [
        {"collections": ["DESIS_HSI_L2A"]},
        {"endpoints": {"sso": Endpoint(url="https://x.example")}},
        {"endpoints": {"cas": Endpoint(url="http://127.0.0.1:1/x")}},
        {"endpoints": {"files": Endpoint(url="https://u:p@x.example")}},
        {"options": {"login": "digest"}},
        {"options": {"unknown": 1}},
    ],
)
def test_wrong_settings_are_refused_by_name(given: Any) -> None:
    with pytest.raises(SettingsError, match="dlr_geoservice"):
        build_provider("dlr_geoservice", **given)


def test_the_three_layouts_of_file_addresses_lead_to_the_one_store(shared_dir: Path) -> None:
    provider = DlrGeoservice()
    layouts = set()
    for raw in _recorded(shared_dir):
        for asset in raw["assets"].values():
            ref = provider.locate(asset["href"])
            assert ref.store_id == FILES
            assert f"{FILES}/{ref.key}" == asset["href"] == ref.canonical
            layouts.add((ref.key.split("/")[2], ref.key.count("/")))
    assert layouts == {("L2A", 8), ("L2A", 9), ("L0", 6)}


@pytest.mark.parametrize(
    "href",
    [
        "file:///etc/passwd",
        "http://169.254.169.254/ENMAP/files/x",
        "https://user:pw@download.geoservice.dlr.de/ENMAP/files/x",
        "https://download.geoservice.dlr.de.evil.example/ENMAP/files/x",
        "https://download.geoservice.dlr.de:8443/ENMAP/files/x",
        "https://download.geoservice.dlr.de/ENMAP/files/../../etc",
        "https://download.geoservice.dlr.de/ENMAP/files/%2e%2e/x",
        "https://download.geoservice.dlr.de/DESIS/files/x.tif",
        "https://download.geoservice.dlr.de/ENMAP/files/x?ticket=1",
        "http://download.geoservice.dlr.de/ENMAP/files/x",
        "s3://download/ENMAP/files/x",
    ],
)
def test_any_other_place_is_refused(href: str) -> None:
    with pytest.raises(HrefRefusedError):
        DlrGeoservice(credentials=LOGIN).locate(href)


# -- the login ------------------------------------------------------------------------------------


class Site:
    """A download server behind a CAS login, as the real ones were found."""

    def __init__(self) -> None:
        self.sessions: set[str] = set()
        self.logins = 0
        self.cas_url = self.files_url = ""
        self.after_password: Answer | None = None

    def cas(self, seen: Seen) -> Answer:
        if seen.method == "GET":
            return Answer(body=login_page(), cookies=("CASID=cas-only; Path=/",))
        sent = {name: values[0] for name, values in seen.form.items()}
        if set(sent) != {"username", "password", "execution", "_eventId"} or sent["_eventId"] != "submit":
            return Answer(status=302, headers={"Location": "https://eo-lab.example/"})
        if sent["execution"] != EXECUTION or (sent["username"], sent["password"]) != (USER, PASSWORD):
            failed = "<h2>Authentication Failure</h2><p>Authentication attempt has failed.</p>"
            return Answer(status=401, body=login_page(failed))
        if self.after_password is not None:
            return self.after_password
        self.logins += 1
        service = seen.query["service"][0]
        return Answer(status=302, headers={"Location": f"{service}?ticket=ST-{self.logins}"})

    def files(self, seen: Seen) -> Answer:
        if any(f"SESSION={session}" in seen.cookie for session in self.sessions):
            if seen.path.endswith("/"):
                return Answer(body="<html><h1>Index</h1></html>")
            return Answer(body="pixels", headers={"Content-Type": "image/tiff"})
        here = f"{self.files_url}{seen.path}"
        if "ticket" in seen.query:
            session = f"s{seen.query['ticket'][0]}"
            self.sessions.add(session)
            return Answer(
                status=302, headers={"Location": here}, cookies=(f"SESSION={session}; Path=/ENMAP; HttpOnly",)
            )
        login = f"{self.cas_url}/eoc/auth/login?service={quote(here, safe='')}"
        return Answer(status=302, headers={"Location": login})


def _site(site: Site, servers: list[Server], **more: Any) -> DlrGeoservice:
    site.cas_url, site.files_url = servers[0].url, servers[1].url
    options = {"credentials": LOGIN, **more}
    made = build_provider(
        "dlr_geoservice",
        endpoints={
            "cas": Endpoint(url=f"{servers[0].url}/eoc/auth", allow_http=True),
            "files": Endpoint(url=servers[1].url, allow_http=True),
        },
        **options,
    )
    assert isinstance(made, DlrGeoservice)
    return made


def _always(answer: Answer) -> Rule:
    return lambda _: answer


def _read(provider: DlrGeoservice) -> bytes:
    return bytes(provider.store(FILES).get("ENMAP/files/L2A/x.TIF").bytes())


def test_the_form_is_filled_in_and_the_cookie_opens_the_files() -> None:
    site = Site()
    with serving(site.cas, site.files) as servers:
        provider = _site(site, servers)
        assert servers[0].seen == servers[1].seen == [], "building requests nothing"
        assert _read(provider) == b"pixels"
        assert _read(provider) == b"pixels"
        assert site.logins == 1, "one session for all files"
        cas, files = servers
        assert [seen.method for seen in cas.seen] == ["GET", "POST"]
        assert cas.seen[1].form["password"] == [PASSWORD]
        assert "CASID=cas-only" in cas.seen[1].cookie
        assert not any(PASSWORD in seen.text or "CASID" in seen.text for seen in files.seen)
        assert not any("SESSION" in seen.cookie for seen in cas.seen)


def test_an_expired_session_is_renewed_once_for_all_threads() -> None:
    site = Site()
    with serving(site.cas, site.files) as servers:
        provider = _site(site, servers)
        assert _read(provider) == b"pixels"
        site.sessions.clear()
        assert _read(provider) != b"pixels", "the login page comes instead"
        threads = [threading.Thread(target=provider.renew, args=(FILES,)) for _ in range(6)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert provider.renew(FILES) is True
        assert _read(provider) == b"pixels"
        assert site.logins == 2
        assert provider.renew(None) is False, "the search has no login"


@pytest.mark.parametrize(
    ("page", "status", "said", "next_action"),
    [
        (RIGHTS_PAGE, 200, "lacks the right", "EnMAP Access Service"),
        (POLICY_PAGE, 200, "usage policy", "accept the policy"),
        (login_page("<p>Your account is locked. Call us.</p>"), 401, "refused", "DLR_PASSWORD"),
        ("<html><title>Renew your consent</title><body>Hm</body></html>", 200, "another way", "browser"),
    ],
)
def test_what_stands_in_the_way_after_the_password_is_named(
    page: str, status: int, said: str, next_action: str
) -> None:
    site = Site()
    site.after_password = Answer(status=status, body=page)
    with serving(site.cas, site.files) as servers, pytest.raises(AuthError, match=said) as caught:
        _read(_site(site, servers))
    assert next_action in str(caught.value)
    assert len([seen for seen in servers[0].seen if seen.method == "POST"]) == 1, (
        "nothing is agreed to for anyone"
    )
    assert PASSWORD not in str(caught.value) + repr(caught.value)


def test_a_wrong_password_is_an_auth_error_that_names_the_variables() -> None:
    site = Site()
    wrong = {"username": Secret(USER), "password": Secret("another-secret")}
    with serving(site.cas, site.files) as servers, pytest.raises(AuthError, match="refused") as caught:
        _read(_site(site, servers, credentials=wrong))
    assert "DLR_USERNAME" in str(caught.value)
    assert "Authentication attempt has failed" in str(caught.value)
    assert "another-secret" not in str(caught.value)


def test_without_a_login_files_need_one_and_nothing_is_asked() -> None:
    site = Site()
    with serving(site.cas, site.files) as servers:
        provider = _site(site, servers, credentials={})
        with pytest.raises(AuthError, match="DLR_USERNAME, DLR_PASSWORD not set"):
            provider.store(FILES)
        assert servers[1].seen == []


def test_a_login_that_leads_elsewhere_is_not_followed_and_sees_no_secret() -> None:
    """Each hop is checked: a redirect, a form's address, a ticket for another host."""
    with serving(lambda _: Answer(body="ok")) as (evil,):
        here = evil.url
        pages = {
            "redirect before the form": Answer(status=302, headers={"Location": f"{here}/login"}),
            "form of another server": Answer(
                body=login_page().replace('action="login"', f'action="{here}/x"')
            ),
        }
        for what, answer in pages.items():
            site = Site()
            with (
                serving(_always(answer), site.files) as servers,
                pytest.raises(AuthError) as caught,
            ):
                _read(_site(site, servers))
            assert here in str(caught.value), what
        site = Site()
        site.after_password = Answer(status=302, headers={"Location": f"{here}/x?ticket=ST-1"})
        with serving(site.cas, site.files) as servers, pytest.raises(AuthError, match="redirect to"):
            _read(_site(site, servers))
        assert evil.seen == []


def test_a_file_that_redirects_to_another_host_takes_no_cookie_there() -> None:
    with serving(lambda _: Answer(body="elsewhere")) as (evil,):
        site = Site()
        target = evil.url

        def files(seen: Seen) -> Answer:
            if seen.path.endswith("moved.TIF"):
                return Answer(status=302, headers={"Location": f"{target}/moved.TIF"})
            return site.files(seen)

        with serving(site.cas, files) as servers:
            store = _site(site, servers).store(FILES)
            assert bytes(store.get("ENMAP/files/L2A/moved.TIF").bytes()) == b"elsewhere"
        assert len(evil.seen) == 1
        assert evil.seen[0].cookie == evil.seen[0].authorization == ""


def test_a_server_that_fails_is_asked_again_and_then_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("geostack_pipeline.providers.cas.time.sleep", lambda _: None)
    site, failures = Site(), [2]

    def cas(seen: Seen) -> Answer:
        if failures[0]:
            failures[0] -= 1
            return Answer(status=503, headers={"Retry-After": "1"})
        return site.cas(seen)

    with serving(cas, site.files) as servers:
        assert _read(_site(site, servers)) == b"pixels"
        failures[0] = 99
        with pytest.raises(TransferError, match="does not answer") as caught:
            _read(_site(site, servers))
        assert caught.value.retryable


def test_basic_is_there_for_those_whose_server_takes_it() -> None:
    def files(seen: Seen) -> Answer:
        pair = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
        return Answer(body="pixels") if seen.authorization == f"Basic {pair}" else Answer(status=403)

    with serving(lambda _: Answer(), files) as servers:
        provider = _site(Site(), servers, options={"login": "basic"})
        assert _read(provider) == b"pixels"
        assert provider.renew(FILES) is False
        assert servers[0].seen == [], "no form"
        assert "cas" in str(provider.explain_page(login_page().encode(), "x"))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        (login_page(), "login page came instead"),
        (RIGHTS_PAGE, "lacks the right"),
        (POLICY_PAGE, "usage policy"),
        ("<!DOCTYPE html><html><body>something new</body></html>", "login page came instead"),
    ],
)
def test_a_page_in_place_of_a_file_is_a_login_that_failed(page: str, said: str) -> None:
    error = DlrGeoservice(credentials=LOGIN).explain_page(page.encode(), "dlr item x")
    assert isinstance(error, AuthError)
    assert said in str(error)
    assert error.subject == "dlr item x"


def test_forms_are_kept_apart_and_boxes_left_alone() -> None:
    form = login_form(login_page())
    assert form is not None
    assert form.fields == {"username": "", "password": "", "execution": EXECUTION, "_eventId": "submit"}
    assert len(forms(login_page())) == 2
    assert login_form("<form><input name=username><input name=password></form>") is None
    assert cause_of("<html><h1>Index of /ENMAP/files</h1><a href='terms-of-use.txt'>x</a></html>") is None


@given(st.text(max_size=300) | st.text("<>/form input name=execution\"'", max_size=200))
def test_any_page_is_read_without_an_error(page: str) -> None:
    assert cause_of(page) in {None, "rights", "policy", "password", "login"}


def test_no_secret_is_shown_or_pickled() -> None:
    site = Site()
    with serving(site.cas, site.files) as servers:
        provider = _site(site, servers)
        assert _read(provider) == b"pixels"
        shown = repr(provider) + repr(vars(provider)) + repr(provider._session and vars(provider._session))
        assert PASSWORD not in shown
        assert "SESSION" not in shown
        with pytest.raises(TypeError):
            pickle.dumps(provider)


def test_the_documented_settings_are_settings() -> None:
    text = (Path(__file__).parents[2] / "docs" / "providers" / "dlr_geoservice.md").read_text(
        encoding="utf-8"
    )
    usual, radiance = (
        parse_settings(yaml.safe_load(block)) for block in re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    )
    assert usual.build_provider("dlr_geoservice", {}).collections == ("ENMAP_HSI_L2A",)
    assert usual.provider("dlr_geoservice").bands == spec("dlr_geoservice").product.default_bands
    assert radiance.build_provider("dlr_geoservice", {}).collections == ("ENMAP_HSI_L1B", "ENMAP_HSI_L1C")


def test_the_public_address_is_the_default() -> None:
    assert build_provider("dlr_geoservice").url == URL
