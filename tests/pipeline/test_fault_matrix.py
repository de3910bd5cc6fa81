"""Every catalog with every fault: the same items after all, or one named error; never fewer items than there are."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from geostack_pipeline.errors import GeostackError, HrefRefusedError
from geostack_pipeline.providers.contract import Item, Provider
from geostack_pipeline.sandbox.config import PROVIDERS
from geostack_pipeline.storage.retry import Retry
from geostack_pipeline.storage.roots import CLIENT_OPTIONS
from tests.every_provider import Every, by_password, ids, text

PASSING = (
    "429?count=2&seconds=0.1",
    "503?count=1&seconds=0.1",
    "500?count=1",
    "cut?count=1",
    "truncated?count=1",
    "html?count=1",
    "hang?count=1&seconds=30",
    "drip?count=1&seconds=30",
    "wrong-count?count=1",
    "drop-item?count=1",
    "repeat-token?count=1",
)
"""Faults of a search that pass: it ends with the items that there are."""

STAYING = (
    "429?seconds=0.1",
    "503",
    "400",
    "401",
    "403",
    "404",
    "cut",
    "truncated",
    "html",
    "hang?seconds=30",
)
"""Faults of a search that stay: it ends in a named error."""

SPOILED = (
    "missing-geometry",
    "null-geometry",
    "missing-bbox",
    "missing-datetime",
    "missing-asset",
    "hostile-href",
    "type-drift",
    "wrong-offset-flag",
)
"""Items that are not as they should be: each is kept or rejected with a reason, and none is lost."""

WIRE = (
    "429?count=1&seconds=0.1",
    "503?count=1",
    "500?count=2",
    "cut?count=1",
    "truncated?count=1",
    "html?count=1",
    "hang?count=1&seconds=30",
    "drip?count=1&seconds=2",
    "expired-login",
    "revoked-token?count=1",
    "429",
    "503",
    "403",
    "404",
    "html",
    "truncated",
)
"""Faults of a server of files or logins: the same bytes after all, or a named error."""

SERVERS = {
    "earth_search": ["sentinel-cogs"],
    "planetary_computer": ["pc-blob", "pc-sas"],
    "cdse": ["eodata"],
    "sentinel_hub": ["sh-api", "sh-auth"],
    "cmr_stac": ["lp-prod-protected", "daac", "cloudfront", "edl"],
    "earthaccess": ["lp-prod-protected", "daac", "cloudfront", "edl"],
    "dlr_geoservice": ["dlr-files", "cas"],
    "stac_api": ["stac-files"],
}
"""Which servers a provider's files and logins come from."""

MAY_END = frozenset({"truncated", "html", "revoked-token"})
"""Faults of a server that end a fetch even though they pass: the answer is whole as far as HTTP can tell."""

WEB = frozenset({("cmr_stac", "daac"), ("cmr_stac", "cloudfront"), ("earthaccess", "cloudfront")})
"""Where files are fetched by HTTPS; else from the bucket, with keys that the archive gives."""

UNPROMISED = frozenset(
    {
        ("truncated", "cmr_stac", "lp-prod-protected"),
        ("truncated", "cmr_stac", "cloudfront"),
    }
)
"""Where nobody can tell that half a file is not all of it, but the reader of the file."""

UNCOUNTED = frozenset({"planetary_computer", "cdse", "sentinel_hub"})
"""Catalogs that do not say how many items match."""


