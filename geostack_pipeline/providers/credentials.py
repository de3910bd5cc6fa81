"""Credentials: read from the environment, shown to nobody."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import NoReturn

from geostack_pipeline.errors import AuthError

HIDDEN = "•••"


class Secret:
    """A text that prints, formats and pickles as nothing; :meth:`reveal` is the only way to it."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text, to be put straight into a request."""
        return self._text

    def __bool__(self) -> bool:
        """Whether there is a text."""
        return bool(self._text)

    def __repr__(self) -> str:
        """Return a placeholder."""
        return f"Secret({HIDDEN})" if self._text else "Secret()"

    def __str__(self) -> str:
        """Return a placeholder."""
        return HIDDEN if self._text else ""

    def __eq__(self, other: object) -> bool:
        """Compare the texts."""
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        """Hash the text."""
        return hash(self._text)

    def __reduce__(self) -> NoReturn:
        """Refuse: a pickle would hold the text in clear."""
        raise TypeError("a secret is not pickled; read it again from the environment")


@dataclass(frozen=True, kw_only=True)
class CredentialField:
    """One part of a login."""

    name: str
    """Name in the provider's code and in Dagster's resource, e.g. ``access_key``."""
    variable: str
    """Environment variable that holds it, e.g. ``CDSE_S3_ACCESS_KEY``."""
    purpose: str
    """What it is and where to get one, in a clause."""
    required: bool = True
    """Whether the provider does nothing without it."""


Credentials = Mapping[str, Secret]
"""Field name -> secret; a field that is not set is not in it."""


def from_environment(fields: Iterable[CredentialField]) -> dict[str, Secret]:
    """Return the fields whose variables are set and not empty."""
    return {field.name: Secret(value) for field in fields if (value := os.environ.get(field.variable, ""))}


def missing(provider: str, fields: Iterable[CredentialField], *, subject: str | None = None) -> AuthError:
    """Return the error for a login that is not configured: it names the variables to set."""
    wanted = [field for field in fields if field.required]
    names = ", ".join(field.variable for field in wanted)
    return AuthError(
        "no login is configured",
        subject=subject or provider,
        found=f"{names} not set",
        action=f"set {names} ({'; '.join(field.purpose for field in wanted)}), see docs/providers/{provider}.md",
    )
