"""Roots: where artifacts and blobs live, as one obstore store below a URL.

``file:///abs``, ``file:rel``, a plain path, ``s3://bucket/prefix`` or ``az://container/prefix``.
Credentials come through ``options`` alone.  The ``AWS_*`` and ``AZURE_*`` variables of the machine do
not leak in (obstore reads them by itself: a stray ``AWS_SKIP_SIGNATURE`` makes signed requests
anonymous), unless the options say ``use_environment``.
"""

from __future__ import annotations

import json
import os
import stat
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import unquote, urlsplit

import obstore
from obstore import exceptions as obs_errors
from obstore.store import AzureStore, LocalStore, S3Store

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.storage.failures import plain_text, storage_errors

if TYPE_CHECKING:
    from obstore.store import ObjectStore

OPTIONS_VARIABLE = "GEOSTACK_STORE_OPTIONS"
"""Environment variable with a JSON object of options for a root opened without any."""

CLIENT_OPTIONS: Mapping[str, str] = {"timeout": "10m", "read_timeout": "30s", "connect_timeout": "10s"}
"""obstore's own limit of 30 s is for a whole request with its body, which a large object on a slow
line exceeds; a stalled connection is noticed by ``read_timeout`` instead."""

_CLIENT_KEYS = {
    "allow_http",
    "proxy_url",
    "proxy_excludes",
    "root_certificate",
    "user_agent",
    *CLIENT_OPTIONS,
}
_NOWHERE = "http://127.0.0.1:0"
"""A proxy that nobody can reach."""
_PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
_FLAGS = {"allow_http", "use_environment"}
_LEAKING = ("AWS_", "AZURE_")


def retry_config(*, max_retries: int = 4, retry_timeout_s: float = 60.0) -> Any:
    """Return obstore's retry settings for a store: 5xx, 429 and broken connections, 0.2 s doubling to 5 s.

    obstore ignores ``Retry-After``.  With ``max_retries=0`` every failure surfaces at once, for callers
    that count and pace requests themselves.
    """
    return {
        "max_retries": max_retries,
        "retry_timeout": timedelta(seconds=retry_timeout_s),
        "backoff": {"init_backoff": timedelta(seconds=0.2), "max_backoff": timedelta(seconds=5), "base": 2},
    }


@dataclass(frozen=True)
class Root:
    """An opened root.  Equal when the URL is; pickled as its URL, never with its store."""

    url: str
    """Normalised URL without a trailing slash; holds no credentials."""
    store: ObjectStore = field(repr=False, compare=False)
    """obstore store whose keys are relative to the root."""
    path: Path | None = field(compare=False)
    """Folder of a local root; None for an object store."""
    prefixed: Callable[[str], ObjectStore] = field(repr=False, compare=False)
    """Makes a store whose keys are relative to a folder of the root (created on a local disk)."""

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by URL: stores hold secrets and are reopened in the other process."""
        return (reopen, (self.url,))

    def read(self, key: str) -> bytes:
        """Return an object's bytes; ``FileNotFoundError`` where there is none.

        A local file is read without obstore: 0.02 ms instead of 0.2 ms, and a planner asks thousands of times.
        """
        with storage_errors(self.describe(key), "reading"):
            if self.path is not None:
                try:
                    return (self.path / key).read_bytes()
                except (NotADirectoryError, IsADirectoryError) as error:
                    raise FileNotFoundError(key) from error
            return bytes(obstore.get(self.store, key).bytes())

    def size(self, key: str) -> int | None:
        """Return an object's size in bytes, or None where there is none."""
        with storage_errors(self.describe(key), "looking"):
            try:
                if self.path is not None:
                    status = (self.path / key).stat()
                    return status.st_size if stat.S_ISREG(status.st_mode) else None
                return obstore.head(self.store, key)["size"]
            except (FileNotFoundError, NotADirectoryError):
                return None

    def put(self, key: str, data: bytes) -> None:
        """Write an object atomically, replacing what was there."""
        with storage_errors(self.describe(key), "writing"):
            obstore.put(self.store, key, data)

    def create(self, key: str, data: bytes) -> bool:
        """Write an object unless one exists, atomically; returns whether this call made it."""
        with storage_errors(self.describe(key), "writing"):
            try:
                obstore.put(self.store, key, data, mode="create")
            except obs_errors.AlreadyExistsError:
                return False
            return True

    def delete(self, key: str) -> None:
        """Remove an object; nothing happens where there is none."""
        with storage_errors(self.describe(key), "removing"):
            try:
                obstore.delete(self.store, key)
            except FileNotFoundError:
                return

    def objects(self, prefix: str) -> list[dict[str, Any]]:
        """Return the objects below a folder (``path``, ``size``, ``e_tag``, ``last_modified``), sorted by path."""
        with storage_errors(self.describe(prefix), "listing"):
            found = [dict(meta) for batch in obstore.list(self.store, prefix) for meta in batch]
        return sorted(found, key=lambda meta: cast("str", meta["path"]))

    def folders(self, prefix: str) -> tuple[list[str], list[str]]:
        """Return the names of the folders and of the objects directly below a folder, each sorted."""
        with storage_errors(self.describe(prefix), "listing"):
            answer = obstore.list_with_delimiter(self.store, prefix)
        names = sorted(path.rstrip("/").rsplit("/", 1)[-1] for path in answer["common_prefixes"])
        return names, sorted(meta["path"].rsplit("/", 1)[-1] for meta in answer["objects"])

    def describe(self, key: str) -> str:
        """Return the URL of a key, for messages."""
        return f"{self.url}/{key}" if key else self.url


