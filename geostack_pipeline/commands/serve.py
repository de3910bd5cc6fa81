"""``geostack serve`` and ``geostack report``: the published results, as a STAC API and as a page."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import sysconfig
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from geostack_pipeline.commands.console import Exit, console, errors
from geostack_pipeline.errors import GeostackError, SettingsError
from geostack_pipeline.publish.root import PublishedDate, RootCatalog, root_catalog
from geostack_pipeline.reading import find_artifact
from geostack_pipeline.settings import load_settings
from geostack_pipeline.stages import published
from geostack_pipeline.stages.workspace import Workspace, open_workspace

READY_S = 60.0
"""Longest time that the server may take to answer first."""


def stored_catalog(ws: Workspace) -> RootCatalog:
    """Return the catalog over all published dates.

    Raises:
        GeostackError: Nothing has been published.
    """
    dates = []
    for day in sorted(ws.artifacts.partitions(published.NAME)):
        snapshot = ws.artifacts.current(published.NAME, day)
        if snapshot is not None:
            dates.append(PublishedDate(url=f"{snapshot.url()}/", documents=published.documents(snapshot)))
    if not dates:
        raise GeostackError(
            "nothing has been published yet",
            subject=f"{published.NAME} in {ws.artifacts.root.url}",
            action="run a date of a provider that may show methane, with `geostack run`",
        )
    return root_catalog(dates)


@contextmanager
def stac_server(catalog: RootCatalog, folder: Path, *, port: int = 0) -> Iterator[str]:
    """Serve a catalog on loopback by ``rustac serve`` until the block ends; yield its address.

    Args:
        catalog: What to serve.
        folder: Where the documents are written that the server reads; a static catalog by themselves.
        port: On 127.0.0.1; 0 takes a free one.

    Raises:
        SettingsError: The port is taken.
        GeostackError: The server did not come up.
    """
    port = _free(port)
    paths = catalog.write(folder)
    address = f"127.0.0.1:{port}"
    with tempfile.TemporaryFile() as log:
        server = subprocess.Popen(  # noqa: S603 - our own interpreter, our own files
            [_rustac(), "serve", "--addr", address, *map(str, paths)],
            stdout=log,
            stderr=log,
        )
        try:
            if not _answers(server, f"http://{address}"):
                log.seek(0)
                raise GeostackError(
                    "the STAC server did not come up",
                    subject=f"rustac serve at {address}",
                    found=log.read().decode(errors="replace").strip()[-300:] or None,
                    action="try another port",
                )
            yield f"http://{address}"
        finally:
            server.terminate()
            try:
                server.wait(timeout=10)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _rustac() -> str:
    """Return rustac's command, which comes with its package: it reads the arguments of the process by itself."""
    found = shutil.which("rustac", path=sysconfig.get_path("scripts")) or shutil.which("rustac")
    if found is None:
        raise SettingsError(
            "the command rustac is not installed",
            subject="geostack serve",
            action="install rustac anew: pip install --force-reinstall rustac",
        )
    return found


def _free(port: int) -> int:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError as error:
            raise SettingsError(
                "the port is taken", subject=f"127.0.0.1:{port}", action="choose another with --port"
            ) from error
        return int(probe.getsockname()[1])


def _answers(server: subprocess.Popen[bytes], address: str) -> bool:
    deadline = time.monotonic() + READY_S
    with httpx.Client(trust_env=False, timeout=2.0) as client:
        while server.poll() is None and time.monotonic() < deadline:
            with contextlib.suppress(httpx.HTTPError):
                if client.get(f"{address}/collections").is_success:
                    return True
            time.sleep(0.1)
    return False


def serve_command(*, port: int, folder: Path | None, write_only: bool, settings_file: Path | None) -> Exit:
    """Serve until Ctrl-C, or only write the static catalog."""
    catalog = stored_catalog(open_workspace(load_settings(settings_file)))
    if write_only:
        if folder is None:
            raise SettingsError(
                "no folder is named to write to", subject="geostack serve --write-only", action="add --folder"
            )
        catalog.write(folder)
        console.print(f"{len(catalog.items)} item(s) written below {folder / 'catalog.json'}", markup=False)
        return Exit.OK
    with contextlib.ExitStack() as stack:
        place = folder or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="geostack-stac-")))
        address = stack.enter_context(stac_server(catalog, place, port=port))
        console.print(f"STAC API: {address}", markup=False)
        for one in catalog.collections:
            count = sum(item["collection"] == one["id"] for item in catalog.items)
            console.print(f"  {one['id']:<36} {count} item(s)", markup=False)
        errors.print("Ctrl-C ends it.", style="dim")
        try:
            while True:
                time.sleep(3600)
        except KeyboardInterrupt:
            return Exit.OK


def report_command(day: str, *, out: Path | None, version: str | None, settings_file: Path | None) -> Exit:
    """Say where the page of a date lies, or copy it to a file."""
    ws = open_workspace(load_settings(settings_file))
    snapshot = find_artifact(ws, published.NAME, day, version)
    if out is not None:
        out.write_bytes(snapshot.read(published.REPORT))
        console.print(str(out), markup=False, soft_wrap=True)
        return Exit.OK
    place = snapshot.local_path(published.REPORT)
    console.print(
        snapshot.url(published.REPORT) if place is None else str(place), markup=False, soft_wrap=True
    )
    return Exit.OK
