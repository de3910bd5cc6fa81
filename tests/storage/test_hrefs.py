"""Hrefs: what the rules name is resolved, everything else is refused without telling secrets."""

from __future__ import annotations

import re
from urllib.parse import quote, urlsplit

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from geostack_pipeline.errors import HrefRefusedError, SettingsError
from geostack_pipeline.storage.hrefs import AllowList, BucketRule, ContainerRule, HostRule

ALLOWED = AllowList(
    [
        BucketRule.aws("sentinel-cogs", "us-west-2"),
        BucketRule(bucket="eodata", path_hosts=("eodata.dataspace.example",), store_id="cdse"),
        ContainerRule(account="sentinel2l2a01", container="sentinel2-l2"),
        HostRule(host="data.lpdaac.example", prefix="lp-prod-protected", store_id="lpdaac"),
        HostRule(host="download.example"),
        HostRule(host="127.0.0.1", port=8123, scheme="http", store_id="loopback"),
    ]
)
AWS = "https://sentinel-cogs.s3.us-west-2.amazonaws.com"


@pytest.mark.parametrize(
    ("href", "store_id", "key"),
    [
        ("s3://sentinel-cogs/a/b.tif", "s3://sentinel-cogs", "a/b.tif"),
        ("S3://sentinel-cogs/a/b.tif", "s3://sentinel-cogs", "a/b.tif"),
        (f"{AWS}/a/b.tif", "s3://sentinel-cogs", "a/b.tif"),
        ("HTTPS://Sentinel-Cogs.S3.us-west-2.amazonaws.com/a/B.tif", "s3://sentinel-cogs", "a/B.tif"),
        ("https://s3.us-west-2.amazonaws.com/sentinel-cogs/a", "s3://sentinel-cogs", "a"),
        ("https://sentinel-cogs.s3.amazonaws.com/a", "s3://sentinel-cogs", "a"),
        (f"{AWS}/with%20space/%C3%A9%2B+.tif", "s3://sentinel-cogs", "with space/é++.tif"),
        ("https://eodata.dataspace.example/eodata/Sentinel-2/x.jp2", "cdse", "Sentinel-2/x.jp2"),
        (
            "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/10/S/B04.tif",
            "az://sentinel2l2a01/sentinel2-l2",
            "10/S/B04.tif",
        ),
        (
            "abfs://sentinel2-l2@sentinel2l2a01.dfs.core.windows.net/10/S/B04.tif",
            "az://sentinel2l2a01/sentinel2-l2",
            "10/S/B04.tif",
        ),
        ("https://data.lpdaac.example/lp-prod-protected/EMIT/x.nc", "lpdaac", "lp-prod-protected/EMIT/x.nc"),
        ("https://download.example/a", "https://download.example", "a"),
        ("http://127.0.0.1:8123/a", "loopback", "a"),
    ],
)
def test_what_the_rules_name_is_resolved(href: str, store_id: str, key: str) -> None:
    assert ALLOWED.resolve(href) == (store_id, key)


