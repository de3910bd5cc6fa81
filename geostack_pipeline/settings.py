"""``geostack.yaml``: which areas, which catalogs, where artifacts are kept.

The file is found by, in this order: an explicit path, the ``GEOSTACK_SETTINGS`` variable, ``geostack.yaml``
in the working folder.  Credentials are never in it: a resource names the environment variable that holds one.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Annotated, Any, Literal
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import yaml
from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from geostack_pipeline.areas import Area, Resampling
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.methane.rates import CALIBRATION_SIGMA, CALM_M_S, RELATIVE_WIND_SIGMA
from geostack_pipeline.methane.wind import WindLimits, WindSource
from geostack_pipeline.providers.contract import Endpoint, Provider
from geostack_pipeline.providers.credentials import CredentialField, Credentials, from_environment
from geostack_pipeline.providers.registry import PROVIDERS, ProviderSpec, build_provider, spec

SETTINGS_VARIABLE = "GEOSTACK_SETTINGS"
DEFAULT_FILE = "geostack.yaml"
_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,62}")
_TAKEN = frozenset(
    {
        *("plumes", "published", "workspace", "wind", "tables", "trees", "models", "io_manager"),
        *("training_set", "candidate_model", "evaluation", "champion_model"),
    }
)
"""The assets over all providers, and resources that are no provider."""
_ASSET_PREFIX = re.compile(r"[a-z][a-z0-9_]{0,40}")


def _as_text(value: Any) -> Any:
    """YAML reads ``true`` and ``8`` as what they are; the options of a store are all text."""
    if isinstance(value, bool):
        return str(value).lower()
    return str(value) if isinstance(value, int | float) else value


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class AreaSettings(_Strict):
    """One area of interest."""

    bbox: tuple[float, float, float, float]
    """West, south, east, north in degrees; west > east crosses the antimeridian."""
    resolution_m: Annotated[float, Field(gt=0, le=10_000)] = 20.0
    crs: str | None = None
    resampling: Resampling | None = None
    """How reflectance comes onto this area's grid; None takes what each provider says."""
    read_overviews: bool | None = None
    """Whether this area's cubes are made of overviews where its grid is coarser; None takes what each provider says."""

    @field_validator("bbox")
    @classmethod
    def _plausible(cls, bbox: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
        west, south, east, north = bbox
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= 90 and -90 <= north <= 90):
            raise ValueError("longitudes lie within -180..180 and latitudes within -90..90")
        if south >= north:
            raise ValueError(
                f"south ({south}) must be below north ({north}); the order is west, south, east, north"
            )
        if west == east:
            raise ValueError("west and east are equal, so the area is empty")
        return bbox

    @field_validator("crs")
    @classmethod
    def _authority_code(cls, crs: str | None) -> str | None:
        if crs is not None and not re.fullmatch(r"EPSG:\d{4,6}", crs):
            raise ValueError(f"{crs!r} is not of the form EPSG:<code>")
        return crs


class EndpointSettings(_Strict):
    """Where an object store answers, when it is not the cloud's own address."""

    url: str | None = None
    region: str | None = None
    allow_http: bool = False


class ScheduleSettings(_Strict):
    """When a provider is ingested every day."""

    cron: str = "30 4 * * *"
    timezone: str = "UTC"

    @field_validator("timezone")
    @classmethod
    def _known(cls, timezone: str) -> str:
        try:
            ZoneInfo(timezone)
        except (ZoneInfoNotFoundError, ValueError):
            raise ValueError(
                f"{timezone!r} is not a time zone of the IANA database, such as Europe/Berlin"
            ) from None
        return timezone


