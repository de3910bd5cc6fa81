"""Client credentials: when a token is asked for, where the secret goes, and what a refusal says."""

from __future__ import annotations

import itertools
import json
import pickle
import threading
import traceback
from collections.abc import Iterator
from urllib.parse import parse_qs

import pytest
from scripted_server import Asked, Say, Server, serving

from geostack_pipeline.errors import AuthError, CatalogUnavailableError, SettingsError
from geostack_pipeline.providers import oauth
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.providers.oauth import ClientCredentials, wait_asked_for

ID, SECRET = "client-7f3a", "planted-secret-5d1c"
_numbers = itertools.count()


@pytest.fixture(scope="module")
def running() -> Iterator[Server]:
    with serving() as server:
        yield server


@pytest.fixture
def server(running: Server, monkeypatch: pytest.MonkeyPatch) -> Server:
    monkeypatch.setattr(oauth, "pause", lambda attempt, asked: waits.append(asked))
    waits.clear()
    running.say(token_answer())
    return running


waits: list[float | None] = []


def token_answer(token: str | None = None, **more: object) -> Say:
    said = {"access_token": token or f"token-{next(_numbers)}", "expires_in": 600, "token_type": "Bearer"}
    return Say(body=json.dumps({**said, **more}).encode(), headers={"Content-Type": "application/json"})


def login(server: Server, secret: str = SECRET) -> ClientCredentials:
    # Tokens are kept for the whole process, by address and client: each test asks at an address of its own.
    return ClientCredentials(
        provider="sentinel_hub",
        token_url=f"{server.url}/{next(_numbers)}/token",
        client_id=Secret(ID),
        client_secret=Secret(secret),
        variables=("SH_CLIENT_ID", "SH_CLIENT_SECRET"),
        allow_http=True,
    )


def test_the_secret_is_sent_in_the_body_of_one_post(server: Server) -> None:
    server.say(token_answer("first"))
    assert login(server).headers() == {"Authorization": "Bearer first"}
    (asked,) = server.asked
    assert asked.method == "POST"
    assert parse_qs(asked.body.decode()) == {
        "grant_type": ["client_credentials"],
        "client_id": [ID],
        "client_secret": [SECRET],
    }
    assert asked.headers["content-type"] == "application/x-www-form-urlencoded"
    assert "authorization" not in asked.headers
    assert SECRET not in asked.path + str(asked.headers)


