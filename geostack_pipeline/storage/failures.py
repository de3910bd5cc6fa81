"""What obstore's exceptions mean, told without secrets: kinds of failure, and the storage errors made of them.

obstore raises builtins for some conditions (``FileNotFoundError``), its own classes for others, and
``GenericError`` with a text for the rest, a full disk among them.
"""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal

from obstore import exceptions as obs_errors

from geostack_pipeline.errors import GeostackError, StorageError

Kind = Literal[
    "missing",
    "exists",
    "changed",
    "full",
    "denied",
    "login",
    "unsupported",
    "unreachable",
    "crowded",
    "other",
]

_FULL_ERRNOS = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_FULL_TEXT = re.compile(r"os error (28|122|27)\b|No space left on device|Disk quota exceeded|StorageFull")
_CROWDED_ERRNOS = {errno.EMFILE, errno.ENFILE}
_CROWDED_TEXT = re.compile(r"os error (23|24)\b|Too many open files")
_DENIED_TEXT = re.compile(
    r"os error (1|13|30)\b|Permission denied|Read-only file system|InvalidToken|ExpiredToken"
)
_UNREACHABLE_TEXT = re.compile(
    r"error sending request|Connection refused|connection reset|dns error|timed out|timeout|"
    r"request or response body error|error decoding response body|connection closed|builder error",
    re.IGNORECASE,
)
_STATUS = re.compile(r"status code: (\d{3})")
# obstore has classes for these, but not for every kind of request (a refused listing is a GenericError).
_STATUS_KINDS: dict[str, Kind] = {"401": "login", "403": "denied"}
_QUERY = re.compile(r"(https?://[^\s?\"']+)\?[^\s\"')]*")
_USERINFO = re.compile(r"(\w+://)[^/\s@\"']+@")
_SIGNATURE = re.compile(r"(?i)\b(sig|signature|token|secret|password|authorization)(=|:\s*)[^\s&,\"')]+")
_TEXT_LIMIT = 300


def kind_of(error: BaseException) -> Kind:
    """Return what kind of failure an exception of obstore or of the operating system is."""
    if isinstance(error, FileNotFoundError):
        return "missing"
    if isinstance(error, obs_errors.AlreadyExistsError):
        return "exists"
    if isinstance(error, obs_errors.PreconditionError | obs_errors.NotModifiedError):
        return "changed"
    if isinstance(error, obs_errors.PermissionDeniedError):
        return "denied"
    if isinstance(error, obs_errors.UnauthenticatedError):
        return "login"
    if isinstance(error, obs_errors.NotSupportedError | NotImplementedError):
        return "unsupported"
    # The debug dump behind the message repeats settings, whose names look like failures.
    text = str(error).split("Debug source", 1)[0]
    status = _STATUS.search(text)
    if status and status[1] in _STATUS_KINDS:
        return _STATUS_KINDS[status[1]]
    if (isinstance(error, OSError) and error.errno in _FULL_ERRNOS) or _FULL_TEXT.search(text):
        return "full"
    if (isinstance(error, OSError) and error.errno in _CROWDED_ERRNOS) or _CROWDED_TEXT.search(text):
        return "crowded"
    if isinstance(error, PermissionError) or _DENIED_TEXT.search(text):
        return "denied"
    if isinstance(error, ConnectionError | TimeoutError) or _UNREACHABLE_TEXT.search(text):
        return "unreachable"
    return "other"


def plain_text(error: BaseException) -> str:
    """Return an exception's message without debug dump, query strings, user info or signatures."""
    text = str(error).split("Debug source", 1)[0]
    text = " ".join(text.split())
    text = _QUERY.sub(r"\1?…", text)
    text = _USERINFO.sub(r"\1…@", text)
    text = _SIGNATURE.sub(r"\1\2…", text)
    return text[:_TEXT_LIMIT] or type(error).__name__


MORE_FILES = "raise the limit of open files (`ulimit -n`), then run again"
"""What helps where a process has no file left to open."""

_ACTIONS: dict[Kind, tuple[str, bool]] = {
    "missing": ("check that the root still exists, and restore it if it was moved", False),
    "exists": ("run again", True),
    "changed": ("run again: another process wrote at the same moment", True),
    "full": (
        "free space or raise the quota, e.g. by `geostack gc`, then run again; what was stored before is intact",
        True,
    ),
    "denied": ("give this user or these credentials the right to read and write there", False),
    "login": ("check the credentials set for this root", False),
    "unsupported": ("use a root whose store supports conditional writes", False),
    "unreachable": ("check the endpoint and the network, then run again", True),
    "crowded": (MORE_FILES, False),
    "other": ("look at the cause above, then run again", True),
}


def storage_error(error: BaseException, *, subject: str, doing: str) -> StorageError:
    """Return the storage error that tells what failed while doing what, and what to do next."""
    kind = kind_of(error)
    action, retryable = _ACTIONS[kind]
    problem = f"no space left while {doing}" if kind == "full" else f"failed while {doing}"
    return StorageError(problem, subject=subject, found=plain_text(error), action=action, retryable=retryable)


@contextmanager
def storage_errors(subject: str, doing: str) -> Iterator[None]:
    """Turn failures of obstore and of the operating system inside the block into storage errors.

    ``FileNotFoundError``, ``AlreadyExistsError`` and ``PreconditionError`` pass through: they are
    answers, not failures, and callers act on them.
    """
    try:
        yield
    except (GeostackError, FileNotFoundError, obs_errors.AlreadyExistsError, obs_errors.PreconditionError):
        raise
    except (OSError, obs_errors.BaseError, NotImplementedError) as error:
        raise storage_error(error, subject=subject, doing=doing) from error
