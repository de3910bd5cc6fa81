"""Scene tables: what goes in comes out, an empty day has the same columns, equal input gives equal bytes."""

from __future__ import annotations

import copy
import hashlib
import io
import json
import math
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import rustac
import shapely
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geostack_pipeline.catalog import scene_check, scene_table
from geostack_pipeline.catalog.scene_table import canonical_digest, from_parquet, items_of, to_parquet
from geostack_pipeline.errors import CatalogError
from geostack_pipeline.providers.contract import CANONICAL_PROPERTIES
from geostack_pipeline.providers.earth_search import EarthSearch

PROVIDER = EarthSearch(collections=("sentinel-2-l2a", "sentinel-2-c1-l2a"))
TEMPLATE = PROVIDER.template()


def item(number: int = 0, **properties: Any) -> dict[str, Any]:
    """A canonical item of its own making."""
    return PROVIDER.canonical(
        {
            "id": f"S2A_32TMT_20200305_{number}_L2A",
            "collection": "sentinel-2-l2a",
            "geometry": {"type": "Polygon", "coordinates": [[[7, 46], [8, 46], [8, 47], [7, 47], [7, 46]]]},
            "properties": {
                "datetime": "2020-03-05T10:37:41.587Z",
                "platform": "sentinel-2a",
                "grid:code": "MGRS-32TMT",
                **properties,
            },
            "assets": {"red": {"href": f"s3://sentinel-cogs/{number}/B04.tif"}},
        }
    )


def recorded(shared: Path) -> list[dict[str, Any]]:
    folder = shared / "samples" / "earth-search"
    pages = [
        json.loads((folder / f"search_s2l2a_dups_page{n}.exchange.json").read_text())["json"] for n in (1, 2)
    ]
    c1 = json.loads((folder / "sentinel-2-c1-l2a.10items.json").read_text())
    return [PROVIDER.canonical(feature) for page in (*pages, c1) for feature in page["features"]]


