"""Buckets that want a login: a strict moto, in a process of its own.

moto checks signatures for a whole process or not at all, and the open buckets must stay open.  So the private ones
live in a child process: SigV4 signatures, session tokens and policies are checked by moto's real code; what moto
leaves out (requests without a login, sessions that have ended) is checked before it.  The sandbox's own server
forwards requests there, so the log and the faults are the same for all buckets.

Beside S3 the process answers below :data:`CONTROL`, which no bucket can be named: it hands out sessions as a token
service would, and makes logins invalid for tests.

``python -m geostack_pipeline.sandbox.server.strict_bucket`` is the child: one line of JSON comes in on standard
input, which then stays open for as long as the parent lives.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import re
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
from starlette.types import ASGIApp, Receive, Scope, Send

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.processes import end_child, end_with_parent, keep_tail, read_line
from geostack_pipeline.sandbox.server.bucket import (
    ACCOUNT,
    READ_ACTIONS,
    REGION,
    isolate_moto,
    register,
    s3_application,
)
from geostack_pipeline.sandbox.server.serving import listen, serve_all

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.dialects.base import StoredObject

CONTROL = "/_sandbox"
ACCESS_KEY = "SANDBOXCDSEACCESSKEY"
"""The one lasting key: it may read :data:`KEY_BUCKETS` and nothing else."""
SECRET_KEY = "sandbox-cdse-secret-0123456789abcdefghij"  # noqa: S105 - opens a sandbox on loopback
KEY_BUCKETS = ("eodata", "EODATA")

Buckets = Mapping[str, Mapping[str, "StoredObject"]]

_CREDENTIAL = re.compile(r"Credential=([^/,\s]+)/")
_START_S = 120.0


# -- what other parts of the sandbox use ------------------------------------------------------------------------


async def issue_session(
    private: str, buckets: Sequence[str], *, lifetime_s: float = 3600.0
) -> dict[str, str]:
    """Return a session that may read some buckets, as a token service gives it.

    For applications that run in the sandbox's own server, at request time; others post the same to
    ``<private>/_sandbox/sessions``.

    Args:
        private: :attr:`~geostack_pipeline.sandbox.dialects.base.Addresses.private`.
        buckets: What the session may read.
        lifetime_s: Seconds until the buckets answer ``ExpiredToken``.

    Returns:
        ``accessKeyId``, ``secretAccessKey``, ``sessionToken``, ``expiration`` (``2024-06-01 12:00:00+00:00``).
    """
    async with httpx.AsyncClient(trust_env=False, timeout=30.0) as client:
        answer = await client.post(
            f"{private}{CONTROL}/sessions", json={"buckets": list(buckets), "lifetime_s": lifetime_s}
        )
    session: dict[str, str] = answer.raise_for_status().json()
    return session


def end_sessions(private: str) -> int:
    """End all sessions issued so far (the buckets then answer ``ExpiredToken``); return how many that were."""
    answer = httpx.delete(f"{private}{CONTROL}/sessions", trust_env=False, timeout=30.0)
    return int(answer.raise_for_status().json()["ended"])


def switch_key(private: str, *, valid: bool, access_key: str = ACCESS_KEY) -> None:
    """Make a lasting key invalid (the buckets then answer ``InvalidAccessKeyId``), or valid again."""
    answer = httpx.post(
        f"{private}{CONTROL}/keys",
        json={"access_key": access_key, "valid": valid},
        trust_env=False,
        timeout=30.0,
    )
    answer.raise_for_status()


async def replace_objects(private: str, buckets: Buckets) -> None:
    """Put other bytes in the place of objects, or add some; the buckets exist already."""
    async with httpx.AsyncClient(trust_env=False, timeout=30.0) as client:
        answer = await client.post(f"{private}{CONTROL}/objects", json=_to_json(buckets))
    answer.raise_for_status()


class StrictBuckets:
    """The child process that serves private buckets; starts at once, is waited for in :meth:`address`."""

    def __init__(self, buckets: Buckets) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "geostack_pipeline.sandbox.server.strict_bucket"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._tail: list[str] = []
        self._address: str | None = None
        assert self._process.stdin is not None
        assert self._process.stderr is not None
        threading.Thread(target=keep_tail, args=(self._process.stderr, self._tail), daemon=True).start()
        message = {"parent": os.getpid(), "buckets": _to_json(buckets)}
        try:
            self._process.stdin.write(json.dumps(message) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise self._failure() from None

    def address(self) -> str:
        """Wait until the buckets answer and return where; later calls return it at once.

        Raises:
            SettingsError: The process ended or did not get ready.
        """
        if self._address is not None:
            return self._address
        assert self._process.stdout is not None
        stuck = threading.Timer(_START_S, self._process.kill)
        stuck.start()
        try:
            line = self._process.stdout.readline()
        finally:
            stuck.cancel()
        if not line:
            raise self._failure()
        self._address = f"http://127.0.0.1:{json.loads(line)['port']}"
        return self._address

    def stop(self) -> None:
        """End the process; a second call does nothing."""
        end_child(self._process)

    def _failure(self) -> SettingsError:
        self.stop()
        return SettingsError(
            "the private buckets did not start",
            subject="sandbox",
            found=" ".join(self._tail[-3:]) or f"the process ended with {self._process.returncode}",
            action="see the message; is the package installed with its `sandbox` extra?",
        )


def _to_json(buckets: Buckets) -> dict[str, dict[str, dict[str, Any]]]:
    return {
        name: {
            key: {
                "content_type": stored.content_type,
                "size": stored.size,
                "md5": stored.md5,
                "path": None if stored.path is None else str(stored.path),
                "data": base64.b64encode(stored.data).decode(),
            }
            for key, stored in objects.items()
        }
        for name, objects in buckets.items()
    }


@dataclass(frozen=True, kw_only=True)
class _Received:
    """A :class:`StoredObject` in the child, which does not load the catalogs for the sake of its name."""

    content_type: str
    size: int
    md5: str
    path: Path | None
    data: bytes


def _from_json(
    buckets: Mapping[str, Mapping[str, Mapping[str, Any]]],
) -> Mapping[str, Mapping[str, _Received]]:
    return {
        name: {
            key: _Received(
                content_type=stored["content_type"],
                size=stored["size"],
                md5=stored["md5"],
                path=None if stored["path"] is None else Path(stored["path"]),
                data=base64.b64decode(stored["data"]),
            )
            for key, stored in objects.items()
        }
        for name, objects in buckets.items()
    }


# -- the child --------------------------------------------------------------------------------------------------


class Logins:
    """Who may read what: one lasting key, and sessions that end. Thread-safe enough: every change is one step."""

    def __init__(self) -> None:
        # Imported here because it takes more than a second, and only the child needs it.
        from moto.iam.models import iam_backends  # noqa: PLC0415
        from moto.sts.models import sts_backends  # noqa: PLC0415

        self._iam = iam_backends[ACCOUNT]["aws"]
        self._sts = sts_backends[ACCOUNT]["aws"]
        self._ends: dict[str, float] = {}
        self._off: set[str] = set()
        user = self._iam.create_user(REGION, "cdse")
        key = user.create_access_key(prefix="AKIA")
        key.access_key_id, key.secret_access_key = ACCESS_KEY, SECRET_KEY
        self._iam.put_user_policy("cdse", "read", _may_read(KEY_BUCKETS))

    def issue(self, buckets: Sequence[str], lifetime_s: float) -> dict[str, str]:
        """Return a new session that may read ``buckets``."""
        name = f"reader-{len(self._ends)}"
        trust = {"Version": "2012-10-17", "Statement": []}
        self._iam.create_role(name, json.dumps(trust), "/", None, "", [], None)
        self._iam.put_role_policy(name, "read", _may_read(buckets))
        role = self._sts.assume_role(
            REGION, name, f"arn:aws:iam::{ACCOUNT}:role/{name}", "", int(lifetime_s), ""
        )
        ends = time.time() + lifetime_s
        self._ends[role.access_key_id] = ends
        return {
            "accessKeyId": role.access_key_id,
            "secretAccessKey": role.secret_access_key,
            "sessionToken": role.session_token,
            "expiration": str(datetime.fromtimestamp(int(ends), UTC)),
        }

    def end_sessions(self) -> int:
        """End every session that has not ended."""
        now = time.time()
        running = [key for key, ends in self._ends.items() if ends > now]
        self._ends.update(dict.fromkeys(running, 0.0))
        return len(running)

    def switch(self, access_key: str, *, valid: bool) -> None:
        """Make a lasting key invalid or valid."""
        if valid:
            self._off.discard(access_key)
        else:
            self._off.add(access_key)

    def problem(self, authorization: str | None) -> tuple[int, str, str] | None:
        """Return status, code and message for a login that moto need not look at; None to let moto decide."""
        if authorization is None:
            return 403, "AccessDenied", "Access Denied"
        named = _CREDENTIAL.search(authorization)
        if not authorization.startswith("AWS4-HMAC-SHA256 ") or named is None:
            return 400, "InvalidRequest", "The authorization mechanism you have provided is not supported."
        if named[1] in self._off:
            return 403, "InvalidAccessKeyId", "The AWS Access Key Id you provided does not exist."
        if self._ends.get(named[1], float("inf")) <= time.time():
            return 400, "ExpiredToken", "The provided token has expired."
        return None


def _may_read(buckets: Sequence[str]) -> str:
    resources = [f"arn:aws:s3:::{name}{rest}" for name in buckets for rest in ("", "/*")]
    statement = {"Effect": "Allow", "Action": list(READ_ACTIONS), "Resource": resources}
    return json.dumps({"Version": "2012-10-17", "Statement": [statement]})


class _Guarded:
    """moto's S3 behind the logins, and the control beside it."""

    def __init__(self, app: ASGIApp, logins: Logins) -> None:
        self._app = app
        self._logins = logins

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        if scope["path"].startswith(f"{CONTROL}/"):
            await _answer(send, *await self._control(scope, receive))
            return
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
        problem = self._logins.problem(headers.get("authorization"))
        if problem is not None:
            status, code, text = problem
            body = f"<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{text}</Message></Error>"
            await _answer(send, status, body.encode(), b"application/xml", head=scope["method"] == "HEAD")
            return
        await self._app(scope, receive, send)

    async def _control(self, scope: Scope, receive: Receive) -> tuple[int, bytes, bytes]:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if message["type"] == "http.disconnect" or not message.get("more_body"):
                break
        asked = json.loads(body or b"{}")
        answer: dict[str, Any]
        match scope["method"], scope["path"].removeprefix(CONTROL):
            case "POST", "/sessions":
                answer = dict(self._logins.issue(asked["buckets"], float(asked.get("lifetime_s", 3600.0))))
            case "DELETE", "/sessions":
                answer = {"ended": self._logins.end_sessions()}
            case "POST", "/keys":
                self._logins.switch(str(asked["access_key"]), valid=bool(asked["valid"]))
                answer = {}
            case "POST", "/objects":
                register(_from_json(asked))
                answer = {}
            case _:
                return 404, b"{}", b"application/json"
        return 200, json.dumps(answer).encode(), b"application/json"


async def _answer(send: Send, status: int, body: bytes, kind: bytes, *, head: bool = False) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": b"" if head else body})


def main() -> None:
    """Serve the private buckets until the parent is gone or says stop."""
    out = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # Whatever a library prints goes to standard error, so that the parent reads messages only.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())
    asked = json.loads(read_line())
    stop = threading.Event()
    end_with_parent(asked["parent"], stop)
    isolate_moto()
    from moto import settings  # noqa: PLC0415 - only after the environment is clean

    buckets = _from_json(asked["buckets"])
    register(buckets)
    app = _Guarded(s3_application(read_only=False), Logins())
    settings.INITIAL_NO_AUTH_ACTION_COUNT = 0.0
    listener = listen(0)

    def ready() -> None:
        out.write(json.dumps({"port": listener.getsockname()[1]}) + "\n")

    asyncio.run(serve_all([app], [listener], ready, stop))


if __name__ == "__main__":
    main()