class ProviderSettings(_Strict):
    """One catalog: what to ask for, what to keep, which bands to fetch."""

    kind: str | None = None
    """Which provider it is, where the name is one of your own, e.g. ``stac_api``; else the name says it."""
    url: str | None = None
    """Root of the STAC API; None is the catalog's public address."""
    collections: tuple[str, ...] = ()
    """Collections to search; empty takes the provider's default."""
    where: str | None = None
    """Selection in SQL over the scene table, e.g. ``"eo:cloud_cover" < 60``."""
    min_coverage: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Smallest share of an area that a scene must cover to be kept for it."""
    bands: tuple[str, ...] = ()
    """Canonical bands (asset keys of a swath) of the cube, empty for the provider's default; the scene classification
    comes along by itself."""
    resampling: Resampling = "auto"
    """How reflectance comes onto a grid: ``auto`` (nearest, the mean where the grid is coarser), ``nearest``, ``bilinear`` or
    ``average``; classes are always the nearest."""
    read_overviews: bool = False
    """Whether a grid that is coarser than a scene is made of the overview in its file that ``gdalwarp`` would take, and
    only that overview is fetched where windows are cut; False takes the full image, whatever the catalog made overviews of."""
    wavelengths_nm: tuple[tuple[float, float], ...] = ()
    """Ranges of wavelength that the cube keeps of an imaging spectrometer's spectra, e.g. ``[[2100, 2500]]``; empty
    takes these, where methane absorbs, and one blue, one green and one red band."""
    overviews: bool | Annotated[int, Field(ge=0, le=10)] = False
    """Coarser copies of a gridded cube in its node: true for as many as a map needs, or how many, each of half the
    resolution of the one before."""
    endpoints: Mapping[str, EndpointSettings] = Field(default_factory=dict)
    """Bucket, account or login server -> where it answers."""
    options: Mapping[str, Any] = Field(default_factory=dict)
    """Settings that only this provider has: see docs/providers."""
    variables: Mapping[str, str] = Field(default_factory=dict)
    """Part of the login -> environment variable that holds it, where that is not the provider's usual one."""
    schedule: ScheduleSettings = ScheduleSettings()

    @field_validator("url")
    @classmethod
    def _http(cls, url: str | None) -> str | None:
        if url is not None and not re.match(r"https?://[^/@\s]+", url):
            raise ValueError(f"{url!r} is no http(s) address (user names and passwords do not belong in it)")
        return url.rstrip("/") if url else url

    @field_validator("where")
    @classmethod
    def _said(cls, where: str | None) -> str | None:
        return where if where is not None and where.strip() else None

    @field_validator("bands")
    @classmethod
    def _distinct(cls, bands: tuple[str, ...]) -> tuple[str, ...]:
        if len(set(bands)) != len(bands):
            raise ValueError("bands must be a list of different band names, such as [B04, B11, B12]")
        return bands

    @field_validator("wavelengths_nm")
    @classmethod
    def _rising(cls, ranges: tuple[tuple[float, float], ...]) -> tuple[tuple[float, float], ...]:
        for low, high in ranges:
            if not 0.0 < low < high:
                raise ValueError(f"[{low}, {high}] is no range: write the shorter wavelength first, in nm")
        return ranges

    @field_validator("variables")
    @classmethod
    def _variable_names(cls, variables: Mapping[str, str]) -> Mapping[str, str]:
        for name in variables.values():
            if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
                # The value may be the secret itself, put here by mistake: it is not shown.
                raise ValueError(
                    "names an environment variable by letters, digits and _; never write a login here"
                )
        return variables


class DetectionLimits(_Strict):
    """What counts as a plume candidate."""

    seed_z: Annotated[float, Field(gt=0)] | None = None
    """Smallest z-score of a candidate's core; None takes the method's default."""
    grow_z: Annotated[float, Field(gt=0)] | None = None
    """Smallest z-score of the pixels around the core."""
    min_area_m2: Annotated[float, Field(gt=0)] | None = None
    misfit_ratio: Annotated[float, Field(gt=0)] | None = None
    """How far a candidate's spectra may depart from the background in other directions than methane's, as a share of
    what methane explains; of spectrometers only."""


class MethaneSettings(_Strict):
    """The retrieval stage."""

    lookback_days: Annotated[int, Field(ge=0, le=366)] = 30
    """How far back the reference scene of MBMP is looked for."""
    filter: Literal["mag1c", "cmf", "product"] = "cmf"
    """What makes methane of an imaging spectrometer's radiance: ``cmf`` (classic, two-sided noise), or ``mag1c`` (sparse,
    albedo-corrected, so that dark surfaces that absorb like methane stand out more: docs/retrieval-quality.md);
    ``product`` takes the catalog's own enhancement where a scene has one."""
    target: str | None = None
    """File with a target spectrum of your own for these filters (docs/methane.md); None is the project's."""
    compilation_cache: bool = True
    """Whether compiled kernels are kept on disk, under ``compiled/`` of a local root, else in the user's cache folder."""
    detection: DetectionLimits = DetectionLimits()


