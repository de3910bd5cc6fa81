"""Which hrefs of a catalog may be followed, and to which store and key they lead.

An href comes from outside and chooses nothing: it is matched against exact rules, and the store (with
its credentials) belongs to the rule.  What no rule names is refused, and so is everything that two
parsers might read differently.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal
from urllib.parse import unquote_to_bytes

from geostack_pipeline.errors import HrefRefusedError, SettingsError

MAX_HREF = 4096
MAX_KEY = 1024
"""Longest object key, in UTF-8 bytes: the limit of S3 and of Azure."""

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://([^/]*)(/.*)", re.DOTALL)
_HOST = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?(\.[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?)*")
_NUMERIC_LABEL = re.compile(r"[0-9]+|0x[0-9a-f]*")
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,62}")
_CONTAINER = re.compile(r"[a-z0-9$][a-z0-9-]{2,62}")
_ACCOUNT = re.compile(r"[a-z0-9]{3,24}")
_ESCAPE = re.compile(r"%[0-9A-Fa-f]{2}")
_SHOWN = 120


@dataclass(frozen=True, kw_only=True)
class HostRule:
    """Everything below one path of one host."""

    host: str
    """Exact host name, lower case."""
    prefix: str = ""
    """Folder that keys must lie in, e.g. ``lp-prod-protected``; part of the key."""
    store_id: str = ""
    """Default: ``https://<host>``."""
    scheme: Literal["https", "http"] = "https"
    """``http`` for a server on loopback only."""
    port: int | None = None
    """Exact port; None is the scheme's own, which hrefs then must not spell out."""

    def __post_init__(self) -> None:
        if self.scheme == "http" and not is_loopback(self.host):
            raise SettingsError(
                "plain http is for loopback only",
                subject=f"href rule {self.host}",
                action="use https, or a host of 127.0.0.1 or localhost",
            )


@dataclass(frozen=True, kw_only=True)
class BucketRule:
    """One S3 bucket: ``s3://<bucket>/<key>``, and the https forms of the hosts named."""

    bucket: str
    """Exact name."""
    virtual_hosts: tuple[str, ...] = ()
    """Hosts whose whole path is the key, e.g. ``sentinel-cogs.s3.us-west-2.amazonaws.com``."""
    path_hosts: tuple[str, ...] = ()
    """Hosts whose path begins with the bucket, e.g. ``s3.us-west-2.amazonaws.com``."""
    store_id: str = ""
    """Default: ``s3://<bucket>``."""

    @classmethod
    def aws(cls, bucket: str, region: str, *, store_id: str = "") -> BucketRule:
        """Return the rule of a bucket at AWS in one region, with the hosts it answers under."""
        regional, legacy = f"s3.{region}.amazonaws.com", "s3.amazonaws.com"
        return cls(
            bucket=bucket,
            virtual_hosts=(
                f"{bucket}.{regional}",
                f"{bucket}.{legacy}",
                f"{bucket}.s3-{region}.amazonaws.com",
            ),
            path_hosts=(regional, legacy),
            store_id=store_id,
        )


@dataclass(frozen=True, kw_only=True)
class ContainerRule:
    """One Azure container: its https forms and ``abfs(s)://<container>@<account>.dfs.core.windows.net``."""

    account: str
    """Exact storage account."""
    container: str
    """Exact container."""
    store_id: str = ""
    """Default: ``az://<account>/<container>``."""


Rule = HostRule | BucketRule | ContainerRule


@dataclass(frozen=True, kw_only=True)
class _Target:
    store_id: str
    folder: str = ""
    """First part(s) of the path that must be there; not part of the key."""
    prefix: str = ""
    """Folder the key must lie in."""


