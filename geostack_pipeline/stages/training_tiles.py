"""What one granule teaches: its fields and targets from the cubes, and the tiles of it that lie in one split."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from geostack_pipeline.errors import IntegrityError
from geostack_pipeline.learning.labels import Member
from geostack_pipeline.learning.sites import Box, Splitter
from geostack_pipeline.settings import LearningSettings
from geostack_pipeline.stages.training_members import of_place
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import xarray as xr

WEAK_WEIGHT = 0.5
"""Weight of a granule that nobody outlined anything in: reviewers discard candidates that they are not sure of."""
_SMALLEST_VALID = 0.05
"""Share of valid pixels that a tile needs."""


def splitter(own: LearningSettings) -> Splitter:
    """Return the rule that the settings give."""
    return Splitter(
        cell_deg=own.site_degrees, test_share=own.test_share, validation_share=own.validation_share
    )


def member_tiles(
    own: LearningSettings, member: Member, cubes: Mapping[tuple[str, str], Snapshot]
) -> tuple[dict[str, Any], xr.Dataset | None]:
    """Return a member's row, and its tiles where it has any for learning."""
    granule = read_granule(member, cubes, own.ring_pixels)
    rule = splitter(own)
    whole = rule.of(member.granule.box, member.granule.moment)
    tiles = None if whole == "test" else _tiles(own, member, granule, rule)
    learnt = granule.target if tiles is None else tiles["target"].values
    weights = [] if tiles is None else tiles["split"].values.tolist()
    row = {
        **of_place(member, cubes),
        "split": whole if tiles is None or whole is not None else "several",
        "tiles_train": weights.count(0),
        "tiles_validation": weights.count(1),
        "plume_pixels": int((learnt == 1).sum()),
        "background_pixels": int((learnt == 0).sum()),
        "tiles_sha256": None if tiles is None else tiles_digest(tiles),
    }
    return row, tiles


@dataclass(frozen=True, kw_only=True)
class Fields:
    """A whole granule as the model sees it."""

    stack: npt.NDArray[np.float32]
    """(3, y, x): enhancement, uncertainty (ppm m), sensitivity (1); NaN where masked."""
    plumes: npt.NDArray[np.int32]
    """Number, from 1, of the outline that has each pixel; 0 for none."""
    target: npt.NDArray[np.uint8]
    """1 plume, 0 none, 255 ignored."""
    box: Box
    pixel_deg: tuple[float, float]


def read_granule(member: Member, cubes: Mapping[tuple[str, str], Snapshot], ring_pixels: int) -> Fields:
    """Return a granule's fields and targets from the cubes that hold it and its outlines.

    Raises:
        IntegrityError: An outline does not lie on the granule's lattice.
    """
    import numpy as np

    from geostack_pipeline.learning import fields, targets

    node = _open_node(cubes[member.granule.provider, member.granule.day], member.granule.node)
    stack = fields.stacked(
        {name: _read(node[name]) for name in fields.FIELDS if name in node}, member.granule.item_id
    )
    shape = (stack.shape[1], stack.shape[2])
    masks = [
        _outline(node, _open_node(cubes[label.provider, label.day], label.node), shape, label.item_id)
        for label in member.labels
    ]
    plumes = targets.numbered(masks, shape)
    valid = np.isfinite(stack[0])
    x, y = node["x"].values, node["y"].values
    return Fields(
        stack=stack,
        plumes=plumes,
        target=targets.target(plumes > 0, valid, ring_pixels),
        box=member.granule.box,
        pixel_deg=(_step(x), _step(y)),
    )


@lru_cache(maxsize=4)
def _tree(cube: Snapshot) -> xr.DataTree:
    tree: xr.DataTree = cube.open()
    return tree


def _open_node(cube: Snapshot, node: str) -> xr.Dataset:
    return _tree(cube)[node].to_dataset()


def _read(field: xr.DataArray) -> npt.NDArray[Any]:
    """Return the numbers of a lazy field.  Those of the field itself would stay in its tree, and trees are kept."""
    return field[...].values


