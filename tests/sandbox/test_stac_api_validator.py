"""stac-api-validator, as far as it runs without internet: it wants the schemas of items and collections from the web.

DLR's catalog is not among them: the tool appends to the real links, which end in ``?f=application/json``, as if they had
no query, and cannot follow them.  It is no dependency (it pins libraries that this project pins otherwise): ``make test-slow``
installs it into an environment of its own and says where by ``STAC_API_VALIDATOR``.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess

import pytest

from tests.every_provider import Every

TOOL = shutil.which(os.environ.get("STAC_API_VALIDATOR", "stac-api-validator"))
OFFLINE = re.compile(
    r"failed stac-validator validation|is not a valid STAC object: HTTPSConnectionPool|Max retries"
)
UNSERVED = re.compile(r"service-desc|/(api|api\.html|docs) params=")
"""The catalogs' own documentation pages, which the sandbox links to and does not have."""
QUIRKS = {
    "earth_search": r"/items does not have self link",
    "planetary_computer": r"limit.: 10+\}.*had unexpected status code 400|\"limit\": 10+\}.*had unexpected status code 400",
}
"""What the real catalogs do against the specification, and the sandbox with them."""


@pytest.mark.slow
@pytest.mark.skipif(TOOL is None, reason="stac-api-validator is not installed")
@pytest.mark.parametrize("key", ["earth_search", "planetary_computer", "cdse", "stac_api"])
def test_the_catalog_keeps_to_the_specification(every_provider: Every, key: str) -> None:
    every_provider.sandbox.clear_faults()
    own = every_provider.sandbox.settings()["providers"][key]
    west, south, east, north = every_provider.areas[0].bbox
    ring = [[west, south], [east, south], [east, north], [west, north], [west, south]]
    classes = ("core", "collections", "features", "item-search")
    assert TOOL is not None
    done = subprocess.run(
        [
            *(
                TOOL,
                "--root-url",
                own["url"],
                "--collection",
                own["collections"][0],
                "--no-validate-pagination",
            ),
            *("--geometry", f'{{"type":"Polygon","coordinates":[{ring}]}}'),
            *(part for name in classes for part in ("--conformance", name)),
        ],
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    said = done.stdout + done.stderr
    assert "Validating STAC API - Core conformance class" in said
    assert "Traceback" not in said, said[-2000:]
    # Its warnings are recommendations, above the errors.
    assert "\nErrors:" in done.stdout
    found = [line for line in done.stdout.partition("\nErrors:")[2].splitlines() if line.startswith("- ")]
    quirk = re.compile(QUIRKS.get(key, r"(?!)"))
    known = (OFFLINE, UNSERVED, quirk)
    assert [line[:300] for line in found if not any(one.search(line) for one in known)] == []
