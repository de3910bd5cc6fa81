"""The structure of a TIFF file: byte order, directories and raw tags, read with few small requests.

Tags are kept as the bytes they are, in the file's byte order, so that a crop can copy them
unchanged.  Formats: Adobe "TIFF Revision 6.0" (1992) and the BigTIFF extension of libtiff.
"""

from __future__ import annotations

import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import numpy.typing as npt

from geostack_pipeline.errors import RasterError
from geostack_pipeline.raster.fetch import not_a_raster

ByteOrder = Literal["<", ">"]

NEW_SUBFILE_TYPE = 254
IMAGE_WIDTH = 256
IMAGE_LENGTH = 257
BITS_PER_SAMPLE = 258
COMPRESSION = 259
PHOTOMETRIC = 262
STRIP_OFFSETS = 273
SAMPLES_PER_PIXEL = 277
ROWS_PER_STRIP = 278
STRIP_BYTE_COUNTS = 279
PLANAR_CONFIGURATION = 284
PREDICTOR = 317
TILE_WIDTH = 322
TILE_LENGTH = 323
TILE_OFFSETS = 324
TILE_BYTE_COUNTS = 325
EXTRA_SAMPLES = 338
SAMPLE_FORMAT = 339

SUBFILE_OVERVIEW = 1
SUBFILE_MASK = 4

_CODES: Mapping[int, str] = {
    1: "u1",
    2: "u1",
    3: "u2",
    4: "u4",
    5: "u4",
    6: "i1",
    7: "u1",
    8: "i2",
    9: "i4",
    10: "i4",
    11: "f4",
    12: "f8",
    13: "u4",
    16: "u8",
    17: "i8",
    18: "u8",
}
_SIZES: Mapping[int, int] = {
    code: np.dtype(kind).itemsize * (2 if code in {5, 10} else 1) for code, kind in _CODES.items()
}
_LARGEST_TAG = 1 << 28
_MOST_DIRECTORIES = 256
_DEFERRED = frozenset({STRIP_OFFSETS, STRIP_BYTE_COUNTS, TILE_OFFSETS, TILE_BYTE_COUNTS})


class ReadsBytes(Protocol):
    """What the parser needs of a file."""

    key: str
    """Name shown in errors."""
    size: int
    """Size of the file in bytes."""

    def read(self, start: int, stop: int) -> bytes:
        """Return the bytes [start, stop); raise ``RasterError`` for a range outside the file."""
        ...


@dataclass(frozen=True, kw_only=True)
class Tag:
    """One tag of a directory, as stored."""

    code: int
    """Number of the tag, e.g. 256 for ImageWidth."""
    kind: int
    """TIFF type of the values, e.g. 3 for unsigned 16-bit."""
    count: int
    """Number of values (of bytes for text)."""
    data: bytes
    """The values in the file's byte order."""

    def values(self, order: ByteOrder) -> npt.NDArray[np.generic]:
        """Return the values as a one-dimensional array in native byte order (rationals as pairs)."""
        raw = np.frombuffer(self.data, dtype=np.dtype(_CODES[self.kind]).newbyteorder(order))
        return raw.astype(raw.dtype.newbyteorder("="))

    @classmethod
    def of(cls, code: int, kind: int, values: npt.ArrayLike, order: ByteOrder) -> Tag:
        """Return a tag with the given values."""
        raw = np.atleast_1d(np.asarray(values, dtype=np.dtype(_CODES[kind]).newbyteorder(order)))
        count = raw.size // 2 if kind in {5, 10} else raw.size
        return cls(code=code, kind=kind, count=count, data=raw.tobytes())


@dataclass(frozen=True, kw_only=True)
class _Deferred:
    """Where the values of a large array lie that may never be needed."""

    code: int
    kind: int
    count: int
    offset: int

    @property
    def stop(self) -> int:
        return self.offset + self.count * _SIZES[self.kind]


