"""How long to wait before a request is made again, and which failures are worth it.

obstore does not show the answer's headers, so ``Retry-After`` cannot be honoured here: waits grow
exponentially with jitter instead, long enough that a server's usual few seconds are respected after
two or three tries.
"""

from __future__ import annotations

import random
import re
import time
from dataclasses import dataclass

from geostack_pipeline.errors import AuthError, GeostackError, TransferError
from geostack_pipeline.storage.failures import MORE_FILES, kind_of, plain_text

_STATUS = re.compile(r"status code: (\d{3})")
_WORTH_RETRYING = {408, 425, 429}


@dataclass(frozen=True, kw_only=True)
class Retry:
    """When and how often a transfer is tried again, on top of the few retries of the store itself."""

    attempts: int = 6
    """Tries without progress before giving up; at least 1."""
    first_wait_s: float = 0.5
    """Longest wait after the first failure; doubles each time."""
    longest_wait_s: float = 30.0
    """Where the doubling ends."""

    def wait_s(self, failures: int) -> float:
        """Return how long to wait after so many failures in a row: between half and all of the doubling limit."""
        limit = min(self.longest_wait_s, self.first_wait_s * 2.0 ** min(failures - 1, 30))
        # Jitter spreads the clients of a recovering server; no secret depends on it.
        return limit * random.uniform(0.5, 1.0)  # noqa: S311

    def pause(self, failures: int) -> float:
        """Wait as :meth:`wait_s` says; returns the seconds waited."""
        seconds = self.wait_s(failures)
        time.sleep(seconds)
        return seconds


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status that an obstore error tells of, None where it tells of none."""
    found = _STATUS.search(str(error))
    return int(found.group(1)) if found else None


def is_temporary(error: BaseException) -> bool:
    """Return whether the same request may succeed later: connections, 5xx, 408, 425, 429."""
    if kind_of(error) not in {"unreachable", "other"}:
        return False
    status = status_of(error)
    return status is None or status >= 500 or status in _WORTH_RETRYING


class BrokenOffError(Exception):
    """An answer broke off or does not fit what was asked; asking again may help."""


class ChangedError(BrokenOffError):
    """The source is another version than the one read so far."""


def transfer_error(error: BaseException, key: str, *, tries: int = 1) -> GeostackError:
    """Return the error that tells why an object could not be read, without secrets.

    Args:
        error: What obstore raised.
        key: The object.
        tries: How often it was tried.
    """
    kind = kind_of(error)
    if kind == "missing":
        return TransferError(
            "the object does not exist",
            subject=key,
            found="not found",
            action="search the catalog again; the item may have been replaced",
        )
    if kind in {"denied", "login"}:
        return AuthError(
            "the store refuses to give the object",
            subject=key,
            found=plain_text(error),
            action="check the provider's credentials and their rights; a login may have expired",
        )
    if kind == "crowded":
        return TransferError(
            "no more files can be opened, nor connections",
            subject=key,
            found=plain_text(error),
            action=MORE_FILES,
        )
    if kind == "changed" or isinstance(error, ChangedError):
        return TransferError(
            "the source kept changing while it was read",
            subject=key,
            found="another ETag at each try",
            action="try again later",
            retryable=True,
        )
    retryable = isinstance(error, BrokenOffError) or is_temporary(error)
    return TransferError(
        f"the object could not be read in {tries} tries" if tries > 1 else "the object could not be read",
        subject=key,
        found=plain_text(error),
        action="try again later; what was received is kept"
        if retryable
        else "look at the state of the source",
        retryable=retryable,
    )
