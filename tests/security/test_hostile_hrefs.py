"""One hostile href per rule and provider: refused before any request, in words that repeat no secret."""

from __future__ import annotations

import copy
from typing import Any
from urllib.parse import urlsplit

import pytest

from geostack_pipeline.errors import HrefRefusedError, StorageError
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.registry import build_provider, spec
from geostack_pipeline.storage.blobs import BlobCache
from geostack_pipeline.storage.roots import open_root

PLANTED = "hunter2-planted"
PLACES = {
    "earth_search": "https://sentinel-cogs.s3.us-west-2.amazonaws.com/sentinel-s2-l2a-cogs/31/S/ES/a/B12.tif",
    "planetary_computer": "https://sentinel2l2a01.blob.core.windows.net/sentinel2-l2/31/S/ES/a/B12.tif",
    "cdse": "s3://eodata/Sentinel-2/MSI/L2A/2024/06/01/a.SAFE/B12.jp2",
    "sentinel_hub": "s3://EODATA/Sentinel-2/MSI/L2A/2024/06/01/a.SAFE",
    "cmr_stac": "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/EMITL2BCH4ENH.002/a/a.tif",
    "earthaccess": "https://data.lpdaac.earthdatacloud.nasa.gov/lp-prod-protected/EMITL2BCH4ENH.002/a/a.tif",
    "dlr_geoservice": "https://download.geoservice.dlr.de/ENMAP/files/L2A/a/a.TIF",
    "stac_api": "https://acct01.blob.core.windows.net/cont/a/B04.tif",
}
"""A place of each provider's own."""
OPTIONS: dict[str, dict[str, Any]] = {
    "stac_api": {
        "bands": {"B04": "red"},
        "allow": [{"azure": "acct01/cont"}, {"https": "files.example.org/d"}],
    }
}


def build(key: str) -> Provider:
    logins = {field.name: Secret(f"{PLANTED}-{field.name}") for field in spec(key).credentials}
    needs = {"url": "https://catalog.example.org/v1", "collections": ["c"]} if key == "stac_api" else {}
    return build_provider(key, options=OPTIONS.get(key, {}), credentials=logins, **needs)


def hostile(good: str) -> dict[str, str]:
    """Return rule -> href that breaks it; each is close to one that is fine."""
    parts = urlsplit(good)
    path, host = parts.path, parts.netloc
    account, _, rest = host.partition(".")
    web = "https" if parts.scheme == "s3" else parts.scheme
    return {
        "file": "file:///etc/passwd",
        "file of a host": f"file://{host}{path}",
        "metadata by number": f"http://169.254.169.254{path}",
        "metadata by name": f"http://metadata.google.internal{path}",
        "metadata by https": f"https://169.254.169.254{path}",
        "metadata of six": f"https://[fd00:ec2::254]{path}",
        "user info": f"{parts.scheme}://user:{PLANTED}@{host}{path}",
        "host as user": f"{web}://{host}@evil.example{path}",
        "host in front": f"{web}://{host}.evil.example{path}",
        "host behind": f"{web}://evil-{host}{path}",
        "subdomain": f"{web}://evil.{host}{path}",
        "label in between": f"{web}://{account}.evil.{rest or 'blob.core.windows.net'}{path}",
        "other account": f"{web}://evil{rest and '.'}{rest}{path}",
        "look-alike account": f"https://acct.evil.blob.core.windows.net{path}",
        "trailing dot": f"https://{host}.{path}",
        "homograph": f"https://{host.replace('a', chr(0x430))}{path}",
        "port": f"https://{host}:8443{path}",
        "plain http": f"http://{host}{path}",
        "up": f"{parts.scheme}://{host}/x/../../y{path}",
        "encoded up": f"{parts.scheme}://{host}/%2e%2e{path}",
        "encoded slash": f"{parts.scheme}://{host}{path}%2f..%2f..",
        "twice encoded": f"{parts.scheme}://{host}{path}%252e%252e",
        "backslash": f"{parts.scheme}://{host}\\@evil.example{path}",
        "empty part": f"{parts.scheme}://{host}{path}//b",
        "line feed": f"{parts.scheme}://{host}{path}\nX-Evil: 1",
        "encoded line feed": f"{parts.scheme}://{host}{path}%0d%0aX-Evil",
        "null": f"{parts.scheme}://{host}{path}\x00.tif",
        "bidi": f"{parts.scheme}://{host}{path}\u202egpj",
        "loopback": f"https://127.0.0.1{path}",
        "loopback as number": f"https://2130706433{path}",
        "loopback as hex": f"https://0x7f.1{path}",
        "loopback of six": f"https://[::1]{path}",
        "localhost": f"http://localhost:9000{path}",
        "ten": f"https://10.0.0.1{path}",
        "one seven two": f"https://172.16.0.1{path}",
        "one nine two": f"https://192.168.0.1{path}",
        "fragment": f"{parts.scheme}://{host}{path}#@evil.example",
        "query": f"{parts.scheme}://{host}{path}?sig={PLANTED}",
        "other bucket": "s3://evil-bucket/a.tif",
        "gopher": f"gopher://{host}{path}",
        "data": "data:text/plain,hello",
        "relative": path,
        "no scheme": f"//{host}{path}",
        "long": f"{parts.scheme}://{host}/{'a' * 5000}",
        "empty": "",
    }


RULES = sorted(hostile("https://a.example/b"))


@pytest.mark.parametrize("key", PLACES)
def test_the_place_itself_is_fine(key: str) -> None:
    assert build(key).locate(PLACES[key]).key


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("rule", RULES)
def test_a_hostile_href_is_refused(key: str, rule: str) -> None:
    with pytest.raises(HrefRefusedError) as caught:
        build(key).locate(hostile(PLACES[key])[rule])
    assert PLANTED not in str(caught.value)
    assert PLANTED not in repr(caught.value.__cause__)


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("value", [None, 5, [], {}, b"s3://eodata/a"])
def test_an_href_that_is_no_text_is_refused(key: str, value: Any) -> None:
    with pytest.raises(HrefRefusedError):
        build(key).locate(copy.deepcopy(value))


@pytest.mark.parametrize("key", PLACES)
@pytest.mark.parametrize("name", ["s3://evil", "https://evil.example", "", "../x", "az://acct/evil"])
def test_a_store_that_no_rule_names_is_not_opened(key: str, name: str) -> None:
    with pytest.raises((HrefRefusedError, KeyError)):
        build(key).store(name)


def test_a_symbolic_link_in_the_cache_leads_out_of_it_for_nobody(tmp_path: Any) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    root = tmp_path / "root"
    (root / "blobs").mkdir(parents=True)
    key = BlobCache.key("s3://bucket/key")
    (root / "blobs" / key[:2]).symlink_to(outside)
    file = tmp_path / "data.tif"
    file.write_bytes(b"data")
    cache = BlobCache(open_root(str(root)))
    with pytest.raises(StorageError):
        cache.add(key, file, origin="s3://bucket/key", etag=None, source_size=4, suffix=".tif")
    assert not list(outside.rglob("*")), "the cache wrote through a symbolic link"
