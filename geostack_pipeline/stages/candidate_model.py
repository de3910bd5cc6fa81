"""Candidate: a model trained on the current training set.

Its version is known before the training: the training set, the recipe, the seed and the versions of the numerical
libraries.  A training that was killed goes on from its last checkpoint, with the same result.  One training at a time, by
whomever it was started (:mod:`~geostack_pipeline.stages.turns`).
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from importlib.metadata import version as library_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from geostack_pipeline.errors import ArtifactNotFoundError, GeostackError
from geostack_pipeline.learning.profiles import PROFILES, Architecture, Recipe
from geostack_pipeline.settings import LearningSettings
from geostack_pipeline.stages import training_members, training_set, training_tiles
from geostack_pipeline.stages.compiling import prepare_kernels
from geostack_pipeline.stages.progress import Event, emit
from geostack_pipeline.stages.tables import parquet_bytes
from geostack_pipeline.stages.turns import Turn, training_turn
from geostack_pipeline.stages.workspace import Check, Outcome, Workspace
from geostack_pipeline.storage.digest import version_of
from geostack_pipeline.storage.snapshot import Snapshot

if TYPE_CHECKING:
    from geostack_pipeline.learning.inference import PlumeModel
    from geostack_pipeline.learning.judging import Granule

NAME = "candidate_model"
PARTITION = "all"
CODE_VERSION = "4"
MOST_THRESHOLD_GRANULES = 40
"""Granules on which thresholds are chosen."""


class NotTrainableError(GeostackError, ValueError):
    """A training set from which nothing can be learnt."""


def recipe(own: LearningSettings) -> Recipe:
    """Return what the settings make of their profile."""
    chosen = PROFILES[own.profile]
    return dataclasses.replace(
        chosen,
        steps=own.steps or chosen.steps,
        batch=own.batch or chosen.batch,
        crop=min(chosen.crop, own.tile),
    )


def version(own: LearningSettings, training_set_version: str) -> str:
    """Return the version that a training set leads to under the present settings."""
    return version_of(
        {
            "code": CODE_VERSION,
            "training_set": training_set_version,
            "recipe": recipe(own).as_dict(),
            "seed": own.seed,
            **libraries(),
        }
    )


def libraries() -> dict[str, str]:
    """Return the versions of what the numbers depend on."""
    return {name: library_version(name) for name in ("jax", "optax", "equinox")}


def build(ws: Workspace, source: Snapshot | None = None) -> Outcome:
    """Train a model on a training set, the current one when none is given.

    What is trained is decided again once the turn has come: whoever waited for another training adopts what that one
    made from the same data, and learns from labels that were stored meanwhile.

    Raises:
        BusyError: Another training kept the turn for too long.
        NotTrainableError: It holds no plume, or nothing but plumes; says what is missing.
        ArtifactNotFoundError: There is no training set.
        IntegrityError: The checkpoints in the scratch folder are of another training.
    """
    chosen = source or current_training_set(ws)
    snapshot = ws.artifacts.find(NAME, PARTITION, version(ws.settings.learning, chosen.version))
    if snapshot is not None:
        return _pointed(ws, snapshot, reused=True)
    _require_trainable(chosen)
    with training_turn(ws, NAME, PARTITION) as turn:
        chosen = source or current_training_set(ws)
        target = version(ws.settings.learning, chosen.version)
        snapshot = ws.artifacts.find(NAME, PARTITION, target)
        if snapshot is not None:
            return _pointed(ws, snapshot, reused=True, stats={"nothing_to_train": _meanwhile(turn)})
        _require_trainable(chosen)
        snapshot, stats = _train(ws, chosen, target, turn)
        return _pointed(ws, snapshot, reused=False, stats=stats)


def _require_trainable(source: Snapshot) -> None:
    why = training_set.problem(source)
    if why is not None:
        raise NotTrainableError(
            "nothing can be learnt from the training set",
            subject=f"{training_set.NAME} {source.version}",
            found=why,
            action="wait for outlines, or look at the table `dropped` of the training set",
        )


def _meanwhile(turn: Turn) -> str:
    return f"a training from the same data ended while this run waited for {turn.waited_for or 'its turn'}"


def _pointed(
    ws: Workspace, snapshot: Snapshot, *, reused: bool, stats: Mapping[str, Any] | None = None
) -> Outcome:
    ws.artifacts.point(snapshot, run_id=ws.run_id)
    return Outcome(snapshot=snapshot, reused=reused, checks=checks(snapshot), stats=stats or {})


def current_training_set(ws: Workspace) -> Snapshot:
    """Return the training set that is pointed at."""
    source = ws.current(training_set.NAME, training_set.PARTITION)
    if source is None:
        raise ArtifactNotFoundError(
            "no training set is stored",
            subject=training_set.NAME,
            action=f"materialise {training_set.NAME} first",
        )
    return source


def scratch(ws: Workspace, target: str) -> Path:
    """Return the local folder of a training's checkpoints, the same for every run on this machine."""
    return _scratch(ws) / target


