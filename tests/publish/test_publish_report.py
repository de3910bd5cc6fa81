"""The page of a date: nothing from outside in it, hostile text harmless, numbers as they are."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from typing import Any

from test_publish_stac import NOON, a_field, a_plume

from geostack_pipeline.methane.plume_table import plume_rows
from geostack_pipeline.publish.report import ReportField, ReportPlume, report_page

EVIL = '<img src="https://evil.example/x"><script>alert(1)</script>&"\''


class Reader(HTMLParser):
    """Collects tags and what they would ask for."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.asked: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.asked += [
            value or ""
            for name, value in attrs
            if name in {"src", "href", "srcset", "action", "data", "poster", "xlink:href"}
        ]

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def a_row(**changes: Any) -> dict[str, Any]:
    import shapely

    row = {
        "plume_id": "p", "provider": "earth_search", "instrument": "sentinel-2", "area": "korpezhe", "time": NOON,
        "method": "mbmp", "maturity": "screening", "geometry": shapely.to_wkb(shapely.box(54.0, 38.5, 54.01, 38.505)),
        "source_longitude": 54.0, "source_latitude": 38.5, "source_method": "upwind", "area_m2": 4e5, "ime_kg": 912.4,
        "ime_sigma_kg": 88.0, "max_enhancement_ppm_m": 9000.0, "mean_enhancement_ppm_m": 3000.0, "item_ids": ["S2A_X"],
        "reference_item_ids": ["S2A_R"], "emission_rate_kg_h": 9040.0, "emission_rate_sigma_kg_h": 3010.0,
        "wind_speed_m_s": 3.1, "wind_sigma_m_s": 0.9, "wind_from_deg": 250.0, "wind_time": NOON,
        "wind_distance_km": 4.0, "wind_source": "wind.parquet sha256:0123456789abcdef", **changes,
    }  # fmt: skip
    made: dict[str, Any] = plume_rows([row]).to_pylist()[0]
    return {**made, "providers": ["earth_search", "cdse"]}


def page(*rows: dict[str, Any], **changes: Any) -> str:
    given: dict[str, Any] = {
        "day": "2024-06-07",
        "areas": [("korpezhe", [(53.98, 38.48, 54.04, 38.52)])],
        "fields": [],
        "plumes": [ReportPlume(row=row, picture=b"\x89PNG", item=a_plume()) for row in rows],
        "versions": {"published": "v"},
        "missing": [],
        **changes,
    }
    return report_page(**given).decode()


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    return reader


def test_numbers_stand_as_they_are() -> None:
    item = a_field()
    item["properties"] |= {
        "geostack:area": "korpezhe", "geostack:provider": "earth_search", "geostack:method": "MBMP",
    }  # fmt: skip
    html = page(a_row(), fields=[ReportField(item=item, hrefs=[])], missing=["cdse"])
    text = " ".join(read(html).text)
    for wanted in (
        "9.0 ± 3.0",
        "912 ± 88",
        "3.1 ± 0.9",
        "38.5000° N, 54.0000° E",
        "S2A_X",
        "S2A_R",
        "from 250°",
    ):
        assert wanted in text, wanted
    assert "Nothing stored for this date from: cdse" in text
    assert "Friday, 7 June 2024" in text


def test_no_rate_says_why_and_a_date_without_plumes_says_so() -> None:
    html = page(
        a_row(emission_rate_kg_h=None, rate_missing_reason="no wind within 1.5 h", wind_speed_m_s=None)
    )
    text = " ".join(read(html).text)
    assert "no rate" in text
    assert "no wind within 1.5 h" in text
    empty = " ".join(read(page()).text)
    assert "No plume was found on this date." in empty
    assert "not seen on this date" in empty


def test_the_strongest_comes_first() -> None:
    html = page(
        a_row(plume_id="weak", emission_rate_kg_h=100.0),
        a_row(plume_id="strong", emission_rate_kg_h=20_000.0),
    )
    assert html.index("strong") < html.index("weak")


def test_hostile_text_stays_text() -> None:
    row = a_row(
        plume_id=EVIL, area=EVIL, instrument=EVIL, method=EVIL, maturity=EVIL, source_method=EVIL, wind_source=EVIL,
        item_ids=[EVIL], reference_item_ids=[EVIL], rate_missing_reason=EVIL,
    )  # fmt: skip
    item = a_field()
    item["id"] = EVIL
    item["properties"] |= {
        "geostack:area": EVIL, "geostack:provider": EVIL, "geostack:method": EVIL, "geostack:source_items": [EVIL],
    }  # fmt: skip
    plain = read(page(a_row(), areas=[("korpezhe", [(53.98, 38.48, 54.04, 38.52)])]))
    evil = read(
        page(
            {**row, "providers": [EVIL]},
            areas=[(EVIL, [(53.98, 38.48, 54.04, 38.52)])],
            fields=[ReportField(item=item, hrefs=[])],
            versions={EVIL: EVIL},
            missing=[EVIL],
        )
    )
    assert set(evil.tags) - set(plain.tags) == set()
    assert "script" not in evil.tags
    assert evil.tags.count("img") == 1
    assert all(href.startswith(("#", "data:image/png;base64,")) for href in evil.asked)


def test_the_page_may_ask_nobody() -> None:
    html = page(a_row())
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', html)
    assert policy is not None
    assert "default-src &#x27;none&#x27;" in policy[1]
    assert not re.search(r"url\((?!#)|@import|https?://", html)


def test_the_probability_and_its_model_stand_where_a_model_found_the_plume() -> None:
    said = {
        "probability_max": 0.934,
        "probability_mean": 0.7,
        "model_name": f"u{EVIL}",
        "model_version": "f" * 16,
    }
    html = page({**a_row(), **said})
    text = " ".join(read(html).text)
    assert "0.93 max, 0.70 mean" in text
    assert "f" * 12 in text
    assert EVIL not in html
    assert "Probability" not in page(a_row())
