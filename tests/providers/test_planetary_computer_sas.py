"""Tokens of the Planetary Computer: kept, replaced, never shown; and stores opened with them, on Azurite too."""

from __future__ import annotations

import json
import logging
import pickle
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import httpx
import obstore
import pytest
from azure_loopback import (
    ACCOUNT,
    BLOBS,
    CONTAINER,
    KEY,
    Azure,
    Scripted,
    azurite_blobs,
    our_blobs,
    scripted,
    serving,
)
from obstore import exceptions as obs_errors

from geostack_pipeline.errors import AuthError, CatalogUnavailableError, HrefRefusedError
from geostack_pipeline.providers.azure_sas import KEY_HEADER, SasLogin, SasTokens, _read
from geostack_pipeline.providers.contract import Endpoint
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.planetary_computer import PlanetaryComputer
from geostack_pipeline.sandbox.server.azure_sas import Account
from geostack_pipeline.sandbox.server.sas_tokens import MOUNT, make_token_app

STORE = f"az://{ACCOUNT}/{CONTAINER}"
PLANTED = "planted-subscription-key-7f3a"
SIGNATURE = "cGxhbnRlZC1zaWduYXR1cmU="


class Clock:
    """A clock that is moved by hand, and a sleep that moves it."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.slept: list[float] = []

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.now += seconds


def answer(number: int = 1, *, life: float = 3600.0) -> tuple[int, dict[str, str], bytes]:
    ends = (datetime.now(UTC) + timedelta(seconds=life)).strftime("%Y-%m-%dT%H:%M:%SZ")
    text = f"st=2024-06-01T00%3A00%3A00Z&sp=rl&sr=c&n={number}&sig={SIGNATURE}"
    return (
        200,
        {"Content-Type": "application/json"},
        json.dumps({"msft:expiry": ends, "token": text}).encode(),
    )


def tokens_of(server: Scripted, clock: Clock, **more: Any) -> SasTokens:
    return SasTokens(
        server.url,
        provider="pc",
        key_variable="PC_SDK_SUBSCRIPTION_KEY",
        clock=clock,
        sleep=clock.sleep,
        **more,
    )


def fields_of(token: Secret) -> dict[str, str]:
    return dict(part.split("=", 1) for part in token.reveal().split("&"))


# -- the token server -----------------------------------------------------------------------------


def test_a_token_is_asked_for_once_per_container_and_again_shortly_before_it_ends() -> None:
    clock = Clock()
    with scripted(lambda number, _: answer(number)) as server:
        tokens = tokens_of(server, clock)
        first = tokens.get(ACCOUNT, CONTAINER)
        assert tokens.get(ACCOUNT, CONTAINER) is first
        assert tokens.get(ACCOUNT, "other-container") is not first
        assert [path for path, _ in server.requests] == [
            f"/{ACCOUNT}/{CONTAINER}",
            f"/{ACCOUNT}/other-container",
        ]
        clock.now += 3600 - 301 - 2
        assert tokens.get(ACCOUNT, CONTAINER) is first
        clock.now += 5
        assert fields_of(tokens.get(ACCOUNT, CONTAINER).token)["n"] == "3"


def test_a_token_shorter_than_five_minutes_is_kept_for_most_of_its_life() -> None:
    clock = Clock()
    with scripted(lambda number, _: answer(number, life=60)) as server:
        tokens = tokens_of(server, clock)
        for _ in range(20):
            tokens.get(ACCOUNT, CONTAINER)
            clock.now += 2
        assert len(server.requests) == 1
        clock.now += 20
        tokens.get(ACCOUNT, CONTAINER)
        assert len(server.requests) == 2


def test_many_threads_ask_the_server_once() -> None:
    started = threading.Event()

    def slow(number: int, _: str) -> tuple[int, dict[str, str], bytes]:
        started.wait(0.3)
        return answer(number)

    with scripted(slow) as server, ThreadPoolExecutor(20) as pool:
        tokens = tokens_of(server, Clock())
        found = list(pool.map(lambda _: tokens.get(ACCOUNT, CONTAINER).number, range(20)))
        assert found == [1] * 20
        assert len(server.requests) == 1


@pytest.mark.parametrize("as_date", [False, True])
def test_429_waits_as_long_as_it_is_told(as_date: bool) -> None:
    clock = Clock()

    def busy(number: int, _: str) -> tuple[int, dict[str, str], bytes]:
        if number > 2:
            return answer(number)
        until = format_datetime(datetime.now(UTC) + timedelta(seconds=17.5), usegmt=True)
        return 429, {"Retry-After": until if as_date else "17"}, b"{}"

    with scripted(busy) as server:
        tokens_of(server, clock).get(ACCOUNT, CONTAINER)
        assert len(server.requests) == 3
    assert clock.slept == pytest.approx([17.0, 17.0], abs=1.0)


def test_a_wait_that_is_told_has_a_limit() -> None:
    clock = Clock()
    with scripted(lambda n, _: answer(n) if n > 1 else (503, {"Retry-After": "86400"}, b"")) as server:
        tokens_of(server, clock).get(ACCOUNT, CONTAINER)
    assert clock.slept == [120.0]


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        ((503, {}, b"no"), "status 503"),
        ((429, {"Retry-After": "1"}, b"no"), "asks to wait 1 s"),
        ((200, {"Content-Type": "text/html"}, b"<html>log in</html>"), "no JSON"),
        ((200, {}, b'{"token": "se=x"'), "no JSON"),
        ((200, {}, b'["token"]'), "without token"),
        ((200, {}, b'{"token": "st=1&sig=a", "msft:expiry": "soon"}'), "without token or msft:expiry"),
        ((200, {}, b'{"token": "st=1", "msft:expiry": "2999-01-01T00:00:00Z"}'), "no signed query"),
        (
            (200, {}, b'{"token": "sig=a\\r\\nx: y", "msft:expiry": "2999-01-01T00:00:00Z"}'),
            "no signed query",
        ),
        (answer(life=-10), "ended already"),
        ((200, {}, b"[" * 50_000), "no JSON"),
        ((200, {}, b" " * 70_000), "70000 bytes"),
    ],
)
def test_a_server_that_gives_no_token_is_unavailable(
    reply: tuple[int, dict[str, str], bytes], said: str
) -> None:
    with scripted(lambda *_: reply) as server:
        with pytest.raises(CatalogUnavailableError, match="gives no token") as caught:
            tokens_of(server, Clock()).get(ACCOUNT, CONTAINER)
        assert len(server.requests) == 5
    assert said in str(caught.value)
    assert caught.value.retryable
    assert "PC_SDK_SUBSCRIPTION_KEY" in str(caught.value)


def test_a_server_that_does_not_answer_is_unavailable() -> None:
    with scripted(lambda *_: answer()) as server:
        pass
    with pytest.raises(CatalogUnavailableError, match="ConnectError"):
        tokens_of(server, Clock()).get(ACCOUNT, CONTAINER)


def test_the_key_goes_to_the_token_server_and_nowhere_else(caplog: pytest.LogCaptureFixture) -> None:
    """A custom header would survive a redirect: none is followed, and the host it leads to hears nothing."""
    caplog.set_level(logging.DEBUG)
    with scripted(lambda *_: answer()) as evil:
        redirect = (302, {"Location": f"{evil.url.replace('127.0.0.1', 'localhost')}/x?{KEY_HEADER}=1"}, b"")
        with scripted(lambda n, _: answer(n) if n == 1 else redirect) as server:
            tokens = tokens_of(server, Clock(), key=Secret(PLANTED))
            tokens.get(ACCOUNT, CONTAINER)
            assert server.requests[0][1][KEY_HEADER.lower()] == PLANTED
            assert tokens.drop(ACCOUNT, CONTAINER)
            with pytest.raises(AuthError, match="sends elsewhere") as caught:
                tokens.get(ACCOUNT, CONTAINER)
            assert len(server.requests) == 2, "a redirect is final"
        assert evil.requests == []
    assert "to localhost" in str(caught.value)
    for text in (str(caught.value), repr(tokens), repr(tokens.__dict__), caplog.text):
        assert PLANTED not in text
        assert SIGNATURE not in text


@pytest.mark.parametrize(
    ("status", "key", "problem", "action"),
    [
        (401, PLANTED, "refuses the subscription key", "correct or unset PC_SDK_SUBSCRIPTION_KEY"),
        (403, None, "refuses to give a token", "set PC_SDK_SUBSCRIPTION_KEY"),
        (404, None, "no token for this container", "check the endpoint"),
    ],
)
def test_a_refusal_names_what_to_do(status: int, key: str | None, problem: str, action: str) -> None:
    with scripted(lambda *_: (status, {}, b'{"message": "no"}')) as server:
        tokens = tokens_of(server, Clock(), key=Secret(key) if key else None)
        with pytest.raises(AuthError, match=problem) as caught:
            tokens.get(ACCOUNT, CONTAINER)
        assert len(server.requests) == 1
        assert (KEY_HEADER.lower() in server.requests[0][1]) is (key is not None)
    assert action in str(caught.value)
    assert PLANTED not in str(caught.value)
    assert not tokens.drop(ACCOUNT, CONTAINER), "nothing to renew: asking again would be refused again"


def test_the_life_of_a_token_is_counted_by_the_servers_clock() -> None:
    """A machine whose clock is a day off still knows when a token ends."""
    now = datetime(2020, 1, 1, tzinfo=UTC)
    response = httpx.Response(
        200,
        headers={"date": format_datetime(now, usegmt=True)},
        json={"msft:expiry": "2020-01-01T00:45:00Z", "token": "?st=1&sig=a"},
    )
    assert _read(response) == ("st=1&sig=a", timedelta(minutes=45))


def test_the_recorded_token_is_read(shared_dir: Path) -> None:
    file = shared_dir / "samples/planetary-computer/sas_token.exchange.json"
    exchange = json.loads(file.read_text())[0]
    date = format_datetime(datetime(2024, 5, 13, 18, 15, 49, tzinfo=UTC), usegmt=True)
    text, life = _read(httpx.Response(200, headers={"date": date}, json=exchange["json"]))
    assert text == exchange["json"]["token"]
    assert life == timedelta(hours=24, minutes=45)
    path = httpx.URL(exchange["request"]["uri"]).path
    assert path == f"{MOUNT}/{ACCOUNT}/{CONTAINER}"


def test_a_token_that_another_thread_replaced_is_not_thrown_away() -> None:
    with scripted(lambda number, _: answer(number)) as server:
        tokens = tokens_of(server, Clock())
        mine, theirs = SasLogin(tokens, ACCOUNT, CONTAINER), SasLogin(tokens, ACCOUNT, CONTAINER)
        mine()
        theirs()
        assert mine.drop()
        mine()
        assert theirs.drop(), "their token was replaced meanwhile: trying again makes sense"
        assert len(server.requests) == 2
        assert theirs()["sas_token"] == mine()["sas_token"]
        assert len(server.requests) == 2


def test_tokens_and_logins_are_not_pickled() -> None:
    with scripted(lambda number, _: answer(number)) as server:
        tokens = tokens_of(server, Clock(), key=Secret(PLANTED))
        login = SasLogin(tokens, ACCOUNT, CONTAINER)
        assert SIGNATURE in login()["sas_token"]
        for thing in (tokens, login, tokens.get(ACCOUNT, CONTAINER)):
            with pytest.raises(TypeError, match="not pickled"):
                pickle.dumps(thing)
            assert SIGNATURE not in repr(thing)


# -- stores: the same tests on our blob server and on Azurite --------------------------------------


@pytest.fixture(
    scope="module",
    params=["ours", "ours, account key", pytest.param("azurite", marks=pytest.mark.slow)],
)
def azure(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Azure]:
    if request.param == "azurite":
        with azurite_blobs(tmp_path_factory.mktemp("azurite")) as running:
            yield running
    else:
        with our_blobs(delegated=request.param == "ours") as running:
            yield running


def provider_of(azure: Azure, tokens_url: str, **more: Any) -> PlanetaryComputer:
    return PlanetaryComputer(
        endpoints={
            "sas": Endpoint(url=tokens_url, allow_http=True),
            ACCOUNT: Endpoint(url=azure.url, allow_http=True),
        },
        **more,
    )


@pytest.fixture
def provider(azure: Azure) -> Iterator[PlanetaryComputer]:
    app = make_token_app(
        {ACCOUNT: azure.account}, {ACCOUNT: CONTAINER}, key=PLANTED, delegated=azure.delegated
    )
    with serving(app) as url:
        yield provider_of(azure, url + MOUNT, subscription_key=Secret(PLANTED))


def test_blobs_are_read_whole_and_by_range(provider: PlanetaryComputer) -> None:
    store = provider.store(STORE)
    for key, data in BLOBS.items():
        got = obstore.get(store, key)
        assert bytes(got.bytes()) == data
        assert got.meta["size"] == len(data)
        assert got.meta["e_tag"]
        assert obstore.head(store, key)["e_tag"] == got.meta["e_tag"]
    data = BLOBS["13/T/DE/a.tif"]
    for start, end in ((0, 1), (100, 4196), (len(data) - 7, len(data))):
        assert bytes(obstore.get_range(store, "13/T/DE/a.tif", start=start, end=end)) == data[start:end]
    with pytest.raises(FileNotFoundError):
        obstore.get(store, "13/T/DE/none.tif")
    with pytest.raises(FileNotFoundError):
        obstore.head(store, "13/T/DE/none.tif")


def test_a_range_is_of_the_version_that_was_opened(provider: PlanetaryComputer) -> None:
    store = provider.store(STORE)
    tag = obstore.head(store, "13/T/DE/a.tif")["e_tag"]
    assert tag is not None
    kept = obstore.get(store, "13/T/DE/a.tif", options={"range": (3, 9), "if_match": tag})
    assert bytes(kept.bytes()) == BLOBS["13/T/DE/a.tif"][3:9]
    with pytest.raises(obs_errors.PreconditionError):
        obstore.get(store, "13/T/DE/a.tif", options={"range": (3, 9), "if_match": '"0x8D000000000000"'})
    with pytest.raises(obs_errors.NotModifiedError):
        obstore.get(store, "13/T/DE/a.tif", options={"if_none_match": tag})


def test_a_read_token_does_not_write(provider: PlanetaryComputer) -> None:
    store = provider.store(STORE)
    with pytest.raises((obs_errors.PermissionDeniedError, obs_errors.GenericError)) as caught:
        obstore.put(store, "13/T/DE/a.tif", b"mine")
    assert "403" in str(caught.value)
    assert bytes(obstore.get(store, "empty").bytes()) == b""


def test_many_reads_cost_one_token(azure: Azure) -> None:
    inner = make_token_app({ACCOUNT: azure.account}, {ACCOUNT: CONTAINER}, delegated=azure.delegated)
    asked: list[str] = []

    async def counting(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["path"])
        await inner(scope, receive, send)

    with serving(counting) as url, ThreadPoolExecutor(8) as pool:
        provider = provider_of(azure, url + MOUNT)

        def read(_: int) -> bytes:
            return bytes(obstore.get(provider.store(STORE), "13/T/DE/b c.txt").bytes())

        assert list(pool.map(read, range(40))) == [b"b"] * 40
    assert asked == [f"{MOUNT}/{ACCOUNT}/{CONTAINER}"]


def _refused_then_good(azure: Azure, kind: str) -> Any:
    """Return a script of a token server whose first token the store refuses."""
    hour = timedelta(hours=1)
    bad = {
        "ended": lambda: azure.account.token(CONTAINER, life=-hour, delegated=azure.delegated),
        "other container": lambda: azure.account.token("elsewhere", life=hour, delegated=azure.delegated),
        "other key": lambda: Account(ACCOUNT, KEY[::-1]).token(
            CONTAINER, life=hour, delegated=azure.delegated
        ),
        "not for reading": lambda: azure.account.token(
            CONTAINER, life=hour, permissions="l", delegated=azure.delegated
        ),
    }

    def script(number: int, _: str) -> tuple[int, dict[str, str], bytes]:
        good = azure.account.token(CONTAINER, life=hour, delegated=azure.delegated)
        text, _ends = bad[kind]() if number == 1 else good
        return 200, {}, json.dumps({"msft:expiry": "2999-01-01T00:00:00Z", "token": text}).encode()

    return script


@pytest.mark.parametrize("kind", ["ended", "other container", "other key", "not for reading"])
def test_a_refused_token_is_renewed_and_shown_nowhere(azure: Azure, kind: str) -> None:
    with scripted(_refused_then_good(azure, kind)) as server:
        provider = provider_of(azure, server.url)
        store = provider.store(STORE)
        with pytest.raises(obs_errors.PermissionDeniedError) as caught:
            obstore.get(store, "13/T/DE/a.tif")
        signature = provider._tokens.get(ACCOUNT, CONTAINER).token.reveal().partition("sig=")[2]
        assert len(signature) > 30
        for text in (str(caught.value), repr(caught.value), repr(store), str(getattr(store, "config", ""))):
            assert signature not in text
            assert "sig=" not in text or "sig=REDACTED" in text.upper().replace("SIG", "sig")
        with pytest.raises(TypeError, match="not pickled"):
            pickle.dumps(store)
        assert provider.renew(STORE)
        assert bytes(obstore.get(provider.store(STORE), "13/T/DE/a.tif").bytes()) == BLOBS["13/T/DE/a.tif"]
        # stores that were open before take the new token as well
        assert bytes(obstore.get(store, "13/T/DE/b c.txt").bytes()) == b"b"
        assert len(server.requests) == 2


def test_a_revoked_token_is_renewed() -> None:
    with our_blobs(delegated=True) as azure:
        app = make_token_app({ACCOUNT: azure.account}, {ACCOUNT: CONTAINER})
        with serving(app) as url:
            provider = provider_of(azure, url + MOUNT)
            store = provider.store(STORE)
            assert bytes(obstore.get(store, "13/T/DE/b c.txt").bytes()) == b"b"
            azure.account.revoke()
            with pytest.raises(obs_errors.PermissionDeniedError, match="AuthenticationFailed"):
                obstore.get(store, "13/T/DE/b c.txt")
            assert provider.renew(STORE)
            assert bytes(obstore.get(provider.store(STORE), "13/T/DE/b c.txt").bytes()) == b"b"


def test_without_a_token_nothing_is_read(azure: Azure) -> None:
    url = f"{azure.url}/{ACCOUNT}/{CONTAINER}/13/T/DE/a.tif"
    answer = httpx.get(url, trust_env=False)
    assert answer.status_code in {403, 404, 409}
    assert b"<Error>" in answer.content
    assert BLOBS["13/T/DE/a.tif"][:100] not in answer.content


def test_the_machines_azure_variables_change_nothing(
    provider: PlanetaryComputer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "AZURE_STORAGE_ACCOUNT_NAME": "evil",
        "AZURE_STORAGE_ACCOUNT_KEY": "ZXZpbA==",
        "AZURE_STORAGE_SAS_TOKEN": "sig=evil",
        "AZURE_STORAGE_TOKEN": "evil",
        "AZURE_ENDPOINT": "http://127.0.0.1:9",
        "AZURE_SKIP_SIGNATURE": "true",
        "AZURE_STORAGE_USE_EMULATOR": "true",
    }.items():
        monkeypatch.setenv(name, value)
    assert bytes(obstore.get(provider.store(STORE), "13/T/DE/b c.txt").bytes()) == b"b"


def test_only_the_providers_own_stores_are_opened(provider: PlanetaryComputer) -> None:
    for store_id in (
        "az://evil/sentinel2-l2",
        f"az://{ACCOUNT}/other",
        STORE.upper(),
        "s3://sentinel-cogs",
        "",
    ):
        with pytest.raises(HrefRefusedError):
            provider.store(store_id)
        with pytest.raises(HrefRefusedError):
            provider.renew(store_id or "x")
    assert not provider.renew(None), "the search has no login"
