"""The Planetary Computer's token server: a signature for a storage container to whoever asks, up to a rate.

``GET <mount>/<account>/<container>`` -> ``{"msft:expiry": "…Z", "token": "st=…&se=…&sp=rl&…&sig=…"}``, as recorded.
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from threading import Lock
from typing import Any

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route

from geostack_pipeline.sandbox.server.azure_sas import Account, time_text

MOUNT = "/api/sas/v1/token"
LIFE = timedelta(hours=24, minutes=45)
"""Life of a recorded token, from its start of validity."""
KEY_HEADER = "ocp-apim-subscription-key"


class TokenRate:
    """How many tokens are given per minute to those without a key; with one, ten times as many."""

    def __init__(self, per_minute: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._per_minute = per_minute
        self._clock = clock
        self._lock = Lock()
        self._given: dict[bool, deque[float]] = {False: deque(), True: deque()}

    def wait(self, *, keyed: bool) -> int:
        """Count a request; return the seconds to wait before it would be answered, 0 when it is answered now."""
        limit = self._per_minute * (10 if keyed else 1)
        now = self._clock()
        with self._lock:
            given = self._given[keyed]
            while given and given[0] <= now - 60.0:
                given.popleft()
            if len(given) >= limit:
                return math.ceil(given[0] + 60.0 - now) or 1
            given.append(now)
            return 0


def make_token_app(
    accounts: Mapping[str, Account],
    containers: Mapping[str, str],
    *,
    key: str | None = None,
    life: timedelta = LIFE,
    per_minute: int = 120,
    delegated: bool = True,
) -> Starlette:
    """Return the server.

    Args:
        accounts: Name -> account that signs.
        containers: Account -> its container.
        key: The one subscription key that is valid; requests without a key are served too, but fewer of them.
        life: From the request to the end of a token.
        per_minute: Tokens per minute for those without a key.
        delegated: Tokens signed with a user delegation key, as the real ones; else with the account key.
    """
    rate = TokenRate(per_minute)

    def token(request: Request) -> Response:
        account, container = request.path_params["account"], request.path_params["container"]
        given = request.headers.get(KEY_HEADER)
        if given is not None and given != key:
            return _problem(401, "Access denied due to invalid subscription key. Provide a valid key.")
        wait = rate.wait(keyed=given is not None)
        if wait:
            text = f"Rate limit is exceeded. Try again in {wait} seconds."
            return _problem(429, text, {"Retry-After": str(wait)})
        if containers.get(account) != container:
            return JSONResponse({"detail": f"Storage container {account}/{container} not found"}, 404)
        lasts = life
        for fault in request.scope.get("sandbox.faults", ()):
            if fault.kind == "short-token":
                lasts = timedelta(seconds=fault.seconds or 2.0)
        text, ends = accounts[account].token(
            container, life=lasts, delegated=delegated, now=datetime.now(UTC)
        )
        return JSONResponse({"msft:expiry": time_text(ends), "token": text})

    def revoke() -> None:
        for account in accounts.values():
            account.revoke()

    app = Starlette(routes=[Route(f"{MOUNT}/{{account}}/{{container}}", token)])
    app.state.forget_logins = revoke
    return app


def _problem(status: int, message: str, headers: Mapping[str, Any] | None = None) -> Response:
    return JSONResponse({"statusCode": status, "message": message}, status, headers=headers)
