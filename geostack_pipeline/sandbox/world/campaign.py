"""A campaign of EMIT: many small granules of places with known leaks, each a random scenario, with the methane products.

Every granule shows a place of its own, far from all others, so that a model can be tested on places that it has never
seen.  The outlines are granules of their own, as always; an analyst draws only those of plumes that stand out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from geostack_pipeline.areas import Area
from geostack_pipeline.sandbox.config import LARGEST_CAMPAIGN
from geostack_pipeline.sandbox.world.emit import EmitGranule, EmitPass
from geostack_pipeline.sandbox.world.noise import generator
from geostack_pipeline.sandbox.world.products import appear
from geostack_pipeline.sandbox.world.workers import render_in_processes

if TYPE_CHECKING:
    from geostack_pipeline.sandbox.world.scenario import Scenario
    from geostack_pipeline.sandbox.world.world import World

LINES = SAMPLES = 96
"""Pixels of 60 m."""
SPACING_DEG = 0.5
"""Places lie on a lattice with this spacing; none comes near the lines in the middle between its points."""
AREA = Area(name="campaign", bbox=(56.0, 33.0, 68.0, 39.0))
"""Holds all places."""
PER_DAY = 100
DAYS = (4, 5, 8)
"""Days of June 2024, none of which has another granule of EMIT."""
_JITTER_DEG = 0.12
_LEAKS = (0.25, 0.4, 0.25, 0.1)
"""Probability of no leak, one, two and three."""


def planned(seed: int, number: int) -> tuple[Scenario, EmitPass]:
    """Return a granule of the campaign as it is planned; the same whatever the campaign's size.

    Args:
        seed: Of the world.
        number: From 0, below :data:`LARGEST_CAMPAIGN`.
    """
    from geostack_pipeline.sandbox.world.scenario import scenario  # noqa: PLC0415 - it brings GDAL and numba

    rng = generator(seed, "campaign", number)
    west, south, east, _ = AREA.bbox
    wide = round((east - west) / SPACING_DEG)
    cell = int(generator(seed, "campaign").permutation(LARGEST_CAMPAIGN)[number])
    longitude = west + SPACING_DEG * (cell % wide + 0.5) + rng.uniform(-_JITTER_DEG, _JITTER_DEG)
    latitude = south + SPACING_DEG * (cell // wide + 0.5) + rng.uniform(-_JITTER_DEG, _JITTER_DEG)
    day, place = divmod(number, PER_DAY)
    start = datetime(2024, 6, DAYS[day], 6, tzinfo=UTC) + timedelta(
        seconds=140 * place + int(rng.integers(20))
    )
    made = scenario(
        seed * 1000 + number,
        lines=LINES,
        samples=SAMPLES,
        plumes=int(rng.choice(len(_LEAKS), p=_LEAKS)),
        place=(float(longitude), float(latitude), 32601 + int((longitude + 180.0) // 6.0)),
        start=start,
    )
    return made, EmitPass(
        site=made.site,
        start=start,
        scene=f"{37 * number % 1000:03d}",
        swath=made.swath,
        plumes=tuple((_plume_number(number, each), plume) for each, plume in enumerate(made.plumes)),
        plumes_when=start.isoformat(),
        view_zenith_deg=made.view_zenith_deg,
        cloud_share=made.cloud_share,
    )


def _plume_number(number: int, plume: int) -> str:
    """Return six digits that are not in the order of time."""
    return f"{100_000 + (7919 * (10 * number + plume)) % 899_981:06d}"


def render(seed: int, number: int, work: Path) -> None:
    """Write the files of a granule of the campaign into ``work``."""
    from geostack_pipeline.sandbox.world.emit_methane import write_methane  # noqa: PLC0415 - it brings GDAL

    made, overpass = planned(seed, number)
    granule = made.render()
    write_methane(
        overpass,
        work,
        granule.level2,
        {plume.name: column for plume, column in zip(granule.plumes, granule.columns, strict=True)},
        seed=made.seed,
        key=f"emit/{overpass.stem}",
        facts={
            "cloud_cover": round(100.0 * float((granule.clouds > 0.25).mean())),
            "sun_zenith": made.sun.zenith_deg,
            "sun_azimuth": made.sun.azimuth_deg,
        },
        weak_too=False,
    )


def folder_of(world: World, number: int) -> Path:
    """Return where the files of a granule are kept."""
    return world.folder / "campaign" / f"{number:03d}"


def render_granule(world: World, number: int) -> None:
    """Render a granule unless it is there."""
    appear(folder_of(world, number), lambda work: render(world.seed, number, work))


def prepare(world: World, *, workers: int = 2, progress: Callable[[int, int], None] | None = None) -> int:
    """Render the granules that are missing, in ``workers`` processes; return how many these were.

    About 0.4 s each on one core.

    Raises:
        StorageError: They cannot be written.
    """
    missing = [number for number in range(world.campaign) if not folder_of(world, number).is_dir()]
    if not missing:
        return 0
    finished: list[str] = []

    def note(name: str) -> None:
        finished.append(name)
        if progress is not None:
            progress(len(finished), len(missing))

    jobs = [{"granule": number, "tile": ""} for number in missing]
    render_in_processes(world.recipe, jobs, min(workers, len(missing)), note, world.folder)
    return len(missing)


def campaign_granules(world: World) -> Iterator[EmitGranule]:
    """Yield the granules of a world's campaign, by time; renders what is missing."""
    from geostack_pipeline.sandbox.world.emit_methane import load_granule  # noqa: PLC0415 - it brings GDAL

    prepare(world)
    for number in range(world.campaign):
        yield load_granule(planned(world.seed, number)[1], folder_of(world, number))