class WindSettings(_Strict):
    """Where the wind comes from that emission rates are made with."""

    source: str
    """Path or URL of a table (Parquet, GeoParquet, CSV) or of a Zarr with u10 and v10; see docs/architecture.md."""
    options: Mapping[str, Annotated[str, BeforeValidator(_as_text)]] = Field(default_factory=dict)
    """Options of an object store; a value ``env:NAME`` is read from the environment."""
    max_hours: Annotated[float, Field(gt=0, le=24)] = 1.5
    """A record further away in time is not used."""
    max_distance_km: Annotated[float, Field(gt=0, le=500)] = 40.0
    """A record further away in space is not used."""
    relative_sigma: Annotated[float, Field(ge=0, le=2)] = RELATIVE_WIND_SIGMA
    """Relative 1-sigma of the speed where the source states none."""
    calm_m_s: Annotated[float, Field(ge=0, le=5)] = CALM_M_S
    """Below this speed no rate is given."""
    calibration_sigma: Annotated[float, Field(ge=0, le=1)] = CALIBRATION_SIGMA
    """Relative 1-sigma of a rate whose wind and mass are known: that of the method (docs/methane.md)."""


class LearningSettings(_Strict):
    """The plume model that is trained on analysts' outlines."""

    enabled: bool = False
    """Whether there are assets and a job for training."""
    profile: Literal["demo", "cpu", "full"] = "cpu"
    """How large the network and how long its training: about a minute, a quarter of an hour, or what a GPU likes."""
    seed: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """Decides initial weights, order and augmentation."""
    product_version: Annotated[str, Field(pattern=r"^\d{3}$")] = "002"
    """Version of EMIT's methane products to learn from; two versions are never mixed."""
    review_days: Annotated[int, Field(ge=0, le=3660)] = 45
    """A granule that has no outline so many days after it was taken counts as a weak negative."""
    site_degrees: Annotated[float, Field(gt=0, le=30)] = 2.0
    """Edge of the cells that are wholly for learning or wholly for the test."""
    test_share: Annotated[float, Field(gt=0, lt=1)] = 0.25
    """Share of the cells that is for the test."""
    validation_share: Annotated[float, Field(gt=0, lt=1)] = 0.15
    """Share of the months of a cell on which thresholds are chosen."""
    tile: Annotated[int, Field(ge=32, le=1024, multiple_of=16)] = 256
    """Edge of a tile, pixels."""
    overlap: Annotated[int, Field(ge=0, le=512)] = 64
    """Pixels that neighbouring tiles share."""
    ring_pixels: Annotated[int, Field(ge=0, le=16)] = 2
    """Outlines are drawn with a margin: so many pixels on both sides of their edge count for nothing."""
    steps: Annotated[int, Field(ge=1)] | None = None
    """Steps of a training; None takes the profile's."""
    batch: Annotated[int, Field(ge=1)] | None = None
    """Tiles in a step; None takes the profile's."""
    bootstrap: Annotated[int, Field(ge=100, le=100_000)] = 1000
    """Resamples behind the gate's confidence intervals."""
    min_test_granules: Annotated[int, Field(ge=1)] = 20
    """On fewer granules of the test nothing is promoted: chance would decide the bootstrap."""
    scratch: str | None = None
    """Local folder of checkpoints; None takes one beside a local root, else the system's temporary folder."""
    wait_hours: Annotated[float, Field(ge=0, le=168)] = 24.0
    """Longest time that a training waits for the end of another one; only one trains at a time."""

    @model_validator(mode="after")
    def _strides(self) -> LearningSettings:
        if self.overlap > self.tile // 2:
            raise ValueError(f"overlap {self.overlap} is more than half of the tile's {self.tile} pixels")
        return self


class NewGranulesSettings(_Strict):
    """The sensor that hears of new, revised and deleted granules of EMIT."""

    every_minutes: Annotated[float, Field(ge=0.01, le=1440)] = 15.0
    """Time between two questions to the catalog."""
    overlap_hours: Annotated[float, Field(gt=0, le=168)] = 6.0
    """How long after its revision date a change may become visible; asked for again that long."""
    runs_per_turn: Annotated[int, Field(ge=1, le=1000)] = 20
    """Most runs that are requested at once; the other dates follow at the next turns."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a run that failed is tried again by itself."""


