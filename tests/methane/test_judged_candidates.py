"""Where a plume model judged the pixels, candidates are what it takes for plumes, as far as they show methane."""

from __future__ import annotations

import numpy as np
import pytest
from swath_nodes import product_node

from geostack_pipeline.methane.detection import SPECTROMETER, Detection, Judgement, find_candidates
from geostack_pipeline.methane.plume_table import MODEL_FIELDS, concat_plumes, plume_schema
from geostack_pipeline.methane.plumes import detect
from geostack_pipeline.methane.swath_retrieve import retrieve_granule

SIZE = 160
PLUME, FAINT, ROOF, EMPTY = (
    np.s_[20:28, 30:44],
    np.s_[90:97, 30:38],
    np.s_[60:66, 110:118],
    np.s_[130:138, 20:30],
)


def scene() -> np.ndarray:
    """Return a map with a strong plume, one below the threshold of the filter, and a roof that looks like gas."""
    values = 150.0 * np.random.default_rng(5).standard_normal((SIZE, SIZE))
    values[PLUME] += 1500.0
    values[FAINT] += 150.0
    values[ROOF] += 2500.0
    return values.astype(np.float32)


def search(probability: np.ndarray | None) -> Detection:
    said = None if probability is None else Judgement(probability=probability, threshold=0.4)
    return find_candidates(
        scene(),
        pixel_m=(60.0, 60.0),
        seed_z=SPECTROMETER.seed_z,
        settings=SPECTROMETER,
        judgement=said,
    )


def places(found: Detection) -> set[str]:
    names = {"plume": PLUME, "faint": FAINT, "roof": ROOF, "empty": EMPTY}
    return {
        name
        for each in found.candidates
        for name, box in names.items()
        if (found.labels[box] == each.label).any()
    }


def test_the_model_finds_the_faint_plume_and_leaves_the_roof() -> None:
    assert places(search(None)) == {"plume", "roof"}
    probability = np.full((SIZE, SIZE), 0.001, np.float32)
    probability[PLUME] = 0.95
    probability[FAINT] = 0.6
    probability[ROOF] = 0.05
    found = search(probability)
    assert places(found) == {"plume", "faint"}
    strong, weak = found.candidates
    assert strong.significance > weak.significance
    assert strong.peak_z > SPECTROMETER.seed_z > weak.peak_z


def test_regions_grow_to_half_the_threshold_and_need_one_pixel_above_it() -> None:
    probability = np.zeros((SIZE, SIZE), np.float32)
    probability[PLUME] = 0.21
    probability[24, 36] = 0.4
    probability[FAINT] = 0.39
    found = search(probability)
    assert places(found) == {"plume"}
    inside = np.zeros((SIZE, SIZE), bool)
    inside[PLUME] = True
    assert np.array_equal(found.labels > 0, inside)


def test_what_shows_no_methane_or_has_no_size_is_none_whatever_the_model_says() -> None:
    probability = np.zeros((SIZE, SIZE), np.float32)
    probability[EMPTY] = 0.99
    probability[24, 30:33] = 0.99
    found = search(probability)
    assert not found.candidates
    assert found.rejected == {"no enhancement": 1, "too small": 1}
    masked = probability.copy()
    masked[:] = np.nan
    assert not search(masked).candidates


def test_the_table_says_what_the_model_said_and_only_then() -> None:
    fields = retrieve_granule(product_node(), [])
    plain = detect(fields, area="korpezhe", provider="cmr_stac")
    assert plain.schema.names == plume_schema().names
    probability = np.full(fields["ch4_enhancement"].shape, 0.01, np.float32)
    rng = np.random.default_rng(0)
    probability[0, 20:26, 30:38] = rng.uniform(0.5, 0.9, (6, 8))
    attributes = {"model_name": "plume-unet", "model_version": "abc", "model_threshold": 0.5}
    judged = fields.assign(plume_probability=(fields["ch4_enhancement"].dims, probability, attributes))
    table = detect(judged, area="korpezhe", provider="cmr_stac")
    assert table.schema.names == plume_schema(judged=True).names
    (row,) = table.to_pylist()
    inside = probability[0, 20:26, 30:38].astype(np.float64)
    assert row["probability_max"] == pytest.approx(inside.max())
    assert row["probability_mean"] == pytest.approx(inside.mean())
    assert (row["model_name"], row["model_version"], row["pixels"]) == ("plume-unet", "abc", 48)
    both = concat_plumes([plain, table]).to_pylist()
    assert [each["model_version"] for each in both] == [None, "abc"]
    assert all(both[0][name] is None for name, *_ in MODEL_FIELDS)
