"""Records which source each stage's ``CODE_VERSION`` stands for.

    python scripts/code_versions.py             # after raising a CODE_VERSION
    python scripts/code_versions.py --harmless  # after a change that provably leaves every result as it is

Comments, docstrings and formatting do not count: the digest is over the syntax trees.
"""

from __future__ import annotations

import argparse
import ast
import hashlib
import json
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "geostack_pipeline"
RECORD = ROOT / "tests" / "stages" / "code_versions.json"

SOURCES: dict[str, tuple[str, ...]] = {
    "scenes": (
        "stages/scenes.py",
        "catalog/normalise.py",
        "catalog/scene_table.py",
        "catalog/footprints.py",
        "catalog/search*.py",
        "catalog/pager.py",
        "providers/*.py",
    ),
    "selected": ("stages/selected.py", "catalog/selection*.py", "catalog/footprints.py"),
    "granules": (
        "stages/granules.py",
        "stages/wishes.py",
        "stages/pictures.py",
        "stages/fetching.py",
        "stages/routes.py",
        "catalog/scene_table.py",
        "raster/*.py",
        "cube/grid*.py",
    ),
    "cube": ("stages/cube*.py", "cube/*.py", "raster/*.py", "learning/labels.py"),
    # Rates and wind belong to the plumes: a change there asks for no new retrieval.
    "methane": (
        "learning/fields.py",
        "learning/inference.py",
        "learning/network.py",
        "learning/tiles.py",
        "stages/methane*.py",
        "methane/*.py",
        "!methane/rates.py",
        "!methane/wind.py",
        "cube/write*.py",
        "cube/ortho.py",
        "data/ch4_sentinel2.csv",
        "data/ch4_radiance.csv",
        "data/emit_noise.csv",
    ),
    "training_set": (
        "stages/training_*.py",
        "learning/fields.py",
        "learning/labels.py",
        "learning/sites.py",
        "learning/targets.py",
        "learning/tiles.py",
        "cube/write*.py",
    ),
    "candidate_model": (
        "stages/candidate_model.py",
        "stages/stored_tiles.py",
        "learning/batches.py",
        "learning/calibration.py",
        "learning/checkpoints.py",
        "learning/fields.py",
        "learning/inference.py",
        "learning/judging.py",
        "learning/loss.py",
        "learning/model_card.py",
        "learning/network.py",
        "learning/pixels.py",
        "learning/plume_score.py",
        "learning/profiles.py",
        "learning/training.py",
        "learning/weights.py",
    ),
    "evaluation": (
        "stages/evaluation.py",
        "learning/average_precision.py",
        "learning/calibration.py",
        "learning/fields.py",
        "learning/gate.py",
        "learning/inference.py",
        "learning/injection.py",
        "learning/judging.py",
        "learning/pixels.py",
        "learning/plume_score.py",
        "learning/targets.py",
        "learning/tiles.py",
    ),
    "champion_model": ("stages/champion_model.py", "learning/model_card.py"),
    "plumes": ("stages/plumes*.py", "methane/plume_table.py", "methane/rates.py", "methane/wind.py"),
    "published": (
        "stages/published*.py",
        "stages/lineage.py",
        "publish/*.py",
        "!publish/figures.py",
        "!publish/swath_quicklook.py",
        "data/stac_schemas/*.json",
        "cube/ortho.py",
    ),
}
"""Stage -> files whose change can change its results; ``!`` takes files out again."""


def source_digest(stage: str) -> str:
    """Return the digest of a stage's sources."""
    digest = hashlib.sha256()
    left_out = {file for pattern in SOURCES[stage] if pattern[0] == "!" for file in PACKAGE.glob(pattern[1:])}
    for pattern in SOURCES[stage]:
        if pattern[0] == "!":
            continue
        files = sorted(set(PACKAGE.glob(pattern)) - left_out)
        if not files:
            raise SystemExit(f"{stage}: no file matches {pattern}")
        for file in files:
            digest.update(str(file.relative_to(PACKAGE)).encode())
            digest.update(_essence(file))
    return digest.hexdigest()


def _essence(file: Path) -> bytes:
    if file.suffix != ".py":
        return hashlib.sha256(file.read_bytes()).digest()
    tree = ast.parse(file.read_text(encoding="utf-8"))
    for node in ast.walk(tree):
        body = getattr(node, "body", None)
        if isinstance(body, list):
            # Strings that stand alone are documentation; a constant of its own version is compared by itself.
            kept = [
                part
                for part in body
                if not (
                    isinstance(part, ast.Expr)
                    and isinstance(part.value, ast.Constant)
                    and isinstance(part.value.value, str)
                )
                and not (
                    isinstance(part, ast.Assign)
                    and any(isinstance(name, ast.Name) and name.id == "CODE_VERSION" for name in part.targets)
                )
            ]
            node.body = kept or [ast.Pass()]  # type: ignore[attr-defined]
    return ast.dump(tree, annotate_fields=False).encode()


def code_version(stage: str) -> str:
    """Return a stage's ``CODE_VERSION``, read without importing it."""
    tree = ast.parse((PACKAGE / "stages" / f"{stage}.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and any(
            isinstance(name, ast.Name) and name.id == "CODE_VERSION" for name in node.targets
        ):
            return str(ast.literal_eval(node.value))
    raise SystemExit(f"stages/{stage}.py has no CODE_VERSION")


def present() -> dict[str, dict[str, str]]:
    """Return what the working tree holds."""
    return {stage: {"code_version": code_version(stage), "source": source_digest(stage)} for stage in SOURCES}


def main() -> int:
    """Write the record, or say which CODE_VERSION must be raised first."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--harmless", action="store_true", help="the change leaves every result as it is")
    chosen = parser.parse_args()
    now = present()
    if RECORD.exists() and not chosen.harmless:
        before = json.loads(RECORD.read_text(encoding="utf-8"))
        stuck = [
            stage
            for stage, state in now.items()
            if stage in before
            and before[stage]["source"] != state["source"]
            and before[stage]["code_version"] == state["code_version"]
        ]
        if stuck:
            print(
                f"source changed, CODE_VERSION did not: {', '.join(stuck)}. Raise it, or pass --harmless when no "
                "stored result would come out differently.",
                file=sys.stderr,
            )
            return 1
    RECORD.write_text(json.dumps(now, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
