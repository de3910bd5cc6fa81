"""What a dialect is: one catalog's way to publish the scenes of the world, quirks included."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Protocol

from starlette.types import ASGIApp

from geostack_pipeline.sandbox.world.scene import PhysicalScene
from geostack_pipeline.sandbox.world.world import Encoding, World

Item = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class StoredObject:
    """One object of a bucket: a file of the world, or a few bytes made up by the dialect."""

    content_type: str
    size: int
    md5: str
    path: Path | None = None
    data: bytes = b""


class History(Protocol):
    """A catalog that changes with time: :class:`~geostack_pipeline.sandbox.dialects.emit_history.EmitHistory`."""

    def hold(self, parts: Sequence[str]) -> None:
        """Take back what has one of these texts in its name, as if it had never been listed."""
        ...

    def apply(self, change: Mapping[str, Any]) -> Change:
        """Change what is listed."""
        ...

    def reset(self) -> Change:
        """Forget every change."""
        ...

    def report(self) -> dict[str, Any]:
        """Return what is listed, held back and deleted."""
        ...


class Change(Protocol):
    """What a change came to."""

    @property
    def names(self) -> tuple[str, ...]: ...  # noqa: D102

    @property
    def objects(self) -> Mapping[str, Mapping[str, StoredObject]]: ...  # noqa: D102


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What a catalog has: its items and the objects behind them."""

    items: Sequence[Item]
    buckets: Mapping[str, Mapping[str, StoredObject]] = field(default_factory=dict)
    """Bucket that anyone may read -> key -> object."""
    private_buckets: Mapping[str, Mapping[str, StoredObject]] = field(default_factory=dict)
    """Bucket on the S3 that checks signatures, session tokens and policies -> key -> object."""
    files: Mapping[str, StoredObject] = field(default_factory=dict)
    """Path -> object, for file servers of the dialect's own (:meth:`Dialect.services`)."""
    history: History | None = None
    """What changes the catalog while it is served; None where it stays as it is."""


@dataclass(frozen=True, kw_only=True)
class Addresses:
    """Where the parts of the sandbox answer; each part has an origin (host and port) of its own."""

    root: str
    """The catalog's root: the catalogs' server and :attr:`Dialect.mount`."""
    buckets: str
    """S3 with the buckets that anyone may read, path-style."""
    private: str
    """S3 with the buckets that need a signed request, path-style."""
    servers: Mapping[str, str] = field(default_factory=dict)
    """Name from :attr:`Dialect.servers` -> address, without a trailing slash."""


class Dialect(ABC):
    """One catalog.  A new one is a subclass in its own module, listed in :data:`DIALECTS`."""

    key: ClassVar[str]
    """Provider key, as in settings."""
    mount: ClassVar[str]
    """Path of the catalog's root on the sandbox's server."""
    servers: ClassVar[tuple[str, ...]] = ()
    """Names of further servers, each on a port of its own: token and login servers, file servers.  Dialects that name
    the same server share it; the first one's application answers."""

    @abstractmethod
    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:
        """Return how this catalog stores a scene, newest processing first."""

    @abstractmethod
    def publish(self, world: World, at: Addresses) -> Publication:
        """Return items and objects."""

    @abstractmethod
    def app(self, publication: Publication, at: Addresses) -> ASGIApp:
        """Return the catalog's protocol, to be mounted at :attr:`mount`."""

    def services(self, publication: Publication, at: Addresses) -> Mapping[str, ASGIApp]:  # noqa: ARG002
        """Return the application of each of :attr:`servers`; faults and the log know it by its name."""
        return {}

    def neighbours(self, publication: Publication, at: Addresses) -> Mapping[str, ASGIApp]:  # noqa: ARG002
        """Return other APIs of the catalog's operator that its provider asks too, by their path on the catalogs' server.

        A path that is another dialect's mount is served by that one.
        """
        return {}

    @abstractmethod
    def settings(self, at: Addresses) -> dict[str, Any]:
        """Return this provider's part of ``geostack.yaml``."""

    def credentials(self, at: Addresses) -> Mapping[str, str]:  # noqa: ARG002
        """Return the login that the sandbox takes: environment variable -> value."""
        return {}
