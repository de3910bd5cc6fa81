"""The study of candidates: it counts what is known by construction, and its test of the spectra removes surfaces alone."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.candidates import Case, Counted, cases, count, search, table
from geostack_pipeline.methane.detection import SPECTROMETER
from geostack_pipeline.methane.misfit import Misfit


def made(*, leak: bool) -> Case:
    rng = np.random.default_rng(1)
    enhancement = rng.normal(0.0, 200.0, (128, 128)).astype(np.float32)
    enhancement[20:28, 20:28] += 1500.0
    enhancement[80:88, 80:88] += 1500.0
    misfit = rng.chisquare(49, enhancement.shape).astype(np.float32) / 49
    misfit[80:88, 80:88] += 5.0
    column = np.zeros(enhancement.shape, np.float32)
    column[20:28, 20:28] = 1500.0
    return Case(
        seed=1,
        instrument="EMIT L1B",
        pixel_m=60.0,
        enhancement=enhancement,
        misfit=Misfit(values=misfit, bands=50),
        rates=(900.0,) if leak else (),
        columns=(column,) if leak else (),
    )


def test_plumes_and_false_candidates_are_counted() -> None:
    for leak, spectra, false in ((True, False, 1), (True, True, 0), (False, False, 2), (False, True, 1)):
        case, counted = made(leak=leak), Counted()
        count(case, search(case, SPECTROMETER, spectra=spectra), counted)
        assert counted.false == false
        assert counted.found == ([True] if leak else [])
        assert counted.km2 == pytest.approx(128 * 128 * 0.0036)
    text = table({("EMIT L1B", True): counted})
    assert "| EMIT L1B | yes | 1 | 1.70 | 0 of 0 |" in text


@pytest.mark.slow  # renders and retrieves a granule of two instruments
def test_the_spectra_reject_surfaces_and_no_plume() -> None:
    for case in cases(12_001, size=128):
        blind, told = Counted(), Counted()
        count(case, search(case, SPECTROMETER, spectra=False), blind)
        count(case, search(case, SPECTROMETER, spectra=True), told)
        assert blind.found == told.found
        assert told.false <= blind.false
        if case.instrument.startswith("EnMAP"):
            assert told.false <= blind.false / 4 > 0