class NewLabelsSettings(_Strict):
    """The sensor that has the plume model trained again."""

    every_minutes: Annotated[float, Field(ge=0.01, le=1440)] = 60.0
    granules: Annotated[int, Field(ge=1)] = 50
    """Granules with labels that the model in use has not learnt from, which start a training."""
    days: Annotated[float, Field(gt=0, le=3660)] = 30.0
    """Time since the last training after which a smaller number is enough."""
    retries: Annotated[int, Field(ge=0, le=10)] = 2
    """How often a training that failed is tried again at once; after that it is meant anew, each time later."""


class FreshnessSettings(_Strict):
    """How old the newest materialization of a provider's asset may be: the daily schedule makes one a day."""

    warn_hours: Annotated[float, Field(gt=0.02)] = 30.0
    fail_hours: Annotated[float, Field(gt=0.02)] = 54.0

    @model_validator(mode="after")
    def _ordered(self) -> FreshnessSettings:
        if self.warn_hours >= self.fail_hours:
            raise ValueError("warn_hours must be less than fail_hours")
        return self


class NotifySettings(_Strict):
    """Who hears of runs that failed, besides the log."""

    webhook: str | None = None
    """``env:NAME``: the variable that holds the address which notices are posted to."""
    timeout_s: Annotated[float, Field(gt=0, le=20)] = 10.0

    @field_validator("webhook")
    @classmethod
    def _named(cls, webhook: str | None) -> str | None:
        if webhook is not None and not re.fullmatch(r"env:[A-Za-z_][A-Za-z0-9_]*", webhook):
            # It may be the address itself, which is a secret: it is not shown.
            raise ValueError(
                "write env:NAME with the environment variable that holds the address, never the address"
            )
        return webhook


class AutomationSettings(_Strict):
    """What happens by itself, besides the schedules of the providers."""

    running: bool = False
    """Whether schedules and sensors are on from the start; else each is switched on in the UI."""
    new_granules: NewGranulesSettings = NewGranulesSettings()
    new_labels: NewLabelsSettings = NewLabelsSettings()
    freshness: FreshnessSettings | None = FreshnessSettings()
    """None: no asset is ever called stale. There is none either where ``end_date`` closes the partitions."""
    notify: NotifySettings = NotifySettings()


