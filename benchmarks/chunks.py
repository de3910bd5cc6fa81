"""Chunks: how cubes should be cut and packed: chunk size, shards, codec; what writing and each way of reading costs."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from benchmarks.report import Report, Table, Target, middle, ratio, repeated
from benchmarks.worker import Measured, measure

_USUAL = "zstd 1, shuffle"


def run(*, quick: bool, repeat: int) -> Report:
    """Return the figures of a grid of layouts."""
    days, height, width = (2, 160, 200) if quick else (12, 1300, 1500)
    sides = (64, 128) if quick else (256, 512, 1024)
    layouts: list[tuple[str, int, int, int, str]] = []
    for side in sides:
        cover = -(-max(height, width) // side) * side
        layouts += [
            (f"{side}", side, 0, 1, _USUAL),
            (f"{side}, shard of a band", side, cover, 1, _USUAL),
            (f"{side}, shard of all bands", side, cover, 5, _USUAL),
        ]
    middle_side = sides[len(sides) // 2]
    layouts += [
        (f"{middle_side}", middle_side, 0, 1, codec) for codec in ("zstd 1, bitshuffle", "lz4, shuffle")
    ]
    with tempfile.TemporaryDirectory(prefix="geostack-bench-") as name:
        counter = iter(range(10_000))

        def once(chunk: int, shard: int, bands: int, codec: str) -> Measured:
            return measure(
                "benchmarks.chunks_tasks:layout",
                folder=str(Path(name, str(next(counter)))),
                days=days,
                height=height,
                width=width,
                chunk=chunk,
                shard=shard,
                bands=bands,
                codec=codec,
            )

        found = repeated(
            {f"{text}|{codec}": (lambda c=chunk, s=shard, b=bands, k=codec: once(c, s, b, k))
             for text, chunk, shard, bands, codec in layouts},
            repeat,
        )  # fmt: skip
    for text, runs in found.items():
        for one in runs:
            if "error" in one.facts:
                raise RuntimeError(f"{text}: {one.facts['error']}")

    def fact(key: str, name: str) -> float:
        return middle([one.facts[name] for one in found[key]])

    rows: list[list[Any]] = []
    for key in found:
        text, codec = key.split("|")
        raw = fact(key, "raw")
        rows.append(
            [
                text,
                codec,
                int(fact(key, "files")),
                fact(key, "bytes") / raw,
                fact(key, "write_cpu") / days * 1000,
                fact(key, "whole_cpu") / min(days, 4) * 1000,
                fact(key, "point_cpu") / days * 1000,
                fact(key, "window_cpu") / days * 1000,
            ]
        )
    usual, whole = f"{middle_side}|{_USUAL}", f"{middle_side}, shard of a band|{_USUAL}"
    return Report(
        name="chunks",
        about=f"{days} dates of (1, 5, {height}, {width}) uint16 in layouts; medians of {repeat}",
        tables=[
            Table(
                title="CPU milliseconds per date",
                columns=[
                    "chunk",
                    "codec",
                    "files",
                    "stored / raw",
                    "write",
                    "read whole",
                    "a pixel",
                    "64 x 64, 5 bands",
                ],
                rows=rows,
                note="codecs of Blosc; the local disk hides what a request costs on an object store",
            )
        ],
        targets=[
            Target(
                what="reading whole dates from shards against chunks alone",
                found=ratio(fact(whole, "whole_cpu"), fact(usual, "whole_cpu")),
                unit="x",
                limit=1.5,
                at_most=True,
            )
        ],
    )