def by_id(items: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return sorted(items, key=lambda one: one["id"])


def test_recorded_items_round_trip(shared_dir: Path) -> None:
    items = recorded(shared_dir)
    files = to_parquet(items, TEMPLATE)
    assert list(files) == ["scenes.parquet"]
    assert from_parquet(files["scenes.parquet"]) == by_id(items)
    assert canonical_digest(from_parquet(files["scenes.parquet"])) == canonical_digest(items)


def test_the_real_collection_1_items_round_trip(shared_dir: Path) -> None:
    items = recorded(shared_dir)[-10:]
    assert {one["collection"] for one in items} == {"sentinel-2-c1-l2a"}
    files = to_parquet(items, PROVIDER.template())
    assert from_parquet(files["scenes.parquet"]) == by_id(items)


def test_columns_agree_with_an_independent_reader(shared_dir: Path) -> None:
    items = by_id(recorded(shared_dir))
    table = pq.read_table(io.BytesIO(to_parquet(items, TEMPLATE)["scenes.parquet"]))
    assert table.column("id").to_pylist() == [one["id"] for one in items]
    assert table.column("eo:cloud_cover").to_pylist() == [
        one["properties"]["eo:cloud_cover"] for one in items
    ]
    assert table.column("sat:relative_orbit").to_pylist() == [
        one["properties"]["sat:relative_orbit"] for one in items
    ]
    geometry = table.column("geometry")
    storage = (
        geometry.chunk(0).storage if isinstance(geometry.type, pa.BaseExtensionType) else geometry.chunk(0)
    )
    shapes = shapely.from_wkb(storage.to_pylist())
    assert [shapely.geometry.mapping(s)["coordinates"][0][0] for s in shapes] == [
        tuple(one["geometry"]["coordinates"][0][0]) for one in items
    ]
    hrefs = [asset["B04"]["href"] for asset in table.column("assets").to_pylist()]
    assert hrefs == [one["assets"]["B04"]["href"] for one in items]
    frame = pl.read_parquet(io.BytesIO(to_parquet(items, TEMPLATE)["scenes.parquet"]))
    assert frame.filter(pl.col("eo:cloud_cover") < 50).height == sum(
        one["properties"]["eo:cloud_cover"] < 50 for one in items
    )


def test_an_empty_day_has_the_same_columns_and_metadata(tmp_path: Path) -> None:
    empty = to_parquet([], TEMPLATE)
    full = to_parquet([item()], TEMPLATE)
    assert list(empty) == list(full) == ["scenes.parquet"]
    zero, one = (pq.read_table(io.BytesIO(files["scenes.parquet"])) for files in (empty, full))
    assert (zero.num_rows, one.num_rows) == (0, 1)
    assert zero.schema.equals(one.schema)
    assert set(CANONICAL_PROPERTIES) <= set(zero.column_names)
    assert not [field for field in zero.schema if pa.types.is_null(field.type)]
    metadata = pq.read_metadata(io.BytesIO(empty["scenes.parquet"])).metadata
    assert json.loads(metadata[b"geo"])["columns"]["geometry"]["encoding"] == "WKB"
    assert json.loads(metadata[b"stac-geoparquet"])["version"]
    assert from_parquet(empty["scenes.parquet"]) == []
    path = tmp_path / "scenes.parquet"
    path.write_bytes(empty["scenes.parquet"])
    assert rustac.read_sync(str(path))["features"] == []
    assert pl.read_parquet(path).height == 0


def test_the_files_extent_is_the_items_own() -> None:
    metadata = pq.read_metadata(io.BytesIO(to_parquet([item()], TEMPLATE)["scenes.parquet"])).metadata
    assert json.loads(metadata[b"geo"])["columns"]["geometry"]["bbox"] == [7.0, 46.0, 8.0, 47.0]


def test_an_independent_library_reads_the_file(shared_dir: Path) -> None:
    stac_geoparquet = pytest.importorskip("stac_geoparquet.arrow")
    items = by_id(recorded(shared_dir))
    table = pq.read_table(io.BytesIO(to_parquet(items, TEMPLATE)["scenes.parquet"]))
    read = list(stac_geoparquet.stac_table_to_items(table))
    assert [one["id"] for one in read] == [one["id"] for one in items]
    assert read[0]["assets"]["B04"]["href"] == items[0]["assets"]["B04"]["href"]


def test_equal_rows_give_equal_bytes_whatever_their_order() -> None:
    items = [item(number, **{"eo:cloud_cover": number / 3}) for number in range(20)]
    shuffled = copy.deepcopy(items)
    random.Random(1).shuffle(shuffled)
    shuffled = [dict(reversed(list(one.items()))) for one in shuffled]
    assert canonical_digest(shuffled) == canonical_digest(items)
    assert to_parquet(shuffled, TEMPLATE) == to_parquet(items, TEMPLATE)
    changed = copy.deepcopy(items)
    changed[3]["assets"]["B04"]["href"] += "x"
    assert canonical_digest(changed) != canonical_digest(items)


def test_equal_rows_give_equal_bytes_in_another_process() -> None:
    code = (
        "import sys, hashlib; sys.path.insert(0, sys.argv[1])\n"
        "from test_scene_table import item, TEMPLATE, to_parquet\n"
        "data = to_parquet([item(n) for n in range(3)], TEMPLATE)['scenes.parquet']\n"
        "print(hashlib.sha256(data).hexdigest())"
    )
    here = hashlib.sha256(to_parquet([item(n) for n in range(3)], TEMPLATE)["scenes.parquet"]).hexdigest()
    done = subprocess.run(
        [sys.executable, "-c", code, str(Path(__file__).parent)],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.stdout.strip() == here, done.stderr[-400:]


def test_microseconds_survive() -> None:
    items = [
        item(1, created="2020-01-01T00:00:00.123456Z"),
        PROVIDER.canonical(
            {**item(2), "properties": {**item(2)["properties"], "datetime": "2020-03-05T23:59:59.999999Z"}}
        ),
    ]
    read = from_parquet(to_parquet(items, TEMPLATE)["scenes.parquet"])
    assert read == items
    assert read[1]["properties"]["datetime"] == "2020-03-05T23:59:59.999999Z"


def test_a_thousand_items_are_written_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scene_table, "CHUNK", 7)
    items = [item(number) for number in range(30)]
    data = to_parquet(items, TEMPLATE)["scenes.parquet"]
    assert pq.ParquetFile(io.BytesIO(data)).metadata.num_row_groups == 5
    assert from_parquet(data) == by_id(items)


def test_columns_beyond_the_template_are_written_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Providers with free-form items: the union of all columns, in one file."""
    monkeypatch.setattr(scene_table, "CHUNK", 2)
    items = [item(number) for number in range(5)]
    items[4]["properties"]["new:number"] = 4.5
    items[2]["assets"]["NEW"] = {"href": "https://example.com/new"}
    files = to_parquet(items, TEMPLATE)
    assert list(files) == ["scenes.parquet"]
    assert from_parquet(files["scenes.parquet"]) == items


def test_types_that_cannot_share_a_column_go_to_a_second_file() -> None:
    items = [item(number) for number in range(4)]
    items[1]["properties"]["new:thing"] = 1.5
    items[2]["properties"]["new:thing"] = "text"
    items[3]["properties"]["eo:cloud_cover"] = "a text where the template has a number"
    files = to_parquet(items, TEMPLATE)
    assert list(files) == ["scenes-0.parquet", "scenes-1.parquet"]
    read = [one for data in files.values() for one in from_parquet(data)]
    assert by_id(read) == items


def test_a_value_that_the_format_would_drop_is_an_error() -> None:
    broken = item()
    broken["properties"]["nothing"] = None
    with pytest.raises(CatalogError, match=r"S2A_32TMT_20200305_0_L2A.*a type or a null"):
        to_parquet([broken], TEMPLATE)
    other = item()
    other["properties"]["s2:sequence"] = 5
    other["stray"] = 1
    with pytest.raises(CatalogError, match="stray"):
        to_parquet([other], TEMPLATE)


def test_rows_of_a_part_of_the_table_can_be_read() -> None:
    items = [item(number) for number in range(4)]
    table = pq.read_table(io.BytesIO(to_parquet(items, TEMPLATE)["scenes.parquet"]))
    assert items_of(table.take(pa.array([2, 0]))) == [items[2], items[0]]
    assert items_of(table.slice(1, 2)) == items[1:3]
    assert items_of(table.slice(0, 3)) == items[:3]
    assert items_of(table.slice(0, 0)) == []


def test_an_integer_where_the_column_holds_fractions_is_an_error() -> None:
    broken = item()
    broken["properties"]["eo:cloud_cover"] = 5
    with pytest.raises(CatalogError, match="a type or a null"):
        to_parquet([item(1), broken], TEMPLATE)


def test_a_null_or_an_empty_list_that_reading_drops_is_an_error() -> None:
    for name, value, found in (("title", None, "a type or a null"), ("roles", [], "/roles")):
        broken = item()
        broken["assets"]["B04"][name] = value
        with pytest.raises(CatalogError, match=f"S2A_32TMT_20200305_0_L2A.*{found}"):
            to_parquet([item(1), broken], TEMPLATE)


def test_the_sign_of_zero_survives() -> None:
    negative = item()
    negative["properties"]["eo:cloud_cover"] = -0.0
    read = from_parquet(to_parquet([negative], TEMPLATE)["scenes.parquet"])
    assert str(read[0]["properties"]["eo:cloud_cover"]) == "-0.0"


def test_every_row_is_compared_with_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """An encoder that changes one value of one row in the middle is found out, and the row is named."""
    honest = rustac.write_sync

    def write(path: str, rows: list[dict[str, Any]], **options: Any) -> None:
        rows = copy.deepcopy(rows)
        if len(rows) > 3:
            rows[3]["assets"]["B04"]["href"] += "x"
        honest(path, rows, **options)

    monkeypatch.setattr(rustac, "write_sync", write)
    with pytest.raises(CatalogError, match=r"S2A_32TMT_20200305_2_L2A.*/assets/B04/href"):
        to_parquet([item(number) for number in range(5)], TEMPLATE)


def full_item() -> dict[str, Any]:
    """An item with a value in every column but those of most assets, which are alike."""
    full = copy.deepcopy(TEMPLATE)
    full["id"] = "full"
    full["properties"]["datetime"] = "2020-01-01T00:00:00.250000Z"
    full["properties"].pop("geostack:exact", None)
    full["assets"] = {key: full["assets"][key] for key in ("B04", "SCL", "thumbnail")}
    return full


def leaves(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    if isinstance(value, dict):
        for key, member in value.items():
            yield from leaves(member, (*path, key))
    elif isinstance(value, list):
        for index, member in enumerate(value):
            yield from leaves(member, (*path, index))
    else:
        yield path


def changed_values(value: Any) -> list[Any]:
    if isinstance(value, bool):
        return [not value]
    if isinstance(value, int):
        return [value + 1]
    if isinstance(value, float):
        return [math.nextafter(value, math.inf)]
    if value.endswith(".250000Z"):
        return [value.replace(".250", ".251"), value.replace("2020", "2021")]
    return [f"{value}x"]


def test_columns_show_every_change_of_a_value() -> None:
    before = full_item()
    table = scene_table._table([item(1), before], TEMPLATE)
    assert scene_check.holds(table, [item(1), before])
    assert not scene_check.holds(table, [before, item(1)])
    assert not scene_check.holds(table, [item(1)])
    paths = list(leaves(before))
    assert len(paths) > 120
    for path in paths:
        value = before
        for step in path:
            value = value[step]
        for other in changed_values(value):
            after = copy.deepcopy(before)
            parent = after
            for step in path[:-1]:
                parent = parent[step]
            parent[path[-1]] = other
            assert not scene_check.holds(table, [item(1), after]), path
            if isinstance(parent, dict):
                del parent[path[-1]]
                assert not scene_check.holds(table, [item(1), after]), f"without {path}"


def test_ordinary_items_are_not_rebuilt(shared_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The comparison by columns is the cheap one only if it decides."""
    rebuilt: list[int] = []
    monkeypatch.setattr(
        scene_table, "items_of", lambda table: rebuilt.append(table.num_rows) or items_of(table)
    )
    to_parquet(recorded(shared_dir), TEMPLATE)
    to_parquet([item(number, created="2020-01-01T00:00:00.123456Z") for number in range(9)], TEMPLATE)
    assert rebuilt == [1, 1]


names = st.text(st.characters(codec="utf-8"), max_size=10)
free = st.one_of(names, st.integers(), st.floats(), st.booleans(), st.none(), st.lists(names, max_size=3))


@settings(max_examples=20, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(
        st.fixed_dictionaries(
            {},
            optional={
                "eo:cloud_cover": free,
                "s2:sequence": free,
                "instruments": free,
                "created": st.datetimes().map(lambda when: f"{when.isoformat()}Z") | free,
                "s2:generation_time": free,
                "proj:centroid": st.dictionaries(st.sampled_from(["lat", "lon", "x"]), free),
                "surprise": free,
                "mgrs:utm_zone": free,
            },
        ),
        max_size=4,
    )
)
def test_whatever_is_canonical_can_be_written(drawn: list[dict[str, Any]]) -> None:
    items = [item(number, **properties) for number, properties in enumerate(drawn)]
    files = to_parquet(items, TEMPLATE)
    assert list(files) == ["scenes.parquet"], "canonical items share their columns"
    assert from_parquet(files["scenes.parquet"]) == items