class AllowList:
    """Exact rules from hrefs to stores.

    Args:
        rules: What is allowed; nothing else is.

    Raises:
        SettingsError: A rule is malformed, or two rules claim the same place.
    """

    def __init__(self, rules: Iterable[Rule]) -> None:
        self._targets: dict[tuple[str, str], list[_Target]] = {}
        for rule in rules:
            self._add(rule)

    def resolve(self, href: str) -> tuple[str, str]:
        """Return store id and key of an href; the key is decoded, as object stores name it.

        Raises:
            HrefRefusedError: No rule names its place, or it is written in a way that could be misread.
                The message holds neither user info nor query.
        """
        scheme, authority, path = _split(href)
        targets = self._targets.get((scheme, authority))
        if targets is None:
            _check_authority(href, scheme, authority)
            raise _refused(href, f"the place {scheme}://{authority} is not one of this provider's")
        key = _key(href, path, encoded=scheme in {"https", "http"})
        for target in targets:
            rest = key
            if target.folder:
                if not key.startswith(f"{target.folder}/"):
                    continue
                rest = key[len(target.folder) + 1 :]
            if target.prefix and not rest.startswith(f"{target.prefix}/"):
                continue
            return target.store_id, rest
        raise _refused(href, "its bucket, container or folder is not one of this provider's")

    def _add(self, rule: Rule) -> None:
        if isinstance(rule, HostRule):
            _require_name(_HOST, rule.host, "host")
            authority = rule.host if rule.port is None else f"{rule.host}:{rule.port}"
            store_id = rule.store_id or f"{rule.scheme}://{authority}"
            self._put(rule.scheme, authority, _Target(store_id=store_id, prefix=rule.prefix.strip("/")))
        elif isinstance(rule, BucketRule):
            _require_name(_BUCKET, rule.bucket, "bucket")
            store_id = rule.store_id or f"s3://{rule.bucket}"
            self._put("s3", rule.bucket, _Target(store_id=store_id))
            for host in rule.virtual_hosts:
                _require_name(_HOST, host, "host")
                self._put("https", host, _Target(store_id=store_id))
            for host in rule.path_hosts:
                _require_name(_HOST, host, "host")
                self._put("https", host, _Target(store_id=store_id, folder=rule.bucket))
        else:
            _require_name(_ACCOUNT, rule.account, "account")
            _require_name(_CONTAINER, rule.container, "container")
            store_id = rule.store_id or f"az://{rule.account}/{rule.container}"
            target = _Target(store_id=store_id, folder=rule.container)
            self._put("https", f"{rule.account}.blob.core.windows.net", target)
            self._put("https", f"{rule.account}.dfs.core.windows.net", target)
            for scheme in ("abfs", "abfss"):
                authority = f"{rule.container}@{rule.account}.dfs.core.windows.net"
                self._put(scheme, authority, _Target(store_id=store_id))

    def _put(self, scheme: str, authority: str, target: _Target) -> None:
        targets = self._targets.setdefault((scheme, authority), [])
        for other in targets:
            if (other.folder, other.prefix) == (target.folder, target.prefix) and other != target:
                raise SettingsError(
                    "two href rules claim the same place",
                    subject=f"{scheme}://{authority}/{target.folder or target.prefix}",
                    found=f"{other.store_id} and {target.store_id}",
                    action="remove one",
                )
        if target not in targets:
            targets.append(target)
            # The narrower rule first, whatever the order they were given in.
            targets.sort(key=lambda one: -len(f"{one.folder}/{one.prefix}"))


def _require_name(pattern: re.Pattern[str], name: str, what: str) -> None:
    if not pattern.fullmatch(name):
        raise SettingsError(
            f"not a {what} name", subject=f"href rule {name!r}"[:100], action=f"give the exact {what}"
        )


