"""Tables and pictures of an asset's page, against a Markdown renderer and Pillow."""

from __future__ import annotations

import base64
import io
import re
from datetime import UTC, datetime, timedelta, timezone
from html.parser import HTMLParser

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from PIL import Image

from geostack_pipeline.orchestration.metadata import (
    INLINE_CHARACTERS,
    PICTURE_PIXELS,
    TABLE_ROWS,
    data_uri,
    markdown,
    thumbnail,
)


class Cells(HTMLParser):
    """Collects the text of table cells and the names of all tags."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.rows: list[list[str]] = []
        self.tags: set[str] = set()
        self._open = False
        self.feed(MarkdownIt("commonmark").enable(["table", "strikethrough"]).render(text))

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.tags.add(tag)
        if tag == "tr":
            self.rows.append([])
        elif tag in {"td", "th"}:
            self.rows[-1].append("")
            self._open = True

    def handle_endtag(self, tag: str) -> None:
        self._open = self._open and tag not in {"td", "th"}

    def handle_data(self, data: str) -> None:
        if self._open:
            self.rows[-1][-1] += data


TABLE_TAGS = {"table", "thead", "tbody", "tr", "th", "td", "p"}


@given(st.lists(st.text(st.characters(min_codepoint=32, max_codepoint=0x17F)), min_size=1, max_size=3))
def test_a_cell_shows_the_catalogs_text_and_nothing_else(texts: list[str]) -> None:
    shown = Cells(markdown(pl.DataFrame({"id": texts, "n": range(len(texts))})))
    assert shown.tags <= TABLE_TAGS
    assert shown.rows[0] == ["id", "n"]
    # Markdown trims cells and HTML folds white space.
    assert [[" ".join(cell.split()) for cell in row] for row in shown.rows[1:]] == [
        [" ".join(text.split()), str(index)] for index, text in enumerate(texts)
    ]


@pytest.mark.parametrize(
    "hostile",
    [
        "![x](http://tracker.example/x.png)",
        '<img src="http://tracker.example/x.png">',
        "a|b\n|c|",
        "&lt;b&gt;",
        "\\",
    ],
)
def test_a_hostile_id_makes_the_browser_ask_nobody(hostile: str) -> None:
    shown = Cells(markdown(pl.DataFrame({"id": [hostile]})))
    assert shown.tags <= TABLE_TAGS
    assert len(shown.rows) == 2
    assert " ".join(shown.rows[1][0].split()) == " ".join(hostile.split())


def test_times_are_told_in_utc_to_the_second() -> None:
    east = timezone(timedelta(hours=5))
    table = pl.DataFrame(
        {"datetime": [datetime(2024, 6, 7, 12, 23, 8, 899_000, tzinfo=east).astimezone(UTC)]},
        schema={"datetime": pl.Datetime("us", "Asia/Tashkent")},
    )
    assert Cells(markdown(table)).rows[1] == ["2024-06-07T07:23:08"]


@given(st.integers(0, 40), st.integers(1, 1200))
def test_a_table_stays_short_enough_to_be_shown_in_place(rows: int, width: int) -> None:
    text = markdown(pl.DataFrame({"id": ["x" * width] * rows}, schema={"id": pl.String}))
    shown = len(Cells(text).rows) - 1
    assert shown <= TABLE_ROWS
    if rows:
        assert shown >= 1
    if width < 900:
        assert len(text) < INLINE_CHARACTERS
    told = re.search(r"(\d+) more row", text)
    assert shown + (int(told.group(1)) if told else 0) == rows


def test_a_picture_keeps_the_colours_of_a_small_plume() -> None:
    pixels = np.full((900, 900, 3), 118, dtype=np.uint8)
    pixels[::7, :, :] = 140
    pixels[440:470, 400:500] = (252, 140, 60)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    data = thumbnail([buffer.getvalue(), buffer.getvalue()])
    head, _, body = data_uri(data).partition(",")
    assert head == "data:image/webp;base64"
    sheet = Image.open(io.BytesIO(base64.b64decode(body)))
    assert sheet.size == (2 * PICTURE_PIXELS, PICTURE_PIXELS)
    scale = PICTURE_PIXELS / 900
    red, green, blue = sheet.convert("RGB").getpixel((int(450 * scale), int(455 * scale)))
    assert abs(red - 252) < 20
    assert abs(green - 140) < 20
    assert abs(blue - 60) < 30
    assert len(data) < 40_000
