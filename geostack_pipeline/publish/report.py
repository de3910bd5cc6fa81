"""The page of a date: one HTML file that asks nobody for anything, with map, pictures, numbers and provenance."""

from __future__ import annotations

import base64
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from html import escape
from typing import Any

from geostack_pipeline.publish.report_map import area_map
from geostack_pipeline.publish.report_style import STYLE

Box = tuple[float, float, float, float]
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
"""The browser itself refuses to ask anyone, whatever text a catalog's item brings."""


@dataclass(frozen=True, kw_only=True)
class ReportField:
    """One field item."""

    item: Mapping[str, Any]
    hrefs: Sequence[str]
    """Where the items that it was made from lie."""


@dataclass(frozen=True, kw_only=True)
class ReportPlume:
    """One plume."""

    row: Mapping[str, Any]
    picture: bytes | None
    """PNG; None where its fields lie on no map."""
    item: Mapping[str, Any]


def report_page(
    *,
    day: str,
    areas: Sequence[tuple[str, Sequence[Box]]],
    fields: Sequence[ReportField],
    plumes: Sequence[ReportPlume],
    versions: Mapping[str, str],
    missing: Sequence[str],
) -> bytes:
    """Return the page.

    Args:
        day: UTC date.
        areas: Name and boxes (two where the antimeridian cuts) of the areas of interest.
        fields: The enhancement fields of the date.
        plumes: The plumes, each once.
        versions: Stored asset -> version that the page was made from.
        missing: Providers that may show methane and had nothing stored for the date.
    """
    ordered = sorted(plumes, key=_strongest)
    numbered = list(enumerate(ordered, start=1))
    date = datetime.fromisoformat(day)
    body = [
        _header(date, fields, ordered),
        _maps(areas, fields, numbered),
        _plumes(numbered),
        _fields(fields),
        _provenance(versions, missing),
    ]
    page = (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(POLICY)}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>Methane on {escape(day)}</title><style>{STYLE}</style></head>"
        f"<body><main>{''.join(body)}</main></body></html>\n"
    )
    return page.encode()


def _strongest(plume: ReportPlume) -> tuple[float, float, str]:
    rate = plume.row["emission_rate_kg_h"]
    return (-(rate or 0.0), -plume.row["ime_kg"], plume.row["plume_id"])


def _header(date: datetime, fields: Sequence[ReportField], plumes: Sequence[ReportPlume]) -> str:
    rates = [one.row for one in plumes if one.row["emission_rate_kg_h"] is not None]
    providers = {provider for one in plumes for provider in one.row["providers"]}
    providers |= {one.item["properties"]["geostack:provider"] for one in fields}
    tiles = [
        (str(len(plumes)), "plume" if len(plumes) == 1 else "plumes"),
        (_tonnes(max(row["emission_rate_kg_h"] for row in rates)) if rates else "—", "largest rate, t/h"),
        (str(len(fields)), "enhancement field" if len(fields) == 1 else "enhancement fields"),
        (str(len(providers)), "catalog" if len(providers) == 1 else "catalogs"),
    ]
    return (
        f'<header><p class="eyebrow">Methane report</p><h1>{date:%A}, {date.day} {date:%B %Y}</h1>'
        '<p class="lead">Plume candidates that no one has reviewed. A rate needs a wind; where there is none, '
        "the reason stands in its place.</p>"
        '<dl class="tiles">'
        + "".join(f"<div><dd>{escape(value)}</dd><dt>{escape(name)}</dt></div>" for value, name in tiles)
        + "</dl></header>"
    )


def _maps(
    areas: Sequence[tuple[str, Sequence[Box]]],
    fields: Sequence[ReportField],
    numbered: Sequence[tuple[int, ReportPlume]],
) -> str:
    drawn = [
        area_map(
            name,
            boxes,
            footprints=[
                one.item["geometry"]
                for one in fields
                if _within(one.item["properties"]["geostack:area"], name)
            ],
            plumes=[(number, plume.row) for number, plume in numbered if _within(plume.row["area"], name)],
        )
        for name, boxes in areas
    ]
    if not drawn:
        return ""
    return f'<section><h2>Where</h2><div class="maps">{"".join(drawn)}</div></section>'


def _within(area: str, name: str) -> bool:
    """Whether something seen in one area, or in several joined by ``+``, belongs to this one."""
    return name in area.split("+")


