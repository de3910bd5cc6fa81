"""Secrets that are planted, and those that servers hand out, turn up in nothing that is kept or shown."""

from __future__ import annotations

import contextlib
import json
import logging
import pickle
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._cli.workspace.cli_target import workspace_opts_to_load_target
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster_graphql.test.utils import execute_dagster_graphql
from dagster_shared.cli import WorkspaceOpts

from geostack_pipeline.errors import GeostackError
from geostack_pipeline.orchestration.build import build_definitions
from geostack_pipeline.orchestration.instance import shared_instance
from geostack_pipeline.orchestration.launch import Launcher
from geostack_pipeline.providers.credentials import Secret
from geostack_pipeline.sandbox.config import PROVIDERS
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.plan import day_range
from geostack_pipeline.stages.workspace import open_workspace
from tests.every_provider import Every

NO_SECRET = frozenset({"sandbox-user", "sandbox-enmap", "sh-sandbox-client", "SANDBOXCDSEACCESSKEY"})
"""Parts of logins that only name someone."""
WRONG = "planted-wrong-password-0123"


@pytest.fixture
def planted(every_provider: Every, monkeypatch: pytest.MonkeyPatch) -> Iterator[set[str]]:
    """Every secret of the sandbox and a wrong one, and each that a provider gets hold of from here on."""
    every_provider.sandbox.clear_faults()
    known = {*every_provider.sandbox.credentials().values(), WRONG} - NO_SECRET
    made = Secret.__init__

    def remember(self: Secret, text: str) -> None:
        if len(text) > 11 and text not in NO_SECRET:
            known.add(text)
        made(self, text)

    monkeypatch.setattr(Secret, "__init__", remember)
    yield known
    assert all(len(secret) > 7 for secret in known)


def leaks(text: str | bytes, secrets: set[str]) -> list[str]:
    """Return the secrets in a text by their first letters, and marks of those that are no provider's own."""
    data = text.encode("utf-8", "replace") if isinstance(text, str) else text
    found = [f"{secret[:6]}…" for secret in secrets if secret.encode() in data]
    return found + [mark for mark in ("ticket=ST-", "Signature=", "&sig=") if mark.encode() in data]


def wrong(every: Every, key: str) -> dict[str, Secret]:
    """Return a login that no server takes."""
    return {name: Secret(f"{WRONG}-{name}") for name in every.logins(key)}


def pickled(thing: object) -> bytes:
    """Return the pickle of a thing, or what it says when it refuses."""
    try:
        return pickle.dumps(thing)
    except (TypeError, AttributeError, pickle.PicklingError) as error:
        return str(error).encode()


@pytest.mark.parametrize("key", PROVIDERS)
def test_logs_and_errors_hold_no_secret(
    every_provider: Every, planted: set[str], key: str, caplog: pytest.LogCaptureFixture
) -> None:
    every = every_provider
    day = every.day(key)
    with caplog.at_level(logging.DEBUG):
        item = every.normalised(every.provider(key), day).items[0]
        every.fetch(every.provider(key), item)
        errors = []
        for provider in (every.provider(key, logins=wrong(every, key)), every.provider(key, logins={})):
            try:
                every.normalised(provider, day)
                every.fetch(provider, item)
            except GeostackError as error:
                errors.append("".join(traceback.format_exception(error)) + repr(error) + repr(error.args))
    every.sandbox.fault("html?count=always&path=a")
    try:
        every.fetch(every.provider(key), item)
    except GeostackError as error:
        errors.append("".join(traceback.format_exception(error)))
    finally:
        every.sandbox.clear_faults()
    assert leaks("\n".join(errors), planted) == []
    formatter = logging.Formatter("%(name)s %(message)s")
    told = {
        formatter.format(record).split("(")[0][:60]
        for record in caplog.records
        if leaks(formatter.format(record), planted)
    }
    assert told == set()
    if key not in {"earth_search", "stac_api", "planetary_computer"}:
        assert len(errors) > 1, "a wrong login was taken"


@pytest.mark.parametrize("key", PROVIDERS)
def test_what_is_pickled_or_printed_holds_no_secret(
    every_provider: Every, planted: set[str], key: str
) -> None:
    provider = every_provider.provider(key)
    item = every_provider.normalised(provider).items[0]
    every_provider.fetch(provider, item)
    for thing in (provider, vars(provider), every_provider.logins(key), provider.search_headers):
        assert leaks(repr(thing), planted) == []
        assert leaks(pickled(thing), planted) == []


