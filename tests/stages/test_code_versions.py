"""A stage whose source changed must have a new code version: its stored results would otherwise be believed."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).parents[2]
RECORD = json.loads((Path(__file__).parent / "code_versions.json").read_text(encoding="utf-8"))


def _script() -> ModuleType:
    spec = importlib.util.spec_from_file_location("code_versions", ROOT / "scripts" / "code_versions.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("stage", sorted(_script().SOURCES))
def test_the_source_is_the_recorded_one(stage: str) -> None:
    now = _script().present()[stage]
    assert now == RECORD[stage], (
        f"the source of {stage} changed: raise CODE_VERSION in stages/{stage}.py when results change, then run "
        "`make code-versions` (or `python scripts/code_versions.py --harmless` when no result changes)"
    )


def test_the_digest_ignores_comments_and_docstrings_and_sees_code(tmp_path: Path) -> None:
    script = _script()
    file = tmp_path / "x.py"
    file.write_text(
        '"""A."""\nCODE_VERSION = "1"\n\n\ndef f():\n    """B."""\n    return 1  # c\n', encoding="utf-8"
    )
    before = script._essence(file)
    file.write_text('"""Z."""\nCODE_VERSION = "2"\ndef f():\n    return 1\n', encoding="utf-8")
    assert script._essence(file) == before
    file.write_text("def f():\n    return 2\n", encoding="utf-8")
    assert script._essence(file) != before
