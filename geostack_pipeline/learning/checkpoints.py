"""Checkpoints: what a killed training needs to go on as if nothing had happened.

orbax writes a checkpoint under another name and renames it when it is whole, so a kill leaves the one before.  All of
it is arrays and JSON.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import jax
import numpy as np
import orbax.checkpoint as ocp

from geostack_pipeline.errors import IntegrityError
from geostack_pipeline.storage.digest import version_of

_KEPT = 2

for _name in ("absl", "orbax"):
    logging.getLogger(_name).setLevel(logging.ERROR)


@dataclass(frozen=True, kw_only=True)
class State:
    """A training after a step."""

    step: int
    arrays: Any
    """Weights and optimiser state: a tree of arrays."""
    history: Sequence[Mapping[str, float]]
    """What was noted so far."""


class Checkpoints:
    """Checkpoints of one training in a local folder; a context manager.

    Args:
        folder: Is made when there is none.
        identity: What fixes the training; checkpoints of another one are refused.
    """

    def __init__(self, folder: Path, identity: Mapping[str, Any]) -> None:
        self.folder = folder
        self._identity = {"training": version_of(identity), **identity}
        self._refuse_others()
        folder.mkdir(parents=True, exist_ok=True)
        self._manager = ocp.CheckpointManager(
            folder.resolve(),
            item_handlers={"arrays": ocp.StandardCheckpointHandler(), "history": ocp.JsonCheckpointHandler()},
            options=ocp.CheckpointManagerOptions(
                max_to_keep=_KEPT, enable_async_checkpointing=False, create=True
            ),
        )

    def _refuse_others(self) -> None:
        file = self.folder / "training.json"
        if not file.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            part = file.with_suffix(".part")
            part.write_text(json.dumps(self._identity, sort_keys=True), encoding="utf-8")
            part.replace(file)
            return
        try:
            found = json.loads(file.read_text(encoding="utf-8"))
        except ValueError:
            found = {}
        if found.get("training") != self._identity["training"]:
            odd = sorted(name for name, value in self._identity.items() if found.get(name) != value)
            raise IntegrityError(
                "the checkpoint is of another training",
                subject=str(self.folder),
                found=f"it differs in {', '.join(odd)}",
                action="remove the folder, or continue that training",
            )

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the files."""
        self._manager.close()

    def save(self, state: State) -> None:
        """Write a checkpoint; returns when it is whole."""
        leaves = {
            f"{number:04d}": np.asarray(leaf) for number, leaf in enumerate(jax.tree.leaves(state.arrays))
        }
        self._manager.save(
            state.step,
            args=ocp.args.Composite(
                arrays=ocp.args.StandardSave(leaves),
                history=ocp.args.JsonSave({"rows": [dict(row) for row in state.history]}),
            ),
        )

    def latest(self, like: Any) -> State | None:
        """Return the last whole checkpoint, None where there is none.

        Args:
            like: Tree of arrays of the shapes to expect.

        Raises:
            IntegrityError: It holds arrays of another architecture.
        """
        step = self._manager.latest_step()
        if step is None:
            return None
        leaves, structure = jax.tree.flatten(like)
        saved = self._manager.item_metadata(step)["arrays"]
        shapes = {name: tuple(about.shape) for name, about in saved.items()}
        wanted = {f"{number:04d}": tuple(np.shape(leaf)) for number, leaf in enumerate(leaves)}
        if shapes != wanted:
            raise IntegrityError(
                "the checkpoint is of another architecture",
                subject=f"{self.folder} step {step}",
                found=f"{len(shapes)} arrays, wanted are {len(wanted)} of other shapes",
                action="remove the folder, or choose the profile that it was made with",
            )
        target = {
            f"{number:04d}": np.zeros(np.shape(leaf), np.asarray(leaf).dtype)
            for number, leaf in enumerate(leaves)
        }
        found = self._manager.restore(
            step,
            args=ocp.args.Composite(arrays=ocp.args.StandardRestore(target), history=ocp.args.JsonRestore()),
        )
        arrays = [np.asarray(found["arrays"][name]) for name in sorted(target)]
        return State(
            step=step, arrays=jax.tree.unflatten(structure, arrays), history=tuple(found["history"]["rows"])
        )

    def remove(self) -> None:
        """Remove all checkpoints: the training has ended and its result is stored."""
        self._manager.close()
        shutil.rmtree(self.folder, ignore_errors=True)