@pytest.fixture
def configured(every_provider: Every, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Settings and environment of a user with every account."""
    settings = {"root": "file:store", **every_provider.sandbox.settings()}
    for name, value in every_provider.sandbox.credentials().items():
        monkeypatch.setenv(name, value)
    file = tmp_path / "geostack.yaml"
    file.write_text(yaml.safe_dump(settings, sort_keys=False), encoding="utf-8")
    return file


def run_and_grep(every: Every, planted: set[str], file: Path, key: str) -> None:
    day = every.day(key).isoformat()
    settings = load_settings(file)
    with dg.DagsterInstance.ephemeral() as instance:
        ws = open_workspace(settings)
        definitions = build_definitions(settings, str(file))
        launcher = Launcher(definitions, instance, ws, settings.build_provider(key))
        report = launcher.run(day_range(ws, day, day))
        runs = instance.get_runs()
        assert runs, report
        told: list[str] = [repr(report)]
        for run in runs:
            told += [json.dumps(run.run_config, default=str), repr(run.tags), repr(run)]
            told += [dg.serialize_value(entry) for entry in instance.all_logs(run.run_id)]
        assert any("ASSET_MATERIALIZATION" in text for text in told)
        assert leaks("\n".join(told), planted) == []
        repository = definitions.get_repository_def()
        assert leaks(repr(repository.get_top_level_resources()), planted) == []
    files = [file for file in (file.parent / "store").rglob("*") if file.is_file()]
    assert len(files) > 5
    assert {
        str(file): leaks(file.read_bytes(), planted) for file in files if leaks(file.read_bytes(), planted)
    } == {}
    for asset in ws.artifacts.assets():
        for partition in ws.artifacts.partitions(asset):
            snapshot = ws.stored(asset, partition)
            assert leaks(pickle.dumps(snapshot), planted) == []


@pytest.mark.parametrize("key", ["planetary_computer"])
def test_a_run_keeps_no_secret(every_provider: Every, planted: set[str], configured: Path, key: str) -> None:
    run_and_grep(every_provider, planted, configured, key)


@pytest.mark.slow
@pytest.mark.parametrize(
    "key", [name for name in PROVIDERS if name not in {"planetary_computer", "earth_search"}]
)
def test_every_run_keeps_no_secret(
    every_provider: Every, planted: set[str], configured: Path, key: str
) -> None:
    run_and_grep(every_provider, planted, configured, key)


QUERY = """{
  runsOrError { ... on Runs { results {
    runId runConfigYaml tags { key value }
    eventConnection { events { __typename ... on MessageEvent { message }
      ... on MaterializationEvent { metadataEntries { ...entry } }
      ... on AssetCheckEvaluationEvent { evaluation { metadataEntries { ...entry } } } } } } } }
  repositoriesOrError { ... on RepositoryConnection { nodes {
    allTopLevelResourceDetails { name configuredValues { key value type } configFields { name } }
    assetNodes { assetKey { path } description metadataEntries { ...entry }
      assetMaterializations(limit: 3) { metadataEntries { ...entry } } } } } } }
fragment entry on MetadataEntry { label description
  ... on TextMetadataEntry { text } ... on JsonMetadataEntry { jsonString } ... on MarkdownMetadataEntry { mdStr }
  ... on PathMetadataEntry { path } ... on UrlMetadataEntry { url } }"""


@pytest.mark.slow
@pytest.mark.parametrize("key", ["planetary_computer", "sentinel_hub", "dlr_geoservice", "cmr_stac"])
def test_the_answers_of_the_interface_hold_no_secret(
    every_provider: Every, planted: set[str], configured: Path, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = configured.parent
    project = Path(__file__).parents[2]
    for name in ("workspace.yaml", "dagster.yaml"):
        shutil.copy(project / name, folder / name)
    monkeypatch.setenv("GEOSTACK_SETTINGS", str(configured))
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    # The module reads the settings once, when it is imported.
    monkeypatch.delitem(sys.modules, "geostack_pipeline.definitions", raising=False)
    settings = load_settings(configured)
    day = every_provider.day(key).isoformat()
    with contextlib.chdir(folder), shared_instance() as instance:
        target = workspace_opts_to_load_target(WorkspaceOpts(), allow_in_process=True)
        with WorkspaceProcessContext(instance, target) as context:
            ws = open_workspace(settings)
            definitions = build_definitions(settings, str(configured))
            Launcher(definitions, instance, ws, settings.build_provider(key)).run(day_range(ws, day, day))
            answer = execute_dagster_graphql(context.create_request_context(), QUERY)
    monkeypatch.delitem(sys.modules, "geostack_pipeline.definitions", raising=False)
    assert not answer.errors
    told = json.dumps(answer.data)
    assert key in told
    assert "MaterializationEvent" in told
    assert leaks(told, planted) == []
