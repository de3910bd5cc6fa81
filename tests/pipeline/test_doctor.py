"""``geostack doctor``: all well with the logins, the variable named without, the next step with wrong ones; no secret."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from geostack_pipeline.commands.console import Exit
from geostack_pipeline.commands.doctor import doctor_command
from geostack_pipeline.sandbox.config import PROVIDERS
from tests.every_provider import Every

WRONG = "planted-wrong-login-0123456789"
NEEDS = {
    "cdse": ("CDSE_S3_ACCESS_KEY", "CDSE_S3_SECRET_KEY"),
    "sentinel_hub": ("SH_CLIENT_ID", "SH_CLIENT_SECRET"),
    "cmr_stac": ("EARTHDATA_TOKEN",),
    "earthaccess": ("EARTHDATA_TOKEN",),
    "dlr_geoservice": ("DLR_USERNAME", "DLR_PASSWORD"),
}
"""Variables that a provider does not do without, one of which at least is named."""
OPEN = frozenset({"earth_search"})
"""Providers without any login."""

Told = dict[str, dict[str, Any]]
Examine = Callable[[str], tuple[Exit, Told, str]]


@pytest.fixture
def examine(
    every_provider: Every, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Examine:
    every_provider.sandbox.clear_faults()
    file = tmp_path / "geostack.yaml"
    file.write_text(
        yaml.safe_dump({"root": "file:store", **every_provider.sandbox.settings()}), encoding="utf-8"
    )
    for name in every_provider.sandbox.credentials():
        monkeypatch.delenv(name, raising=False)
    # No netrc file of whoever runs the tests.
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))

    def run(key: str) -> tuple[Exit, Told, str]:
        day = every_provider.day(key).isoformat()
        capsys.readouterr()
        code = doctor_command([key], settings_file=file, day=day, as_json=True)
        said = capsys.readouterr()
        found = json.loads(said.out)
        assert list(found) == [key]
        doctor_command([key], settings_file=file, day=day, as_json=False)
        shown = capsys.readouterr()
        return code, {one["step"]: one for one in found[key]}, said.out + said.err + shown.out + shown.err

    return run


def secrets(every: Every) -> set[str]:
    return {
        text
        for name, text in every.sandbox.credentials().items()
        if not name.endswith(("USERNAME", "ACCESS_KEY", "CLIENT_ID"))
    }


@pytest.mark.parametrize("key", PROVIDERS)
def test_all_is_well_with_the_logins(
    every_provider: Every, examine: Examine, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, text in every_provider.sandbox.credentials().items():
        monkeypatch.setenv(name, text)
    code, told, shown = examine(key)
    assert {step: one["state"] for step, one in told.items()} == dict.fromkeys(
        ("settings", "search", "login", "read"), "ok"
    ), told
    assert code == Exit.OK
    assert not [text for text in secrets(every_provider) if text in shown]


@pytest.mark.parametrize("key", PROVIDERS)
def test_without_logins_the_variables_are_named(examine: Examine, key: str) -> None:
    code, told, _ = examine(key)
    assert set(told) == {"settings", "search", "login", "read"}
    if key not in NEEDS:
        assert code == Exit.OK, told
        return
    assert code == Exit.FAILED, told
    failed = [one for one in told.values() if one["state"] == "failed"]
    assert any(name in f"{one['detail']} {one['action']}" for one in failed for name in NEEDS[key]), failed
    assert all(one["action"] for one in failed)
    assert told["read"]["state"] != "ok"


@pytest.mark.parametrize("key", [name for name in PROVIDERS if name not in OPEN])
def test_a_wrong_login_fails_and_says_what_to_do(
    every_provider: Every, examine: Examine, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in every_provider.sandbox.credentials():
        monkeypatch.setenv(name, f"{WRONG}-{name}")
    code, told, shown = examine(key)
    assert code == Exit.FAILED, told
    failed = [one for one in told.values() if one["state"] == "failed"]
    assert [one["step"] for one in failed] == ["login"], told
    assert failed[0]["action"]
    assert WRONG not in shown