def scratch_folder(ws: Workspace) -> Path:
    """Return the local folder, made where it is not there, of what a training or an evaluation puts aside."""
    folder = _scratch(ws)
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _scratch(ws: Workspace) -> Path:
    own = ws.settings.learning.scratch
    if own is not None:
        return Path(own).expanduser()
    root = ws.artifacts.root
    if root.path is not None:
        return root.path / "scratch" / "training"
    place = hashlib.sha256(root.url.encode()).hexdigest()[:12]
    return Path(tempfile.gettempdir()) / f"geostack-training-{place}"


def _train(ws: Workspace, source: Snapshot, target: str, turn: Turn) -> tuple[Snapshot, dict[str, Any]]:
    from geostack_pipeline.learning import network, training, weights
    from geostack_pipeline.learning.fields import matched_filter_score
    from geostack_pipeline.learning.inference import PlumeModel
    from geostack_pipeline.learning.judging import THRESHOLDS, best_threshold, calibrated
    from geostack_pipeline.learning.model_card import CARD, CONFIG, ITEM, WEIGHTS, card, stac_item
    from geostack_pipeline.learning.model_card import NAME as FAMILY
    from geostack_pipeline.publish.learning_figures import loss_curves
    from geostack_pipeline.stages.stored_tiles import StoredTiles

    prepare_kernels(ws)
    own = ws.settings.learning
    chosen = recipe(own)
    folder = scratch(ws, target)

    def report(row: Mapping[str, float]) -> None:
        turn.require()
        info = {"of": chosen.steps, **{name: value for name, value in row.items() if value == value}}  # noqa: PLR0124 - NaN
        emit(Event(provider="", stage=NAME, day=PARTITION, status="moved", info=info))

    with ws.artifacts.begin(
        NAME,
        PARTITION,
        target,
        kind="model",
        code_version=CODE_VERSION,
        upstream={f"{source.asset}/{source.partition}": source.version},
    ) as attempt:
        tiles = StoredTiles(source)
        trained = training.train(
            chosen,
            tiles.of("train"),
            seed=own.seed,
            validation=tiles.of("validation"),
            checkpoints=folder,
            identity={"training_set": source.version},
            report=report,
        )
        tile = inference_tile(own, chosen)
        model = PlumeModel(
            network=trained.model,
            version=target,
            name=FAMILY,
            tile=tile,
            overlap=tile // 4,
            threshold=0.5,
            product_version=source.meta["recipe"]["product"],
        )
        judged = partial(granules_for_thresholds, ws, source)
        aside = scratch_folder(ws)
        model = dataclasses.replace(model, calibration=calibrated(model.probabilities, judged, aside))
        threshold = best_threshold(model.probabilities, judged, THRESHOLDS)
        baseline = best_threshold(matched_filter_score, judged, folder=aside)
        data = weights.save_weights(trained.model, chosen.architecture)
        count = network.parameters(trained.model)
        meta = {
            "model": FAMILY,
            "training_set": source.version,
            "product_version": model.product_version,
            "labelled": source.meta["labelled"],
            "architecture": chosen.architecture.as_dict(),
            "profile": own.profile,
            "seed": own.seed,
            "steps": chosen.steps,
            "parameters": count,
            "tile": tile,
            "overlap": tile // 4,
            "threshold": threshold,
            "calibration": dataclasses.asdict(model.calibration),
            "baseline_threshold": baseline,
            "loss": trained.history[-1]["loss"],
            **libraries(),
        }
        config = {
            name: meta[name]
            for name in (
                "model",
                "product_version",
                "architecture",
                "tile",
                "overlap",
                "threshold",
                "calibration",
            )
        }
        attempt.put(WEIGHTS, data)
        attempt.put(CONFIG, json.dumps({**config, "version": target}, indent=1, sort_keys=True).encode())
        attempt.put("history.parquet", parquet_bytes(pl.DataFrame(trained.history, infer_schema_length=None)))
        attempt.put("quicklook-loss.png", loss_curves(trained.history, f"{FAMILY} {target}"))
        facts = extent(source)
        item = stac_item(
            version=target,
            architecture=chosen.architecture,
            parameters=count,
            tile=tile,
            threshold=threshold,
            created=facts["last"],
            box=facts["box"],
            span=(facts["first"], facts["last"]),
            weights={"size": len(data), "sha256": hashlib.sha256(data).hexdigest()},
            training_set=source.version,
            jax=meta["jax"],
        )
        attempt.put(ITEM, json.dumps(item, indent=1).encode())
        text = card(
            version=target,
            training_set=source.version,
            meta=card_facts(source, meta),
            parameters=count,
            evaluation=None,
            verdict=None,
        )
        attempt.put(CARD, text.encode())
        turn.require()
        snapshot = attempt.commit(meta=meta)
    _forget(folder)
    stats = {
        "resumed_at": trained.resumed_at,
        "steps_per_second": round(trained.steps / max(trained.seconds, 1e-9), 2),
        "tiles_per_second": round(trained.steps * chosen.batch / max(trained.seconds, 1e-9), 1),
    }
    return snapshot, stats


