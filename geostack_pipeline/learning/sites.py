"""Which split a place belongs to: decided by a hash of its cell, once and for ever.

A place never moves from one split to another when data come in, so the test set stays disjoint from all that any
model ever learnt from.  A tile or granule belongs to a split only where its whole box does: what straddles two
splits is evidence of neither.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from geostack_pipeline.storage.digest import canonical_json

Split = Literal["train", "validation", "test"]
Box = tuple[float, float, float, float]
"""West, south, east, north in degrees."""


@dataclass(frozen=True, kw_only=True)
class Splitter:
    """The rule that gives every place and time its split."""

    cell_deg: float
    """Edge of the square cells of longitude and latitude, degrees."""
    test_share: float
    """Share of the cells that is only ever tested on."""
    validation_share: float
    """Share of the months of every other cell on which thresholds are chosen."""

    def of_cell(self, column: int, row: int) -> Literal["learn", "test"]:
        """Return what a cell is for."""
        return "test" if _unit("cell", column, row) < self.test_share else "learn"

    def of(self, box: Box, moment: datetime, granule: Box | None = None) -> Split | None:
        """Return the split of what lies in a box; None where the box reaches cells of both kinds.

        Args:
            box: Of a granule, or of a tile.
            moment: When the granule was taken.
            granule: Box of the granule of a tile: all its tiles for learning share one split.
        """
        west, south, east, north = box
        kinds = {
            self.of_cell(column, row)
            for column in range(math.floor(west / self.cell_deg), math.floor(east / self.cell_deg) + 1)
            for row in range(math.floor(south / self.cell_deg), math.floor(north / self.cell_deg) + 1)
        }
        if len(kinds) != 1:
            return None
        if kinds == {"test"}:
            return "test"
        west, south, east, north = granule or box
        column = math.floor((west + east) / 2.0 / self.cell_deg)
        row = math.floor((south + north) / 2.0 / self.cell_deg)
        held_back = _unit("month", column, row, moment.year, moment.month) < self.validation_share
        return "validation" if held_back else "train"


def _unit(*parts: int | str) -> float:
    """Return a number in [0, 1) that the parts alone decide, the same on every machine."""
    digest = hashlib.sha256(canonical_json(list(parts))).digest()
    return int.from_bytes(digest[:8], "big") / 2.0**64
