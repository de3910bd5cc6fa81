"""The layers hold: lower folders never import upper ones, and only orchestration knows Dagster."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "geostack_pipeline"

# Each may import what stands before it.
ORDER = (
    "errors", "areas", "storage", "providers", "catalog", "raster", "cube", "methane", "learning", "publish",
    "settings", "stages", "reading", "orchestration", "definitions", "commands", "cli",
)  # fmt: skip
# Not in the line: the settings name provider endpoints, and the sandbox is a witness of its own.
EXTRA = {"sandbox": {"errors", "areas", "storage"}}
SANDBOX_USERS = {"commands"}


def _modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def _layer(path: Path) -> str:
    relative = path.relative_to(PACKAGE)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def _imports(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative imports hide the layer"
            module = node.module or ""
            names.add(module)
            names.update(f"{module}.{alias.name}" for alias in node.names)
    return names


def _own_layers(path: Path) -> set[str]:
    return {name.split(".")[1] for name in _imports(path) if name.startswith("geostack_pipeline.")}


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_module_imports_only_layers_before_its_own(path: Path) -> None:
    layer = _layer(path)
    if layer == "__init__":
        return
    used = _own_layers(path) - {layer} - {"load"}
    if layer in EXTRA:
        assert used <= EXTRA[layer]
        return
    assert layer in ORDER, f"{layer} has no place in the order of layers: give it one"
    if layer in SANDBOX_USERS:
        used -= {"sandbox"}
    allowed = set(ORDER[: ORDER.index(layer)])
    assert used <= allowed, f"{layer} imports {sorted(used - allowed)}"


@pytest.mark.parametrize("path", _modules(), ids=lambda path: str(path.relative_to(PACKAGE)))
def test_only_orchestration_imports_dagster(path: Path) -> None:
    if _layer(path) in {"orchestration", "definitions"}:
        return
    assert not {name for name in _imports(path) if name.split(".")[0] == "dagster"}


def test_every_layer_of_the_order_that_exists_is_checked() -> None:
    found = {_layer(path) for path in _modules()} - {"__init__"}
    assert found <= {*ORDER, *EXTRA}
    assert {
        "storage",
        "providers",
        "catalog",
        "raster",
        "cube",
        "methane",
        "stages",
        "orchestration",
    } <= found


def test_the_imports_are_seen(tmp_path: Path) -> None:
    file = tmp_path / "x.py"
    file.write_text("import dagster as dg\nfrom geostack_pipeline.cube import grid\n", encoding="utf-8")
    assert "dagster" in _imports(file)
    assert _own_layers(file) == {"cube"}
