"""Judges STAC items and collections by their schemas, without asking any server.

The schemas of STAC itself come with pystac; those of the extensions are carried in ``data/stac_schemas`` with their
licence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import Any

from jsonschema import Draft7Validator
from referencing import Registry
from referencing.exceptions import Unresolvable
from referencing.jsonschema import DRAFT7

STAC_VERSION = "1.1.0"
_STAC = f"https://schemas.stacspec.org/v{STAC_VERSION}"
_CORE = {
    "Feature": f"{_STAC}/item-spec/json-schema/item.json",
    "Collection": f"{_STAC}/collection-spec/json-schema/collection.json",
    "Catalog": f"{_STAC}/catalog-spec/json-schema/catalog.json",
}
_FOLDERS = {"catalog.json": "catalog-spec", "collection.json": "collection-spec"}
_PROJJSON = "https://proj.org/schemas/v0.7/projjson.schema.json"

EXTENSIONS: Mapping[str, str] = {
    name: f"https://stac-extensions.github.io/{name}/{version}/schema.json"
    for name, version in (
        ("eo", "v1.1.0"),
        ("file", "v2.1.0"),
        ("mlm", "v1.4.0"),
        ("processing", "v1.0.0"),
        ("projection", "v2.0.0"),
        ("raster", "v1.1.0"),
    )
}
"""Extension -> address of its schema: those that results use."""
_REFERRED = ("https://stac-extensions.github.io/processing/v1.1.0/schema.json",)
"""Schemas that only other schemas name."""


@cache
def _registry() -> Registry[Any]:
    """Return every schema by the address that others refer to it by."""
    found: dict[str, Any] = {}
    own = files("geostack_pipeline") / "data" / "stac_schemas"
    for address in (*EXTENSIONS.values(), *_REFERRED):
        name, version = address.split("/")[-3:-1]
        found[address] = json.loads((own / f"{name}-{version}.json").read_text("utf-8"))
    found[_PROJJSON] = json.loads((own / "projjson-v0.7.json").read_text("utf-8"))
    stac = files("pystac") / "validation" / "jsonschemas"
    for path in (stac / "stac-spec" / f"v{STAC_VERSION}").iterdir():
        if path.name.endswith(".json"):
            folder = _FOLDERS.get(path.name, "item-spec")
            found[f"{_STAC}/{folder}/json-schema/{path.name}"] = json.loads(path.read_text("utf-8"))
    for name in ("Feature", "Geometry"):
        found[f"https://geojson.org/schema/{name}.json"] = json.loads(
            (stac / "geojson" / f"{name}.json").read_text("utf-8")
        )
    return Registry().with_resources(
        (address, DRAFT7.create_resource({**schema, "$id": address})) for address, schema in found.items()
    )


@cache
def _validator(address: str) -> Draft7Validator:
    return Draft7Validator(
        _registry().contents(address),
        registry=_registry(),
        format_checker=Draft7Validator.FORMAT_CHECKER,
    )


def problems(document: Mapping[str, Any]) -> list[str]:
    """Return what is wrong with an item, collection or catalog: at most one line per schema; none when it is valid.

    An extension whose schema is not carried, or refers to one that is not, is a problem too: nobody has looked.
    """
    kind = str(document.get("type"))
    if kind not in _CORE:
        return [f"type {kind!r} is no STAC"]
    if document.get("stac_version") != STAC_VERSION:
        return [f"stac_version {document.get('stac_version')!r} is not {STAC_VERSION}"]
    found = []
    known = set(EXTENSIONS.values())
    for address in (_CORE[kind], *document.get("stac_extensions", [])):
        if address not in known and address != _CORE[kind]:
            found.append(f"{address}: no schema is carried")
            continue
        try:
            errors = sorted(_validator(address).iter_errors(document), key=lambda one: -len(one.path))
        except Unresolvable as missing:
            found.append(f"{address}: refers to {missing.ref}: no schema is carried")
            continue
        error = next(iter(errors), None)
        if error is not None:
            where = "/".join(map(str, error.absolute_path)) or "the document"
            found.append(f"{address}: {where}: {error.message}"[:400])
    return found