@pytest.fixture
def every(every_provider: Every) -> Iterator[Every]:
    every_provider.sandbox.clear_faults()
    yield every_provider
    every_provider.sandbox.clear_faults()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> Callable[[], None]:
    """Return what makes the test wait for files and logins for moments, not for minutes, from then on.

    Not from the start: what nothing is wrong with may take its time on a busy machine, a first picture above all.
    """

    def begin() -> None:
        monkeypatch.setattr(Retry, "wait_s", lambda _, __: 0.02)
        monkeypatch.setitem(CLIENT_OPTIONS, "read_timeout", "2s")
        monkeypatch.setitem(CLIENT_OPTIONS, "timeout", "20s")
        for module, name, seconds in (
            ("oauth", "TIMEOUT_S", 2.0),
            ("azure_sas", "_TIMEOUT_S", 2.0),
            ("cas", "TIMEOUT_S", 2.0),
            ("earthdata_tokens", "TIMEOUT_S", 2.0),
            ("sentinel_hub_process", "TIMEOUT", 5.0),
        ):
            place = importlib.import_module(f"geostack_pipeline.providers.{module}")
            monkeypatch.setattr(place, name, seconds)

    return begin


_baselines: dict[str, Any] = {}


def baseline(every: Every, key: str) -> Any:
    """Return what a catalog has while nothing is wrong: two items, so that there are pages, but of EnMAP one."""
    if key not in _baselines:
        _baselines[key] = every.normalised(every.provider(key))
        assert len(_baselines[key].items) > (key != "dlr_geoservice")
    return _baselines[key]


def named(error: GeostackError) -> GeostackError:
    """Check that an error says what it is about and what to do."""
    assert error.subject
    assert error.action
    return error


def search_with(every: Every, key: str, fault: str, *, timeout_s: float = 10.0) -> Any:
    """Return a search's result, or the named error that it ends in, while the catalog shows a fault."""
    whole = baseline(every, key)
    kind, _, options = fault.partition("?")
    every.sandbox.fault(f"{kind}@{key}?{options}")
    try:
        found = every.normalised(every.provider(key, timeout_s=timeout_s, page=1))
    except GeostackError as error:
        return named(error)
    finally:
        left = every.sandbox.faults()
        every.sandbox.clear_faults()
    assert all(one["count"] is None for one in left), "the fault did not show"
    assert ids(found) == ids(whole), "fewer or other items than the catalog has"
    assert all(one.reason and one.detail for one in found.rejected)
    return found


def passes(every: Every, key: str, fault: str) -> None:
    slow = fault.startswith(("hang", "drip"))
    found = search_with(every, key, fault, timeout_s=1.5 if slow else 10.0)
    if isinstance(found, GeostackError):
        raise found
    assert text(found.items) == text(baseline(every, key).items)


def spoils(every: Every, key: str, fault: str) -> None:
    found = search_with(every, key, fault)
    if isinstance(found, GeostackError):
        return
    whole = {item["id"]: item for item in baseline(every, key).items}
    provider = every.provider(key)
    hostile = 0
    for item in found.items:
        if fault == "hostile-href":
            hostile += _refuses(provider, item)
        elif fault in {"missing-bbox", "type-drift", "wrong-offset-flag"}:
            assert item["geometry"] == whole[item["id"]]["geometry"]
            assert item["properties"]["datetime"] == whole[item["id"]]["properties"]["datetime"]
    if fault == "hostile-href" and len(found.items) == len(whole):
        assert hostile


def _refuses(provider: Any, item: Item) -> bool:
    """Whether an asset of an item leads to a place that the provider refuses."""
    refused = False
    for asset in item["assets"]:
        try:
            provider.routes(item, asset)
        except HrefRefusedError as error:
            refused = refused or "169.254.169.254" in str(error)
    return refused


FAST = [(key, fault) for key in PROVIDERS for fault in ("429?count=1&seconds=0.1", "truncated?count=1")]


@pytest.mark.parametrize(("key", "fault"), FAST)
def test_a_fault_that_passes_costs_no_item(every: Every, key: str, fault: str) -> None:
    passes(every, key, fault)


@pytest.mark.parametrize("key", PROVIDERS)
def test_an_item_without_a_place_is_accounted_for(every: Every, key: str) -> None:
    spoils(every, key, "null-geometry")
    spoils(every, key, "hostile-href")


