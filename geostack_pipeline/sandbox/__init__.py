"""A loopback world for demos and tests: catalogs that speak their real protocols over synthetic scenes.

``world`` knows places, overpasses, plumes and pixels, but no catalog; ``dialects`` publish the world through one
catalog each; ``server`` serves catalogs and buckets, with faults on demand.  The sandbox imports neither the
providers nor the retrieval: it is a witness that does not share their code.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from geostack_pipeline.sandbox.config import DEFAULT_SEED, PROVIDERS
from geostack_pipeline.sandbox.serve import Sandbox, serve_forever

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.world.world import World

__all__ = ["DEFAULT_SEED", "PROVIDERS", "Sandbox", "World", "serve_forever"]


def __getattr__(name: str) -> Any:
    """Import the world on first use: who only starts the servers need not wait for GDAL and numba."""
    if name == "World":
        from geostack_pipeline.sandbox.world.world import World  # noqa: PLC0415 - see above

        return World
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
