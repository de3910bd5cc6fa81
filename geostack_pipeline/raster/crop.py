"""Lossless crop of a remote tiled TIFF: its compressed tiles, copied without decoding.

Only the header and the tiles that intersect the area are moved.  The result is a smaller valid
TIFF with the source's tags: pixels, bands, compression, predictor, byte order, colour map,
JPEG tables, no-data value, scales and offsets, and metadata are the source's; the georeferencing is moved to
the crop's corner.  The window is widened to whole tiles.  An internal mask is cropped with the
image.  Overviews are left out; where one of them is asked for in place of the full image, it is what is cut, and the
result says where its pixels lie.  Metadata is copied as it stands: statistics stay those of the whole source.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from geostack_pipeline.errors import RasterError, StorageError
from geostack_pipeline.raster import tiff
from geostack_pipeline.raster.fetch import SourceObject, merged, not_a_raster
from geostack_pipeline.raster.geo import Affine6, georeference, placed_tags, scaled, shifted, shifted_tags
from geostack_pipeline.raster.reduced import reduced_images
from geostack_pipeline.raster.tiff import Directory, Tag, TiffFile, read_structure
from geostack_pipeline.raster.tiff_layout import EncodedImage, Layout, lay_out
from geostack_pipeline.raster.window import Bounds, Window, window_of_bounds
from geostack_pipeline.storage.ranges import MAX_REQUEST, Meter, plan_spans

if TYPE_CHECKING:
    from obstore.store import ObjectStore

_OTHER_RASTERS = (
    b"\x00\x00\x00\x0cjP  ",  # JPEG 2000 file
    b"\xff\x4f\xff\x51",  # JPEG 2000 code stream
    b"\x89HDF\r\n\x1a\n",  # HDF5, NetCDF 4
    b"CDF",  # NetCDF classic
    b"\x89PNG",
    b"\xff\xd8\xff",  # JPEG
)
_NOT_COPIED = frozenset(
    {
        tiff.IMAGE_WIDTH,
        tiff.IMAGE_LENGTH,
        tiff.TILE_OFFSETS,
        tiff.TILE_BYTE_COUNTS,
        tiff.STRIP_OFFSETS,
        tiff.STRIP_BYTE_COUNTS,
        tiff.ROWS_PER_STRIP,
        288,  # free space: a list of holes in the source
        289,
        330,  # pointers to further directories, which are not copied
        34665,
        34853,
        40965,
    }
)
_PARALLEL = 4
"""Ranges moved at once."""
_OLD_JPEG = 6
"""Keeps its tables at absolute positions of the file; such a file is fetched whole."""


@dataclass(frozen=True, kw_only=True)
class FullImage:
    """What is known of a file before its pixels are: its full image, and how large its overviews are."""

    crs: str
    """CRS of the file."""
    transform: Affine6
    """Pixel corner to CRS coordinates."""
    width: int
    """Columns."""
    height: int
    """Rows."""
    overviews: tuple[tuple[int, int], ...]
    """(width, height) of the reduced images that can be cut, finest first."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """Which image of a file is to be cut."""

    level: int | None
    """Place of an overview in :attr:`FullImage.overviews`; None for the full image."""
    margin: int
    """Extra pixels of that image on each side, for resampling."""


ChooseImage = Callable[[FullImage], Cut]
"""Says which image of a file is to be cut, before a pixel is read."""


@dataclass(frozen=True, kw_only=True)
class CropPlan:
    """Which bytes of which version of an object make the crop. Nothing of it is a secret."""

    window: Window
    """The window in pixels of the image that is cut, on whole tiles (cut at the image's end); of no size where the
    area does not touch the image."""
    source_shape: tuple[int, int, int]
    """Bands, rows and columns of the image that is cut."""
    overview: int | None
    """Which overview that is, finest first; None for the full image."""
    crs: str
    """CRS of source and crop."""
    transform: Affine6
    """Pixel corner to CRS coordinates of the crop."""
    tiles: int
    """Tiles with data in the crop, over all planes and the mask; sparse ones not counted."""
    tile_bytes: int
    """Encoded size of these tiles."""
    ranges: tuple[tuple[int, int], ...]
    """Half-open byte ranges to move, neighbours joined."""
    source_size: int
    """Size of the whole object."""
    etag: str | None
    """ETag of the version the plan is made of."""
    header_bytes: int
    """Bytes moved to make the plan."""
    header_requests: int
    """Requests made for it."""
    source: SourceObject = field(repr=False, compare=False)
    layout: Layout = field(repr=False, compare=False)
    pieces: tuple[tuple[int, int], ...] = field(repr=False, compare=False)
    """(source offset, byte count) of each distinct tile."""

    @property
    def intersects(self) -> bool:
        """Whether the area touches the image; otherwise there is nothing to crop."""
        return self.window.width > 0

    @property
    def bytes(self) -> int:
        """Bytes that :func:`crop` will move."""
        return sum(stop - start for start, stop in self.ranges)

    @property
    def requests(self) -> int:
        """Requests that :func:`crop` will make where nothing has to be tried again."""
        spans = [span for batch in _batched(self.ranges, _PARALLEL) for span in plan_spans(batch, max_gap=0)]
        made = sum(-(-(stop - start) // MAX_REQUEST) for start, stop in spans)
        return made + (0 if self.source.is_guarded else 1)

    @property
    def size(self) -> int:
        """Size of the file that :func:`crop` will write."""
        return self.layout.size


@dataclass(frozen=True, kw_only=True)
class CropResult:
    """What a crop wrote and moved."""

    size: int
    """Bytes of the written file."""
    bytes_moved: int
    """Bytes received, header included."""
    requests: int
    """Requests made, header included."""
    source_size: int
    """Bytes of the whole source object."""
    etag: str | None
    """ETag of the source."""
    tiles: int
    """Tiles copied."""
    window: Window
    """Window in pixels of the image that was cut."""
    source_shape: tuple[int, int, int]
    """Bands, rows and columns of the image that was cut."""
    overview: int | None
    """Which overview that was, finest first; None for the full image."""


def plan_crop(
    store: ObjectStore,
    key: str,
    bounds: Bounds,
    bounds_crs: str,
    *,
    margin: int = 1,
    choose: ChooseImage | None = None,
    meter: Meter | None = None,
) -> CropPlan | None:
    """Return what to move for an area, or None for what cannot be cut and is fetched whole.

    None stands for other formats, TIFFs in strips, and those whose internal mask is not tiled.
    An area that does not touch the image gives a plan with ``intersects`` false.
    Costs one ranged request of 16 KiB for a COG, more only for a longer header.

    Args:
        store: Object store.
        key: Key in the store.
        bounds: Area to cover; in a geographic CRS min x > max x crosses the antimeridian.
        bounds_crs: CRS of the bounds.
        margin: Extra source pixels on each side, for resampling.
        choose: Says which image of the file to cut, and with what margin; None cuts the full one.
        meter: Counts what this and :func:`crop` move, also where the object cannot be cut or an error ends it.

    Raises:
        RasterError: The TIFF is cut or corrupt, has no georeferencing, or is a web page.
        TransferError: The bytes could not be moved or the source changed meanwhile.
        AuthError: The store refuses.
    """
    source = SourceObject(store, key, meter=meter)
    if not tiff.is_tiff(source.head):
        if source.head.startswith(_OTHER_RASTERS) or source.head[4:8] == b"ftyp":
            return None
        raise not_a_raster(key, source.head)
    file = read_structure(source)
    main = file.main
    if not main.is_tiled or main.compression == _OLD_JPEG or _has_odd_mask(file):
        return None
    place = georeference(main)
    if place.crs is None or place.transform is None:
        raise RasterError(
            "The TIFF has no georeferencing to cut it by",
            subject=key,
            found="no CRS" if place.crs is None else "no affine transform",
            action="fetch the whole object instead of a crop",
        )
    image, mask, transform = main, file.mask, place.transform
    level = None
    if choose is not None:
        reduced = reduced_images(file)
        sizes = tuple((one.width, one.height) for one, _ in reduced)
        cut = choose(
            FullImage(
                crs=place.crs, transform=transform, width=main.width, height=main.height, overviews=sizes
            )
        )
        level, margin = cut.level, cut.margin
        if level is not None:
            image, mask = reduced[level]
            transform = scaled(transform, main.width / image.width, main.height / image.height)
    window = window_of_bounds(
        bounds,
        bounds_crs,
        crs=place.crs,
        transform=transform,
        width=image.width,
        height=image.height,
        margin=margin,
    ) or Window(0, 0, 0, 0)
    images = [image] if mask is None else [image, mask]
    window = window.aligned(
        math.lcm(*(one.tile_width for one in images)),
        math.lcm(*(one.tile_height for one in images)),
        image.width,
        image.height,
    )

    def tags_of(one: Directory) -> Mapping[int, Tag]:
        if level is None:
            return _tags_of(one, transform, window)
        place = placed_tags(main, shifted(transform, window.column, window.row)) if one is image else {}
        return _tags_of_overview(one, place, window, is_mask=one is mask)

    encoded, pieces = _select(images, tags_of, window)
    layout = lay_out(encoded, order=file.order, big=file.big)
    moved = [
        (offset, offset + count) for offset, count in pieces if source.cached(offset, offset + count) is None
    ]
    return CropPlan(
        window=window,
        source_shape=(image.samples, image.height, image.width),
        overview=level,
        crs=place.crs,
        transform=shifted(transform, window.column, window.row),
        tiles=sum(int((image.byte_counts > 0).sum()) for image in encoded),
        tile_bytes=sum(count for _, count in pieces),
        ranges=tuple(merged(moved)),
        source_size=source.size,
        etag=source.etag,
        header_bytes=source.bytes_moved,
        header_requests=source.requests,
        source=source,
        layout=layout,
        pieces=tuple(pieces),
    )


def crop(store: ObjectStore, key: str, plan: CropPlan, dest: Path) -> CropResult:
    """Write the crop of a plan to a file and return what was moved.

    Ranges are written as they arrive, so memory stays at four ranges (8 MiB and a tile each).  The
    file is complete when this returns; after an error it is removed.

    Args:
        store: The store the plan was made with.
        key: The key the plan was made with.
        plan: From :func:`plan_crop`.
        dest: File to write; an existing one is replaced.

    Raises:
        TransferError: The bytes could not be moved, or the source is no longer the one planned.
        StorageError: The file cannot be written.
    """
    source = plan.source
    if source.store is not store or source.key != key:
        raise ValueError(f"the plan was made for {source.key}, not for {key} of this store")
    if not plan.intersects:
        raise ValueError(f"the area of the plan does not touch {key}: there is nothing to crop")
    bytes_before, requests_before = source.bytes_moved, source.requests
    try:
        with dest.open("wb") as file:
            file.write(plan.layout.header)
            file.flush()
            ahead = []  # tiles that did not come with the header
            for offset, count in sorted(plan.pieces):
                data = source.cached(offset, offset + count)
                if data is None:
                    ahead.append((offset, count))
                else:
                    _put(file.fileno(), data, plan.layout.positions[offset])
            i = copied = 0
            for batch in _batched(plan.ranges, _PARALLEL):
                blocks = source.read_many(batch, threads=_PARALLEL)
                for (start, stop), block in zip(batch, blocks, strict=True):
                    view = memoryview(block)
                    while i < len(ahead) and ahead[i][0] < stop:
                        offset, count = ahead[i]
                        if start <= offset and offset + count <= stop:
                            part = view[offset - start : offset - start + count]
                            _put(file.fileno(), part, plan.layout.positions[offset])
                            copied += 1
                        i += 1
            _check_complete(key, copied, len(ahead))
            source.confirm_unchanged()
            file.truncate(plan.layout.size)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        dest.unlink(missing_ok=True)
        if isinstance(error, RasterError | StorageError) or not error.errno:
            raise
        raise StorageError(
            "The crop could not be written",
            subject=key,
            found=f"{error.strerror} for {dest.name}",
            action="free some space or choose another root, then run again",
            retryable=True,
        ) from error
    except BaseException:
        dest.unlink(missing_ok=True)
        raise
    return CropResult(
        size=plan.layout.size,
        bytes_moved=plan.header_bytes + source.bytes_moved - bytes_before,
        requests=plan.header_requests + source.requests - requests_before,
        source_size=plan.source_size,
        etag=plan.etag,
        tiles=plan.tiles,
        window=plan.window,
        source_shape=plan.source_shape,
        overview=plan.overview,
    )


def _has_odd_mask(file: TiffFile) -> bool:
    """Return whether an internal mask cannot be cut along with the image."""
    mask, main = file.mask, file.main
    return mask is not None and not (mask.is_tiled and (mask.width, mask.height) == (main.width, main.height))


def _select(
    images: list[Directory], tags_of: Callable[[Directory], Mapping[int, Tag]], window: Window
) -> tuple[list[EncodedImage], list[tuple[int, int]]]:
    """Return the images of the crop and the distinct (offset, count) of their tiles."""
    counts_by_offset: dict[int, int] = {}
    encoded: list[EncodedImage] = []
    for image in images:
        offsets, counts = image.tile_index()
        rows = slice(window.row // image.tile_height, -(-window.stop_row // image.tile_height))
        columns = slice(window.column // image.tile_width, -(-window.stop_column // image.tile_width))
        chosen = offsets[:, rows, columns].ravel()
        sizes = counts[:, rows, columns].ravel()
        for offset, size in zip(chosen.tolist(), sizes.tolist(), strict=True):
            if size and counts_by_offset.setdefault(offset, size) != size:
                raise RasterError(
                    "Two tiles share a place but not a size",
                    subject=image.source.key,
                    found=f"{counts_by_offset[offset]} and {size} bytes at byte {offset}",
                    action="fetch the object again; if it stays so, the source is corrupt",
                )
        encoded.append(
            EncodedImage(
                tags=tags_of(image),
                identities=np.where(sizes > 0, chosen, -1).astype(np.int64),
                byte_counts=_as_int64(sizes),
            )
        )
    return encoded, sorted(counts_by_offset.items())


def _as_int64(values: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.ascontiguousarray(values, dtype=np.int64)


def _tags_of(image: Directory, transform: Affine6, window: Window) -> Mapping[int, Tag]:
    tags = {code: tag for code, tag in image.tags.items() if code not in _NOT_COPIED}
    tags[tiff.IMAGE_WIDTH] = Tag.of(tiff.IMAGE_WIDTH, 4, window.width, image.order)
    tags[tiff.IMAGE_LENGTH] = Tag.of(tiff.IMAGE_LENGTH, 4, window.height, image.order)
    tags.update(shifted_tags(image, transform, window.column, window.row))
    return tags


def _tags_of_overview(
    image: Directory, place: Mapping[int, Tag], window: Window, *, is_mask: bool
) -> Mapping[int, Tag]:
    """Return the tags of an overview, or of its mask, as those of an image that is no overview of another one."""
    tags = {code: tag for code, tag in image.tags.items() if code not in _NOT_COPIED}
    tags[tiff.NEW_SUBFILE_TYPE] = Tag.of(
        tiff.NEW_SUBFILE_TYPE, 4, tiff.SUBFILE_MASK if is_mask else 0, image.order
    )
    tags[tiff.IMAGE_WIDTH] = Tag.of(tiff.IMAGE_WIDTH, 4, window.width, image.order)
    tags[tiff.IMAGE_LENGTH] = Tag.of(tiff.IMAGE_LENGTH, 4, window.height, image.order)
    tags.update(place)
    return tags


def _check_complete(key: str, copied: int, planned: int) -> None:
    if copied != planned:
        raise RasterError(
            "The crop lacks tiles",
            subject=key,
            found=f"{copied} of {planned}",
            action="report this as an error of the program, with the file",
        )


def _batched(items: Sequence[tuple[int, int]], size: int) -> Iterator[Sequence[tuple[int, int]]]:
    """Yield items in groups."""
    for start in range(0, len(items), size):
        yield items[start : start + size]


def _put(descriptor: int, data: bytes | memoryview, position: int) -> None:
    view = memoryview(data)
    while view.nbytes:
        written = os.pwrite(descriptor, view, position)
        view = view[written:]
        position += written
