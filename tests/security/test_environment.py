"""What the machine's cloud variables say has no say: a provider's requests are the same with and without them."""

from __future__ import annotations

from typing import Any
from urllib.parse import parse_qsl

import pytest
from evil_host import listening

from geostack_pipeline.sandbox.config import PROVIDERS
from tests.every_provider import Every

PLANTED = "planted-cloud-secret-0123456789"


def requests(every: Every, key: str) -> list[tuple[Any, ...]]:
    """Search and fetch with a provider of its own; return what was asked of which server, and how."""
    every.sandbox.clear_faults()
    every.sandbox.clear_log()
    item = every.normalised(every.provider(key)).items[0]
    every.fetch(every.provider(key), item)
    return sorted(
        (
            one["target"],
            one["method"],
            one["path"].rsplit("ST-", 1)[0],
            str(one["range"]),
            one["authorization"],
            one["status"],
            tuple(sorted(name for name, _ in parse_qsl(one["query"]))),
        )
        for one in every.sandbox.log()["entries"]
    )


@pytest.mark.parametrize("key", PROVIDERS)
def test_cloud_variables_change_no_request(
    every_provider: Every, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    every_provider.day(key)
    # Tokens are kept by the process: what is asked for once is asked for by the first one only.
    requests(every_provider, key)
    before = requests(every_provider, key)
    with listening() as evil:
        for name, value in {
            "AWS_ACCESS_KEY_ID": "AKIAPLANTED",
            "AWS_SECRET_ACCESS_KEY": PLANTED,
            "AWS_SESSION_TOKEN": PLANTED,
            "AWS_REGION": "mars-north-1",
            "AWS_DEFAULT_REGION": "mars-north-1",
            "AWS_ENDPOINT": evil.url,
            "AWS_ENDPOINT_URL": evil.url,
            "AWS_ENDPOINT_URL_S3": evil.url,
            "AWS_PROFILE": "planted",
            "AWS_VIRTUAL_HOSTED_STYLE_REQUEST": "true",
            "AWS_SKIP_SIGNATURE": "true",
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": evil.url,
            "AWS_WEB_IDENTITY_TOKEN_FILE": "/nowhere",
            "AZURE_STORAGE_ACCOUNT_NAME": "planted",
            "AZURE_STORAGE_ACCOUNT_KEY": "cGxhbnRlZA==",
            "AZURE_STORAGE_SAS_TOKEN": f"sig={PLANTED}",
            "AZURE_STORAGE_SAS_KEY": f"sig={PLANTED}",
            "AZURE_STORAGE_ENDPOINT": evil.url,
            "AZURE_STORAGE_USE_EMULATOR": "true",
            "AZURE_CLIENT_ID": "planted",
            "AZURE_CLIENT_SECRET": PLANTED,
            "AZURE_TENANT_ID": "planted",
        }.items():
            monkeypatch.setenv(name, value)
        assert requests(every_provider, key) == before
        assert evil.requests == []
    assert before, "nothing was asked"