HOSTILE = [
    # another place
    ("https://evil.example/a", "not one of this provider's"),
    ("https://sentinel-cogs.s3.us-west-2.amazonaws.com.evil.example/a", "not one of this provider's"),
    ("https://evil-sentinel-cogs.s3.us-west-2.amazonaws.com/a", "not one of this provider's"),
    ("https://sentinel-cogs.s3.eu-west-1.amazonaws.com/a", "not one of this provider's"),
    ("https://sub.download.example/a", "not one of this provider's"),
    ("https://download.example./a", "malformed host name"),
    ("s3://sentinel-cogs2/a", "not one of this provider's"),
    ("s3://Sentinel-Cogs/a", "not one of this provider's"),
    ("https://s3.us-west-2.amazonaws.com/other-bucket/a", "bucket, container or folder"),
    ("https://s3.us-west-2.amazonaws.com/sentinel-cogs-2/a", "bucket, container or folder"),
    ("https://sentinel2l2a01.blob.core.windows.net/other/a", "bucket, container or folder"),
    ("https://sentinel2l2a01.evil.blob.core.windows.net/sentinel2-l2/a", "not one of this provider's"),
    ("https://other.blob.core.windows.net/sentinel2-l2/a", "not one of this provider's"),
    ("abfs://other@sentinel2l2a01.dfs.core.windows.net/a", "not one of this provider's"),
    ("abfs://sentinel2-l2@evil.dfs.core.windows.net/a", "not one of this provider's"),
    ("https://data.lpdaac.example/other/a", "bucket, container or folder"),
    ("https://data.lpdaac.example/lp-prod-protected2/a", "bucket, container or folder"),
    # other schemes
    ("http://download.example/a", "not one of this provider's"),
    ("file:///etc/passwd", "scheme 'file'"),
    ("memory:///a", "scheme 'memory'"),
    ("ftp://download.example/a", "scheme 'ftp'"),
    ("gs://sentinel-cogs/a", "scheme 'gs'"),
    ("javascript:alert(1)", "no scheme"),
    ("/vsicurl/https://evil.example/a", "no scheme"),
    ("//download.example/a", "no scheme"),
    ("a/b.tif", "no scheme"),
    ("", "no scheme"),
    ("https://download.example", "no scheme"),
    # user info, ports, addresses
    ("https://user:HUSH@download.example/a", "user info"),
    ("https://download.example@evil.example/a", "user info"),
    ("https://user:HU/SH@download.example/a", "not one of this|the port"),
    ("s3://key:HUSH@sentinel-cogs/a", "user info"),
    ("https://download.example:443/a", "the port '443'"),
    ("https://download.example:8443/a", "the port '8443'"),
    ("https://download.example:/a", "the port ''"),
    ("http://127.0.0.1:8124/a", "the port"),
    ("https://127.0.0.1/a", "IP address"),
    ("http://169.254.169.254/latest/meta-data", "IP address"),
    ("https://2130706433/a", "IP address"),
    ("https://0x7f.1/a", "IP address"),
    ("https://10.1/a", "IP address"),
    ("https://[::1]/a", "IP address"),
    ("https://[::ffff:127.0.0.1]/a", "IP address"),
    # queries, fragments
    ("https://download.example/a?sig=HUSH", "a query"),
    ("https://download.example/a?", "a query"),
    ("https://download.example/a#HUSH", "a fragment"),
    # paths
    ("https://download.example/", "an empty part"),
    ("https://download.example//a", "an empty part"),
    ("https://download.example/a//b", "an empty part"),
    ("https://download.example/a/", "an empty part"),
    ("https://download.example/a/../b", "'..'"),
    ("https://download.example/./a", "'.'"),
    ("https://data.lpdaac.example/lp-prod-protected/../other/a", "'..'"),
    ("https://download.example/%2e%2e/a", "%2e"),
    ("https://download.example/.%2E/a", "%2E"),
    ("https://download.example/a%2fb", "%2f"),
    ("https://download.example/a%5cb", "%5c"),
    ("https://download.example/a%252e", "%25"),
    ("https://download.example/a%00b", "%00"),
    ("https://download.example/a%0d%0aHost:x", "%0d"),
    ("https://download.example/a%3Fsig=HUSH", "%3F"),
    ("https://download.example/a%23b", "%23"),
    ("https://download.example/a%zz", "encodes nothing"),
    ("https://download.example/a%", "encodes nothing"),
    ("https://download.example/a%ff", "no UTF-8"),
    ("https://download.example/a%E2%80%AEb", "formatting character"),
    ("https://download.example\\@evil.example/a", "a backslash"),
    ("https://download.example/a\\..\\b", "a backslash"),
    ("s3://sentinel-cogs/a%20b", "percent sign"),
    # characters, lengths
    ("https://download.example/a b", "U+0020"),
    ("https://download.example/a\tb", "U+0009"),
    ("https://download.example/a\nb", "U+000A"),
    ("\x00https://download.example/a", "U+0000"),
    ("https://download.example/\u202ea", "U+202E"),
    ("https://downl\u043ead.example/a", "U+043E"),
    ("https://download.example/" + "a" * 1025, "a key of 1025 bytes"),
    ("https://download.example/" + "a" * 5000, "more than 4096"),
]


@pytest.mark.parametrize(("href", "found"), HOSTILE)
def test_everything_else_is_refused_with_its_reason(href: str, found: str) -> None:
    with pytest.raises(HrefRefusedError) as caught:
        ALLOWED.resolve(href)
    error = caught.value
    assert re.search(found if "|" in found else re.escape(found), error.found), error.found
    assert "HUSH" not in str(error).replace(error.action, "")
    assert len(str(error)) < 600
    assert str(error).isprintable()


def test_a_password_with_a_slash_is_not_shown() -> None:
    with pytest.raises(HrefRefusedError) as caught:
        ALLOWED.resolve("https://user:HU/SH@download.example/a")
    assert "HU" not in caught.value.subject
    assert "SH" not in caught.value.subject


