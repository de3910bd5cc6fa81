"""What to serve: light enough for the process that only starts and watches the servers."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.sandbox.server.faults import parse_fault

DEFAULT_SEED = 20240601
LARGEST_CAMPAIGN = 288
"""Granules that a campaign of EMIT can have: one at each of its places."""
PROVIDERS = (
    "earth_search",
    "planetary_computer",
    "cdse",
    "sentinel_hub",
    "cmr_stac",
    "earthaccess",
    "dlr_geoservice",
    "stac_api",
)
"""Catalogs that the sandbox can serve: the keys of ``dialects.DIALECTS``."""
EMIT_CATALOGS = frozenset({"cmr_stac", "earthaccess"})
"""Those that list the granules of EMIT."""


@dataclass(frozen=True, kw_only=True)
class ServeConfig:
    """What to serve."""

    folder: str
    """Where generated worlds are kept."""
    seed: int = DEFAULT_SEED
    small: bool = False
    """The small world, for tests."""
    providers: tuple[str, ...] = ("earth_search",)
    port: int = 0
    """Port of the catalogs; the other servers take the ports after it. 0 takes free ones."""
    faults: tuple[str, ...] = ()
    """Faults from the start, in their text form."""
    held: tuple[str, ...] = ()
    """Parts of names: granules that catalogs which change with time (EMIT's) do not list until they are released."""
    campaign: int = 0
    """Small granules of EMIT with random plumes that its catalogs list besides the world's own."""

    def check(self) -> None:
        """Raise ``SettingsError`` for what cannot be served."""
        unknown = [name for name in self.providers if name not in PROVIDERS]
        if unknown or not self.providers:
            raise SettingsError(
                "the sandbox has no such provider" if unknown else "no provider is named",
                subject="sandbox providers",
                found=", ".join(unknown) or None,
                action=f"choose from {', '.join(PROVIDERS)}",
            )
        if not 0 <= self.campaign <= LARGEST_CAMPAIGN:
            raise SettingsError(
                f"a campaign has at most {LARGEST_CAMPAIGN} granules",
                subject=f"sandbox campaign {self.campaign}",
                action=f"choose a number between 0 and {LARGEST_CAMPAIGN}",
            )
        if self.port and not 1 <= self.port <= 65500:
            raise SettingsError(
                "the port must lie between 1 and 65500, or be 0 for free ones",
                subject=f"sandbox port {self.port}",
                action="choose another port; those after it are taken as well",
            )
        for text in self.faults:
            parse_fault(text)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values; the folder absolute."""
        return {**asdict(self), "folder": str(Path(self.folder).expanduser().resolve())}

    @classmethod
    def from_json(cls, fields: dict[str, Any]) -> ServeConfig:
        """Return the configuration that :meth:`to_json` wrote."""
        return cls(**{**fields, **{name: tuple(fields[name]) for name in ("providers", "faults", "held")}})