def _plumes(numbered: Sequence[tuple[int, ReportPlume]]) -> str:
    if not numbered:
        return '<section><h2>Plumes</h2><p class="empty">No plume was found on this date.</p></section>'
    head = "".join(
        f'<th class="{kind}">{escape(name)}</th>'
        for name, kind in (
            ("", "n"), ("Area", ""), ("Time (UTC)", ""), ("Instrument", ""), ("Rate (t/h)", "n"), ("Mass (kg)", "n"),
            ("Wind (m/s)", "n"), ("Area (km²)", "n"), ("Source", ""),
        )
    )  # fmt: skip
    rows = "".join(_table_row(number, plume.row) for number, plume in numbered)
    cards = "".join(_card(number, plume) for number, plume in numbered)
    return (
        '<section><h2>Plumes</h2><div class="scroll"><table><thead><tr>'
        f'{head}</tr></thead><tbody>{rows}</tbody></table></div><div class="cards">{cards}</div></section>'
    )


def _table_row(number: int, row: Mapping[str, Any]) -> str:
    cells = [
        (f'<a class="badge" href="#plume-{number}">{number}</a>', "n"),
        (escape(str(row["area"])), ""),
        (f"{row['time']:%H:%M:%S}", "t"),
        (escape(str(row["instrument"] or "—")), ""),
        (_rate(row), "n strong"),
        (_with_sigma(row["ime_kg"], row["ime_sigma_kg"], 0), "n"),
        (_with_sigma(row["wind_speed_m_s"], row["wind_sigma_m_s"], 1), "n"),
        (f"{row['area_m2'] / 1e6:.2f}", "n"),
        (_place(row), "t"),
    ]
    return "<tr>" + "".join(f'<td class="{kind}">{text}</td>' for text, kind in cells) + "</tr>"


def _card(number: int, plume: ReportPlume) -> str:
    row = plume.row
    picture = (
        '<div class="nopicture">no picture: its fields lie on no map</div>'
        if plume.picture is None
        else f'<img alt="Enhancement of plume {number} over true colour" src="data:image/png;base64,'
        f'{base64.b64encode(plume.picture).decode()}">'
    )
    if row["emission_rate_kg_h"] is None:
        headline = (
            f'<p class="rate none">no rate <small>{escape(str(row["rate_missing_reason"]))}</small></p>'
        )
    else:
        headline = f'<p class="rate">{_rate(row)} <small>t/h</small></p>'
    facts = [
        (
            "Seen",
            f"{row['time']:%Y-%m-%d %H:%M:%S} UTC by {escape(str(row['instrument'] or 'an unnamed instrument'))}",
        ),
        ("Method", f"{escape(str(row['method']).upper())}, {escape(str(row['maturity']))}"),
        ("Mass", f"{_with_sigma(row['ime_kg'], row['ime_sigma_kg'], 0)} kg"),
        (
            "Enhancement",
            f"{row['mean_enhancement_ppm_m']:,.0f} mean, {row['max_enhancement_ppm_m']:,.0f} max ppm m",
        ),
        *_model(row),
        ("Source", f"{_place(row)}<br><small>{escape(str(row['source_method']))}</small>"),
        ("Wind", _wind(row)),
        ("Seen through", escape(", ".join(row["providers"]))),
        ("Items", _list(row["item_ids"])),
    ]
    if row["reference_item_ids"]:
        facts.append(("Reference", _list(row["reference_item_ids"])))
    origin = plume.item["properties"]["geostack:source_versions"]
    facts.append(("Made from", _list(origin)))
    listed = "".join(f"<div><dt>{escape(name)}</dt><dd>{text}</dd></div>" for name, text in facts)
    return (
        f'<article class="card" id="plume-{number}">{picture}<div class="text">'
        f'<h3><span class="badge">{number}</span> {escape(str(row["area"]))}</h3>{headline}'
        f'<dl class="facts">{listed}</dl><p class="id">{escape(str(row["plume_id"]))}</p></div></article>'
    )


