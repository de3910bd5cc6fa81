"""Rational polynomials (RPC): from longitude, latitude and height to rows and columns of an image, and back.

The form is RPC00B (NIMA, "The Compendium of Controlled Extensions for the NITF", appendix E): 20 terms to a polynomial,
in the order 1, L, P, H, LP, LH, PH, L², P², H², PLH, L³, LP², LH², L²P, P³, PH², L²H, P²H, H³ of normalised longitude L,
latitude P and height H.  Row and column 0 are the centre of the first pixel, as GDAL has it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from geostack_pipeline.errors import RasterError

Floats = npt.NDArray[np.float64]
TERMS = 20
PRECISION_PX = 1e-6
"""How near the way back comes to a pixel."""
_MOST_STEPS = 30
_AT_ONCE = 1 << 16


@dataclass(frozen=True, kw_only=True, eq=False)
class RationalModel:
    """One band's model; angles in degrees, WGS 84, heights in metres above the ellipsoid."""

    offset: Floats
    """Of row, column, latitude, longitude and height, shape (5,)."""
    scale: Floats
    """Likewise; not 0."""
    row_numerator: Floats
    """Shape (20,), as the other polynomials."""
    row_denominator: Floats
    column_numerator: Floats
    column_denominator: Floats

    @property
    def height_m(self) -> float:
        """Height in the middle of those that the model was made for."""
        return float(self.offset[4])

    def image(self, longitude: Floats, latitude: Floats, height_m: float) -> tuple[Floats, Floats]:
        """Return rows and columns of places, of the shape of ``longitude``; NaN where the model has a pole."""
        shape = np.shape(longitude)
        away = np.ravel(longitude) - self.offset[3]
        east = (away - 360.0 * np.round(away / 360.0)) / self.scale[3]
        north = (np.ravel(latitude) - self.offset[2]) / self.scale[2]
        up = (height_m - self.offset[4]) / self.scale[4]
        rows, columns = self._normalised(east, north, up)
        return (
            (rows * self.scale[0] + self.offset[0]).reshape(shape),
            (columns * self.scale[1] + self.offset[1]).reshape(shape),
        )

    def ground(self, rows: Floats, columns: Floats, height_m: float) -> tuple[Floats, Floats]:
        """Return longitude (-180 up to 180) and latitude of pixels at one height, of the shape of ``rows``.

        Steps along the plane that fits the model best, until all pixels are met within :data:`PRECISION_PX`.

        Raises:
            RasterError: They are not met: the model does not describe this image.
        """
        shape = np.shape(rows)
        row = (np.ravel(rows) - self.offset[0]) / self.scale[0]
        column = (np.ravel(columns) - self.offset[1]) / self.scale[1]
        up = (height_m - self.offset[4]) / self.scale[4]
        back = self._plane(up)
        east, north = np.zeros(row.shape), np.zeros(row.shape)
        limit = PRECISION_PX / float(np.abs(self.scale[:2]).max())
        for _ in range(_MOST_STEPS):
            found_row, found_column = self._normalised(east, north, up)
            miss_row, miss_column = row - found_row, column - found_column
            if not row.size or max(np.abs(miss_row).max(), np.abs(miss_column).max()) <= limit:
                break
            east += back[0, 0] * miss_column + back[0, 1] * miss_row
            north += back[1, 0] * miss_column + back[1, 1] * miss_row
        else:
            raise RasterError(
                "The rational polynomials do not lead back from the image to the ground",
                subject="RPC",
                found=f"after {_MOST_STEPS} steps some pixel is still {np.abs(miss_row).max() * self.scale[0]:.3g} rows off",
                action="look at the RPC of the metadata file",
            )
        longitude = east * self.scale[3] + self.offset[3]
        latitude = north * self.scale[2] + self.offset[2]
        return ((longitude + 180.0) % 360.0 - 180.0).reshape(shape), latitude.reshape(shape)

    def _plane(self, up: float) -> Floats:
        """Return the matrix from (column, row) to (east, north), normalised, that fits the model best."""
        across = np.linspace(-1.0, 1.0, 7)
        east, north = (each.ravel() for each in np.meshgrid(across, across))
        rows, columns = self._normalised(east, north, up)
        terms = np.stack([np.ones(east.size), east, north], axis=1)
        fitted = np.linalg.lstsq(terms, np.stack([columns, rows], axis=1), rcond=None)[0]
        forth = fitted[1:].T
        if not np.isfinite(forth).all() or abs(np.linalg.det(forth)) < 1e-9:
            raise RasterError(
                "The rational polynomials lead nowhere",
                subject="RPC",
                found="rows and columns that do not depend on the place",
                action="look at the RPC of the metadata file",
            )
        return np.asarray(np.linalg.inv(forth), np.float64)

    def _normalised(self, east: Floats, north: Floats, up: float) -> tuple[Floats, Floats]:
        polynomials = np.stack(
            [self.row_numerator, self.row_denominator, self.column_numerator, self.column_denominator], axis=1
        )
        rows, columns = np.empty(east.shape), np.empty(east.shape)
        for start in range(0, east.size, _AT_ONCE):
            part = slice(start, start + _AT_ONCE)
            values = _terms(east[part], north[part], up) @ polynomials
            with np.errstate(divide="ignore", invalid="ignore"):
                rows[part] = values[:, 0] / values[:, 1]
                columns[part] = values[:, 2] / values[:, 3]
        return rows, columns


def _terms(east: Floats, north: Floats, up: float) -> Floats:
    """Return the 20 terms of places, (places, 20)."""
    x, y, z = east, north, np.full(east.shape, up)
    one = np.ones(east.shape)
    return np.stack(
        [
            one, x, y, z, x * y, x * z, y * z, x * x, y * y, z * z, x * y * z, x**3, x * y * y, x * z * z,
            x * x * y, y**3, y * z * z, x * x * z, y * y * z, z**3,
        ],
        axis=1,
    )  # fmt: skip