_opened: dict[str, Root] = {}
_lock = threading.Lock()


def open_root(url: str, options: Mapping[str, str] | None = None) -> Root:
    """Return the root of a URL, creating the folder of a local one.

    Args:
        url: ``file:///abs``, ``file:rel`` (from the working directory), a plain path, ``s3://bucket/prefix``
            or ``az://container/prefix``.
        options: Settings of an object store by obstore's names (``endpoint``, ``region``, ``access_key_id``,
            ``secret_access_key``, ``account_name``, ``account_key`` …), of its client (``allow_http``,
            ``timeout`` …), and ``use_environment``: "true" lets ``AWS_*`` and ``AZURE_*`` through.
            None takes the JSON object in ``GEOSTACK_STORE_OPTIONS``, if there is one.

    Raises:
        SettingsError: The URL has another scheme, credentials, a query or ``..``, or an option is unknown.
        StorageError: The folder of a local root cannot be created.
    """
    scheme, bucket, prefix = _parse(url)
    if scheme == "file":
        if options:
            raise SettingsError(
                "a local root takes no options",
                subject=f"root {url}",
                found=", ".join(sorted(options)),
                action="remove them, or use an s3:// or az:// URL",
            )
        return _open_local(Path(prefix))
    normal = "/".join([f"{scheme}://{bucket}", *([prefix] if prefix else [])])
    chosen = _options_of_environment(normal) if options is None else dict(options)
    make = _remote_maker(normal, scheme, bucket, chosen)

    def prefixed(folder: str) -> ObjectStore:
        return make("/".join(part for part in (prefix, folder) if part))

    root = Root(url=normal, store=make(prefix), path=None, prefixed=prefixed)
    with _lock:
        _opened[normal] = root
    return root


def open_store(
    url: str,
    options: Mapping[str, str] | None = None,
    *,
    credential_provider: Callable[[], Any] | None = None,
) -> ObjectStore:
    """Return a store of someone else's bucket or container, opened like a root but not remembered as one.

    Args:
        url: ``s3://bucket/prefix`` or ``az://container/prefix``.
        options: As for :func:`open_root`; None is none at all.
        credential_provider: Asked for the login when a request needs one, in obstore's form (``S3Credential``,
            ``AzureSASToken`` …); asked again by every request once less than five minutes of it are left, so
            it should keep what it has got.  Not pickled with the store unless it can be.  A store with one
            follows no redirect to another host, unless the machine reaches the network through a proxy.
    """
    scheme, bucket, prefix = _parse(url)
    if scheme == "file":
        return _open_local(Path(prefix)).store
    chosen = dict(options or {})
    if credential_provider is not None:
        chosen |= _stays_at_home(scheme, chosen)
    return _remote_maker(url, scheme, bucket, chosen, credential_provider)(prefix)


def _stays_at_home(scheme: str, options: Mapping[str, str]) -> dict[str, str]:
    """Return client options with which a redirect to another host leads nowhere.

    obstore follows redirects, which no option of it stops.  ``Authorization`` is dropped on the way, but a session
    token (``x-amz-security-token``) is sent along, and so is a signature in the URL, as ``Referer``.  All hosts but
    the store's own are therefore reached through a proxy that does not exist.
    """
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in _PROXIES):
        return {}
    home = urlsplit(options.get("endpoint", "")).hostname
    if home is None and scheme == "az" and "account_name" in options:
        home = f"{options['account_name']}.blob.core.windows.net"
    return {} if home is None else {"proxy_url": _NOWHERE, "proxy_excludes": home}


def reopen(url: str) -> Root:
    """Return the root of a normalised URL as this process opened it last, or open it with the environment's options."""
    with _lock:
        known = _opened.get(url)
    return known if known is not None else open_root(url)


