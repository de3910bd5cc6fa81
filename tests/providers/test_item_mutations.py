"""Items as catalogs give them, broken in every way: each is canonical, or rejected with a reason; nothing else happens."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from geostack_pipeline.catalog.scene_table import from_parquet, to_parquet
from geostack_pipeline.catalog.search import search
from geostack_pipeline.providers.contract import Item, Provider, RejectedItemError
from geostack_pipeline.sandbox.config import PROVIDERS
from tests.every_provider import QUICK, Every, text

SAMPLES = {
    "earth_search": ("earth-search/search_s2l2a_dups_page1.exchange.json",),
    "planetary_computer": ("planetary-computer/sentinel-2-l2a.items2.json",),
    "cdse": ("cdse/search_s2l2a.exchange.json", "cdse/sentinel-2-l2a.item_2026.json"),
    "sentinel_hub": ("sentinel-hub/sentinel-2-l2a.item_cdse.json",),
    "cmr_stac": ("cmr-stac/DERIVED_emitl2arfl_001.item.json",),
    "earthaccess": ("earthaccess/emitl2arfl_001.granule_ummg.json",),
    "dlr_geoservice": (
        "dlr-eoc/enmap_l2a.items_2026style.json",
        "dlr-eoc/search_mixed_enmap_2025.exchange.json",
    ),
}
"""Recorded items, where they are at hand beside the checkout."""
RECORDED = Path(__file__).parents[2].parent / "shared" / "samples"


def recorded(key: str) -> Iterator[Item]:
    for name in SAMPLES.get(key, ()):
        file = RECORDED / name
        if not file.is_file():
            continue
        said = json.loads(file.read_text(encoding="utf-8"))
        said = said.get("json", said) if isinstance(said, dict) else said
        yield from said if isinstance(said, list) else said.get("features", [said])


@pytest.fixture(params=PROVIDERS)
def catalog(request: pytest.FixtureRequest, every_provider: Every) -> tuple[Provider, list[Item]]:
    """A provider, and raw items of it: the sandbox's and recorded ones."""
    every_provider.sandbox.clear_faults()
    provider = every_provider.provider(request.param)
    day = every_provider.day(request.param)
    served = search(provider, day, every_provider.areas, policy=QUICK).items
    return provider, [*served[:3], *list(recorded(request.param))[:5]]


HUGE = [
    "x" * 50_000,
    10**400,
    -(10**30),
    1e308,
    [0.0] * 4_000,
    {str(number): number for number in range(400)},
    [[[0.0, 0.0]] * 3] * 200,
]
ODD = [
    *(None, True, False, 0, -1, 0.5, "", " ", "NaN", "null", "1e5", "-0", "2024-02-30T00:00:00Z", "[1, 2]"),
    *(float("nan"), float("inf"), [], {}, [None], [[]], {"": None}, "\ud800", "a\x00b", "\u202etxt", "../.."),
    *("file:///etc/passwd", "2024-06-01T00:00:00+25:00", "9999-12-31T23:59:59.999999999Z", [180.0, 91.0]),
    *({"type": "Point", "coordinates": [500, 500]}, {"type": "Polygon", "coordinates": []}),
    *({"type": "GeometryCollection", "geometries": []}, {"href": 5}, [1, "a", None, {"b": [2]}]),
]
VALUES = st.sampled_from(ODD) | st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
MUTATIONS = st.lists(
    st.tuples(
        st.sampled_from(["drop", "retype", "nest", "huge", "add", "repeat"]),
        st.integers(0, 1 << 30),
        st.integers(1, 6),
        VALUES,
    ),
    min_size=1,
    max_size=4,
)


def places(value: Any, depth: int) -> Iterator[tuple[Any, Any]]:
    """Yield (container, key) of everything in a value down to a depth."""
    keys = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
    for key in list(keys)[:200]:
        yield value, key
        if depth > 1:
            yield from places(value[key], depth - 1)


def mutate(item: Item, mutations: Sequence[tuple[str, int, int, Any]]) -> Item:
    """Return an item with its members dropped, of other types, nested, huge, added or repeated."""
    item = copy.deepcopy(item)
    for what, number, depth, value in mutations:
        found = list(places(item, depth))
        if not found:
            break
        container, key = found[number % len(found)]
        # A copy: what is put in may itself be changed by the next mutation.
        value = copy.deepcopy(value)
        match what:
            case "drop":
                del container[key]
            case "retype":
                container[key] = value
            case "nest":
                for _ in range(2 + number % 40):
                    container[key] = [container[key]] if number % 2 else {"x": container[key]}
            case "huge":
                container[key] = copy.deepcopy(HUGE[number % len(HUGE)])
            case "add" if isinstance(container, dict):
                container[f"new:{number}"] = value
            case _:
                container[key] = [container[key], copy.deepcopy(container[key])]
    return item


def check_reason(error: RejectedItemError) -> None:
    assert error.reason.replace("_", "").isalnum()
    assert error.detail
    assert len(str(error)) < 10_000


def examine(provider: Provider, raw: Item, kept: list[Item]) -> bool:
    """Check one item; return whether it became canonical."""
    before = json.dumps(raw, sort_keys=False)
    try:
        item = provider.canonical(raw)
    except RejectedItemError as error:
        check_reason(error)
        return False
    finally:
        assert json.dumps(raw, sort_keys=False) == before, "the raw item was changed"
    again = provider.canonical(copy.deepcopy(item))
    assert text([again]) == text([item]), "not idempotent"
    json.dumps(item, allow_nan=False)
    kept.append(item)
    return True


def write(provider: Provider, items: Sequence[Item]) -> None:
    """Check that items survive a scene list."""
    files = to_parquet(items, provider.template())
    read = [item for data in files.values() for item in from_parquet(data)]
    assert sorted(text([item]) for item in read) == sorted(text([item]) for item in items)


def run(provider: Provider, items: list[Item], examples: int) -> None:
    kept: list[Item] = []
    accepted = 0

    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(st.integers(0, len(items) - 1), MUTATIONS)
    def check(number: int, mutations: list[tuple[str, int, int, Any]]) -> None:
        nonlocal accepted
        accepted += examine(provider, mutate(items[number], mutations), kept)
        if len(kept) >= 50:
            write(provider, kept)
            kept.clear()

    check()
    write(provider, kept)
    assert accepted, "nothing was left to write: every mutation was rejected"


def test_a_few_hundred_mutations(catalog: tuple[Provider, list[Item]]) -> None:
    run(*catalog, examples=25)


@pytest.mark.slow
def test_ten_thousand_mutations(catalog: tuple[Provider, list[Item]]) -> None:
    run(*catalog, examples=10_000 // len(PROVIDERS))