def test_a_token_is_kept_until_shortly_before_it_ends(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(oauth.time, "monotonic", lambda: now[0])
    server.say(token_answer("a", expires_in=600), token_answer("b", expires_in=20), token_answer("c"))
    asking = login(server)
    assert asking.token().reveal() == "a"
    now[0] += 539.0
    assert asking.token().reveal() == "a"
    now[0] += 1.5  # less than a minute is left
    assert asking.token().reveal() == "b"
    now[0] += 17.9
    assert asking.token().reveal() == "b"
    now[0] += 0.2  # less than a tenth of 20 s is left
    assert asking.token().reveal() == "c"
    assert len(server.asked) == 3


def test_many_threads_ask_once(server: Server) -> None:
    asking = login(server)
    start = threading.Barrier(8)
    got: list[str] = []

    def one() -> None:
        start.wait()
        got.append(asking.token().reveal())

    threads = [threading.Thread(target=one) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(got)) == 1
    assert len(got) == 8
    assert len(server.asked) == 1


def test_two_logins_of_one_client_share_a_token_and_others_do_not(server: Server) -> None:
    server.say(token_answer("one"), token_answer("two"))
    url = f"{server.url}/shared/token"

    def asking(secret: str) -> ClientCredentials:
        return ClientCredentials(
            provider="sentinel_hub",
            token_url=url,
            client_id=Secret(ID),
            client_secret=Secret(secret),
            variables=("SH_CLIENT_ID", "SH_CLIENT_SECRET"),
            allow_http=True,
        )

    assert asking("x").token().reveal() == "one"
    assert asking("x").token().reveal() == "one"
    assert asking("y").token().reveal() == "two"


def test_a_refused_token_is_renewed_unless_another_thread_did(server: Server) -> None:
    server.say(token_answer("old"), token_answer("new"), token_answer("newer"))
    asking = login(server)
    assert not asking.forget()  # nothing was sent yet
    old = asking.token()
    assert asking.forget(old)
    assert asking.token().reveal() == "new"
    assert asking.forget(old)  # a slower thread was refused with the old one
    assert asking.token().reveal() == "new"
    assert asking.forget()
    assert asking.token().reveal() == "newer"


def test_limits_and_hiccups_are_waited_out(server: Server) -> None:
    server.say(
        Say(status=429, headers={"Retry-After": "7"}),
        Say(status=503),
        Say(status=429, headers={"Retry-After": "900"}),
        token_answer("late"),
    )
    assert login(server).token().reveal() == "late"
    assert waits == [7.0, None, oauth.RETRY_AFTER_CAP_S]


def test_a_server_that_stays_away_is_unavailable(server: Server) -> None:
    server.say(Say(status=503))
    with pytest.raises(CatalogUnavailableError, match="status 503, in each of 5 attempts") as raised:
        login(server).token()
    assert raised.value.retryable
    assert len(server.asked) == oauth.ATTEMPTS


def test_a_refusal_names_the_variables_and_no_secret(server: Server) -> None:
    echo = json.dumps({"error": "invalid_client", "error_description": f"{ID} {SECRET}"}).encode()
    server.say(Say(status=401, body=echo))
    with pytest.raises(AuthError, match="SH_CLIENT_ID and SH_CLIENT_SECRET") as raised:
        login(server).token()
    error = raised.value
    assert "invalid_client" in str(error)
    shown = "".join(traceback.format_exception(error)) + repr(error) + str(pickle.loads(pickle.dumps(error)))
    assert SECRET not in shown
    assert len(server.asked) == 1


def test_a_redirect_is_not_followed(server: Server) -> None:
    with serving() as evil:
        server.say(Say(status=307, headers={"Location": f"{evil.url}/token"}))
        with pytest.raises(AuthError, match="something else than a token"):
            login(server).token()
        assert evil.asked == []


@pytest.mark.parametrize(
    "said",
    [
        Say(body=b"<html>login</html>", headers={"Content-Type": "text/html"}),
        Say(body=b'{"access_token": ""}'),
        Say(body=b'{"access_token": "a\\r\\nx: y"}'),
        Say(body=b'["token"]'),
        Say(body=b"{" * 2000),
        Say(status=204),
    ],
)
def test_what_is_no_token_is_an_error(server: Server, said: Say) -> None:
    server.say(said)
    with pytest.raises(AuthError, match="something else than a token"):
        login(server).token()


def test_a_lifetime_that_is_not_said_is_short(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [0.0]
    monkeypatch.setattr(oauth.time, "monotonic", lambda: now[0])
    server.say(token_answer("a", expires_in="soon"), token_answer("b"))
    asking = login(server)
    asking.token()
    now[0] = oauth.UNSAID_LIFETIME_S
    assert asking.token().reveal() == "b"


@pytest.mark.parametrize(
    "url",
    [
        "http://identity.example/token",
        "http://127.0.0.1.evil.example/token",
        "https://user:pass@identity.example/token",
        "https://identity.example/token?next=evil",
        "ftp://identity.example/token",
        "identity.example/token",
    ],
)
def test_a_secret_goes_to_https_only(url: str) -> None:
    with pytest.raises(SettingsError, match="no address for a login") as raised:
        ClientCredentials(
            provider="sentinel_hub",
            token_url=url,
            client_id=Secret(ID),
            client_secret=Secret(SECRET),
            variables=("SH_CLIENT_ID", "SH_CLIENT_SECRET"),
            allow_http=True,
        )
    assert "pass" not in str(raised.value.found)


def test_waits_are_numbers_of_the_servers_unit() -> None:
    assert wait_asked_for({"retry-after": "3"}) == 3.0
    assert wait_asked_for({"retry-after": "55408"}, 0.001) == pytest.approx(55.408)
    assert wait_asked_for({"retry-after": "-1"}) is None
    assert wait_asked_for({"retry-after": "nan"}) is None
    assert wait_asked_for({"retry-after": "Wed, 21 Oct 2026 07:28:00 GMT"}) is None
    assert wait_asked_for({}) is None


def test_the_secret_cannot_be_pickled(server: Server) -> None:
    with pytest.raises(TypeError):
        pickle.dumps(login(server))


def test_an_echoing_server_is_not_asked_again(server: Server) -> None:
    def echo(asked: Asked) -> Say:
        return Say(status=400, body=asked.body)

    server.say(echo)
    with pytest.raises(AuthError) as raised:
        login(server).token()
    assert SECRET not in str(raised.value)
