"""Which scenes are worked on: a ``where`` expression, coverage of the areas, one item per scene.

Rows pass three gates in this order, and a dropped row keeps the reason of the gate that
stopped it:

1. ``where``: the expression is true for the row; null is not true.
2. ``coverage``: the footprint covers at least ``min_coverage`` of at least one area.
3. ``duplicate``: of the rows that show one scene, the highest processing baseline stays,
   then the newest processing, then the lowest id.

``where`` comes before de-duplication, so that it chooses among all processings:
``"processing:baseline" < '05.00'`` gives the old ones, and a scene is not lost because its best
processing fails an expression that another one passes.  Who wants the best processing
or none says so by an expression on what all processings share.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import shapely

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog import footprints
from geostack_pipeline.errors import SelectionError

SAME_GROUND = 0.9
"""Two items of a scene are duplicates when the one kept covers this share of the other's footprint.

A pass that was received in two parts gives two items of one datatake and tile that show
different ground: both stay."""

_ROW = "geostack_row"
_SETTINGS: dict[str, str | bool | int | float | list[str]] = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    "allow_community_extensions": "false",
    # DuckDB 2.0.0: a filter on a struct's field with this optimizer kills the connection
    "disabled_optimizers": "late_materialization",
    "threads": "2",
    "memory_limit": "1GB",
}
_FORBIDDEN_NODES = {
    "SUBQUERY": "a subquery",
    "PARAMETER": "a parameter",
    "WINDOW": "a window function",
    "STAR": "a star",
}
_CLOCK = re.compile(
    r"(current_(date|time|timestamp|localtime|localtimestamp)|local(time|timestamp))$", re.IGNORECASE
)
_UNSTEADY = re.compile(
    r"current_\w+|getvariable|now|today|random|local(time|timestamp)|get_current_\w+", re.IGNORECASE
)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Every scene of a table, once: selected or dropped."""

    selected: pa.Table
    """The rows that passed, in their order, with the columns and metadata of the scene table."""
    coverage: pl.DataFrame
    """``item_id``, ``area``, ``coverage`` (share of the area, above 0) of every scene and area that meet."""
    dropped: pl.DataFrame
    """``id``, ``geostack_scene``, ``reason`` (``where``, ``coverage``, ``duplicate``), ``detail``."""


def select(
    scenes: pa.Table, *, where: str | None, areas: Sequence[Area], min_coverage: float = 0.0
) -> Selection:
    """Return which rows of a scene table are worked on, and why the others are not.

    Args:
        scenes: A stac-geoparquet table of canonical items.
        where: A DuckDB expression over its columns, true for rows to keep; None keeps all. It
            sees this table alone: no files, no network, no other tables, and nothing that gives
            another answer tomorrow (``now()``, ``random()``).
        areas: Areas of interest.
        min_coverage: Share of an area, 0 to 1, that a footprint must cover; a footprint that only
            touches an area's border covers nothing and is dropped even at 0.

    Raises:
        SelectionError: ``where`` does not run on this table, or ``min_coverage`` is no share.
    """
    if not 0.0 <= min_coverage <= 1.0:
        raise SelectionError(
            "not a share of an area",
            subject="setting min_coverage",
            found=str(min_coverage),
            action="set 0 to 1",
        )
    reasons: dict[int, tuple[str, str]] = {}
    passed = set(range(scenes.num_rows)) if where is None else _where(scenes, where)
    for row in range(scenes.num_rows):
        if row not in passed:
            reasons[row] = ("where", f"not true: {where}")
    ids: list[str] = scenes.column("id").to_pylist()
    shapes = footprints.footprints(_wkb(scenes))
    shares = _shares(ids, shapes, areas)
    best = dict(shares.group_by("row").agg(pl.col("coverage").max()).iter_rows())
    for row in sorted(passed):
        share = best.get(row, 0.0)
        if share <= 0.0 or share < min_coverage:
            reasons[row] = ("coverage", f"covers {share:.4f} of an area at most, wanted {min_coverage:g}")
    _drop_duplicates(scenes, ids, shapes, [row for row in sorted(passed) if row not in reasons], reasons)
    keep = [row for row in range(scenes.num_rows) if row not in reasons]
    names = _strings(scenes, "geostack:scene")
    dropped = pl.DataFrame(
        {
            "id": [ids[row] for row in sorted(reasons)],
            "geostack_scene": [names[row] for row in sorted(reasons)],
            "reason": [reasons[row][0] for row in sorted(reasons)],
            "detail": [reasons[row][1] for row in sorted(reasons)],
        },
        schema={"id": pl.String, "geostack_scene": pl.String, "reason": pl.String, "detail": pl.String},
    )
    return Selection(
        selected=scenes.take(pa.array(keep, pa.int64())),
        coverage=shares.drop("row"),
        dropped=dropped,
    )