class Settings(_Strict):
    """The whole file."""

    root: str = "file:.geostack/store"
    """Where artifacts and cached bytes live: file:, s3:// or az:// ."""
    root_options: Mapping[str, Annotated[str, BeforeValidator(_as_text)]] = Field(default_factory=dict)
    """Options of an object-store root (endpoint, region …); a value ``env:NAME`` is read from the environment."""
    start_date: date = date(2024, 6, 1)
    """First daily partition, for all providers alike."""
    end_date: date | None = None
    """Last daily partition; None goes on with every new day."""
    refresh_days: Annotated[int, Field(ge=0, le=366)] = 7
    """A scene list is asked again until it was last asked this many days after its date; then it is frozen."""
    areas: Mapping[str, AreaSettings] = Field(default_factory=dict)
    providers: Mapping[str, ProviderSettings] = Field(default_factory=dict)
    methane: MethaneSettings = MethaneSettings()
    wind: WindSettings | None = None
    """None: plumes have no emission rate."""
    learning: LearningSettings = LearningSettings()
    automation: AutomationSettings = AutomationSettings()
    egress_usd_per_gb: Mapping[str, Annotated[float, Field(ge=0)]] = Field(default_factory=dict)
    """Host, bucket or container, as the ledger names it -> what reading a GB from it costs you."""

    @field_validator("providers")
    @classmethod
    def _known_providers(cls, providers: Mapping[str, ProviderSettings]) -> Mapping[str, ProviderSettings]:
        """Check what depends on which provider it is, and fill in its default bands."""
        complete: dict[str, ProviderSettings] = {}
        for key, own in providers.items():
            kind = own.kind or key
            if kind not in PROVIDERS:
                raise ValueError(
                    f"{kind} is not a provider; there are {', '.join(PROVIDERS)} "
                    "(a catalog with a name of its own says `kind: stac_api`)"
                )
            if not _ASSET_PREFIX.fullmatch(key):
                raise ValueError(
                    f"provider name {key!r} must be lower-case letters, digits and _ (it names assets)"
                )
            if key in _TAKEN:
                raise ValueError(f"provider name {key!r} is taken by a part of the graph; choose another one")
            known = spec(kind)
            if own.overviews and known.product.kind == "swath":
                raise ValueError(f"{key}.overviews: a swath has none, they are of cubes on a grid")
            unknown = sorted(set(own.bands) - set(known.product.bands)) if known.product.bands else []
            if unknown:
                # Every scene lacks a band that does not exist: all of them would be skipped, one by one.
                raise ValueError(
                    f"{key}.bands: {', '.join(unknown)} is no band; there are {', '.join(known.product.bands)}"
                )
            strange = sorted(set(own.variables) - {field.name for field in known.credentials})
            if strange:
                there = ", ".join(field.name for field in known.credentials) or "none"
                raise ValueError(
                    f"{key}.variables: {', '.join(strange)} is no part of the login; there are: {there}"
                )
            if own.resampling != "auto" and known.product.kind == "swath":
                raise ValueError(
                    f"{key}.resampling: {kind} is kept in the sensor's own geometry, so nothing is resampled; leave it out"
                )
            if own.read_overviews and known.product.kind == "swath":
                raise ValueError(
                    f"{key}.read_overviews: {kind} is kept in the sensor's own geometry, on no grid that could be coarser; leave it out"
                )
            # A kind without bands of its own gets their names from its options.
            named = own.options.get("bands") if not known.product.bands else None
            bands = (
                own.bands or known.product.default_bands or tuple(named if isinstance(named, Mapping) else ())
            )
            complete[key] = own.model_copy(update={"bands": bands})
        return complete

    @model_validator(mode="after")
    def _names(self) -> Settings:
        if self.end_date is not None and self.end_date < self.start_date:
            raise ValueError(f"end_date {self.end_date} lies before start_date {self.start_date}")
        for name in self.areas:
            if not _NAME.fullmatch(name):
                raise ValueError(
                    f"area name {name!r} must be lower-case letters, digits, - and _ (it names Zarr groups)"
                )
        return self

    @property
    def area_list(self) -> tuple[Area, ...]:
        """The areas, sorted by name."""
        return tuple(
            Area(
                name=name,
                bbox=area.bbox,
                resolution_m=area.resolution_m,
                crs=area.crs,
                resampling=area.resampling,
                read_overviews=area.read_overviews,
            )
            for name, area in sorted(self.areas.items())
        )

    def provider(self, key: str) -> ProviderSettings:
        """Return the settings of one provider, or say which there are."""
        for name, settings in self.providers.items():
            if name == key:
                return settings
        known = ", ".join(self.providers) or "none"
        raise SettingsError(
            "the provider is not configured",
            subject=f"provider {key!r}",
            found=f"configured providers: {known}",
            action=f"add it under `providers:` in {DEFAULT_FILE}"
            if key in PROVIDERS
            else f"choose one of {', '.join(PROVIDERS)}",
        )

    def provider_spec(self, key: str) -> ProviderSpec:
        """Return what is known of a configured provider without building it."""
        return spec(self.provider(key).kind or key)

    def credential_fields(self, key: str) -> tuple[CredentialField, ...]:
        """Return the parts of a provider's login with the variables that these settings name."""
        renamed = self.provider(key).variables
        return tuple(
            replace(field, variable=renamed.get(field.name, field.variable))
            for field in self.provider_spec(key).credentials
        )

    def provider_credentials(self, key: str) -> Credentials:
        """Return the parts of a provider's login that the environment holds."""
        return from_environment(self.credential_fields(key))

    def build_provider(self, key: str, credentials: Credentials | None = None) -> Provider:
        """Return a configured provider; ``credentials`` default to what the environment holds."""
        own = self.provider(key)
        return build_provider(
            key,
            kind=own.kind,
            url=own.url,
            collections=own.collections,
            endpoints=self.endpoints(key),
            options=own.options,
            credentials=self.provider_credentials(key) if credentials is None else credentials,
        )

    def endpoints(self, key: str) -> dict[str, Endpoint]:
        """Return the object-store endpoints of one provider."""
        return {
            name: Endpoint(url=endpoint.url, region=endpoint.region, allow_http=endpoint.allow_http)
            for name, endpoint in self.provider(key).endpoints.items()
        }

    def resolved_root_options(self) -> dict[str, str]:
        """Return the root's options with ``env:NAME`` values read from the environment."""
        return _from_environment(self.root_options, "root_options")

    def wind_source(self) -> WindSource | None:
        """Return the wind that emission rates are made with, unread; None where none is named."""
        if self.wind is None:
            return None
        return WindSource(
            self.wind.source,
            options=_from_environment(self.wind.options, "wind.options"),
            limits=WindLimits(max_hours=self.wind.max_hours, max_distance_km=self.wind.max_distance_km),
        )


