"""How large the network is and how long it learns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """What fixes the shapes of all weights."""

    widths: tuple[int, ...]
    """Channels of each level, from full resolution down; every level halves the resolution."""
    groups: int = 4
    """Groups of the normalisation."""
    family: str = "plume-unet-1"
    """Changes when the same weights would compute something else."""

    def as_dict(self) -> dict[str, Any]:
        """Return the description as JSON values."""
        return {**asdict(self), "widths": list(self.widths)}

    @classmethod
    def from_dict(cls, document: Mapping[str, Any]) -> Architecture:
        """Return what :meth:`as_dict` gave."""
        return cls(
            widths=tuple(int(width) for width in document["widths"]),
            groups=int(document["groups"]),
            family=str(document["family"]),
        )


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """What a training is made of, besides its tiles and its seed."""

    architecture: Architecture
    steps: int
    batch: int
    crop: int
    """Edge of the squares that are cut at random from the tiles, pixels; at most the tiles' edge."""
    learning_rate: float = 3e-3
    warmup: float = 0.1
    """Share of the steps in which the learning rate rises."""
    weight_decay: float = 1e-4
    clip: float = 1.0
    """Largest norm of a gradient."""
    tversky: float = 0.3
    """Share of the Tversky term in the loss; the rest is binary cross-entropy."""
    alpha: float = 0.3
    """Weight of false plume pixels in the Tversky index."""
    beta: float = 0.7
    """Weight of missed plume pixels in it."""
    checkpoint_every: int = 50

    def as_dict(self) -> dict[str, Any]:
        """Return the recipe as JSON values."""
        return {**asdict(self), "architecture": self.architecture.as_dict()}


PROFILES: Mapping[str, Recipe] = {
    "demo": Recipe(architecture=Architecture(widths=(8, 16, 32)), steps=400, batch=16, crop=48),
    # Half of its weights lie in the coarsest level, where they cost a fifth of a step.
    "cpu": Recipe(architecture=Architecture(widths=(12, 24, 48, 168)), steps=1200, batch=16, crop=64),
    "full": Recipe(
        architecture=Architecture(widths=(24, 48, 96, 160), groups=8), steps=20_000, batch=16, crop=256
    ),
}
"""Profile -> recipe.  ``demo`` and ``cpu`` are smaller than what a GPU is worth: two cores have to do."""