# -- where ----------------------------------------------------------------------------------------


def check_where(where: str) -> None:
    """Check an expression before any table is at hand.

    Raises:
        SelectionError: It is no single expression, or it asks for more than the columns of a row.
    """
    with duckdb.connect(":memory:", config=_SETTINGS) as connection:
        _expression(connection, where)


def _where(scenes: pa.Table, where: str) -> set[int]:
    """Return the numbers of the rows for which an expression is true."""
    # the footprint's extension type is not one that every version of duckdb reads
    columns = [name for name in scenes.column_names if name != "geometry"]
    table = scenes.select(columns).append_column(_ROW, pa.array(range(scenes.num_rows), pa.int64()))
    with duckdb.connect(":memory:", config=_SETTINGS) as connection:
        expression = _expression(connection, where)
        connection.execute("SET TimeZone = 'UTC'")
        connection.register("scenes", table)
        connection.execute("SET lock_configuration = true")
        try:
            # the expression is one that duckdb printed itself, on a connection that reaches nothing but this table
            described = f"DESCRIBE SELECT ({expression}) AS keep FROM scenes"  # noqa: S608
            kind = connection.execute(described).fetchall()[0][1]
            if kind != "BOOLEAN":
                raise _bad_where(where, f"an expression of type {kind}, not true or false", columns)
            rows = connection.execute(f"SELECT {_ROW} FROM scenes WHERE ({expression})").fetchall()  # noqa: S608
        except duckdb.Error as error:
            raise _bad_where(where, _first_line(error), columns) from None
    return {row for (row,) in rows}


def _expression(connection: duckdb.DuckDBPyConnection, where: str) -> str:
    """Return an expression as DuckDB prints it: one expression, without comments, with balanced brackets."""
    try:
        text = str(duckdb.SQLExpression(where))
        (tree,) = connection.execute("SELECT json_serialize_sql(?)", [f"SELECT 1 WHERE ({text})"]).fetchall()[
            0
        ]
    except duckdb.Error as error:
        raise _bad_where(where, _first_line(error)) from None
    parsed = json.loads(tree)
    if parsed.get("error"):
        raise _bad_where(where, str(parsed.get("error_message"))[:200])
    if len(parsed["statements"]) != 1:
        raise _bad_where(where, "more than one statement")
    for kind, name in _nodes(parsed["statements"][0]["node"]["where_clause"]):
        if kind in _FORBIDDEN_NODES:
            raise _bad_where(where, _FORBIDDEN_NODES[kind])
        if kind == "FUNCTION" and (unsteady := _unsteady(connection, name)):
            raise _bad_where(where, f"the function {name}(), {unsteady}")
        # written without brackets these look like columns
        if kind == "COLUMN_REF" and _CLOCK.match(name):
            raise _bad_where(where, f"{name}, which can give another answer tomorrow")
    return text