def _from_environment(options: Mapping[str, str], setting: str) -> dict[str, str]:
    """Return options with ``env:NAME`` values read from the environment."""
    resolved: dict[str, str] = {}
    for name, value in options.items():
        if value.startswith("env:"):
            variable = value[4:]
            if variable not in os.environ:
                raise SettingsError(
                    f"the environment variable {variable} is not set",
                    subject=f"setting {setting}.{name}",
                    action=f"export {variable} or change the setting",
                )
            resolved[name] = os.environ[variable]
        else:
            resolved[name] = value
    return resolved


def settings_path(path: str | Path | None = None) -> Path:
    """Return the settings file that would be read, which need not exist."""
    return Path(path or os.environ.get(SETTINGS_VARIABLE) or DEFAULT_FILE)


def load_settings(path: str | Path | None = None) -> Settings:
    """Read and check the settings file.

    A relative ``file:`` root is taken relative to the file's folder, so that a run started elsewhere finds
    the same store.

    Raises:
        SettingsError: The file is missing, is no YAML, or a setting is wrong; the message names each one.
    """
    file = settings_path(path)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(
            "the settings file does not exist",
            subject=str(file),
            action=f"write {DEFAULT_FILE} (see README.md) or point {SETTINGS_VARIABLE} at one",
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            "the settings file cannot be read", subject=str(file), found=str(error), action="check the file"
        ) from error
    try:
        raw = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise SettingsError(
            "the settings file is no valid YAML",
            subject=str(file),
            found=" ".join(str(error).split()),
            action="mend the line it names",
        ) from error
    return parse_settings(raw, subject=str(file), base=file.resolve().parent)


def parse_settings(raw: Any, *, subject: str = "settings", base: Path | None = None) -> Settings:
    """Return checked settings from parsed YAML; ``base`` is the folder of relative roots."""
    if raw is None:
        raw = {}
    if not isinstance(raw, dict):
        raise SettingsError(
            "the settings must be a mapping of names to values",
            subject=subject,
            found=type(raw).__name__,
            action="start with `areas:` and `providers:` (see README.md)",
        )
    try:
        settings = Settings.model_validate(raw)
    except ValidationError as error:
        raise SettingsError(
            f"{error.error_count()} setting(s) are wrong",
            subject=subject,
            found="; ".join(_explain(detail) for detail in error.errors()),
            action="mend the named settings",
        ) from None
    local = _local_root(settings.root)
    if base is not None and local is not None:
        # As a path, not as text: a folder's name may hold what means something else in a URL.
        settings = settings.model_copy(update={"root": (base / local.expanduser()).resolve().as_uri()})
    target = settings.methane.target
    if base is not None and target is not None:
        own = settings.methane.model_copy(
            update={"target": str((base / Path(target).expanduser()).resolve())}
        )
        settings = settings.model_copy(update={"methane": own})
    wind = settings.wind
    local = None if wind is None else _local_root(wind.source)
    if base is not None and local is not None and wind is not None:
        named = wind.model_copy(update={"source": (base / local.expanduser()).resolve().as_uri()})
        settings = settings.model_copy(update={"wind": named})
    return settings


def _local_root(root: str) -> Path | None:
    """Return the folder of a root that is written as a path, or as ``file:`` with one; None for a URL."""
    if root.startswith("file:") and not root.startswith("file:/"):
        return Path(root[5:])
    return Path(root) if root and "://" not in root and not root.startswith("file:") else None


def _explain(detail: Any) -> str:
    where = ".".join(str(part) for part in detail["loc"] if part != "[key]") or "settings"
    message = str(detail["msg"]).removeprefix("Value error, ")
    if detail["type"] == "extra_forbidden":
        message = "is not a setting"
    return f"{where}: {message}"
