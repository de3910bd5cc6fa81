"""What the storage tests share: a local root, and a root on a loopback S3 server."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from geostack_pipeline.storage.artifacts import ArtifactStore
from geostack_pipeline.storage.roots import Root, open_root


@pytest.fixture
def root(tmp_path: Path) -> Root:
    return open_root(str(tmp_path / "root"))


@pytest.fixture
def store(root: Root) -> ArtifactStore:
    return ArtifactStore(root)


@pytest.fixture(scope="session")
def s3_endpoint() -> Iterator[str]:
    """A loopback S3 server that takes any credentials."""
    server_module = pytest.importorskip("moto.server")
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_options(s3_endpoint: str) -> dict[str, str]:
    return {
        "endpoint": s3_endpoint,
        "allow_http": "true",
        "region": "us-east-1",
        "access_key_id": "key",
        "secret_access_key": "hush-hush-secret",
        "virtual_hosted_style_request": "false",
    }


@pytest.fixture
def s3_url(s3_endpoint: str) -> str:
    """URL of a fresh prefix in a fresh bucket."""
    import urllib.request

    bucket = f"b{uuid.uuid4().hex[:12]}"
    request = urllib.request.Request(
        f"{s3_endpoint}/{bucket}",
        method="PUT",
        headers={"Authorization": "AWS4-HMAC-SHA256 Credential=key/20240101/us-east-1/s3/aws4_request"},
    )
    urllib.request.urlopen(request, timeout=10).close()
    return f"s3://{bucket}/some/prefix"


@pytest.fixture
def s3_root(s3_url: str, s3_options: dict[str, str]) -> Root:
    return open_root(s3_url, s3_options)


@pytest.fixture(params=["local", "s3"])
def any_root(request: pytest.FixtureRequest) -> Root:
    return request.getfixturevalue("root" if request.param == "local" else "s3_root")


@pytest.fixture
def any_store(any_root: Root) -> ArtifactStore:
    return ArtifactStore(any_root)