def _unsteady(connection: duckdb.DuckDBPyConnection, name: str) -> str | None:
    """Return why a function cannot be part of a selection that must give the same rows again; None if it can."""
    found = connection.execute(
        "SELECT function_type, stability, macro_definition FROM duckdb_functions() WHERE function_name = ?",
        [name.lower()],
    ).fetchall()
    if found and not any(kind in {"scalar", "macro"} for kind, _, _ in found):
        return "which does not look at one row"
    for _, stability, definition in found:
        if stability not in {None, "CONSISTENT"} or _UNSTEADY.search(definition or ""):
            return "which can give another answer tomorrow"
    return "which can give another answer tomorrow" if _UNSTEADY.fullmatch(name) else None


def _nodes(tree: Any) -> Iterator[tuple[str, str]]:
    """Yield the class of every node of a serialised expression, with the function's or the column's name."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, dict):
            if isinstance(node.get("class"), str):
                columns = node.get("column_names")
                name = columns[-1] if isinstance(columns, list) and columns else node.get("function_name", "")
                yield node["class"], str(name)
            stack.extend(node.values())
        elif isinstance(node, list):
            stack.extend(node)


def _bad_where(where: str, found: str, columns: Sequence[str] = ()) -> SelectionError:
    return SelectionError(
        "the expression does not select scenes",
        subject=f"setting where ({where[:200]})",
        found=found,
        action="correct it (names with a colon stand in double quotes)"
        + (f"; the columns are {', '.join(sorted(columns))}" if columns else ""),
    )


def _first_line(error: Exception) -> str:
    return str(error).strip().split("\n", 1)[0][:300]


# -- coverage -------------------------------------------------------------------------------------


def _wkb(scenes: pa.Table) -> list[bytes | None]:
    column = scenes.column("geometry")
    if isinstance(column.type, pa.BaseExtensionType):
        column = pa.chunked_array([chunk.storage for chunk in column.chunks], column.type.storage_type)
    values: list[bytes | None] = column.to_pylist()
    return values


def _shares(ids: Sequence[str], shapes: Sequence[shapely.Geometry], areas: Sequence[Area]) -> pl.DataFrame:
    rows: list[tuple[int, str, str, float]] = []
    planes = [(area.name, footprints.plane(area)) for area in areas]
    for row, shape in enumerate(shapes):
        for name, plane in planes:
            share = footprints.coverage(shape, plane)
            if share > 0.0:
                rows.append((row, ids[row], name, share))
    schema = {"row": pl.Int64, "item_id": pl.String, "area": pl.String, "coverage": pl.Float64}
    return pl.DataFrame(rows, schema=schema, orient="row")


# -- duplicates -----------------------------------------------------------------------------------


def _drop_duplicates(
    scenes: pa.Table,
    ids: Sequence[str],
    shapes: Sequence[shapely.Geometry],
    rows: Sequence[int],
    reasons: dict[int, tuple[str, str]],
) -> None:
    """Add the rows whose scene a better row of the same product shows to the reasons."""
    names = _strings(scenes, "geostack:scene")
    products = _strings(scenes, "geostack:product")
    baselines = _strings(scenes, "processing:baseline")
    made = _strings(scenes, "processing:datetime")
    best: dict[tuple[str, str | None], list[int]] = {}
    # lowest id first, then stable by processing and baseline: ties keep the lowest id
    order = sorted(rows, key=lambda row: ids[row])
    order.sort(key=lambda row: (baselines[row] or "", made[row] or ""), reverse=True)
    for row in order:
        name = names[row]
        if name is None:
            continue
        rivals = best.setdefault((name, products[row]), [])
        for other in rivals:
            if _shows(shapes[other], shapes[row]):
                reasons[row] = (
                    "duplicate",
                    f"same scene as {ids[other]} (baseline {baselines[other]}, processed {made[other]})",
                )
                break
        else:
            rivals.append(row)


def _shows(kept: shapely.Geometry, other: shapely.Geometry) -> bool:
    if other.area == 0.0:
        return True
    return bool(shapely.intersection(kept, other).area >= SAME_GROUND * other.area)


def _strings(scenes: pa.Table, column: str) -> list[str | None]:
    if column not in scenes.column_names:
        return [None] * scenes.num_rows
    values: list[str | None] = scenes.column(column).cast(pa.string()).to_pylist()
    return values