def _forget(folder: Path) -> None:
    import shutil

    shutil.rmtree(folder, ignore_errors=True)


def card_facts(source: Snapshot, meta: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the model card tells of the training."""
    return {
        **meta,
        "labelled": len(source.meta["labelled"]),
        "weak_negatives": source.meta["weak_negatives"],
        "tiles_train": source.meta["tiles_train"],
    }


def inference_tile(own: LearningSettings, chosen: Recipe) -> int:
    """Return the edge of the tiles of inference: near that of the crops, whose statistics the network knows."""
    return max(32, min(own.tile, 2 * chosen.crop if chosen.crop < own.tile else chosen.crop) // 32 * 32)


def extent(source: Snapshot) -> dict[str, Any]:
    """Return box and time span of a training set's granules."""
    table = source.open("members")
    return {
        "box": [table["west"].min(), table["south"].min(), table["east"].max(), table["north"].max()],
        "first": table["datetime"].min(),
        "last": table["datetime"].max(),
    }


def load(snapshot: Snapshot) -> PlumeModel:
    """Return the model of a candidate or champion.

    Raises:
        IntegrityError: Its weights are not of its architecture.
    """
    from geostack_pipeline.learning.calibration import Platt
    from geostack_pipeline.learning.inference import PlumeModel
    from geostack_pipeline.learning.model_card import WEIGHTS
    from geostack_pipeline.learning.weights import load_weights

    meta = snapshot.meta
    network = load_weights(
        snapshot.read(WEIGHTS),
        Architecture.from_dict(meta["architecture"]),
        f"{snapshot.asset} {snapshot.version}",
    )
    return PlumeModel(
        network=network,
        version=snapshot.version,
        name=meta["model"],
        tile=meta["tile"],
        overlap=meta["overlap"],
        threshold=meta["threshold"],
        calibration=Platt(**meta["calibration"]),
        product_version=meta.get("product_version"),
    )


def checks(snapshot: Snapshot) -> tuple[Check, ...]:
    """Judge a training: whether it ended with numbers."""
    history = pl.read_parquet(snapshot.read("history.parquet"))
    first, last = history["loss"][0], history["loss"][-1]
    return (
        Check(
            name="loss_fell",
            passed=bool(last < first),
            detail={"first": first, "last": last, "steps": snapshot.meta["steps"]},
        ),
    )


# --- what a training reads ---------------------------------------------------------------------------------


def granules_of(ws: Workspace, source: Snapshot, splits: Sequence[str]) -> Iterator[Granule]:
    """Yield the whole granules of some splits of a training set, from the cubes that it names."""
    from geostack_pipeline.learning.judging import Granule

    ring = source.meta["recipe"]["ring"]
    rows = source.open("members").filter(pl.col("split").is_in(list(splits))).sort("item_id")
    for row in rows.iter_rows(named=True):
        member, cubes = training_members.stored_member(ws, row)
        fields = training_tiles.read_granule(member, cubes, ring)
        yield Granule(
            item_id=member.granule.item_id,
            stack=fields.stack,
            plumes=fields.plumes,
            target=fields.target,
            rates_kg_h=tuple(label.rate_kg_h for label in member.labels),
        )


def granules_for_thresholds(ws: Workspace, source: Snapshot) -> Iterator[Granule]:
    """Yield the granules on which thresholds are chosen: of the validation split; where that has no plume, of both."""
    table = source.open("members")
    seen = table.filter((pl.col("split") == "validation") & (pl.col("state") == "labelled")).height
    splits = ["validation"] if seen else ["validation", "train", "several"]
    yield from itertools.islice(granules_of(ws, source, splits), MOST_THRESHOLD_GRANULES)
