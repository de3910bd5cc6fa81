"""The main job in the Dagster UI, driven in a real browser against the small sandbox.

One story, told by module-wide fixtures: `dagster dev` starts in a folder with the project's two YAML files, a range
is launched by clicking, then pages are read; a command-line run joins in; at last the UI is started anew.
"""

from __future__ import annotations

import base64
import io
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import polars as pl
import pytest
import yaml
from dagster_dev import DagsterDev, dagster_dev, environment, project_folder
from PIL import Image

from geostack_pipeline.orchestration.metadata import thumbnail
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages.plan import STAGES
from geostack_pipeline.stages.workspace import Workspace, open_workspace

pytestmark = [pytest.mark.browser, pytest.mark.slow, pytest.mark.timeout(3000)]

FIRST, LAST = "2024-06-02", "2024-06-07"
DAY = "2024-06-07"
"""A date with two scenes whose reference is 2024-06-02, within the range."""
ALONE = "2024-06-06"
"""A date with a scene of another orbit: nothing in the range can be its reference."""
LATER = "2024-06-11"
"""Run from the command line."""
RUN_SECONDS = 420
PATIENCE_MS = 180_000
ARGUMENTS = [
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
]
LOOPBACK = {"127.0.0.1", "::1", "localhost", "::ffff:127.0.0.1"}


@dataclass
class Web:
    """A browser that remembers what it asked for."""

    context: Any
    requests: list[str] = field(default_factory=list)

    def open(self, url: str) -> Any:
        page = self.context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.goto(url)
        return page


@pytest.fixture(scope="module")
def web() -> Iterator[Web]:
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = next(filter(None, map(shutil.which, ("/usr/bin/chromium", "chromium"))), None)
    if chromium is None:
        pytest.skip("no chromium at /usr/bin/chromium or in PATH")
    with api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=ARGUMENTS, timeout=PATIENCE_MS)
        try:
            context = browser.new_context(viewport={"width": 1600, "height": 1200})
            seen = Web(context)
            context.on("request", lambda request: seen.requests.append(request.url))
            context.on("page", lambda page: page.on("websocket", lambda ws: seen.requests.append(ws.url)))
            yield seen
        finally:
            browser.close()


