"""What the test of the learning loop does by hand and sees: NASA's catalog over time, Dagster's runs, the UI's pages."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from geostack_pipeline.commands.learning_demo import campaign_settings
from geostack_pipeline.learning.sites import Splitter
from geostack_pipeline.sandbox.serve import Sandbox
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.workspace import Workspace, open_workspace

sys.path.append(str(Path(__file__).parents[1] / "ui"))
from dagster_dev import DagsterDev

AUTOMATION: dict[str, Any] = {
    "running": True,
    "freshness": None,
    "new_granules": {"every_minutes": 0.05},
    "new_labels": {"granules": 15, "days": 3000, "every_minutes": 0.05},
}
_LINK = re.compile(r"^- \[[^\]]+\]\(/assets/([^?)]+)(?:\?partition=([\d-]+))?\) (\S+)$", re.MULTILINE)
Place = tuple[str, str | None, str]
"""Asset, partition and version."""


@dataclass(frozen=True, kw_only=True)
class Scene:
    """A granule of the campaign, in NASA's archive but perhaps not listed yet."""

    item_id: str
    labels: tuple[str, ...]
    day: str
    split: str | None


def settings_for(nasa: Sandbox, folder: Path, **more: Any) -> Path:
    """Write the settings of a pipeline that looks at the campaign alone and is switched on; return the file."""
    content = {"root": f"file:{folder / 'store'}", **campaign_settings(nasa.settings())}
    # Not in the middle of the test.
    content["providers"]["cmr_stac"]["schedule"] = {"cron": "0 0 1 1 *"}
    content |= {"automation": AUTOMATION, **more}
    file = folder / "geostack.yaml"
    file.write_text(yaml.safe_dump(content), encoding="utf-8")
    return file


def workspace(file: Path) -> Workspace:
    """Return the stores as the command line opens them."""
    return open_workspace(load_settings(file))


def scenes_of(nasa: Sandbox, ws: Workspace) -> list[Scene]:
    """Return the granules of the campaign with what the settings make of their places."""
    from geostack_pipeline.sandbox.world.campaign import campaign_granules

    own = ws.settings.learning
    rule = Splitter(
        cell_deg=own.site_degrees, test_share=own.test_share, validation_share=own.validation_share
    )
    return [
        Scene(
            item_id=f"EMIT_L2B_CH4ENH_002_{each.name}",
            labels=tuple(f"EMIT_L2B_CH4PLM_002_{plume.name}" for plume in each.plumes),
            day=f"{each.start:%Y-%m-%d}",
            split=rule.of(each.footprint.bounds, each.start),
        )
        for each in campaign_granules(nasa.world)
    ]


def release(nasa: Sandbox, scenes: Sequence[Scene], *, without: Sequence[str] = ()) -> None:
    """List granules and their outlines, all in one instant."""
    names = [name for each in scenes for name in (each.item_id, *each.labels) if name not in without]
    nasa.change("release", names)


class Runs:
    """The runs of a running Dagster."""

    def __init__(self, dev: DagsterDev) -> None:
        self._dev = dev

    def all(self) -> list[dict[str, Any]]:
        """Return all runs, the newest first, with their tags as a dictionary; none may have failed."""
        query = "{ runsOrError { ... on Runs { results { runId status jobName startTime endTime tags { key value } } } } }"
        found: list[dict[str, Any]] = self._dev.graphql(query)["runsOrError"]["results"]
        for run in found:
            run["tags"] = {tag["key"]: tag["value"] for tag in run["tags"]}
            assert run["status"] not in {"FAILURE", "CANCELED"}, f"{run}\n{self._dev.tail(80)}"
        return found

    def of(self, job: str) -> list[dict[str, Any]]:
        """Return the finished runs of a job, the oldest first."""
        return [run for run in reversed(self.all()) if run["jobName"] == job and run["status"] == "SUCCESS"]

    def wait(self, job: str, count: int, *, seconds: float, day: str | None = None) -> dict[str, Any]:
        """Return the run that is the ``count``-th of a job, or of its runs of a day, to succeed."""

        def there() -> list[dict[str, Any]]:
            done = [run for run in self.of(job) if day in {None, run["tags"].get("dagster/partition")}]
            return done if len(done) >= count else []

        found = self._dev.wait_for(
            f"{count} run(s) of {job}",
            there,
            seconds=seconds,
        )
        run: dict[str, Any] = found[count - 1]
        return run


