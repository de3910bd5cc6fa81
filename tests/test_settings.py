"""Settings: what is accepted, and that every mistake is named with what to do next."""

from __future__ import annotations

from pathlib import Path

import pytest

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.settings import SETTINGS_VARIABLE, Settings, load_settings, parse_settings

GOOD = {
    "areas": {"korpezhe": {"bbox": [53.9, 38.4, 54.1, 38.6]}},
    "providers": {"earth_search": {"where": '"eo:cloud_cover" < 60'}},
}


def test_defaults_fill_what_is_left_out() -> None:
    settings = parse_settings(GOOD)
    area = settings.area_list[0]
    assert (area.name, area.resolution_m, area.crs) == ("korpezhe", 20.0, None)
    assert settings.provider("earth_search").bands == ("B02", "B03", "B04", "B11", "B12")
    assert settings.refresh_days == 7


def test_a_relative_root_lies_beside_the_file(tmp_path: Path) -> None:
    (tmp_path / "geostack.yaml").write_text("root: file:store\n", encoding="utf-8")
    assert load_settings(tmp_path / "geostack.yaml").root == f"file://{(tmp_path / 'store').resolve()}"


def test_the_repository_file_is_valid() -> None:
    settings = load_settings(Path(__file__).parents[1] / "geostack.yaml")
    assert settings.area_list
    assert "earth_search" in settings.providers


def test_the_variable_names_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "other.yaml").write_text("refresh_days: 3\n", encoding="utf-8")
    monkeypatch.setenv(SETTINGS_VARIABLE, str(tmp_path / "other.yaml"))
    assert load_settings().refresh_days == 3


@pytest.mark.parametrize(
    ("raw", "named"),
    [
        ({"rot": 1}, "rot: is not a setting"),
        ({"areas": {"Big Area": {"bbox": [0, 0, 1, 1]}}}, "'Big Area'"),
        ({"areas": {"a": {"bbox": [0, 5, 1, 1]}}}, "south (5.0) must be below north (1.0)"),
        ({"areas": {"a": {"bbox": [0, 0, 0, 1]}}}, "empty"),
        ({"areas": {"a": {"bbox": [0, 0, 1]}}}, "areas.a.bbox"),
        ({"areas": {"a": {"bbox": [0, 0, 1, 95]}}}, "latitudes within -90..90"),
        ({"areas": {"a": {"bbox": [0, 0, 1, 1], "crs": "utm32"}}}, "EPSG:<code>"),
        ({"areas": {"a": {"bbox": [0, 0, 1, 1], "resolution_m": 0}}}, "areas.a.resolution_m"),
        ({"providers": {"nowhere": {}}}, "nowhere is not a provider"),
        ({"providers": {"earth_search": {"url": "ftp://x"}}}, "no http(s) address"),
        ({"providers": {"earth_search": {"bands": ["B04", "B04"]}}}, "different band names"),
        ({"providers": {"earth_search": {"schedule": {"timezone": "Mars/Olympus"}}}}, "'Mars/Olympus'"),
        ({"refresh_days": -1}, "refresh_days"),
        ({"start_date": "yesterday"}, "start_date"),
        ([1, 2], "must be a mapping"),
    ],
)
def test_a_mistake_is_named(raw: object, named: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse_settings(raw)
    assert named in str(caught.value)
    assert "Next: " in str(caught.value)


def test_broken_yaml_names_its_line(tmp_path: Path) -> None:
    file = tmp_path / "geostack.yaml"
    file.write_text("areas:\n  a: {bbox: [1, 2\nproviders: {}\n", encoding="utf-8")
    with pytest.raises(SettingsError, match=r"line 3"):
        load_settings(file)


def test_a_missing_file_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"does not exist.*Next: write geostack.yaml"):
        load_settings(tmp_path / "none.yaml")


def test_an_unknown_provider_lists_the_configured_ones() -> None:
    with pytest.raises(SettingsError, match=r"configured providers: earth_search"):
        parse_settings(GOOD).provider("usgs")


def test_root_options_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(root="s3://b/p", root_options={"secret_access_key": "env:PLANTED", "region": "eu"})
    monkeypatch.setenv("PLANTED", "hush")
    assert settings.resolved_root_options() == {"secret_access_key": "hush", "region": "eu"}
    assert "hush" not in repr(settings)
    monkeypatch.delenv("PLANTED")
    with pytest.raises(SettingsError, match="PLANTED is not set"):
        settings.resolved_root_options()


@pytest.mark.parametrize("name", ["plumes", "published", "workspace", "wind", "io_manager"])
def test_a_provider_cannot_take_a_name_of_the_graph(name: str) -> None:
    with pytest.raises(SettingsError, match="is taken by a part of the graph"):
        parse_settings({"providers": {name: {"kind": "earth_search"}}})


def test_the_wind_is_found_beside_the_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "geostack.yaml"
    file.write_text("wind: {source: winds/era5.csv, max_hours: 3}\n", encoding="utf-8")
    (tmp_path / "winds").mkdir()
    settings = load_settings(file)
    assert settings.wind is not None
    assert settings.wind.source == (tmp_path / "winds" / "era5.csv").as_uri()
    source = settings.wind_source()
    assert source is not None
    assert (source.name, source.limits.max_hours) == ("era5.csv", 3.0)
    assert parse_settings({}).wind_source() is None
    remote = parse_settings(
        {"wind": {"source": "s3://b/era5.zarr", "options": {"access_key_id": "env:PLANTED"}}}
    )
    with pytest.raises(SettingsError, match=r"wind.options.access_key_id.*PLANTED"):
        remote.wind_source()
    with pytest.raises(SettingsError, match="neither a table nor a Zarr"):
        parse_settings({"wind": {"source": "era5.grib"}}).wind_source()


def test_the_wind_resource_takes_the_settings_or_its_own_source(tmp_path: Path) -> None:
    from geostack_pipeline.orchestration.resources import WindResource

    file = tmp_path / "geostack.yaml"
    file.write_text("wind: {source: a.csv, max_distance_km: 7}\n", encoding="utf-8")
    own = WindResource(settings_file=str(file)).open()
    other = WindResource(settings_file=str(file), source=str(tmp_path / "b.parquet")).open()
    assert own is not None
    assert other is not None
    assert (own.name, other.name) == ("a.csv", "b.parquet")
    assert other.limits.max_distance_km == 7.0
    file.write_text("areas: {}\n", encoding="utf-8")
    assert WindResource(settings_file=str(file)).open() is None


def test_a_webhook_is_named_and_never_written_down(tmp_path: Path) -> None:
    file = tmp_path / "geostack.yaml"
    file.write_text("automation: {notify: {webhook: 'https://hooks.example/very-secret'}}", encoding="utf-8")
    with pytest.raises(SettingsError, match="env:NAME") as caught:
        load_settings(file)
    assert "secret" not in str(caught.value)
    file.write_text("automation: {notify: {webhook: 'env:HOOK'}, freshness: null}", encoding="utf-8")
    assert load_settings(file).automation.notify.webhook == "env:HOOK"
    file.write_text("automation: {freshness: {warn_hours: 9, fail_hours: 8}}", encoding="utf-8")
    with pytest.raises(SettingsError, match="warn_hours must be less"):
        load_settings(file)