def _split(href: str) -> tuple[str, str, str]:
    """Return scheme, authority and path; hosts in lower case, bucket and container names as they are."""
    if not isinstance(href, str):
        raise HrefRefusedError("an href is a string", subject="href", found=type(href).__name__)
    if len(href) > MAX_HREF:
        raise _refused(href, f"{len(href)} characters, more than {MAX_HREF}")
    bad = next((char for char in href if not "!" <= char <= "~"), None)
    if bad is not None:
        raise _refused(
            href, f"the character U+{ord(bad):04X}: spaces, controls and non-ASCII must be percent-encoded"
        )
    for char, name in (("\\", "a backslash"), ("#", "a fragment"), ("?", "a query")):
        if char in href:
            raise _refused(href, name)
    match = _URL.fullmatch(href)
    if match is None:
        raise _refused(href, "no scheme://place/key")
    scheme, authority, path = match[1].lower(), match[2], match[3]
    if scheme in {"https", "http", "abfs", "abfss"}:
        container, at, host = authority.rpartition("@")
        authority = f"{container}{at}{host.lower()}"
    return scheme, authority, path


def _check_authority(href: str, scheme: str, authority: str) -> None:
    """Refuse with the reason that fits; what gets through is refused as unknown by the caller."""
    if scheme not in {"https", "http", "s3", "abfs", "abfss"}:
        raise _refused(href, f"the scheme {scheme!r}")
    if "@" in authority and scheme not in {"abfs", "abfss"}:
        raise _refused(href, "user info before the host")
    host = authority.rpartition("@")[2]
    if host.startswith("["):
        raise _refused(href, "an IP address instead of a host name")
    name, colon, port = host.partition(":")
    if colon:
        raise _refused(href, f"the port {port[:8]!r}")
    if scheme != "s3":
        if _is_ip(name):
            raise _refused(href, "an IP address instead of a host name")
        if not _HOST.fullmatch(name):
            raise _refused(href, "a malformed host name")


def _key(href: str, path: str, *, encoded: bool) -> str:
    """Return the key that a path names, decoded once; refuses what means different things to different readers."""
    raw = path[1:]
    if not encoded and "%" in raw:
        raise _refused(href, "a percent sign: keys of this scheme are not encoded")
    if "%" in _ESCAPE.sub("", raw):
        raise _refused(href, "a percent sign that encodes nothing")
    for escape in _ESCAPE.findall(raw):
        byte = int(escape[1:], 16)
        if byte < 0x20 or byte == 0x7F or chr(byte) in "./\\%#?":
            raise _refused(href, f"{escape}: an encoded dot, slash, percent, '#', '?' or control character")
    try:
        key = unquote_to_bytes(raw).decode("utf-8")
    except UnicodeDecodeError:
        raise _refused(href, "an encoded key that is no UTF-8") from None
    if not key.isprintable():
        raise _refused(href, "an encoded control or formatting character")
    if any(part in {"", ".", ".."} for part in key.split("/")):
        raise _refused(href, "an empty part, '.' or '..' in the path")
    if len(key.encode()) > MAX_KEY:
        raise _refused(href, f"a key of {len(key.encode())} bytes, more than {MAX_KEY}")
    return key


def _is_ip(host: str) -> bool:
    """Return whether a host is an IP address in any spelling that resolvers take (``2130706433``, ``0x7f.1``)."""
    return bool(_NUMERIC_LABEL.fullmatch(host.rstrip(".").rsplit(".", 1)[-1]))


def is_loopback(host: str) -> bool:
    """Return whether a host name or address is this machine itself."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _refused(href: str, found: str) -> HrefRefusedError:
    """Return the refusal of an href, showing it without user info, query, fragment or unprintable characters."""
    # The encoded forms too: a query that was encoded once too often still holds its signature.
    shown = re.split(r"[?#]|%3F|%23", href[:MAX_HREF], maxsplit=1, flags=re.IGNORECASE)[0]
    shown = re.sub(r"(?<=//).*(@|%40)", "…@", shown)
    shown = "".join(char if char.isprintable() else "\N{REPLACEMENT CHARACTER}" for char in shown)
    return HrefRefusedError(
        "the href is refused",
        subject=shown[:_SHOWN] + ("…" if len(shown) > _SHOWN else ""),
        found=found,
        action="if the place is right, add it to the provider's allow-list",
    )
