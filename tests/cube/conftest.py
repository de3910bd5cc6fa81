"""Fixtures of the cube tests: synthetic rasters are shared with the raster tests."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "raster"))
sys.path.insert(0, str(Path(__file__).parent))
