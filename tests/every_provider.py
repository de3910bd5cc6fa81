"""One small sandbox with every catalog, and providers that look at it: with the sandbox's logins, or with others."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import date, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from geostack_pipeline.areas import Area
from geostack_pipeline.catalog import footprints
from geostack_pipeline.catalog.normalise import Normalised, normalise
from geostack_pipeline.catalog.retry import RetryPolicy
from geostack_pipeline.catalog.search import search
from geostack_pipeline.cube.grid import grid_for
from geostack_pipeline.providers import earthdata, oauth
from geostack_pipeline.providers.contract import AreaRenderer, Item, Provider
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.sandbox import Sandbox
from geostack_pipeline.sandbox.config import PROVIDERS
from geostack_pipeline.settings import Settings, parse_settings
from geostack_pipeline.stages.fetching import Fetcher
from geostack_pipeline.stages.traffic import Traffic
from geostack_pipeline.stages.wishes import GEOGRAPHIC, Wish, joint_box
from geostack_pipeline.stages.workspace import open_workspace

QUICK = RetryPolicy(
    attempts=3,
    base_s=0.01,
    cap_s=0.05,
    retry_after_cap_s=0.2,
    deadline_s=20.0,
    walk_timeout_s=10.0,
    floor=timedelta(hours=12),
)
"""A search that gives up within seconds."""


@dataclass
class Every:
    """The sandbox, and what its catalogs have when nothing is wrong."""

    sandbox: Sandbox
    folder: Path

    def __post_init__(self) -> None:
        self._days: dict[str, date] = {}
        self._number = 0

    def settings(self, **changes: Any) -> Settings:
        """Return settings with a store of their own."""
        self._number += 1
        return parse_settings(
            {"root": f"file:{self.folder}/store-{self._number}", **self.sandbox.settings(), **changes}
        )

    def logins(self, key: str) -> dict[str, Secret]:
        """Return the sandbox's login for a provider: field -> secret."""
        known = self.sandbox.credentials()
        fields = self.settings().credential_fields(key)
        return {field.name: Secret(known[field.variable]) for field in fields if field.variable in known}

    def provider(
        self,
        key: str,
        *,
        logins: Mapping[str, Secret] | None = None,
        timeout_s: float = 10.0,
        page: int = 0,
        options: Mapping[str, Any] | None = None,
        urls: Mapping[str, str] | None = None,
    ) -> Provider:
        """Return a provider that has not logged in yet and whose requests end soon.

        Args:
            key: Which one.
            logins: Its login; None takes the sandbox's.
            timeout_s: Time limit of a search request.
            page: Items per page; 0 takes the provider's own.
            options: Added to its options.
            urls: Server (``url`` is the catalog) -> where another one answers in its place.
        """
        forget_logins()
        raw = self.sandbox.settings()["providers"]
        own = raw[key]
        own["options"] = {**own.get("options", {}), **(options or {})}
        for name, url in (urls or {}).items():
            if name == "url":
                own["url"] = url
            else:
                assert name in own["endpoints"], sorted(own["endpoints"])
                own["endpoints"][name]["url"] = url
        settings = self.settings(providers=raw)
        made = settings.build_provider(key, self.logins(key) if logins is None else logins)
        made.dialect = replace(
            made.dialect, request_timeout_s=timeout_s, page_size=page or made.dialect.page_size
        )
        return made

    @property
    def areas(self) -> Sequence[Area]:
        """All areas."""
        return self.settings().area_list

    def day(self, key: str) -> date:
        """Return the first date on which a catalog has two items or more."""
        if key not in self._days:
            provider = self.provider(key)
            first, last = (date.fromisoformat(text) for text in self.sandbox.days)
            counts = {}
            for number in range((last - first).days + 1):
                day = first + timedelta(days=number)
                counts[day] = len(self.normalised(provider, day).items)
                if counts[day] > 1:
                    break
            self._days[key] = max(counts, key=lambda one: counts[one])
        return self._days[key]

    def normalised(self, provider: Provider, day: date | None = None) -> Normalised:
        """Search and normalise a date, with little patience."""
        day = day or self.day(provider.key)
        return normalise(provider, search(provider, day, self.areas, policy=QUICK).items, day, self.areas)

    def fetch(self, provider: Provider, item: Item, *, web: bool = False) -> str:
        """Fetch the first wanted asset of an item into an empty cache, maybe not from a bucket; return its SHA-256."""
        settings = self.settings()
        ws = open_workspace(settings)
        shape = footprints.footprint(item["geometry"])
        area = next(area for area in ws.areas if footprints.touches(shape, [footprints.plane(area)]))
        bands = ws.provider_settings(provider.key).bands or provider.product.default_bands
        scratch = self.folder / f"scratch-{self._number}"
        scratch.mkdir()
        grid = grid_for(area)
        if isinstance(provider, AreaRenderer):
            picture = scratch / "picture.tif"
            provider.render(grid, [item], [*bands, "SCL"])[0].perform(picture)
            return sha256(picture.read_bytes()).hexdigest()
        swath = provider.product.kind == "swath"
        want = next(want for want in provider.wants(item, bands) if want.asset in item["assets"])
        wish = Wish(
            area=area.name,
            bounds=joint_box([area]) if swath else grid.bounds,
            crs=GEOGRAPHIC if swath else grid.crs,
            item=item,
            want=want,
            coverage=1.0,
            routes=[
                ref
                for ref in provider.routes(item, want.asset)
                if not (web and ref.store_id.startswith("s3://"))
            ],
        )
        blob = Fetcher(ws, provider, scratch, Traffic()).fetch(wish)
        assert blob is not None
        return blob.sha256


def forget_logins() -> None:
    """Forget what this process shares between providers: its logins."""
    oauth._held.clear()
    earthdata._logins.clear()


def by_password(every: Every, key: str) -> dict[str, Secret]:
    """Return a provider's login without a token that was given."""
    return {name: secret for name, secret in every.logins(key).items() if name != "token"}


def ids(found: Normalised) -> list[str]:
    """Return the ids of everything that a search accounted for, sorted."""
    return sorted([item["id"] for item in found.items] + [one.id for one in found.rejected])


def text(items: Sequence[Item]) -> str:
    """Return items as text that is equal for equal items."""
    return json.dumps(items, sort_keys=True)


@contextmanager
def start(folder: Path, worlds: Path, providers: Sequence[str] = PROVIDERS) -> Iterator[Every]:
    """Serve every catalog while the context lasts."""
    with Sandbox.start(worlds, small=True, providers=providers) as sandbox:
        yield Every(sandbox, folder)
