"""Resources: the workspace, and one per provider that holds how it is reached and who is asking."""

from __future__ import annotations

from collections.abc import Mapping

import dagster as dg

from geostack_pipeline.providers.contract import Provider
from geostack_pipeline.providers.registry import build_provider
from geostack_pipeline.settings import Settings, load_settings
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


class ProviderResource(dg.ConfigurableResource):  # type: ignore[type-arg]
    """One catalog.  Subclasses add the fields of their credentials, which are bound with ``EnvVar``."""

    settings_file: str = ""

    @property
    def provider_key(self) -> str:
        """The provider's name in settings and asset keys."""
        raise TypeError(f"{type(self).__name__} does not say which provider it is")

    def provider(self) -> Provider:
        """Build the provider from its settings and this resource's credentials."""
        settings = load_settings(self.settings_file or None)
        return build_provider(
            self.provider_key,
            url=settings.provider(self.provider_key).url,
            collections=settings.provider(self.provider_key).collections,
            endpoints=settings.endpoints(self.provider_key),
        )


class EarthSearchResource(ProviderResource):
    """Element 84 Earth Search: public catalog, public buckets, no credentials."""

    @property
    def provider_key(self) -> str:
        """The provider's name in settings and asset keys."""
        return "earth_search"


RESOURCES: Mapping[str, type[ProviderResource]] = {"earth_search": EarthSearchResource}
"""Provider key -> resource."""
