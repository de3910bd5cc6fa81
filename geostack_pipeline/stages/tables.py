"""How the stages write their tables, and how those are read that are stored nowhere yet."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import polars as pl


class Tables(Protocol):
    """The tables of a stage: a stored version's, or those that a plan holds in memory."""

    @property
    def files(self) -> Mapping[str, Any]:
        """Every file by its path."""
        ...

    def read(self, path: str) -> bytes:
        """Return the bytes of one file."""
        ...

    def open(self, name: str | None = None) -> Any:
        """Return the table ``<name>.parquet``."""
        ...


@dataclass(frozen=True)
class Unstored:
    """Tables that only this process knows."""

    files: Mapping[str, bytes]
    """File name -> parquet."""

    def read(self, path: str) -> bytes:
        """Return the bytes of one file."""
        return self.files[path]

    def open(self, name: str | None = None) -> pl.DataFrame:
        """Return the table ``<name>.parquet``."""
        return pl.read_parquet(io.BytesIO(self.files[f"{name}.parquet"]))


def parquet_bytes(frame: pl.DataFrame) -> bytes:
    """Return a data frame as parquet bytes, the same for the same rows."""
    buffer = io.BytesIO()
    frame.write_parquet(buffer, compression="zstd", statistics=True)
    return buffer.getvalue()
