"""Resources: the workspace, and one per provider that holds how it is reached and who is asking."""

from __future__ import annotations

import os
from collections.abc import Mapping

import dagster as dg

from geostack_pipeline.methane.wind import WindSource
from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.settings import Settings, WindSettings, load_settings
from geostack_pipeline.stages.workspace import Workspace, open_workspace


class WorkspaceResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """Opens the artifact store and the blob cache that the settings file names."""

    settings_file: str = ""
    """Path of the settings file; empty takes ``GEOSTACK_SETTINGS``, else ``geostack.yaml`` in the working folder."""

    def settings(self) -> Settings:
        """Read the settings file anew, so that an edit counts from the next run on."""
        return load_settings(self.settings_file or None)

    def open(self, *, run_id: str | None = None, pins: Mapping[str, str] | None = None) -> Workspace:
        """Open the stores for one run."""
        return open_workspace(self.settings(), run_id=run_id, pins=pins)


class WindResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """The wind that emission rates are made with: what the settings name, or another source in a code location of yours.

    Logins of an object store stand in the settings as ``env:NAME`` and are read from the environment by the run.
    """

    settings_file: str = ""
    source: str = ""
    """Path or URL in place of the settings' ``wind.source``; its options and limits stay."""

    def open(self) -> WindSource | None:
        """Return the wind, unread; None where none is named."""
        settings = load_settings(self.settings_file or None)
        if self.source:
            wind = (settings.wind or WindSettings(source=self.source)).model_copy(
                update={"source": self.source}
            )
            settings = settings.model_copy(update={"wind": wind})
        return settings.wind_source()


class ProviderResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One catalog.  Subclasses add the parts of their login as fields, bound to environment variables."""

    provider_key: str
    """The provider's name in settings and asset keys."""
    settings_file: str = ""

    def provider(self) -> Provider:
        """Build the provider from its settings and this resource's login."""
        settings = load_settings(self.settings_file or None)
        credentials = {}
        for field in settings.credential_fields(self.provider_key):
            value = getattr(self, field.name)
            # Outside a run nothing has read the variable yet.
            text = value.get_value() if isinstance(value, dg.EnvVar) else value
            if text:
                credentials[field.name] = Secret(text)
        return settings.build_provider(self.provider_key, credentials)


class EarthSearchResource(ProviderResource):
    """Element 84 Earth Search: public catalog, public buckets, no login."""


class PlanetaryComputerResource(ProviderResource):
    """Microsoft Planetary Computer: public, tokens per container; a key only raises the limits."""

    subscription_key: str = ""


class CdseResource(ProviderResource):
    """Copernicus Data Space: public catalog, S3 keys for the files."""

    access_key: str = ""
    secret_key: str = ""


class SentinelHubResource(ProviderResource):
    """Sentinel Hub: OAuth2 client for catalog and Process API, the S3 keys of the Data Space for whole products."""

    client_id: str = ""
    client_secret: str = ""
    access_key: str = ""
    secret_key: str = ""


class EarthdataResource(ProviderResource):
    """NASA (``cmr_stac`` and ``earthaccess``): Earthdata Login by token, by user and password, or by netrc."""

    token: str = ""
    username: str = ""
    password: str = ""


class DlrGeoserviceResource(ProviderResource):
    """DLR EOC Geoservice: public catalog, user and password for the files."""

    username: str = ""
    password: str = ""


class StacApiResource(ProviderResource):
    """Any other STAC API: anonymous, or one secret header."""

    token: str = ""


RESOURCES: Mapping[str, type[ProviderResource]] = {
    "earth_search": EarthSearchResource,
    "planetary_computer": PlanetaryComputerResource,
    "cdse": CdseResource,
    "sentinel_hub": SentinelHubResource,
    "cmr_stac": EarthdataResource,
    "earthaccess": EarthdataResource,
    "dlr_geoservice": DlrGeoserviceResource,
    "stac_api": StacApiResource,
}
"""Kind of provider -> resource."""


def provider_resource(settings: Settings, key: str, settings_file: str = "") -> ProviderResource:
    """Return the resource of a configured provider, its login bound to the environment variables that are set.

    A variable that is not set is left out: the provider says itself whether it can do without.
    """
    bound = {
        field.name: dg.EnvVar(field.variable)
        for field in settings.credential_fields(key)
        if os.environ.get(field.variable)
    }
    kind = settings.provider(key).kind or key
    return RESOURCES[kind](provider_key=key, settings_file=settings_file, **bound)
