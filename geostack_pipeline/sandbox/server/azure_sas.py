"""Azure's shared access signatures of containers (``sr=c``): made by a token server, checked by a blob server.

The strings to sign are those of Microsoft's reference "Create a service SAS" and "Create a user delegation SAS" for
versions 2020-12-06 to 2025-05-05.  The real tokens of the Planetary Computer are of the second kind: signed with a
key that the account's owner can revoke, which ends all tokens made with it.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from urllib.parse import quote, urlencode

VERSION = "2021-06-08"
OBJECT_ID = "c85c15d6-d1ae-42d4-af60-e2ca0f81359b"
TENANT_ID = "72f988bf-86f1-41af-91ab-2d7cd011db47"
_KEY_FIELDS = ("skoid", "sktid", "skt", "ske", "sks", "skv")
_KEY_LIFE = timedelta(days=6)


class RefusedError(Exception):
    """A request without the right to do what it asks: HTTP status, Azure's code and what it says."""

    def __init__(self, status: int, code: str, message: str) -> None:
        self.status = status
        self.code = code
        self.message = message
        super().__init__(code)


def string_to_sign(fields: Mapping[str, str], account: str, container: str) -> str:
    """Return what the signature of a container's token is made of; ``fields`` are those of its query, decoded."""

    def each(*names: str) -> list[str]:
        return [fields.get(name, "") for name in names]

    resource = [f"/blob/{account}/{container}"]
    # saoid, suoid, scid: users whose rights would be looked up in addition
    owner = each(*_KEY_FIELDS, "saoid", "suoid", "scid") if "skoid" in fields else each("si")
    rest = each("sip", "spr", "sv", "sr", "snapshot", "ses", "rscc", "rscd", "rsce", "rscl", "rsct")
    return "\n".join([*each("sp", "st", "se"), *resource, *owner, *rest])


def sign(key: bytes, text: str) -> str:
    """Return the signature of a text."""
    return base64.b64encode(hmac.new(key, text.encode(), hashlib.sha256).digest()).decode()


def time_text(moment: datetime) -> str:
    """Return a time as tokens hold it."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


class Account:
    """A storage account: what signs its tokens.  The token server and the blob server share it.

    Args:
        name: Of the account.
        key: Account key; None makes one up.
    """

    def __init__(self, name: str, key: bytes | None = None) -> None:
        self.name = name
        self.key = key or secrets.token_bytes(64)
        self._generation = 0

    def revoke(self) -> None:
        """End all tokens that were signed with a delegated key so far."""
        self._generation += 1

    def delegated_key(self, fields: Mapping[str, str]) -> bytes:
        """Return the user delegation key that the fields of a token name."""
        text = "\n".join([str(self._generation), *(fields.get(name, "") for name in _KEY_FIELDS)])
        return hmac.new(self.key, text.encode(), hashlib.sha256).digest()

    def token(
        self,
        container: str,
        *,
        life: timedelta,
        permissions: str = "rl",
        delegated: bool = True,
        now: datetime | None = None,
    ) -> tuple[str, datetime]:
        """Return a token and when it ends.

        Args:
            container: What it opens.
            life: From now to its end; it began a day ago.
            permissions: Letters of the rights: read, list, write, ….
            delegated: Signed with a user delegation key, else with the account key.
            now: The time; None is the clock's.
        """
        now = now or datetime.now(UTC)
        ends = (now + life).replace(microsecond=0)
        fields = {"st": time_text(now - timedelta(days=1)), "se": time_text(ends), "sp": permissions}
        fields |= {"sv": VERSION, "sr": "c"}
        if delegated:
            begins = now - timedelta(hours=1)
            key_life = {"skt": time_text(begins), "ske": time_text(begins + _KEY_LIFE)}
            fields |= {"skoid": OBJECT_ID, "sktid": TENANT_ID, **key_life, "sks": "b", "skv": VERSION}
        key = self.delegated_key(fields) if delegated else self.key
        signature = sign(key, string_to_sign(fields, self.name, container))
        return urlencode({**fields, "sig": signature}, quote_via=quote), ends

    def check(self, fields: Mapping[str, str], container: str, right: str, now: datetime) -> None:
        """Raise :class:`RefusedError` unless the fields are a token of this container with a right, valid now."""
        if "sig" not in fields:
            # The real account allows no anonymous access.
            raise RefusedError(
                409, "PublicAccessNotPermitted", "Public access is not permitted on this storage account."
            )
        key = self.delegated_key(fields) if "skoid" in fields else self.key
        expected = sign(key, string_to_sign(fields, self.name, container))
        if fields.get("sr") != "c" or not hmac.compare_digest(expected.encode(), fields["sig"].encode()):
            raise _unauthenticated("Signature did not match.")
        for begin, end in (("st", "se"), ("skt", "ske")):
            starts, ends = _time(fields.get(begin)), _time(fields.get(end))
            if (end == "se" and ends is None) or (ends is not None and now >= ends):
                raise _unauthenticated("Signature not valid in the specified time frame: it has ended.")
            if starts is not None and now < starts:
                raise _unauthenticated("Signature not valid in the specified time frame: it has not begun.")
        if right not in fields.get("sp", ""):
            raise RefusedError(
                403,
                "AuthorizationPermissionMismatch",
                "This request is not authorized to perform this operation using this permission.",
            )


def _unauthenticated(detail: str) -> RefusedError:
    return RefusedError(
        403,
        "AuthenticationFailed",
        "Server failed to authenticate the request. Make sure the value of Authorization header is formed "
        f"correctly including the signature. {detail}",
    )


def _time(text: str | None) -> datetime | None:
    if not text:
        return None
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _unauthenticated("A time of the token is malformed.") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
