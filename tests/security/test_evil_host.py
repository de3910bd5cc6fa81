"""A server of a provider that sends everybody elsewhere: the other host sees no login, whichever server it was."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from typing import Any

import pytest
from evil_host import Listener, listening

from geostack_pipeline.errors import AuthError, GeostackError
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.sandbox.config import PROVIDERS
from geostack_pipeline.storage.retry import Retry
from tests.every_provider import Every, by_password

SERVERS = {
    "earth_search": ("url", "sentinel-cogs"),
    "planetary_computer": ("url", "sas", "sentinel2l2a01"),
    "cdse": ("url", "eodata"),
    "sentinel_hub": ("url", "sh-auth", "sh-api"),
    "cmr_stac": ("url", "edl", "daac", "lp-prod-protected"),
    "earthaccess": ("url", "edl", "daac", "lp-prod-protected"),
    "dlr_geoservice": ("url", "files"),
    "stac_api": ("url", "data.stac-sandbox.example"),
}


@pytest.fixture
def planted(every_provider: Every, monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Every secret of the sandbox, and every one that a provider gets hold of from here on."""
    known = {text for text in every_provider.sandbox.credentials().values() if len(text) > 7}
    made = Secret.__init__

    def remember(self: Secret, text: str) -> None:
        if len(text) > 7:
            known.add(text)
        made(self, text)

    monkeypatch.setattr(Secret, "__init__", remember)
    return known


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Retry, "wait_s", lambda _, __: 0.01)
    for module in ("cas", "earthdata_tokens", "oauth", "azure_sas"):
        monkeypatch.setattr(importlib.import_module(f"geostack_pipeline.providers.{module}"), "time", _Time())


class _Time:
    """The clock, without waits."""

    def __getattr__(self, name: str) -> Any:
        return getattr(importlib.import_module("time"), name)

    def sleep(self, _: float) -> None:
        """Go on at once."""


@pytest.fixture
def evil() -> Iterator[Listener]:
    with listening() as heard:
        yield heard


def misled(every: Every, key: str, server: str, url: str) -> Provider:
    """Return a provider one of whose servers is another one, and which needs that server."""
    return every.provider(
        key,
        logins=by_password(every, key) if server == "edl" else None,
        options={"source": "process"} if server.startswith("sh-") else None,
        urls={server: url},
    )


def silent(error: GeostackError, secrets: set[str]) -> None:
    """Check that a message holds no secret."""
    assert not [secret for secret in secrets if secret in str(error)]


CASES = [(key, server) for key, names in SERVERS.items() for server in names]


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(("key", "server"), CASES)
@pytest.mark.parametrize("status", [302, pytest.param(307, marks=pytest.mark.slow)])
def test_a_redirect_shows_nobody_a_login(
    every_provider: Every, evil: Listener, planted: set[str], key: str, server: str, status: int
) -> None:
    every = every_provider
    every.sandbox.clear_faults()
    options = {"source": "process"} if server.startswith("sh-") else None
    item = every.normalised(every.provider(key, options=options), every.day(key)).items[0]
    with listening(redirect=f"{evil.url}/stolen") as mislead:
        mislead.status = status
        provider = misled(every, key, server, mislead.own_url)
        try:
            if server in {"url", "sh-auth"}:
                every.normalised(provider, every.day(key))
            else:
                every.fetch(provider, item)
                every.fetch(provider, item, web=True)
        except GeostackError as error:
            silent(error, planted)
        assert mislead.requests, "nobody asked the server that misleads"
    assert evil.credentials(planted) == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("key", PROVIDERS)
def test_a_next_link_to_another_host_is_not_followed(
    every_provider: Every, evil: Listener, planted: set[str], key: str
) -> None:
    every = every_provider
    page = (
        f'{{"type":"FeatureCollection","features":[],"links":[{{"rel":"next","href":"{evil.url}/search"}}]}}'
    )
    with listening() as catalog:
        catalog.page = page.encode()
        try:
            every.normalised(misled(every, key, "url", catalog.own_url), every.day(key))
        except GeostackError as error:
            silent(error, planted)
        assert catalog.requests
    assert evil.requests == []


@pytest.mark.usefixtures("quick")
def test_a_login_server_that_sends_elsewhere_shows_nobody_the_password(
    every_provider: Every, evil: Listener, planted: set[str]
) -> None:
    """The form itself is posted to the login server; where that leads is checked hop by hop."""
    every = every_provider
    item = every.normalised(every.provider("dlr_geoservice")).items[0]
    form = b"<form method='post' action='{}'><input name='username'><input type='password' name='password'></form>"
    for action in ("", evil.url, "//localhost:1/x", "javascript:0"):
        with listening() as cas, listening() as files:
            files.redirect, files.status = f"{cas.own_url}/login?service={files.own_url}/x", 302
            cas.page = form.replace(b"{}", action.encode())
            cas.kind = "text/html"
            provider = every.provider("dlr_geoservice", urls={"cas": cas.own_url, "files": files.own_url})
            with pytest.raises(AuthError) as caught:
                every.fetch(provider, item)
            silent(caught.value, planted)
            assert cas.requests
            cas.redirect, cas.status, cas.requests = f"{evil.url}/login", 302, []
            with pytest.raises(AuthError) as caught:
                every.fetch(provider, item)
            silent(caught.value, planted)
            assert cas.requests
    assert evil.requests == []
