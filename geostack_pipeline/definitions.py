"""The Dagster code location: ``workspace.yaml`` names this module."""

from __future__ import annotations

import dagster as dg

from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.settings import load_settings

defs: dg.Definitions = build_definitions(load_settings())
