"""What a dialect is: one catalog's way to publish the scenes of the world, quirks included."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

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


@dataclass(frozen=True, kw_only=True)
class Publication:
    """What a catalog has: its items and the objects behind them."""

    items: Sequence[Item]
    buckets: Mapping[str, Mapping[str, StoredObject]]
    """Bucket -> key -> object."""


class Dialect(ABC):
    """One catalog.  A new one is a subclass in its own module, listed in :data:`DIALECTS`."""

    key: ClassVar[str]
    """Provider key, as in settings."""
    mount: ClassVar[str]
    """Path of the catalog's root on the sandbox's server."""

    @abstractmethod
    def encodings(self, scene: PhysicalScene) -> Sequence[Encoding]:
        """Return how this catalog stores a scene, newest processing first."""

    @abstractmethod
    def publish(self, world: World, root: str) -> Publication:
        """Return items and objects; ``root`` is the catalog's own address."""

    @abstractmethod
    def app(self, publication: Publication, root: str) -> ASGIApp:
        """Return the catalog's protocol, to be mounted at :attr:`mount`."""

    @abstractmethod
    def settings(self, root: str, buckets: Mapping[str, str]) -> dict[str, Any]:
        """Return this provider's part of ``geostack.yaml``; ``buckets`` maps bucket -> endpoint."""
