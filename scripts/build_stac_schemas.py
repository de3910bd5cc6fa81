"""Takes the schemas of the STAC extensions that results use out of recordings in pystac's source packages.

    python scripts/build_stac_schemas.py FOLDER

FOLDER holds the source packages (``pip download --no-binary :all: --no-deps PACKAGE``) of pystac-ext-eo 1.1.1,
pystac-ext-file 2.1.1, pystac-ext-mlm 1.4.1, pystac-ext-projection 2.0.1 and pystac-ext-raster 1.1.1.  Their tests
replay recorded answers of stac-extensions.github.io and proj.org; each answer's body is written as it was recorded, into
``geostack_pipeline/data/stac_schemas``.  Nothing is asked of any server.
"""

from __future__ import annotations

import json
import sys
import tarfile
from pathlib import Path

import yaml

TARGET = Path(__file__).parents[1] / "geostack_pipeline" / "data" / "stac_schemas"
WANTED = {
    "https://stac-extensions.github.io/eo/v1.1.0/schema.json": "eo-v1.1.0.json",
    "https://stac-extensions.github.io/file/v2.1.0/schema.json": "file-v2.1.0.json",
    "https://stac-extensions.github.io/mlm/v1.4.0/schema.json": "mlm-v1.4.0.json",
    "https://stac-extensions.github.io/processing/v1.0.0/schema.json": "processing-v1.0.0.json",
    "https://stac-extensions.github.io/processing/v1.1.0/schema.json": "processing-v1.1.0.json",
    "https://stac-extensions.github.io/projection/v2.0.0/schema.json": "projection-v2.0.0.json",
    "https://stac-extensions.github.io/raster/v1.1.0/schema.json": "raster-v1.1.0.json",
    "https://proj.org/en/latest/schemas/v0.7/projjson.schema.json": "projjson-v0.7.json",
}
"""Recorded address -> file."""


def main(folder: Path) -> int:
    """Write the files, or say which are in no recording."""
    found: dict[str, str] = {}
    for package in sorted(folder.glob("pystac_ext_*.tar.gz")):
        with tarfile.open(package) as archive:
            for member in archive.getmembers():
                if "/cassettes/" not in member.name or not member.name.endswith(".yaml"):
                    continue
                stream = archive.extractfile(member)
                if stream is None:
                    continue
                for exchange in yaml.safe_load(stream)["interactions"]:
                    address, answer = exchange["request"]["uri"], exchange["response"]
                    body = answer["body"]["string"]
                    if address in WANTED and answer["status"]["code"] == 200 and body:
                        found.setdefault(address, body if isinstance(body, str) else body.decode())
    missing = sorted(set(WANTED) - set(found))
    if missing:
        print(f"in no recording: {', '.join(missing)}", file=sys.stderr)
        return 1
    TARGET.mkdir(exist_ok=True)
    for address, name in WANTED.items():
        json.loads(found[address])
        (TARGET / name).write_text(found[address], encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