@pytest.mark.slow
@pytest.mark.parametrize("key", PROVIDERS)
@pytest.mark.parametrize("fault", PASSING)
def test_every_passing_fault_of_a_search(every: Every, key: str, fault: str) -> None:
    if fault.startswith("wrong-count") and key in UNCOUNTED:
        pytest.skip("the catalog gives no count that could be wrong")
    passes(every, key, fault)


@pytest.mark.slow
@pytest.mark.parametrize("key", PROVIDERS)
@pytest.mark.parametrize("fault", STAYING)
def test_every_staying_fault_of_a_search(every: Every, key: str, fault: str) -> None:
    found = search_with(every, key, fault, timeout_s=1.0 if fault.startswith("hang") else 10.0)
    assert isinstance(found, GeostackError)


@pytest.mark.slow
@pytest.mark.parametrize("key", PROVIDERS)
@pytest.mark.parametrize("fault", ["wrong-count", "drop-item", "repeat-token"])
def test_lists_that_stay_wrong_are_never_believed(every: Every, key: str, fault: str) -> None:
    if fault == "drop-item" and key in UNCOUNTED:
        pytest.skip("without a count nobody can tell that a catalog keeps an item to itself")
    search_with(every, key, fault)


@pytest.mark.slow
@pytest.mark.parametrize("key", PROVIDERS)
@pytest.mark.parametrize("fault", SPOILED)
def test_every_spoiled_item_is_accounted_for(every: Every, key: str, fault: str) -> None:
    spoils(every, key, fault)


@pytest.mark.slow
@pytest.mark.parametrize("key", PROVIDERS)
def test_a_login_that_ends_during_a_search(every: Every, key: str) -> None:
    """Tokens are renewed half-way, where the catalog asks for one at all; a key for good that is refused is an error."""
    for fault in ("expired-login?skip=1&count=1", "revoked-token?skip=1&count=1"):
        found = search_with(every, key, fault)
        if key != "stac_api":
            assert not isinstance(found, GeostackError)


@pytest.mark.slow
@pytest.mark.parametrize(("key", "server"), [(key, name) for key, names in SERVERS.items() for name in names])
@pytest.mark.parametrize("fault", WIRE)
def test_every_fault_of_a_server_of_files_or_logins(
    every: Every, key: str, server: str, fault: str, impatient: Callable[[], None]
) -> None:
    kind, _, options = fault.partition("?")
    if (kind, key, server) in UNPROMISED:
        pytest.skip("the catalog promises no size and the server says that this is all of the file")
    item, whole = unharmed(every, key, server)
    impatient()
    before = shown(every)
    every.sandbox.fault(f"{kind}@{server}?{options}")
    try:
        provider = variant(every, key, server)
        assert every.fetch(provider, item, web=(key, server) in WEB) == whole
    except GeostackError as error:
        named(error)
        if "count=" in fault and kind not in MAY_END:
            raise
    assert shown(every) > before, "the fault did not show"


def shown(every: Every) -> int:
    """Return how many faults the sandbox has shown."""
    answer = httpx.get(f"{every.sandbox.endpoints['control']}/faults", trust_env=False, timeout=30.0)
    count: int = answer.json()["shown"]
    return count


def variant(every: Every, key: str, server: str) -> Provider:
    """Return a provider that needs a server: by another source of pixels, or by password instead of a token."""
    if server in {"sh-api", "sh-auth"}:
        return every.provider(key, options={"source": "process"})
    if server == "edl":
        return every.provider(key, logins=by_password(every, key))
    return every.provider(key)


def unharmed(every: Every, key: str, server: str) -> tuple[Item, str]:
    """Return an item that needs a server, and the digest of its first file while nothing is wrong."""
    name = f"{key} {server}"
    if name not in _baselines:
        provider = variant(every, key, server)
        items = every.normalised(provider, every.day(key)).items
        digest = every.fetch(variant(every, key, server), items[0], web=(key, server) in WEB)
        _baselines[name] = (items[0], digest)
    found: tuple[Item, str] = _baselines[name]
    return found
