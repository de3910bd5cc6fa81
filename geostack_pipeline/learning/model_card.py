"""What a model says of itself: a STAC item with the MLM extension for machines, a card for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from geostack_pipeline.learning.fields import FIELDS
from geostack_pipeline.learning.profiles import Architecture

MLM = "https://stac-extensions.github.io/mlm/v1.4.0/schema.json"
FILE = "https://stac-extensions.github.io/file/v2.1.0/schema.json"
RASTER = "https://stac-extensions.github.io/raster/v1.1.0/schema.json"
NAME = "plume-unet"
WEIGHTS, CARD, ITEM, CONFIG = "model.safetensors", "README.md", "item.json", "config.json"
_BANDS = (
    ("Methane column enhancement", "ppm m"),
    ("1-sigma of the enhancement", "ppm m"),
    ("Sensitivity of the matched filter", "1"),
)
_ARTIFACTS = "../../../.."
"""From a file of a version to the folder of all artifacts: attempt, version, partition, asset."""


def stac_item(
    *,
    version: str,
    architecture: Architecture,
    parameters: int,
    tile: int,
    threshold: float,
    created: str,
    box: Sequence[float],
    span: tuple[str, str],
    weights: Mapping[str, Any],
    training_set: str,
    jax: str,
    scores: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Return a STAC 1.1 item of a model, for a file of its stored version: the training set is linked from there.

    The output is described in words, since the extension's classes are by a schema of which no copy is carried.

    Args:
        version: Of the model.
        architecture: Of its network.
        parameters: Number of its weights.
        tile: Edge of a tile, pixels.
        threshold: Probability of a plume candidate's pixels.
        created: ISO 8601.
        box: West, south, east, north of what it learnt from.
        span: First and last acquisition that it learnt from, ISO 8601.
        weights: Size and sha256 of the weights' file.
        training_set: Version of the training set.
        jax: Version of jax.
        scores: Numbers of the evaluation.
    """
    west, south, east, north = box
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    return {
        "type": "Feature",
        "stac_version": "1.1.0",
        "stac_extensions": [MLM, FILE, RASTER],
        "id": f"{NAME}-{version}",
        "geometry": {"type": "Polygon", "coordinates": [ring]},
        "bbox": list(box),
        "properties": {
            "datetime": None,
            "start_datetime": span[0],
            "end_datetime": span[1],
            "created": created,
            "description": "Probability of methane plumes in EMIT's matched-filter products",
            "mlm:name": NAME,
            "mlm:architecture": "U-Net",
            "mlm:tasks": ["semantic-segmentation"],
            "mlm:framework": "JAX",
            "mlm:framework_version": jax,
            "mlm:total_parameters": parameters,
            "mlm:pretrained": False,
            "mlm:pretrained_source": None,
            "mlm:batch_size_suggestion": 4,
            "mlm:accelerator": None,
            "mlm:input": [
                {
                    "name": "EMIT L2B methane fields",
                    "bands": list(FIELDS),
                    "input": {
                        "shape": [-1, len(FIELDS), tile, tile],
                        "dim_order": ["batch", "bands", "y", "x"],
                        "data_type": "float32",
                    },
                    "description": "NaN where masked; scaled inside the model by the granule's own statistics",
                }
            ],
            "mlm:output": [
                {
                    "name": "plume_probability",
                    "tasks": ["semantic-segmentation"],
                    "result": {
                        "shape": [-1, tile, tile],
                        "dim_order": ["batch", "y", "x"],
                        "data_type": "float32",
                    },
                    "description": "probability from 0 to 1 that a pixel shows a plume; from the hyperparameter threshold on "
                    "it is one of a candidate",
                }
            ],
            "mlm:hyperparameters": {"threshold": threshold, **architecture.as_dict()},
            "geostack:model_version": version,
            "geostack:training_set": training_set,
            "geostack:scores": dict(scores or {}),
        },
        "links": [
            {
                "rel": "derived_from",
                "href": f"{_ARTIFACTS}/training_set/all/{training_set}/complete.json",
                "type": "application/json",
                "title": f"training_set all version {training_set}",
            }
        ],
        "assets": {
            "weights": {
                "href": f"./{WEIGHTS}",
                "type": "application/vnd.safetensors",
                "title": "Weights",
                "roles": ["mlm:model", "mlm:weights", "data"],
                "mlm:artifact_type": "safetensors",
                # The extension wants the bands of the input described here.
                "raster:bands": [
                    {"name": name, "description": title, "unit": unit, "data_type": "float32"}
                    for name, (title, unit) in zip(FIELDS, _BANDS, strict=True)
                ],
                "file:size": weights["size"],
                "file:checksum": f"1220{weights['sha256']}",
            },
            "card": {
                "href": f"./{CARD}",
                "type": "text/markdown",
                "title": "Model card",
                "roles": ["metadata"],
            },
            "config": {"href": f"./{CONFIG}", "type": "application/json", "roles": ["metadata"]},
        },
    }


def card(
    *,
    version: str,
    training_set: str,
    meta: Mapping[str, Any],
    parameters: int,
    evaluation: Mapping[str, Any] | None,
    verdict: Mapping[str, Any] | None,
) -> str:
    """Return the model card, Markdown."""
    lines = [
        f"# {NAME} {version}",
        "",
        "Gives each pixel of EMIT's methane products (CH4ENH, CH4UNCERT, CH4SENS) the probability that it shows a plume.",
        "",
        "## Made from",
        "",
        f"- Training set `{training_set}`: {meta['labelled']} labelled granules,",
        f"  {meta['weak_negatives']} without a plume after their review window, {meta['tiles_train']} tiles.",
        "  Labels: NASA's plume complexes (CH4PLM).",
        f"- U-Net with group normalisation, {parameters:,} weights; profile `{meta['profile']}`,",
        f"  {meta['steps']} steps, seed {meta['seed']}, jax {meta['jax']}.",
        "",
        "## For and not for",
        "",
        "For finding candidates that people then look at. Not for rates, not for other instruments, and no proof",
        "that there is no plume: the labels are those plumes that reviewers were sure of.",
    ]
    if evaluation is not None:
        lines += [
            "",
            "## On the test set",
            "",
            "Whole granules of places that none of these methods learnt from.",
            "",
        ]
        lines += [
            "| method | AUPRC | F1 | precision | recall | false plumes per granule | calibration error |",
            "|---|---|---|---|---|---|---|",
        ]
        lines += [_row(result) for result in evaluation["results"].values()]
    if verdict is not None:
        lines += ["", f"## Gate, against {verdict['against']}", ""]
        if evaluation is not None and evaluation.get("champion_left_out") is not None:
            why = evaluation["champion_left_out"]
            lines += [f"The model in use then, `{evaluation['champion']}`, was not judged: {why}.", ""]
        for each in verdict["criteria"]:
            numbers = "; ".join(f"{name}: {_text(value)}" for name, value in each["detail"].items())
            lines.append(f"- {each['name']}: {'passed' if each['passed'] else 'not passed'} ({numbers})")
    return "\n".join(lines) + "\n"


def _row(result: Mapping[str, Any]) -> str:
    names = ("auprc", "f1", "precision", "recall", "false_per_granule", "calibration_error")
    return f"| {result['method']} | " + " | ".join(_text(result[name]) for name in names) + " |"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.3f}" if isinstance(value, float) else str(value)
