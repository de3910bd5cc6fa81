"""A model's STAC item is judged by the schema of the MLM extension, and read by pystac, without asking anybody."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pystac
import pytest
from pystac.extensions.mlm import MLMExtension

from geostack_pipeline.learning import model_card
from geostack_pipeline.learning.profiles import PROFILES
from geostack_pipeline.publish.schemas import EXTENSIONS, problems


def item() -> dict[str, Any]:
    made = model_card.stac_item(
        version="0123456789abcdef",
        architecture=PROFILES["cpu"].architecture,
        parameters=345_678,
        tile=128,
        threshold=0.45,
        created="2024-06-20T07:19:00+00:00",
        box=(50.0, 30.0, 55.5, 38.0),
        span=("2024-06-01T07:00:00+00:00", "2024-06-20T07:19:00+00:00"),
        weights={"size": 1_400_000, "sha256": "ab" * 32},
        training_set="fedcba9876543210",
        jax="0.10.2",
    )
    return json.loads(json.dumps(made))  # type: ignore[no-any-return]


def test_the_item_is_valid_and_says_what_a_user_of_the_model_needs() -> None:
    made = item()
    assert EXTENSIONS["mlm"] == model_card.MLM in made["stac_extensions"]
    assert problems(made) == []
    read = pystac.Item.from_dict(made)
    model = MLMExtension.ext(read)
    assert (model.mlm_name, model.framework, model.total_parameters) == ("plume-unet", "JAX", 345_678)
    (taken,), (given,) = model.input, model.output
    assert taken.bands == [band["name"] for band in made["assets"]["weights"]["raster:bands"]]
    assert taken.input.shape == [-1, 3, 128, 128]
    assert given.result.dim_order == ["batch", "y", "x"]
    (origin,) = [link for link in made["links"] if link["rel"] == "derived_from"]
    # An item lies in <artifacts>/<asset>/<partition>/<version>/<attempt>.
    assert origin["href"] == "../../../../training_set/all/fedcba9876543210/complete.json"


@pytest.mark.parametrize(
    ("change", "found"),
    [
        (lambda it: it["properties"].pop("mlm:output"), "'mlm:output' is a required property"),
        (lambda it: it["assets"]["weights"].pop("raster:bands"), "mlm/v1.4.0/schema.json: the document"),
        (lambda it: it["properties"].update({"mlm:colour": "red"}), "mlm:colour"),
        (lambda it: it["properties"].update({"mlm:framework_version": "new"}), "mlm:framework_version"),
        (lambda it: it["assets"]["weights"].pop("mlm:artifact_type"), "mlm:artifact_type"),
        (lambda it: it["assets"]["weights"].update(roles=["data"]), "mlm/v1.4.0/schema.json: assets/weights"),
        (lambda it: it.update(stac_version="1.0.0"), "stac_version '1.0.0' is not 1.1.0"),
        (
            lambda it: it["properties"]["mlm:output"][0].update({"classification:classes": [{"value": 1}]}),
            "refers to https://stac-extensions.github.io/classification/v1.1.0/schema.json",
        ),
    ],
    ids=[
        "output",
        "bands",
        "unknown field",
        "version",
        "artifact type",
        "no model",
        "old STAC",
        "not carried",
    ],
)
def test_the_schema_sees_what_is_wrong(change: Callable[[dict[str, Any]], Any], found: str) -> None:
    made = item()
    change(made)
    said = problems(made)
    assert said
    assert found in " ".join(said)
