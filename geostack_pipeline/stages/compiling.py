"""Where the stages that compute with JAX keep what it compiles."""

from __future__ import annotations

from geostack_pipeline.stages.workspace import Workspace


def prepare_kernels(ws: Workspace) -> None:
    """Make ready for compiled kernels: a cache on disk unless the settings say otherwise, a device per core.

    To be called before anything is computed: what JAX has started with stays.
    """
    from geostack_pipeline.methane.runtime import cache_folder, prepare

    prepare(cache_folder(ws.artifacts.root.path) if ws.settings.methane.compilation_cache else None)
