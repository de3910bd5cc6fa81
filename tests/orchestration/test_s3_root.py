"""The whole pipeline on an object store: the same versions and the same bytes as on a local disk."""

from __future__ import annotations

import io
import logging
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import boto3
import numpy as np
import polars as pl
import pytest
import xarray as xr
from moto.server import ThreadedMotoServer
from zarr.storage import ObjectStore

import geostack_pipeline as gp
from geostack_pipeline.commands.run import run_range
from geostack_pipeline.methane.wind import WindRecord
from geostack_pipeline.settings import Settings
from geostack_pipeline.stages.plan import ACROSS, STAGES
from geostack_pipeline.storage.roots import open_root

DAY = "2024-06-07"
"""A date with a mosaic of two tiles."""


@pytest.fixture(scope="module")
def bucket() -> Iterator[dict[str, str]]:
    """An empty bucket on loopback; the options that open it."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    try:
        host, port = server.get_host_and_port()
        options = {
            "endpoint": f"http://{host}:{port}",
            "region": "us-east-1",
            "access_key_id": "key",
            "secret_access_key": "env:GEOSTACK_TEST_SECRET",
            "allow_http": "true",
        }
        boto3.client(
            "s3",
            endpoint_url=options["endpoint"],
            region_name="us-east-1",
            aws_access_key_id="key",
            aws_secret_access_key="secret",
        ).create_bucket(Bucket="results")
        yield options
    finally:
        server.stop()


def _stored(ws: Any, day: str) -> dict[str, tuple[str, str]]:
    found = {}
    for stage in STAGES:
        snapshot = ws.artifacts.current(f"earth_search/{stage}", day)
        assert snapshot is not None, (stage, day)
        assert snapshot.verify() == []
        found[stage] = (snapshot.version, snapshot.content_digest())
    for stage in ACROSS:
        snapshot = ws.artifacts.current(stage, day)
        assert snapshot is not None, (stage, day)
        assert snapshot.verify() == []
        found[stage] = (snapshot.version, snapshot.content_digest())
    return found


@pytest.mark.parametrize("form", ["parquet", "zarr"])
def test_a_wind_on_an_object_store(
    form: str, bucket: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GEOSTACK_TEST_SECRET", "hush-hush")
    time = np.array(["2024-06-07T07:00"], "datetime64[us]")
    wind = xr.Dataset(
        {
            name: (("time", "latitude", "longitude"), np.full((1, 1, 1), value))
            for name, value in (("u10", 3.0), ("v10", 4.0))
        },
        {"time": time, "latitude": [38.5], "longitude": [54.0]},
    )
    settings = Settings(wind={"source": f"s3://results/winds/era5.{form}", "options": bucket})
    root = open_root("s3://results/winds", settings.wind_source()._options)
    if form == "zarr":
        wind.to_zarr(ObjectStore(root.prefixed("era5.zarr")), zarr_format=3)
    else:
        sink = io.BytesIO()
        pl.from_pandas(wind.to_dataframe().reset_index()).write_parquet(sink)
        root.put("era5.parquet", sink.getvalue())
    source = settings.wind_source()
    noon = datetime(2024, 6, 7, 7, 16, tzinfo=UTC)
    record = source.of(noon, noon, [(53.9, 38.4, 54.1, 38.6)]).near(noon, 54.01, 38.5, source.limits)
    assert isinstance(record, WindRecord)
    assert record.speed_m_s == pytest.approx(5.0)
    assert source.name == f"s3://results/winds/era5.{form}"
    assert "hush-hush" not in repr(settings) + source.name


@pytest.mark.slow
def test_an_object_store_holds_what_a_local_disk_does(
    bucket: dict[str, str],
    sandbox_settings: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("GEOSTACK_TEST_SECRET", "not-to-be-seen")
    local = sandbox_settings("local.yaml")
    remote = sandbox_settings("remote.yaml", root="s3://results/some/prefix", root_options=bucket)
    here, ws_here = run_range("earth_search", DAY, DAY, settings_file=local, quiet=True)
    there, ws_there = run_range("earth_search", DAY, DAY, settings_file=remote, quiet=True)
    assert here.failed == there.failed == {}
    assert _stored(ws_here, DAY) == _stored(ws_there, DAY)
    again, _ = run_range("earth_search", DAY, DAY, settings_file=remote, quiet=True)
    assert again.failed == {}
    assert not any(again.built.values())
    tree = gp.load("earth_search/cube", DAY, settings=remote)
    assert float(tree["korpezhe"]["reflectance"].mean()) > 0
    plumes = [gp.load("earth_search/methane", DAY, name="plumes", settings=file) for file in (local, remote)]
    assert isinstance(plumes[0], pl.DataFrame)
    assert plumes[0].equals(plumes[1])
    for snapshot in (ws_there.artifacts.current(f"earth_search/{stage}", DAY) for stage in STAGES):
        assert "not-to-be-seen" not in repr(snapshot)
