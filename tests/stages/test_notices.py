"""Failed runs are told to the log, and to a webhook whose address is never shown."""

from __future__ import annotations

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator

import pytest

from geostack_pipeline.errors import SettingsError, TransferError
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.settings import NotifySettings
from geostack_pipeline.stages import notices
from geostack_pipeline.stages.notices import LogNotifier, Notice, WebhookNotifier, notifiers
from tests.providers.scripted_server import Asked, Say, Server, serving

NOTICE = Notice(
    run_id="0123456789abcdef",
    job="cmr_stac_daily",
    error="no answer",
    provider="cmr_stac",
    dates="2026-03-01",
)
PATH = "/services/T000/B000/very-secret-part?token=another-secret"


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as script:
        yield script


@pytest.fixture(autouse=True)
def no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(notices, "PAUSE_S", 0.0)


def hook(server: Server, **more: float) -> WebhookNotifier:
    return WebhookNotifier(Secret(server.url + PATH), name="HOOK", **more)


def test_what_is_posted(server: Server) -> None:
    hook(server).notify(NOTICE)
    (asked,) = server.asked
    assert (asked.method, asked.path) == ("POST", PATH)
    content = json.loads(asked.body)
    assert content["text"] == (
        "geostack: the run 01234567 of cmr_stac_daily for 2026-03-01 failed. no answer"
    )
    assert content["geostack"]["run_id"] == NOTICE.run_id
    assert content["geostack"]["will_retry"] is False


def test_the_address_is_in_no_log_and_no_error(server: Server, caplog: pytest.LogCaptureFixture) -> None:
    server.say(lambda asked: Say(status=500, body=asked.path.encode()))
    with caplog.at_level(logging.DEBUG), pytest.raises(TransferError, match="status 500") as caught:
        hook(server).notify(NOTICE)
    assert len(server.asked) == notices.ATTEMPTS
    shown = caplog.text + str(caught.value) + repr(caught.value) + repr(hook(server).__dict__)
    assert "secret" not in shown
    assert "HOOK" in str(caught.value)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}{PATH}"
    with caplog.at_level(logging.DEBUG), pytest.raises(TransferError, match="ConnectError") as caught:
        WebhookNotifier(Secret(url), name="HOOK").notify(NOTICE)
    assert "secret" not in caplog.text + str(caught.value)


def test_a_passing_fault_is_tried_again_and_a_refusal_is_not(server: Server) -> None:
    server.say(Say(status=503), Say())
    hook(server).notify(NOTICE)
    assert len(server.asked) == 2
    for status, headers in ((404, {}), (302, {"Location": server.url + "/elsewhere"})):
        server.say(Say(status=status, headers=headers))
        with pytest.raises(TransferError, match=f"status {status}"):
            hook(server).notify(NOTICE)
        assert len(server.asked) == 1


def test_a_service_that_hangs_or_drips_does_not_hold_the_sensor_up(server: Server) -> None:
    def slow(_: Asked) -> Say:
        time.sleep(1.0)
        return Say()

    server.say(slow)
    begun = time.monotonic()
    with pytest.raises(TransferError, match=r"no answer within 0\.2 s"):
        hook(server, timeout_s=0.2).notify(NOTICE)
    assert time.monotonic() - begun < 5.0

    with socket.create_server(("127.0.0.1", 0)) as listener:

        def drip() -> None:
            for _ in range(notices.ATTEMPTS):
                connection, _ = listener.accept()
                try:
                    for letter in b"HTTP/1.1 200 OK\r\nX: " + b"a" * 200:
                        connection.sendall(bytes([letter]))
                        time.sleep(0.02)
                except OSError:
                    pass
                finally:
                    connection.close()

        thread = threading.Thread(target=drip, daemon=True)
        thread.start()
        url = f"http://127.0.0.1:{listener.getsockname()[1]}{PATH}"
        with pytest.raises(TransferError, match="no answer within"):
            WebhookNotifier(Secret(url), name="HOOK", timeout_s=0.3).notify(NOTICE)
        thread.join(10.0)


def test_the_log_hears_it_whatever_becomes_of_the_webhook(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[str] = []

    def log(form: str, *parts: object) -> None:
        heard.append(form % parts)

    assert [type(each) for each in notifiers(NotifySettings(), log)] == [LogNotifier]
    monkeypatch.delenv("HOOK", raising=False)
    told = notifiers(NotifySettings(webhook="env:HOOK"), log)
    next(told).notify(NOTICE)
    assert "cmr_stac_daily for 2026-03-01" in heard[0]
    with pytest.raises(SettingsError, match="HOOK is not set"):
        next(told)
    monkeypatch.setenv("HOOK", "http://hooks.example/very-secret")
    told = notifiers(NotifySettings(webhook="env:HOOK"), log)
    next(told)
    with pytest.raises(SettingsError, match="https") as caught:
        next(told)
    assert "secret" not in str(caught.value)


def test_a_notice_says_whether_it_is_tried_again() -> None:
    assert "tried again" in Notice(run_id="r", job="j", error="e", will_retry=True).text
