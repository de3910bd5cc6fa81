"""Pictures of a service on their way into the cache, without a service."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import polars as pl
import pytest

from geostack_pipeline.areas import Area
from geostack_pipeline.cube.grid import grid_for
from geostack_pipeline.errors import TransferError
from geostack_pipeline.providers.contract import (
    PixelGrid,
    Radiometry,
    Rendered,
    RenderedBand,
    RenderRequest,
    Want,
)
from geostack_pipeline.stages import granules, pictures
from geostack_pipeline.stages.pictures import Studio, distinct, rendering_of, shots
from geostack_pipeline.stages.traffic import Traffic
from geostack_pipeline.stages.wishes import Target
from geostack_pipeline.storage.blobs import BlobCache
from geostack_pipeline.storage.roots import open_root

NUMBERS = Radiometry(scale=0.0001, offset=-0.1, nodata=0.0, reason="process")


class Renderer:
    """Makes one picture of everything; counts."""

    key = "hub"
    rendering = "test-1"

    def __init__(self, make: Callable[[Path], Rendered] | None = None) -> None:
        self.made = 0
        self.asked: list[tuple[list[str], list[str]]] = []
        self._make = make

    def wants(self, item: Any, bands: Sequence[str]) -> list[Want]:
        return [Want(asset=band, how="window") for band in [*bands, "SCL"]]

    def render(self, grid: PixelGrid, items: Sequence[Any], bands: Sequence[str]) -> Sequence[RenderRequest]:
        self.asked.append(([item["id"] for item in items], list(bands)))

        def perform(dest: Path) -> Rendered:
            self.made += 1
            if self._make is not None:
                return self._make(dest)
            dest.write_bytes(b"picture")
            return Rendered(size=7, bytes_moved=9, requests=2, empty=False)

        return [
            RenderRequest(
                canonical=f"test://{grid.width}x{grid.height}",
                service="https://service.example",
                items=tuple(item["id"] for item in items),
                bands={
                    band: RenderedBand(index=index, radiometry=NUMBERS)
                    for index, band in enumerate(bands, start=1)
                },
                expected_bytes=7,
                perform=perform,
            )
        ]


def item(name: str, *, cloud: float | None = 1.0, assets: Sequence[str] = ("B12", "SCL")) -> dict[str, Any]:
    return {
        "id": name,
        "collection": "c",
        "properties": {
            "geostack:scene": f"S_{name}",
            "datetime": "2024-06-01T00:00:00.000000Z",
            "eo:cloud_cover": cloud,
            "view:sun_elevation": 60.0,
        },
        "assets": {asset: {} for asset in assets},
    }


AREA = Area(name="a", bbox=(10.0, 45.0, 10.01, 45.01))
TWIN = Area(name="b", bbox=AREA.bbox)


@pytest.fixture
def ws(tmp_path: Path) -> Any:
    return SimpleNamespace(
        areas=(AREA, TWIN),
        grid=grid_for,
        reads_overviews=lambda key, area: False,
        resampling=lambda key, area: "auto",
        blobs=BlobCache(open_root(f"file://{tmp_path}/store")),
        provider_settings=lambda key: SimpleNamespace(bands=("B12",)),
    )


def planned(
    ws: Any, renderer: Renderer, monkeypatch: pytest.MonkeyPatch, targets: Sequence[Target]
) -> tuple[list[pictures.Shot], list[Any]]:
    monkeypatch.setattr(pictures, "targets", lambda *_: iter(targets))
    return shots(ws, renderer, None)  # type: ignore[arg-type]


def target(area: Area, thing: dict[str, Any], coverage: float) -> Target:
    return Target(area=area.name, bounds=AREA.bbox, crs="EPSG:4326", item=thing, coverage=coverage)


def test_the_scene_that_shows_most_stands_for_a_picture(ws: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    renderer = Renderer()
    targets = [
        target(AREA, item("cloudy", cloud=50.0), 0.9),
        target(AREA, item("unknown", cloud=None), 0.9),
        target(AREA, item("clear", cloud=2.0), 0.9),
        target(AREA, item("edge", cloud=0.0), 0.1),
        target(AREA, item("bare", assets=("B12",)), 1.0),
    ]
    (shot,), skipped = planned(ws, renderer, monkeypatch, targets)
    assert renderer.asked == [(["clear", "cloudy", "unknown", "edge"], ["B12", "SCL"])]
    assert shot.item["id"] == "clear"
    assert shot.coverage == 0.9
    assert skipped == [("a", "bare", "SCL", "asset missing", "the item has no such asset")]


def test_areas_of_one_extent_share_a_picture(
    ws: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    renderer = Renderer()
    wanted, _ = planned(ws, renderer, monkeypatch, [target(area, item("x"), 1.0) for area in (AREA, TWIN)])
    assert [shot.area for shot in wanted] == ["a", "b"]
    assert len(distinct(wanted)) == 1
    traffic = Traffic()
    studio = Studio(ws, renderer, tmp_path, traffic)  # type: ignore[arg-type]
    first, second = studio.take(wanted[0]), studio.take(wanted[1])
    assert first == second
    assert renderer.made == 1
    assert traffic.by_store() == {
        "https://service.example": {"bytes_moved": 9, "requests": 2, "cache_hits": 1, "fetched": 1}
    }
    assert first.extra == {"form": "picture", "items": ["x"], "empty": False}
    rows = granules._picture_rows(wanted[1], second)
    assert [(row["area"], row["asset"], row["band"], row["scale"], row["offset"]) for row in rows] == [
        ("b", "B12", 1, 0.0001, -0.1),
        ("b", "SCL", 2, 0.0001, -0.1),
    ]
    assert {row["sun_zenith"] for row in rows} == {30.0}
    assert set(rows[0]) == set(granules.MANIFEST_SCHEMA)
    assert granules._bytes(pl.DataFrame(rows, schema=granules.MANIFEST_SCHEMA)) == 7


def test_an_error_names_the_area_and_leaves_nothing(
    ws: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def broken(dest: Path) -> Rendered:
        dest.write_bytes(b"half")
        raise TransferError("the service does not answer", subject="service")

    renderer = Renderer(broken)
    (shot,), _ = planned(ws, renderer, monkeypatch, [target(AREA, item("x"), 1.0)])
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    with pytest.raises(TransferError, match=r"hub picture of a \(service\)"):
        Studio(ws, renderer, scratch, Traffic()).take(shot)  # type: ignore[arg-type]
    assert list(scratch.iterdir()) == []
    assert ws.blobs.find(shot.key) is None


def test_how_pictures_are_made_is_part_of_the_version(ws: Any) -> None:
    files = SimpleNamespace(key="files", product=SimpleNamespace(kind="surface"))
    renderer = Renderer()
    assert rendering_of(renderer) == "test-1"  # type: ignore[arg-type]
    assert rendering_of(files) is None  # type: ignore[arg-type]
    plain = granules.base(ws, files, "v")  # type: ignore[arg-type]
    made = granules.base(ws, renderer, "v")  # type: ignore[arg-type]
    renderer.rendering = "test-2"
    assert len({plain, made, granules.base(ws, renderer, "v")}) == 3  # type: ignore[arg-type]