def test_what_is_no_string_is_refused() -> None:
    for href in (None, b"s3://sentinel-cogs/a", 1, {"href": "x"}):
        with pytest.raises(HrefRefusedError):
            ALLOWED.resolve(href)


@given(st.text(max_size=80))
@example("s3://sentinel-cogs/\ud800")
def test_any_text_is_resolved_or_refused(text: str) -> None:
    for href in (
        text,
        f"s3://sentinel-cogs/{text}",
        f"https://{text}/a",
        f"{AWS}/{text}",
        f"{text}://download.example/a",
    ):
        try:
            store_id, key = ALLOWED.resolve(href)
        except HrefRefusedError:
            continue
        assert store_id in {"s3://sentinel-cogs", "https://download.example"}
        assert key
        assert not key.startswith("/")
        assert not {"", ".", ".."} & set(key.split("/"))
        assert not set(key) & set("\\#?%\0")
        assert key.isprintable()


SEGMENT = st.text(st.characters(codec="utf-8", exclude_characters="/\\#?%."), min_size=1, max_size=12).filter(
    str.isprintable
)


@given(st.lists(SEGMENT, min_size=1, max_size=5))
def test_an_encoded_key_is_the_same_key_whichever_form_it_comes_in(parts: list[str]) -> None:
    key = "/".join(parts)
    assume(len(key.encode()) <= 1024)
    encoded = quote(key, safe="/")
    assert ALLOWED.resolve(f"{AWS}/{encoded}") == ("s3://sentinel-cogs", key)
    assert ALLOWED.resolve(f"https://s3.us-west-2.amazonaws.com/sentinel-cogs/{encoded}") == (
        "s3://sentinel-cogs",
        key,
    )
    container = f"https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/{encoded}"
    assert ALLOWED.resolve(container) == ("az://sentinel2l2a01/sentinel2-l2", key)


@given(st.text(alphabet="abc./:@%#?\\[]s3htpe-", max_size=40))
def test_whatever_is_allowed_another_parser_sees_at_an_allowed_host(text: str) -> None:
    href = f"https://{text}"
    try:
        ALLOWED.resolve(href)
    except HrefRefusedError:
        return
    assert urlsplit(href).hostname == "download.example"  # pragma: no cover - reached only if it is allowed


@given(st.sampled_from(["@", ":", "#", "?", "\\", "/../", "//", "%2f", "%00", " "]), st.integers(0, 60))
def test_a_trick_anywhere_in_a_good_href_is_refused_or_harmless(trick: str, place: int) -> None:
    good = f"{AWS}/a/b.tif"
    href = good[:place] + trick + good[place:]
    try:
        store_id, key = ALLOWED.resolve(href)
    except HrefRefusedError:
        return
    # '@' and ':' are ordinary characters within a key.
    assert trick in {"@", ":"}
    assert place > len(AWS)
    assert (store_id, key) == ("s3://sentinel-cogs", href[len(AWS) + 1 :])


def test_the_narrower_of_two_folders_wins_whatever_the_order() -> None:
    wide, narrow = (
        HostRule(host="h.example", store_id="wide"),
        HostRule(host="h.example", prefix="a", store_id="narrow"),
    )
    for rules in ([wide, narrow], [narrow, wide]):
        allowed = AllowList(rules)
        assert allowed.resolve("https://h.example/a/x") == ("narrow", "a/x")
        assert allowed.resolve("https://h.example/b/x") == ("wide", "b/x")


@pytest.mark.parametrize(
    "rule",
    [
        lambda: AllowList([HostRule(host="Upper.example")]),
        lambda: AllowList([HostRule(host="*.example")]),
        lambda: AllowList([HostRule(host="")]),
        lambda: AllowList([BucketRule(bucket="*")]),
        lambda: AllowList([BucketRule(bucket="a/b")]),
        lambda: AllowList([ContainerRule(account="a.b", container="ccc")]),
        lambda: AllowList([ContainerRule(account="abc", container="c/d")]),
        lambda: HostRule(host="download.example", scheme="http"),
        lambda: HostRule(host="10.0.0.1", scheme="http"),
        lambda: AllowList(
            [HostRule(host="h.example", store_id="one"), HostRule(host="h.example", store_id="two")]
        ),
    ],
)
def test_malformed_rules_are_refused(rule) -> None:
    with pytest.raises(SettingsError):
        rule()