@dataclass(frozen=True, kw_only=True)
class Directory:
    """One image of a TIFF file (IFD)."""

    order: ByteOrder
    """Byte order of the file."""
    tags: Mapping[int, Tag]
    """The tags by code, without arrays that are not read yet."""
    source: ReadsBytes = field(repr=False, compare=False)
    """The file, for the arrays that are not read yet."""
    deferred: Mapping[int, _Deferred] = field(default_factory=dict, repr=False)
    """Tile and strip arrays outside the directory, read when asked for."""

    def array(self, code: int) -> npt.NDArray[np.generic]:
        """Return the values of a tag; empty where the tag is absent. May read from the file."""
        tag = self.tag(code)
        return np.zeros(0, np.int64) if tag is None else tag.values(self.order)

    def tag(self, code: int) -> Tag | None:
        """Return a tag, read from the file where its values lie outside the directory."""
        if code in self.tags:
            return self.tags[code]
        later = self.deferred.get(code)
        if later is None:
            return None
        return Tag(
            code=code, kind=later.kind, count=later.count, data=self.source.read(later.offset, later.stop)
        )

    def number(self, code: int, default: int | None = None) -> int:
        """Return the first value of an integer tag, or the default."""
        values = self.array(code)
        if values.size:
            return int(values[0])
        if default is None:
            raise RasterError(
                "A tag that every TIFF has is missing",
                subject=self.source.key,
                found=f"no tag {code}",
                action="fetch the object again; if it stays so, the source is corrupt",
            )
        return default

    @property
    def width(self) -> int:
        """Columns of the image."""
        return self.number(IMAGE_WIDTH)

    @property
    def height(self) -> int:
        """Rows of the image."""
        return self.number(IMAGE_LENGTH)

    @property
    def subfile_type(self) -> int:
        """Bit field: 1 overview, 4 mask."""
        return self.number(NEW_SUBFILE_TYPE, 0)

    @property
    def is_tiled(self) -> bool:
        """Whether pixels are stored in tiles."""
        return self._has(TILE_WIDTH) and self._has(TILE_LENGTH) and self._has(TILE_OFFSETS)

    @property
    def tile_width(self) -> int:
        """Columns of a tile."""
        return self.number(TILE_WIDTH)

    @property
    def tile_height(self) -> int:
        """Rows of a tile."""
        return self.number(TILE_LENGTH)

    @property
    def samples(self) -> int:
        """Bands."""
        return self.number(SAMPLES_PER_PIXEL, 1)

    @property
    def compression(self) -> int:
        """Number of the compression scheme."""
        return self.number(COMPRESSION, 1)

    @property
    def predictor(self) -> int:
        """1 none, 2 horizontal differences, 3 floating point."""
        return self.number(PREDICTOR, 1)

    @property
    def is_planar(self) -> bool:
        """Whether each band has its own tiles (band interleaved)."""
        return self.number(PLANAR_CONFIGURATION, 1) == 2 and self.samples > 1

    @property
    def tile_grid(self) -> tuple[int, int]:
        """Rows and columns of tiles of one plane."""
        return (-(-self.height // self.tile_height), -(-self.width // self.tile_width))

    @property
    def planes(self) -> int:
        """Number of separately stored planes."""
        return self.samples if self.is_planar else 1

    def _has(self, code: int) -> bool:
        return code in self.tags or code in self.deferred

    def tile_index(self) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return offsets and byte counts of the tiles, shaped (planes, tile rows, tile columns).

        A byte count of 0 is a sparse tile: it holds no data value everywhere.

        Raises:
            RasterError: The arrays do not fit the image, or a tile lies outside the file.
        """
        rows, columns = self.tile_grid
        shape = (self.planes, rows, columns)
        offsets = self.array(TILE_OFFSETS).astype(np.int64)
        counts = self.array(TILE_BYTE_COUNTS).astype(np.int64)
        expected = self.planes * rows * columns
        if offsets.size != expected or counts.size != expected:
            raise RasterError(
                "The tile index does not fit the image",
                subject=self.source.key,
                found=f"{offsets.size} offsets and {counts.size} byte counts for {expected} tiles",
                action="fetch the object again; if it stays so, the source is corrupt",
            )
        counts = np.where(offsets == 0, 0, counts)
        ends = np.where(counts > 0, offsets + counts, 0)
        if (counts < 0).any() or (offsets < 0).any() or ends.max(initial=0) > self.source.size:
            bad = int((ends > self.source.size).sum())
            raise RasterError(
                "Tiles lie outside the file: it is cut or still being written",
                subject=self.source.key,
                found=f"{bad} of {expected} tiles end behind byte {self.source.size}",
                action="fetch the object again later",
            )
        return offsets.reshape(shape), counts.reshape(shape)


@dataclass(frozen=True, kw_only=True)
class TiffFile:
    """The structure of a TIFF file."""

    order: ByteOrder
    """Byte order of all numbers in the file."""
    big: bool
    """Whether it is a BigTIFF (64-bit offsets)."""
    directories: tuple[Directory, ...]
    """All images in the order of the file: the first is the full resolution."""

    @property
    def main(self) -> Directory:
        """The image at full resolution."""
        return self.directories[0]

    @property
    def mask(self) -> Directory | None:
        """The internal mask of the full-resolution image, if there is one."""
        for directory in self.directories[1:]:
            kind = directory.subfile_type
            if kind & SUBFILE_MASK and not kind & SUBFILE_OVERVIEW:
                return directory
        return None

    @property
    def overviews(self) -> tuple[Directory, ...]:
        """The reduced images, finest first."""
        found = [
            d
            for d in self.directories[1:]
            if d.subfile_type & SUBFILE_OVERVIEW and not d.subfile_type & SUBFILE_MASK
        ]
        return tuple(sorted(found, key=lambda d: -d.width))


def read_structure(source: ReadsBytes) -> TiffFile:
    """Return the directories of a TIFF, reading only its header.

    Raises:
        RasterError: The object is no TIFF, or its directories are cut or corrupt; says what was found.
    """
    start = source.read(0, min(16, source.size))
    order = _byte_order(start)
    if order is None or len(start) < 8:
        raise not_a_raster(source.key, start)
    magic = struct.unpack(order + "H", start[2:4])[0]
    if magic == 42:
        big, offset = False, struct.unpack(order + "I", start[4:8])[0]
    elif magic == 43 and len(start) == 16 and struct.unpack(order + "HH", start[4:8]) == (8, 0):
        big, offset = True, struct.unpack(order + "Q", start[8:16])[0]
    else:
        raise not_a_raster(source.key, start)
    directories: list[Directory] = []
    seen: set[int] = set()
    while offset:
        if offset in seen or len(directories) >= _MOST_DIRECTORIES:
            raise _corrupt(source.key, f"a chain of directories that does not end (byte {offset})")
        seen.add(offset)
        directory, offset = _read_directory(source, offset, order, big=big)
        directories.append(directory)
    if not directories:
        raise _corrupt(source.key, "no image directory")
    _check_image(directories[0])
    return TiffFile(order=order, big=big, directories=tuple(directories))


def is_tiff(start: bytes) -> bool:
    """Return whether bytes begin like a TIFF or BigTIFF."""
    order = _byte_order(start)
    return order is not None and len(start) >= 4 and struct.unpack(order + "H", start[2:4])[0] in {42, 43}


def _byte_order(start: bytes) -> ByteOrder | None:
    if start[:2] == b"II":
        return "<"
    return ">" if start[:2] == b"MM" else None


def _read_directory(source: ReadsBytes, offset: int, order: ByteOrder, *, big: bool) -> tuple[Directory, int]:
    count_size, entry_size, word = (8, 20, 8) if big else (2, 12, 4)
    unsigned = "Q" if big else "I"
    entries = struct.unpack(order + ("Q" if big else "H"), source.read(offset, offset + count_size))[0]
    if not 0 < entries <= 4096:
        raise _corrupt(source.key, f"a directory with {entries} tags at byte {offset}")
    stop = offset + count_size + entries * entry_size + word
    raw = source.read(offset, stop)
    tags: dict[int, Tag] = {}
    deferred: dict[int, _Deferred] = {}
    for i in range(entries):
        entry = raw[count_size + i * entry_size : count_size + (i + 1) * entry_size]
        code, kind = struct.unpack(order + "HH", entry[:4])
        count = struct.unpack(order + unsigned, entry[4 : 4 + word])[0]
        if kind not in _SIZES:
            continue  # readers skip unknown field types (TIFF 6.0, section 2)
        size = count * _SIZES[kind]
        if size > _LARGEST_TAG or size > source.size:
            raise _corrupt(source.key, f"tag {code} of {size} bytes in a file of {source.size} bytes")
        if size <= word:
            tags[code] = Tag(code=code, kind=kind, count=count, data=entry[4 + word : 4 + word + size])
            continue
        where = struct.unpack(order + unsigned, entry[4 + word :])[0]
        if where + size > source.size:
            raise _corrupt(
                source.key,
                f"tag {code} at bytes {where}-{where + size} of a file of {source.size} bytes: it is cut",
            )
        if code in _DEFERRED:
            deferred[code] = _Deferred(code=code, kind=kind, count=count, offset=where)
        else:
            tags[code] = Tag(code=code, kind=kind, count=count, data=source.read(where, where + size))
    following = struct.unpack(order + unsigned, raw[-word:])[0]
    return Directory(order=order, tags=tags, deferred=deferred, source=source), following


def _check_image(directory: Directory) -> None:
    width, height = directory.width, directory.height
    if width <= 0 or height <= 0 or directory.samples <= 0:
        raise _corrupt(directory.source.key, f"an image of {width} x {height} x {directory.samples}")
    if directory.is_tiled and (
        directory.tile_width <= 0
        or directory.tile_height <= 0
        or directory.tile_width * directory.tile_height > 1 << 28
    ):
        raise _corrupt(directory.source.key, f"tiles of {directory.tile_width} x {directory.tile_height}")


def _corrupt(key: str, found: str) -> RasterError:
    return RasterError(
        "The TIFF is corrupt",
        subject=key,
        found=found,
        action="fetch the object again; if it stays so, the source is cut or corrupt",
    )