def _parse(url: str) -> tuple[str, str, str]:
    """Return scheme, bucket or container, and prefix; for local roots the absolute path as prefix."""
    if "://" not in url and not url.startswith("file:"):
        if not url.strip():
            raise _bad_url(url, "an empty root")
        return "file", "", str(Path(url).expanduser().absolute())
    parts = urlsplit(url)
    if "@" in parts.netloc:
        raise _bad_url(f"{parts.scheme}://…", "credentials in the URL", "pass them as options")
    if parts.query or parts.fragment:
        raise _bad_url(
            url.split("?", 1)[0].split("#", 1)[0], "a query or a fragment", "pass settings as options"
        )
    if parts.scheme == "file":
        if parts.netloc not in {"", "localhost"}:
            raise _bad_url(
                url, f"a host in a file URL ({parts.netloc})", "write file:///absolute or file:relative"
            )
        if not parts.path.strip("/") and not parts.path.startswith("/"):
            raise _bad_url(url, "an empty path")
        return "file", "", str(Path(unquote(parts.path)).absolute())
    if parts.scheme not in {"s3", "az"}:
        raise _bad_url(url, f"the scheme {parts.scheme!r}")
    prefix = parts.path.strip("/")
    if not parts.netloc:
        raise _bad_url(url, "no bucket or container")
    if prefix and any(part in {"", ".", ".."} or "%" in part or "\\" in part for part in prefix.split("/")):
        raise _bad_url(url, "an empty, relative or encoded part in the prefix")
    return parts.scheme, parts.netloc, prefix


def _bad_url(url: str, found: str, action: str | None = None) -> SettingsError:
    return SettingsError(
        "not a usable root",
        subject=f"root {url!r}"[:200],
        found=found,
        action=action
        or "use file:///path, file:path, a plain path, s3://bucket/prefix or az://container/prefix",
    )


def _open_local(path: Path) -> Root:
    with storage_errors(path.as_uri(), "creating the root folder"):
        path.mkdir(parents=True, exist_ok=True)
        # obstore resolves symbolic links in its prefix; one spelling for both.
        path = path.resolve()
        store = LocalStore(path)

    def prefixed(folder: str) -> ObjectStore:
        with storage_errors(f"{path.as_uri()}/{folder}", "creating a folder"):
            return LocalStore(path / folder, mkdir=True)

    return Root(url=path.as_uri(), store=store, path=path, prefixed=prefixed)


def _remote_maker(
    url: str,
    scheme: str,
    bucket: str,
    options: dict[str, str],
    credential_provider: Callable[[], Any] | None = None,
) -> Callable[[str], ObjectStore]:
    """Return a function from a key prefix to a store with the options of a root."""
    flags = {name: _flag(url, name, options.pop(name)) for name in _FLAGS & options.keys()}
    client: dict[str, Any] = dict(CLIENT_OPTIONS)
    client.update({name: options.pop(name) for name in _CLIENT_KEYS & options.keys()})
    if "allow_http" in flags:
        client["allow_http"] = flags["allow_http"]
    elif options.get("endpoint", "").startswith("http://"):
        raise SettingsError(
            "the endpoint is plain http",
            subject=f"root {url}",
            action="use https, or set the option allow_http to true for a server on loopback",
        )
    config = cast("Any", options)

    def make(prefix: str) -> ObjectStore:
        common: dict[str, Any] = {
            "prefix": prefix or None,
            "config": config,
            "client_options": client,
            "retry_config": retry_config(),
        }
        if credential_provider is not None:
            common["credential_provider"] = credential_provider
        try:
            with _environment(visible=flags.get("use_environment", False)):
                if scheme == "s3":
                    return S3Store(bucket, **common)
                return AzureStore(bucket, **common)
        except (obs_errors.BaseError, ValueError, TypeError) as error:
            raise SettingsError(
                "the options do not make a store",
                subject=f"root {url}",
                found=plain_text(error),
                action="check the options of the root: their names are those of obstore's "
                + ("S3Config" if scheme == "s3" else "AzureConfig"),
            ) from error

    return make


def _flag(url: str, name: str, value: str) -> bool:
    text = str(value).lower()
    if text not in {"true", "false", "1", "0"}:
        raise SettingsError(
            f"the option {name} is true or false",
            subject=f"root {url}",
            found=repr(value)[:40],
            action="correct it",
        )
    return text in {"true", "1"}


def _options_of_environment(url: str) -> dict[str, str]:
    text = os.environ.get(OPTIONS_VARIABLE)
    if not text:
        return {}
    try:
        options = json.loads(text)
    except ValueError:
        options = None
    if not isinstance(options, dict):
        # The text may hold secrets: it is not shown.
        raise SettingsError(
            f"{OPTIONS_VARIABLE} is not a JSON object", subject=f"root {url}", action='write {"region": "…"}'
        )
    return {str(key): str(value) for key, value in options.items()}


@contextmanager
def _environment(*, visible: bool) -> Iterator[None]:
    """Hide the cloud variables while a store is built: that is when obstore reads them."""
    if visible:
        yield
        return
    with _lock:
        hidden = {name: os.environ.pop(name) for name in tuple(os.environ) if name.startswith(_LEAKING)}
        try:
            yield
        finally:
            os.environ.update(hidden)
