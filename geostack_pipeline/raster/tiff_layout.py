"""Where everything of a TIFF lies that is written from already encoded tiles.

The layout is known before any tile is at hand: directories first, then the tiles in reading
order, so a crop can be written in one pass while its tiles arrive.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geostack_pipeline.raster.tiff import TILE_BYTE_COUNTS, TILE_OFFSETS, ByteOrder, Tag


@dataclass(frozen=True, kw_only=True)
class EncodedImage:
    """One image whose tiles exist already in encoded form."""

    tags: Mapping[int, Tag]
    """All tags but the tile index."""
    identities: npt.NDArray[np.int64]
    """A number per tile in file order; tiles with the same number are stored once; -1 is a sparse tile."""
    byte_counts: npt.NDArray[np.int64]
    """Encoded size per tile, 0 for a sparse one."""


@dataclass(frozen=True, kw_only=True)
class Layout:
    """The beginning of a TIFF and where each of its tiles goes."""

    header: bytes
    """Signature and all directories; the file's first bytes."""
    positions: Mapping[int, int]
    """Byte offset of each tile by its identity."""
    size: int
    """Size of the complete file."""


def lay_out(images: Sequence[EncodedImage], *, order: ByteOrder, big: bool) -> Layout:
    """Return the layout of a TIFF with the given images, the first being the full resolution."""
    index_kind, word = (16, 8) if big else (4, 4)
    cursor = 16 if big else 8
    starts: list[int] = []
    for image in images:
        starts.append(cursor)
        cursor += _directory_size(image, index_kind, big=big)
    positions: dict[int, int] = {}
    for image in images:
        for identity, count in zip(image.identities.tolist(), image.byte_counts.tolist(), strict=True):
            if count and identity not in positions:
                positions[identity] = cursor
                cursor += count
    if not big and cursor >= 1 << 32:
        raise ValueError(f"a classic TIFF holds less than 4 GiB, this one would be {cursor} bytes")
    header = bytearray(_signature(order, big=big))
    for i, image in enumerate(images):
        offsets = [positions[n] if n >= 0 else 0 for n in image.identities.tolist()]
        tags = dict(image.tags)
        tags[TILE_OFFSETS] = Tag.of(TILE_OFFSETS, index_kind, offsets, order)
        tags[TILE_BYTE_COUNTS] = Tag.of(TILE_BYTE_COUNTS, index_kind, image.byte_counts, order)
        following = starts[i + 1] if i + 1 < len(images) else 0
        header += _directory(tags, starts[i], following, order, big=big, word=word)
    return Layout(header=bytes(header), positions=positions, size=cursor)


def _signature(order: ByteOrder, *, big: bool) -> bytes:
    mark = b"II" if order == "<" else b"MM"
    if big:
        return mark + struct.pack(order + "HHHQ", 43, 8, 0, 16)
    return mark + struct.pack(order + "HI", 42, 8)


def _directory_size(image: EncodedImage, index_kind: int, *, big: bool) -> int:
    count_size, entry_size, word = (8, 20, 8) if big else (2, 12, 4)
    index_bytes = image.identities.size * (8 if index_kind == 16 else 4)
    sizes = [
        len(tag.data) for code, tag in image.tags.items() if code not in {TILE_OFFSETS, TILE_BYTE_COUNTS}
    ]
    sizes += [index_bytes, index_bytes]
    outside = sum(size + size % 2 for size in sizes if size > word)
    return count_size + len(sizes) * entry_size + word + outside


def _directory(
    tags: Mapping[int, Tag], start: int, following: int, order: ByteOrder, *, big: bool, word: int
) -> bytes:
    unsigned = "Q" if big else "I"
    count_size, entry_size = (8, 20) if big else (2, 12)
    outside_at = start + count_size + len(tags) * entry_size + word
    entries = bytearray(struct.pack(order + ("Q" if big else "H"), len(tags)))
    outside = bytearray()
    for code in sorted(tags):
        tag = tags[code]
        entries += struct.pack(order + "HH" + unsigned, code, tag.kind, tag.count)
        if len(tag.data) <= word:
            entries += tag.data.ljust(word, b"\0")
        else:
            entries += struct.pack(order + unsigned, outside_at + len(outside))
            outside += tag.data
            if len(tag.data) % 2:
                outside += b"\0"  # values begin on an even offset (TIFF 6.0, section 2)
    return bytes(entries + struct.pack(order + unsigned, following) + outside)