class Pages:
    """What the pages of assets show, asked as the UI itself asks."""

    def __init__(self, dev: DagsterDev) -> None:
        self._dev = dev

    def entries(self, asset: str, partition: str | None, version: str | None = None) -> dict[str, Any]:
        """Return the metadata of a version, by default of the newest: label -> what the entry holds."""
        query = """query($key: AssetKeyInput!, $days: [String!]) { assetOrError(assetKey: $key) { ... on Asset {
            assetMaterializations(partitions: $days, limit: 100) { metadataEntries { __typename label
                ... on TextMetadataEntry { text } ... on MarkdownMetadataEntry { mdStr }
                ... on AssetMetadataEntry { assetKey { path } }
                ... on TableMetadataEntry { table { records } } } } } } }"""
        days = None if partition is None else [partition]
        found = self._dev.graphql(query, key={"path": asset.split("/")}, days=days)["assetOrError"]
        for event in found["assetMaterializations"]:
            shown = {entry["label"]: entry for entry in event["metadataEntries"]}
            told = shown.get("version", {}).get("text")
            if told is not None and version in {None, told}:
                return shown
        raise AssertionError(f"no page of {asset} {partition} shows version {version}")

    def version(self, asset: str, partition: str | None = None) -> str:
        """Return the newest version that an asset's page shows."""
        return str(self.entries(asset, partition)["version"]["text"])

    def sources(self, place: Place) -> list[Place]:
        """Return where the links on a version's page lead to."""
        shown = self.entries(*place)
        text = shown["made from"]["mdStr"] if "made from" in shown else ""
        return [(asset, partition or None, version) for asset, partition, version in _LINK.findall(text)]

    def back(self, place: Place) -> set[Place]:
        """Return everything that is reached by following the links from a version."""
        seen: set[Place] = set()
        todo = [place]
        while todo:
            here = todo.pop()
            if here not in seen:
                seen.add(here)
                todo += self.sources(here)
        return seen

    def downstream(self, asset: str) -> set[str]:
        """Return the assets that the lineage graph draws after one."""
        query = "query($keys: [AssetKeyInput!]!) { assetNodes(assetKeys: $keys) { dependedByKeys { path } } }"
        seen: set[str] = set()
        todo = [asset]
        while todo:
            here = todo.pop()
            nodes = self._dev.graphql(query, keys=[{"path": here.split("/")}])["assetNodes"]
            after = {"/".join(key["path"]) for node in nodes for key in node["dependedByKeys"]}
            todo += after - seen
            seen |= after
        return seen

    def gate(self) -> list[tuple[bool, dict[str, str]]]:
        """Return the results of the check ``promotion_gate``, the oldest first, with their numbers."""
        query = """query($key: AssetKeyInput!) { assetCheckExecutions(assetKey: $key, checkName: "promotion_gate", limit: 20) {
            status evaluation { success metadataEntries { label ... on TextMetadataEntry { text } } } } }"""
        found = self._dev.graphql(query, key={"path": ["champion_model"]})["assetCheckExecutions"]
        return [
            (
                each["evaluation"]["success"],
                {entry["label"]: entry.get("text", "") for entry in each["evaluation"]["metadataEntries"]},
            )
            for each in reversed(found)
            if each["evaluation"]
        ]


class Clock:
    """Says how long the parts of the story took, for the documentation."""

    def __init__(self) -> None:
        self._last = self._first = time.monotonic()

    def say(self, what: str) -> None:
        now = time.monotonic()
        print(f"{now - self._first:7.1f} s  {what}: {now - self._last:.1f} s", flush=True)
        self._last = now


__all__ = [
    "AUTOMATION",
    "Clock",
    "Iterator",
    "Pages",
    "Runs",
    "Scene",
    "release",
    "scenes_of",
    "settings_for",
    "workspace",
]
