"""A process that runs dates of the pipeline and ends; started, and killed, by the tests.

    driver.py SETTINGS DAY[,DAY…] STAGE…

Prints ``ready`` when everything is imported and waits for a line; then ``<stage> <day> <version>`` for each artifact.
"""

from __future__ import annotations

import sys

from geostack_pipeline.providers.registry import build_provider
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import cube, granules, methane, scenes, selected
from geostack_pipeline.stages.workspace import open_workspace


def main(file: str, days: str, *stages: str) -> None:
    settings = load_settings(file)
    ws = open_workspace(settings, run_id="driver")
    provider = build_provider(
        "earth_search",
        url=settings.provider("earth_search").url,
        collections=settings.provider("earth_search").collections,
        endpoints=settings.endpoints("earth_search"),
    )
    if "cube" in stages:
        import geostack_pipeline.cube.build
        import geostack_pipeline.methane.retrieve  # noqa: F401
    print("ready", flush=True)
    sys.stdin.readline()
    for day in days.split(","):
        snapshot = None
        for stage in stages:
            if stage == "scenes":
                outcome = scenes.build(ws, provider, day, refresh=True)
            elif stage == "selected":
                outcome = selected.build(ws, provider, day, snapshot)
            elif stage == "granules":
                outcome = granules.build(ws, provider, day, snapshot)
            elif stage == "cube":
                outcome = cube.build(ws, provider, day, snapshot)
            else:
                outcome = methane.build(ws, provider, day, snapshot)
            snapshot = outcome.snapshot
            print(stage, day, snapshot.version, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
