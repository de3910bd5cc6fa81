"""Changes of the catalogs while they are served: the bytes first, then the list that leads to them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.server.strict_bucket import replace_objects

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.dialects.base import History


class Changes:
    """Applies changes to the catalogs that take them.

    Args:
        histories: The catalogs.
        private: Returns the address of the private buckets; None where there are none.
    """

    def __init__(self, histories: Sequence[History], private: Callable[[], str] | None) -> None:
        self._histories = histories
        self._private = private
        self._one_at_a_time = asyncio.Lock()

    def report(self) -> dict[str, Any]:
        """Return what is listed, held back and deleted."""
        return self._history().report()

    async def apply(self, change: Mapping[str, Any] | None) -> list[str]:
        """Apply a change, or take all of them back (None); return the names of the granules that changed.

        Raises:
            SettingsError: No such change, or no catalog that changes is served.
        """
        async with self._one_at_a_time:
            done = self._history().reset() if change is None else self._history().apply(change)
            if done.objects and self._private is not None:
                await replace_objects(self._private(), done.objects)
        return list(done.names)

    def _history(self) -> History:
        if not self._histories:
            raise SettingsError(
                "no catalog that changes with time is served",
                subject="sandbox changes",
                action="serve cmr_stac or earthaccess",
            )
        return self._histories[0]