def _step(axis: npt.NDArray[np.floating]) -> float:
    return float(axis[1] - axis[0]) if axis.size > 1 else 1.0


def _outline(
    granule: xr.Dataset, label: xr.Dataset, shape: tuple[int, int], subject: str
) -> npt.NDArray[np.bool_]:
    """Return the pixels of the granule inside an outline, whose raster lies on the granule's lattice."""
    import numpy as np

    from geostack_pipeline.learning.targets import placed

    x, y = granule["x"].values, granule["y"].values
    column = (float(label["x"].values[0]) - float(x[0])) / _step(x)
    row = (float(label["y"].values[0]) - float(y[0])) / _step(y)
    if max(abs(column - round(column)), abs(row - round(row))) > 0.1:
        raise IntegrityError(
            "an outline does not lie on the granule's lattice",
            subject=subject,
            found=f"{column:.2f} columns and {row:.2f} rows from its corner",
            action="look at both files with gdalinfo",
        )
    return placed(shape, np.isfinite(_read(label["plume_enhancement"])), round(row), round(column))


def _tiles(own: LearningSettings, member: Member, granule: Fields, rule: Splitter) -> xr.Dataset | None:
    """Return the tiles of a granule that lie wholly in one split for learning; None where there are none."""
    import numpy as np
    import xarray as xr

    from geostack_pipeline.learning import fields, targets, tiles

    west, south, east, north = granule.box
    shape = granule.target.shape
    wide, high = (east - west) / shape[1], (north - south) / shape[0]
    chosen: list[tuple[int, int, int]] = []
    for row, column in tiles.corners((shape[0], shape[1]), own.tile, own.overlap):
        bottom, right = min(row + own.tile, shape[0]), min(column + own.tile, shape[1])
        box = (west + column * wide, north - bottom * high, west + right * wide, north - row * high)
        split = rule.of(box, member.granule.moment, granule.box)
        part = granule.target[row:bottom, column:right]
        if split not in {"train", "validation"} or (part != targets.IGNORED).mean() < _SMALLEST_VALID:
            continue
        chosen.append((row, column, int(split == "validation")))
    if not chosen:
        return None
    about = fields.background(granule.stack)

    def cut(values: npt.NDArray[Any], fill: float) -> npt.NDArray[Any]:
        return np.stack([tiles.cut(values, row, column, own.tile, fill) for row, column, _ in chosen])

    stack = cut(granule.stack, np.nan)
    weight = 1.0 if member.state == "labelled" else WEAK_WEIGHT
    variables: dict[str, Any] = {
        name: (("tile", "y", "x"), stack[:, index]) for index, name in enumerate(fields.FIELDS)
    }
    variables["target"] = (("tile", "y", "x"), cut(granule.target, targets.IGNORED))
    for name, values, dtype in (
        ("row", [each[0] for each in chosen], np.int32),
        ("column", [each[1] for each in chosen], np.int32),
        ("split", [each[2] for each in chosen], np.uint8),
        ("weight", [weight] * len(chosen), np.float32),
    ):
        variables[name] = ("tile", np.asarray(values, dtype))
    return xr.Dataset(
        variables,
        attrs={
            "item_id": member.granule.item_id,
            "label_revision": member.label_revision,
            **{f"background_{name}": value for name, value in about.as_dict().items()},
        },
    )


def tiles_digest(tiles: xr.Dataset) -> str:
    """Return the sha256 over the numbers of a node of tiles, whatever way they are stored."""
    import hashlib

    import numpy as np

    digest = hashlib.sha256()
    for name in sorted(map(str, tiles.data_vars)):
        values = np.ascontiguousarray(tiles[name].values)
        digest.update(f"{name} {values.dtype.str} {values.shape}".encode())
        digest.update(values.tobytes())
    return digest.hexdigest()


def chunks(tiles: xr.Dataset) -> dict[str, tuple[int, ...]]:
    """Return how a node of tiles is stored: each tile of each variable by itself."""
    return {str(name): (1, *v.shape[1:]) for name, v in tiles.data_vars.items() if v.ndim == 3}
