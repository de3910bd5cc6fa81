"""The errors a user meets: each names its subject, what was found, and what to do next.

Every class also inherits the builtin that a caller would expect, so that
``except FileNotFoundError`` works on a missing artifact.  Messages are built
from parts that never hold credentials: hrefs are passed without user info and
query string.
"""

from __future__ import annotations


class GeostackError(Exception):
    """An error that says which thing failed, what was found and the next action.

    Args:
        problem: What is wrong, in one clause, without a trailing full stop.
        subject: The provider, item, setting or file it is about, e.g. ``earth_search 2024-06-01``.
        found: What was seen instead of what was expected; never a secret.
        action: What the reader can do next.
        retryable: Whether the same call may succeed later without a change.
    """

    def __init__(
        self,
        problem: str,
        *,
        subject: str,
        found: str | None = None,
        action: str | None = None,
        retryable: bool = False,
    ) -> None:
        self.problem = problem
        self.subject = subject
        self.found = found
        self.action = action
        self.retryable = retryable
        super().__init__(problem)

    def __str__(self) -> str:
        """Return the parts as one line: ``subject: problem. Found: … Next: …``."""
        text = f"{self.subject}: {self.problem}."
        if self.found:
            text += f" Found: {self.found.rstrip('.')}."
        if self.action:
            text += f" Next: {self.action.rstrip('.')}."
        return text

    def __reduce__(self) -> tuple[object, ...]:
        """Pickle by parts, so that errors cross process boundaries unharmed."""
        return (_rebuild, (type(self), self.problem, self.subject, self.found, self.action, self.retryable))


def _rebuild(
    kind: type[GeostackError],
    problem: str,
    subject: str,
    found: str | None,
    action: str | None,
    retryable: bool,  # noqa: FBT001 - pickle passes by position
) -> GeostackError:
    return kind(problem, subject=subject, found=found, action=action, retryable=retryable)


class SettingsError(GeostackError, ValueError):
    """A setting is missing, malformed or contradicts another."""


class CatalogError(GeostackError):
    """A catalog answered, but not with what its protocol promises."""


class CatalogUnavailableError(CatalogError, ConnectionError):
    """A catalog did not answer in time, or kept answering 429 or 5xx."""


class IncompleteSearchError(CatalogError):
    """A search returned another number of items than the catalog says it has."""


class AuthError(GeostackError, PermissionError):
    """A login was rejected, has expired, or lacks a right."""


class HrefRefusedError(GeostackError, ValueError):
    """A catalog's href points outside the provider's allow-list."""


class TransferError(GeostackError, OSError):
    """Bytes could not be moved: the source broke off, changed, or is missing."""


class IntegrityError(GeostackError, ValueError):
    """Bytes differ from the size or the checksum they were promised with."""


class RasterError(GeostackError, ValueError):
    """A raster file cannot be read as what it claims to be."""


class StorageError(GeostackError, OSError):
    """The artifact store or the cache cannot be written or read (disk full, no rights)."""


class LeaseTakenError(StorageError):
    """A lease of the store was held by another one for as long as its taker was ready to wait; ``found`` names the holder."""


class ArtifactNotFoundError(GeostackError, FileNotFoundError):
    """No complete version of an artifact exists for the partition asked for."""


class BusyError(GeostackError, RuntimeError):
    """Something of which there may be one at a time is under way already."""


class SelectionError(GeostackError, ValueError):
    """A selection expression does not run on the scene table."""