@pytest.fixture(scope="module")
def settings_file(small_sandbox: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("ui-settings") / "geostack.yaml"
    file.write_text(yaml.safe_dump({"root": "file:store", **small_sandbox.settings()}), encoding="utf-8")
    return file


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return project_folder(tmp_path_factory.mktemp("project"))


@pytest.fixture(scope="module")
def start(folder: Path, settings_file: Path) -> Iterator[Callable[[], DagsterDev]]:
    """Start the UI, ending the one before: as a user does who closes it and comes back."""
    running: list[Any] = []

    def begin() -> DagsterDev:
        end()
        manager = dagster_dev(folder, settings_file)
        dev = manager.__enter__()
        running.append(manager)
        return dev

    def end() -> None:
        while running:
            running.pop().__exit__(None, None, None)

    try:
        yield begin
    finally:
        end()


@pytest.fixture(scope="module")
def dev(web: Web, start: Callable[[], DagsterDev]) -> DagsterDev:
    return start()


@pytest.fixture(scope="module")
def ws(settings_file: Path) -> Workspace:
    return open_workspace(load_settings(settings_file))


@pytest.fixture(scope="module")
def clicked(dev: DagsterDev, web: Web) -> str:
    """Launch the provider's job for the range by clicking; return its run when it ended."""
    page = web.open(f"{dev.url}/locations/geostack_pipeline/jobs/earth_search_daily")
    run_id = launch_range(dev, page)
    page.goto(f"{dev.url}/runs/{run_id}")
    page.get_by_text(re.compile(r"^Success$")).first.wait_for()
    page.close()
    return run_id


def launch_range(dev: DagsterDev, page: Any) -> str:
    """Materialise the range by clicking; return the one run that this leads to, when all has ended well."""
    before = backfills(dev).keys()
    page.get_by_role("button", name="Materialize all").click()
    dialog = page.get_by_role("dialog")
    box = dialog.locator("input[type=text]").first
    box.wait_for()
    # Only the last 90 days are offered at first.
    everything = dialog.get_by_role("button", name="Show all partitions")
    everything.or_(dialog.get_by_text("2024-06-01", exact=True)).first.wait_for()
    if everything.count():
        everything.click()
        everything.wait_for(state="detached")
    box.fill(f"[{FIRST}...{LAST}]")
    box.press("Tab")
    dialog.get_by_text("6 partitions", exact=True).wait_for()
    dialog.get_by_role("button", name=re.compile("^Launch backfill")).click()
    dialog.wait_for(state="detached")
    (backfill,) = dev.wait_for(
        "the click to lead to a backfill",
        lambda: backfills(dev).keys() - before,
        seconds=60,
    )
    # The daemon takes a while to notice that the last run ended.
    status = dev.wait_for("the backfill to end", lambda: ended(backfills(dev)[backfill]), seconds=RUN_SECONDS)
    assert status == "COMPLETED_SUCCESS", dev.tail()
    new = [run for run in runs(dev) if {"key": "dagster/backfill", "value": backfill} in run["tags"]]
    assert [run["status"] for run in new] == ["SUCCESS"], new
    return str(new[0]["runId"])


def ended(status: str) -> str:
    return "" if status in {"REQUESTED", "CANCELING", "FAILING"} else status


def backfills(dev: DagsterDev) -> dict[str, str]:
    query = "{ partitionBackfillsOrError { ... on PartitionBackfills { results { id status } } } }"
    found = dev.graphql(query)["partitionBackfillsOrError"]["results"]
    return {backfill["id"]: backfill["status"] for backfill in found}


def runs(dev: DagsterDev) -> list[dict[str, Any]]:
    query = "{ runsOrError { ... on Runs { results { runId status jobName tags { key value } } } } }"
    found: list[dict[str, Any]] = dev.graphql(query)["runsOrError"]["results"]
    return found


def staleness(dev: DagsterDev, days: list[str]) -> dict[tuple[str, str], str]:
    found = {}
    for stage in STAGES:
        for day in days:
            query = """query($keys: [AssetKeyInput!]!, $day: String) { assetNodes(assetKeys: $keys) {
                staleStatus(partition: $day) } }"""
            nodes = dev.graphql(query, keys=[{"path": ["earth_search", stage]}], day=day)["assetNodes"]
            found[stage, day] = nodes[0]["staleStatus"]
    return found


def days_between(first: str, last: str) -> list[str]:
    return [f"2024-06-{day:02d}" for day in range(int(first[-2:]), int(last[-2:]) + 1)]


def test_the_graph_shows_five_groups_and_five_assets(dev: DagsterDev, web: Web) -> None:
    page = web.open(
        f"{dev.url}/assets/earth_search/methane?view=lineage&lineageScope=upstream&lineageDepth=5"
    )
    links = page.locator("svg foreignObject")
    links.first.wait_for()
    for stage in STAGES:
        page.locator("svg").get_by_text(stage, exact=True).first.wait_for()
    page.goto(f"{dev.url}/asset-groups")
    for stage in STAGES:
        page.locator("svg").get_by_text(stage, exact=True).first.wait_for()
    page.close()


def test_a_click_runs_exactly_the_chosen_dates(clicked: str, dev: DagsterDev, ws: Workspace) -> None:
    wanted = days_between(FIRST, LAST)
    for stage in STAGES:
        asset = f"earth_search/{stage}"
        assert sorted(ws.artifacts.partitions(asset)) == wanted
        for day in wanted:
            snapshot = ws.artifacts.current(asset, day)
            assert snapshot is not None
            assert snapshot.verify() == []
    assert set(staleness(dev, wanted).values()) == {"FRESH"}
    assert dev.foreign_addresses() == set()


@pytest.mark.parametrize("stage", ["scenes", "granules", "cube", "methane"])
def test_an_asset_page_tells_a_date(
    stage: str, clicked: str, dev: DagsterDev, web: Web, ws: Workspace
) -> None:
    snapshot = ws.artifacts.current(f"earth_search/{stage}", DAY)
    assert snapshot is not None
    page = web.open(f"{dev.url}/assets/earth_search/{stage}?view=partitions&partition={DAY}")
    shown = page.locator("tr").filter(has=page.get_by_text("version", exact=True))
    shown.first.wait_for()
    assert snapshot.version in shown.first.inner_text()
    assert cell(page, "dagster/row_count") == str(snapshot.meta["rows"])
    assert snapshot.url() in cell(page, "dagster/uri")
    table = page.locator("table table").first
    table.wait_for()
    expected = first_cells(stage, snapshot)
    text = table.inner_text()
    assert expected
    for value in expected:
        assert value in text

    page.locator("tr").filter(has=page.get_by_text("picture", exact=True)).get_by_text(
        "[Show Markdown]"
    ).click()
    picture = page.get_by_role("dialog").locator("img")
    picture.wait_for()
    page.wait_for_function("image => image.complete", arg=picture.element_handle())
    width, height = picture.evaluate("image => [image.naturalWidth, image.naturalHeight]")
    head, _, data = picture.get_attribute("src").partition(",")
    assert head == "data:image/webp;base64"
    decoded = Image.open(io.BytesIO(base64.b64decode(data)))
    assert decoded.size == (width, height)
    names = sorted(name for name in snapshot.files if name == "preview.png" or name.startswith("quicklook-"))
    assert base64.b64decode(data) == thumbnail([snapshot.read(name) for name in names[:2]])
    colours = decoded.convert("RGB").getcolors(maxcolors=1 << 24)
    assert len(colours) > 8, "the picture is blank"
    page.close()


def cell(page: Any, key: str) -> str:
    row = page.locator("tr").filter(has=page.get_by_text(key, exact=True)).first
    text: str = row.locator("td").nth(1).inner_text()
    return text.strip()


def first_cells(stage: str, snapshot: Any) -> list[str]:
    if stage in {"scenes", "granules"}:
        frame: pl.DataFrame = snapshot.open()
        return [str(value) for value in frame["id" if stage == "scenes" else "item_id"].head(4)]
    return list(snapshot.nodes)


def test_checks_are_told_per_date(clicked: str, dev: DagsterDev, web: Web) -> None:
    page = web.open(f"{dev.url}/assets/earth_search/methane?view=checks&checkDetail=reference_found")
    page.get_by_text("Execution history", exact=True).click()
    rows = page.locator("tr")
    rows.filter(has_text=DAY).first.wait_for()
    assert "Passed" in rows.filter(has_text=DAY).first.inner_text()
    assert "Failed" in rows.filter(has_text=ALONE).first.inner_text()
    page.close()


def test_a_range_launched_from_the_graph_stays_within_it(clicked: str, dev: DagsterDev, web: Web) -> None:
    before = {key: record(dev, *key) for key in every_date()}
    page = web.open(f"{dev.url}/asset-groups")
    assert launch_range(dev, page) != clicked
    page.close()
    # Nothing changed: the same versions are recorded again, nothing is computed, nothing looks stale.
    for key, (version, _) in before.items():
        again, reused = record(dev, *key)
        assert (again, reused) == (version, True), key
    assert set(staleness(dev, days_between(FIRST, LAST)).values()) == {"FRESH"}


def every_date() -> list[tuple[str, str]]:
    return [(stage, day) for stage in STAGES for day in days_between(FIRST, LAST)]


def record(dev: DagsterDev, stage: str, day: str) -> tuple[str, bool]:
    """Return version and reuse of a date as last recorded."""
    query = """query($key: AssetKeyInput!, $day: [String!]) { assetOrError(assetKey: $key) { ... on Asset {
        assetMaterializations(partitions: $day, limit: 1) { metadataEntries { label
            ... on TextMetadataEntry { text } ... on BoolMetadataEntry { boolValue } } } } } }"""
    asset = dev.graphql(query, key={"path": ["earth_search", stage]}, day=[day])["assetOrError"]
    entries = {entry["label"]: entry for entry in asset["assetMaterializations"][0]["metadataEntries"]}
    return entries["version"]["text"], entries["reused"]["boolValue"]


def test_a_run_from_the_command_line_is_in_the_ui(
    clicked: str, dev: DagsterDev, web: Web, folder: Path, settings_file: Path
) -> None:
    known = {run["runId"] for run in runs(dev)}
    done = subprocess.run(
        [sys.executable, "-m", "geostack_pipeline.cli", "run", "--provider", "earth_search", "--from", LATER],
        cwd=folder,
        env=environment(settings_file),
        capture_output=True,
        text=True,
        timeout=RUN_SECONDS,
        start_new_session=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    new = [run for run in runs(dev) if run["runId"] not in known]
    assert new
    page = web.open(f"{dev.url}/runs")
    for run in new:
        assert run["status"] == "SUCCESS"
        page.get_by_text(run["runId"][:8]).first.wait_for()
    page.close()


def test_another_session_still_shows_everything(
    clicked: str, dev: DagsterDev, start: Callable[[], DagsterDev], web: Web, folder: Path, ws: Workspace
) -> None:
    again = start()
    assert (folder / ".dagster" / "storage").is_dir()
    assert again.url != dev.url
    assert clicked in {run["runId"] for run in runs(again)}
    assert set(staleness(again, days_between(FIRST, LAST)).values()) == {"FRESH"}
    snapshot = ws.artifacts.current("earth_search/methane", DAY)
    assert snapshot is not None
    page = web.open(f"{again.url}/assets/earth_search/methane?view=partitions&partition={DAY}")
    page.locator("tr").filter(has_text=snapshot.version).first.wait_for()
    # The log of a step outlives the session too.
    page.goto(f"{again.url}/runs/{clicked}")
    page.get_by_text(re.compile(r"^Success$")).first.wait_for()
    page.close()
    assert again.foreign_addresses() == set()


def test_nothing_asks_beyond_loopback(dev: DagsterDev, web: Web) -> None:
    hosts = {urlsplit(url).hostname for url in web.requests if not url.startswith(("data:", "blob:"))}
    assert hosts, "no request was recorded"
    assert hosts <= LOOPBACK
