"""Whether an HDF5 file (NetCDF-4 as well) is whole, by the size that it states itself.

Some catalogs tell no sizes.  A server that stored half of a file serves it with a Content-Length that fits, and the
bytes look like the file.  The superblock at the file's beginning states where the file ends (HDF5 file format
specification 3.0, II.A "Disk Format: Level 0A"), which costs no request to compare.
"""

from __future__ import annotations

from geostack_pipeline.errors import IntegrityError

SIGNATURE = b"\x89HDF\r\n\x1a\n"
HEAD_BYTES = 96
"""Bytes that hold any superblock at the beginning of a file as far as the end-of-file address."""
_UNDEFINED = b"\xff"


def stated_size(head: bytes) -> int | None:
    """Return the bytes that the beginning of a file says the whole has.

    None for what does not begin with an HDF5 superblock, or states no end: a file that is no HDF5, has a user block in
    front, or is of a version that is not known.
    """
    if not head.startswith(SIGNATURE) or len(head) < 16:
        return None
    version = head[8]
    if version in {0, 1}:
        # consistency flags end at byte 24; version 1 has four bytes more for indexed storage
        width, start = head[13], 24 if version == 0 else 28
    elif version in {2, 3}:
        width, start = head[9], 12
    else:
        return None
    # before it: the base address, and that of free space or of the superblock extension
    end = head[start + 2 * width : start + 3 * width]
    if not 2 <= width <= 8 or len(end) < width or end == _UNDEFINED * width:
        return None
    return int.from_bytes(end, "little")


def require_whole(head: bytes, size: int, subject: str) -> None:
    """Refuse an HDF5 file that is shorter than it says.

    Args:
        head: The first :data:`HEAD_BYTES` bytes.
        size: Bytes of the file.
        subject: Its name.

    Raises:
        IntegrityError: Bytes are missing at the end.
    """
    stated = stated_size(head)
    if stated is not None and size < stated:
        raise IntegrityError(
            "the file is cut off: it is shorter than its own header says",
            subject=subject,
            found=f"{size} of {stated} bytes",
            action="run again later; if it stays so, the archive holds half a file: tell its help desk",
            retryable=True,
        )