def _model(row: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what the plume model says; nothing where none found the plume."""
    if row.get("model_version") is None:
        return []
    numbers = f"{row['probability_max']:.2f} max, {row['probability_mean']:.2f} mean"
    version = f'<span class="mono">{escape(str(row["model_version"])[:12])}</span>'
    return [("Probability", f"{numbers}<br><small>{escape(str(row['model_name']))} {version}</small>")]


def _wind(row: Mapping[str, Any]) -> str:
    if row["wind_speed_m_s"] is None:
        return escape(str(row["rate_missing_reason"]))
    source = str(row["wind_source"])
    name, _, digest = source.partition(" sha256:")
    return (
        f"{_with_sigma(row['wind_speed_m_s'], row['wind_sigma_m_s'], 1)} m/s from {row['wind_from_deg']:.0f}°<br>"
        f"<small>{row['wind_time']:%Y-%m-%d %H:%M} UTC, {row['wind_distance_km']:.0f} km away, {escape(name)} "
        f'<span class="mono">{escape(digest[:12])}</span></small>'
    )


def _fields(fields: Sequence[ReportField]) -> str:
    if not fields:
        return '<section><h2>Fields</h2><p class="empty">No scene of this date became a field.</p></section>'
    rows = []
    for one in sorted(fields, key=lambda field: (field.item["properties"]["datetime"], field.item["id"])):
        facts = one.item["properties"]
        cloud = facts.get("eo:cloud_cover")
        statistics = (one.item["assets"]["ch4_enhancement"].get("raster:bands") or [{}])[0].get(
            "statistics", {}
        )
        valid = statistics.get("valid_percent")
        cells = [
            (escape(str(facts["geostack:area"])), ""),
            (escape(str(facts["datetime"]).replace("T", " ").replace("Z", "")), "t"),
            (escape(str(facts["geostack:provider"])), ""),
            (escape(str(facts["geostack:method"])), ""),
            ("—" if valid is None else f"{valid:.0f}", "n"),
            ("—" if cloud is None else f"{cloud:.0f}", "n"),
            (_list(facts["geostack:source_items"]), "mono"),
        ]
        rows.append("<tr>" + "".join(f'<td class="{kind}">{text}</td>' for text, kind in cells) + "</tr>")
    head = "".join(
        f'<th class="{kind}">{name}</th>'
        for name, kind in (
            ("Area", ""), ("Time (UTC)", ""), ("Catalog", ""), ("Method", ""), ("Valid (%)", "n"), ("Cloud (%)", "n"),
            ("Items", ""),
        )
    )  # fmt: skip
    return (
        '<section><h2>Fields</h2><div class="scroll"><table><thead><tr>'
        f"{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div></section>"
    )


def _provenance(versions: Mapping[str, str], missing: Sequence[str]) -> str:
    listed = "".join(
        f'<div><dt>{escape(asset)}</dt><dd class="mono">{escape(version)}</dd></div>'
        for asset, version in versions.items()
    )
    absent = (
        f'<p class="note">Nothing stored for this date from: {escape(", ".join(missing))}.</p>'
        if missing
        else ""
    )
    return (
        f'<section class="provenance"><h2>Provenance</h2><dl class="versions">{listed}</dl>{absent}'
        '<p class="note">Rate: 3600 · U_eff · IME / L with L the square root of the area and U_eff fitted per instrument; '
        "its 1-sigma from wind, mass and calibration. Each item in the catalog beside this page links to the items and the stored "
        "versions that it was made from.</p></section>"
    )


def _rate(row: Mapping[str, Any]) -> str:
    rate, sigma = row["emission_rate_kg_h"], row["emission_rate_sigma_kg_h"]
    if rate is None:
        return "—"
    if sigma is None:
        return _tonnes(rate)
    digits = 2 if rate < 1000.0 else 1
    return f"{rate / 1000.0:.{digits}f} ± {sigma / 1000.0:.{digits}f}"


def _tonnes(kilograms: float) -> str:
    tonnes = kilograms / 1000.0
    return f"{tonnes:.2f}" if abs(tonnes) < 1.0 else f"{tonnes:.1f}"


def _with_sigma(value: float | None, sigma: float | None, digits: int) -> str:
    if value is None:
        return "—"
    text = f"{value:,.{digits}f}"
    return text if sigma is None else f"{text} ± {sigma:,.{digits}f}"


def _place(row: Mapping[str, Any]) -> str:
    latitude, longitude = row["source_latitude"], row["source_longitude"]
    north, east = "N" if latitude >= 0 else "S", "E" if longitude >= 0 else "W"
    return f"{abs(latitude):.4f}° {north}, {abs(longitude):.4f}° {east}"


def _list(names: Iterable[Any]) -> str:
    return '<span class="ids">' + "<br>".join(escape(str(name)) for name in names) + "</span>"
