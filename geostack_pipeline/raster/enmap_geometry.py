"""What the metadata file of EnMAP's L1B says of geometry: rational polynomials per band, and the spectral smile.

* ``product/navigation/RPC/bandID`` in the order of the bands: ``ROW_OFF``, ``ROW_SCALE``, ``COL_…``, ``LAT_…``, ``LONG_…``,
  ``HEIGHT_…``, and ``ROW_NUM_01`` to ``_20``, ``ROW_DEN_…``, ``COL_NUM_…``, ``COL_DEN_…`` (as EnPT and rpcm read it).
* ``product/smileCorrection/VNIR`` and ``SWIR``, ``bandID`` numbered from 1 per detector: ``wavelength``, and ``coeff0`` to
  ``coeff4`` of a polynomial of the column, counted from 1, that gives the shift of the band's centre in nm (as published
  readers of L1B take it; products of the first versions have no such part).
"""

from __future__ import annotations

import math
import xml.etree.ElementTree as ET
from collections.abc import Mapping

import numpy as np
import numpy.typing as npt

from geostack_pipeline.raster.rational import TERMS, RationalModel

Floats = npt.NDArray[np.float64]
_COEFFICIENTS = 5
_LARGEST_SHIFT_NM = 10.0
"""More is no smile: neighbouring bands are as far apart."""
_SAME_NM = 0.5


def rational_models(root: ET.Element, count: int) -> tuple[RationalModel, ...]:
    """Return the model of each band; empty where the file has not one for each."""
    found = root.find(".//navigation/RPC")
    bands = [] if found is None else found.findall("bandID")
    if len(bands) != count:
        return ()
    models = [_model(band) for band in bands]
    return tuple(model for model in models if model is not None) if None not in models else ()


def _model(band: ET.Element) -> RationalModel | None:
    told = {child.tag.upper(): _number(child.text) for child in band}

    def polynomial(name: str) -> list[float]:
        return [told.get(f"{name}_{i:02d}", told.get(f"{name}_{i}", math.nan)) for i in range(1, TERMS + 1)]

    names = ("ROW", "COL", "LAT", "LONG", "HEIGHT")
    model = RationalModel(
        offset=np.array([told.get(f"{name}_OFF", math.nan) for name in names]),
        scale=np.array([told.get(f"{name}_SCALE", math.nan) for name in names]),
        row_numerator=np.array(polynomial("ROW_NUM")),
        row_denominator=np.array(polynomial("ROW_DEN")),
        column_numerator=np.array(polynomial("COL_NUM")),
        column_denominator=np.array(polynomial("COL_DEN")),
    )
    whole = all(np.isfinite(values).all() for values in vars(model).values())
    return model if whole and (model.scale != 0.0).all() else None


def smile_of(root: ET.Element, centres: Mapping[str, Floats]) -> dict[str, Floats]:
    """Return detector -> coefficients (bands, 5); a detector of which they are not told completely is left out.

    Args:
        root: The file, without namespaces.
        centres: Detector (``vnir``, ``swir``) -> centres of its bands, nm.
    """
    found: dict[str, Floats] = {}
    for name, nm in centres.items():
        table = np.full((len(nm), _COEFFICIENTS), np.nan)
        for band in root.findall(f".//smileCorrection/{name.upper()}/bandID"):
            number = band.get("number", "")
            index = int(number) - 1 if number.isdecimal() and len(number) < 5 else -1
            centre = _number(band.findtext("wavelength"))
            if 0 <= index < len(nm) and not abs(centre - nm[index]) > _SAME_NM:
                table[index] = [_number(band.findtext(f"coeff{k}")) for k in range(_COEFFICIENTS)]
        if np.isfinite(table).all():
            found[name] = table
    return found


def shifts(coefficients: Floats, columns: int) -> Floats | None:
    """Return how far the centre of each band lies from its nominal one, (columns, bands), nm.

    None where the polynomials give more than any smile: then they mean something else.
    """
    column = np.arange(1, columns + 1, dtype=np.float64)
    found = column[:, None] ** np.arange(coefficients.shape[1]) @ coefficients.T
    return found if np.abs(found).max(initial=0.0) <= _LARGEST_SHIFT_NM else None


def _number(text: str | None) -> float:
    try:
        return float(text) if text is not None else math.nan
    except ValueError:
        return math.nan
