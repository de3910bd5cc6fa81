"""The command line: ``geostack demo | ui | sandbox | run | plan | show | serve | report | scenes diff | gc``."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import typer

from geostack_pipeline.commands.console import Exit, errors
from geostack_pipeline.errors import GeostackError, SettingsError

app = typer.Typer(
    name="geostack",
    help="One asset graph of the satellite catalogs: scene lists, cached rasters, Zarr cubes, methane maps.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
scenes_app = typer.Typer(help="Stored scene lists.", no_args_is_help=True)
app.add_typer(scenes_app, name="scenes")
model_app = typer.Typer(help="The plume models that were trained.", no_args_is_help=True)
app.add_typer(model_app, name="model")

SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", help="Settings file; else GEOSTACK_SETTINGS, else ./geostack.yaml."),
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON document instead of tables.")]


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Where the demo keeps its world and its store.")] = Path(
        ".geostack/demo"
    ),
    seed: Annotated[int | None, typer.Option(help="Seed of the synthetic world.")] = None,
    small: Annotated[bool, typer.Option(help="The small world: tiny scenes, rendered in seconds.")] = False,
    learning: Annotated[
        bool,
        typer.Option(
            help="Train a plume model on a campaign of EMIT instead, and let it judge the next day."
        ),
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Run the whole pipeline on a synthetic world and score it against the planted plumes."""
    if learning:
        from geostack_pipeline.commands.learning_demo import learning_demo_command

        _end(lambda: learning_demo_command(folder / "learning", seed=seed, as_json=as_json))
        return
    from geostack_pipeline.commands.demo import demo_command

    _end(lambda: demo_command(folder, seed=seed, small=small, as_json=as_json))


@app.command()
def ui(
    folder: Annotated[Path, typer.Option(help="Where the sandbox keeps its world and its store.")] = Path(
        ".geostack/demo"
    ),
    port: Annotated[int, typer.Option(help="Port of the Dagster UI on 127.0.0.1.")] = 3000,
    seed: Annotated[int | None, typer.Option(help="Seed of the synthetic world.")] = None,
) -> None:
    """Start the sandbox and the Dagster UI on it; Ctrl-C ends both."""
    from geostack_pipeline.commands.ui import ui_command

    _end(lambda: ui_command(folder, port=port, seed=seed))


@app.command()
def doctor(
    provider: Annotated[
        list[str] | None, typer.Option(help="Provider to examine; can be given again. Default: all.")
    ] = None,
    date: Annotated[
        str | None, typer.Option(help="Date to search, YYYY-MM-DD; a few before it are tried as well.")
    ] = None,
    settings: SettingsFile = None,
    as_json: AsJson = False,
) -> None:
    """Try every provider: settings, search, login, one byte; say what to do where it does not work."""
    from geostack_pipeline.commands.doctor import doctor_command

    _end(lambda: doctor_command(tuple(provider or ()), settings_file=settings, day=date, as_json=as_json))


@app.command()
def sandbox(
    folder: Annotated[Path, typer.Option(help="Where the synthetic world is kept.")] = Path(".geostack/demo"),
    seed: Annotated[int | None, typer.Option(help="Seed of the synthetic world.")] = None,
    port: Annotated[
        int,
        typer.Option(help="Port of the catalogs on 127.0.0.1, those after it are taken too; 0: free ones."),
    ] = 0,
    small: Annotated[bool, typer.Option(help="The small world: tiny scenes, rendered in seconds.")] = False,
    fault: Annotated[
        list[str] | None,
        typer.Option(help="Fault to inject, e.g. '429@earth_search?count=2'; can be given again."),
    ] = None,
    provider: Annotated[
        list[str] | None, typer.Option(help="Serve this catalog only; can be given again. Default: all.")
    ] = None,
    campaign: Annotated[
        int, typer.Option(help="So many small granules of EMIT with plumes besides, to learn from.")
    ] = 0,
    hold: Annotated[
        list[str] | None,
        typer.Option(
            help="Part of the names of EMIT granules that are not listed until they are released; can be given again."
        ),
    ] = None,
) -> None:
    """Serve the synthetic catalogs and buckets on loopback until Ctrl-C."""
    from geostack_pipeline.commands.sandbox import sandbox_command

    _end(
        lambda: sandbox_command(
            folder,
            seed=seed,
            port=port,
            small=small,
            faults=tuple(fault or ()),
            providers=tuple(provider or ()),
            campaign=campaign,
            held=tuple(hold or ()),
        )
    )


@app.command()
def run(
    provider: Annotated[str, typer.Option(help="Catalog, e.g. earth_search.")],
    first: Annotated[str, typer.Option("--from", help="First UTC date, YYYY-MM-DD.")],
    last: Annotated[
        str | None, typer.Option("--to", help="Last UTC date; the first one when not given.")
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Last stage: scenes, selected, granules, cube or methane; else the provider's last."
        ),
    ] = None,
    refresh: Annotated[
        bool, typer.Option(help="Ask again, also for frozen dates, and check the cached bytes' etags.")
    ] = False,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="Read a stored version: <asset>/<date>=<version>; can be given again."),
    ] = None,
    settings: SettingsFile = None,
    as_json: AsJson = False,
) -> None:
    """Bring a range of dates up to date: only what would change is launched."""
    from geostack_pipeline.commands.run import run_command

    _end(
        lambda: run_command(
            provider,
            first,
            last or first,
            settings_file=settings,
            until=until,
            refresh=refresh,
            pins=_pins(pin or []),
            as_json=as_json,
        )
    )


@app.command()
def plan(
    first: Annotated[str, typer.Option("--from", help="First UTC date, YYYY-MM-DD.")],
    last: Annotated[
        str | None, typer.Option("--to", help="Last UTC date; the first one when not given.")
    ] = None,
    provider: Annotated[
        list[str] | None,
        typer.Option(help="Catalog, e.g. earth_search; can be given again; all of them when left out."),
    ] = None,
    until: Annotated[
        str | None,
        typer.Option(
            help="Last stage: scenes, selected, granules, cube or methane; else the provider's last."
        ),
    ] = None,
    refresh: Annotated[bool, typer.Option(help="What a run with --refresh would do.")] = False,
    pin: Annotated[
        list[str] | None,
        typer.Option(help="Read a stored version: <asset>/<date>=<version>; can be given again."),
    ] = None,
    offline: Annotated[
        bool, typer.Option(help="Ask nobody: only compare what is stored with what its inputs lead to.")
    ] = False,
    settings: SettingsFile = None,
    as_json: AsJson = False,
) -> None:
    """Say what a run would ask and move, before it moves any pixels: scenes, requests, bytes, cost of egress."""
    from geostack_pipeline.commands.plan import plan_command

    _end(
        lambda: plan_command(
            tuple(provider or ()),
            first,
            last or first,
            settings_file=settings,
            until=until,
            refresh=refresh,
            pins=_pins(pin or []),
            offline=offline,
            as_json=as_json,
        )
    )


@app.command()
def show(
    asset: Annotated[
        str | None, typer.Argument(help="Asset, e.g. earth_search/cube; all of them when left out.")
    ] = None,
    partition: Annotated[str | None, typer.Argument(help="UTC date; all of them when left out.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Stored version; the current one when not given.")
    ] = None,
    name: Annotated[
        str | None, typer.Option(help="Table beside the main one: rejected, dropped, skipped, plumes.")
    ] = None,
    settings: SettingsFile = None,
    as_json: AsJson = False,
) -> None:
    """Show what is stored."""
    from geostack_pipeline.commands.show import show_command

    _end(lambda: show_command(asset, partition, version, name, settings_file=settings, as_json=as_json))


@app.command()
def serve(
    port: Annotated[int, typer.Option(help="Port of the STAC API on 127.0.0.1; 0: a free one.")] = 7822,
    folder: Annotated[
        Path | None, typer.Option(help="Where the catalog over all dates is written; else a temporary one.")
    ] = None,
    write_only: Annotated[
        bool, typer.Option("--write-only", help="Write the static catalog to --folder and end.")
    ] = False,
    settings: SettingsFile = None,
) -> None:
    """Serve the published results of all dates as a STAC API until Ctrl-C."""
    from geostack_pipeline.commands.serve import serve_command

    _end(lambda: serve_command(port=port, folder=folder, write_only=write_only, settings_file=settings))


@app.command()
def report(
    date: Annotated[str, typer.Argument(help="UTC date, YYYY-MM-DD.")],
    out: Annotated[Path | None, typer.Option(help="Copy the page to this file.")] = None,
    version: Annotated[
        str | None, typer.Option(help="Stored version of `published`; the current one when not given.")
    ] = None,
    settings: SettingsFile = None,
) -> None:
    """Say where the page of a date lies: map, plumes, rates and provenance in one HTML file."""
    from geostack_pipeline.commands.serve import report_command

    _end(lambda: report_command(date, out=out, version=version, settings_file=settings))


@scenes_app.command("diff")
def scenes_diff(
    provider: Annotated[str, typer.Argument(help="Catalog, e.g. earth_search.")],
    date: Annotated[str, typer.Argument(help="UTC date, YYYY-MM-DD.")],
    old: Annotated[
        str | None, typer.Option(help="Version to compare from; the one before when not given.")
    ] = None,
    new: Annotated[
        str | None, typer.Option(help="Version to compare to; the current one when not given.")
    ] = None,
    settings: SettingsFile = None,
    as_json: AsJson = False,
) -> None:
    """Compare two versions of a scene list: scenes added, removed, changed field by field."""
    from geostack_pipeline.commands.diff import diff_command

    _end(lambda: diff_command(provider, date, old, new, settings_file=settings, as_json=as_json))


@model_app.command("list")
def model_list(settings: SettingsFile = None, as_json: AsJson = False) -> None:
    """Show every model that was promoted, and the candidates that were refused with what did not hold."""
    from geostack_pipeline.commands.model import list_command

    _end(lambda: list_command(settings_file=settings, as_json=as_json))


@model_app.command("train")
def model_train(settings: SettingsFile = None, as_json: AsJson = False) -> None:
    """Train a candidate on what is stored now and let it meet the model in use: what the job `retrain` does."""
    from geostack_pipeline.commands.train import train_command

    _end(lambda: train_command(settings_file=settings, as_json=as_json))


@model_app.command("rollback")
def model_rollback(
    version: Annotated[str, typer.Argument(help="Version of an earlier model, or the beginning of one.")],
    settings: SettingsFile = None,
    as_json: AsJson = False,
) -> None:
    """Make an earlier model the one in use."""
    from geostack_pipeline.commands.model import rollback_command

    _end(lambda: rollback_command(version, settings_file=settings, as_json=as_json))


@model_app.command("trail")
def model_trail(
    subject: Annotated[
        str | None,
        typer.Argument(help="Version of a model, or the id of an EMIT item or label; else the model in use."),
    ] = None,
    settings: SettingsFile = None,
    as_json: AsJson = False,
) -> None:
    """Follow data through models: items, training set, model, methane; in both directions."""
    from geostack_pipeline.commands.model import trail_command

    _end(lambda: trail_command(subject, settings_file=settings, as_json=as_json))


@app.command()
def gc(
    grace_hours: Annotated[float, typer.Option(help="Keep everything younger than this.")] = 24.0,
    dry_run: Annotated[bool, typer.Option(help="Only say what would be removed.")] = False,
    settings: SettingsFile = None,
    as_json: AsJson = False,
) -> None:
    """Remove versions, attempts and cached bytes that nothing refers to any more."""
    from geostack_pipeline.commands.collect import gc_command

    _end(
        lambda: gc_command(grace_hours=grace_hours, dry_run=dry_run, settings_file=settings, as_json=as_json)
    )


def _pins(texts: list[str]) -> dict[str, str]:
    pins = {}
    for text in texts:
        name, separator, version = text.partition("=")
        if not separator or name.count("/") < 2 or not version:
            raise SettingsError(
                "the pin is not of the form <asset>/<date>=<version>",
                subject=f"--pin {text}",
                action="write it like earth_search/scenes/2024-06-01=0123456789abcdef",
            )
        pins[name] = version
    return pins


def _end(command: Callable[[], Exit]) -> None:
    """Run a command; every expected error becomes one clear line and an exit code."""
    try:
        code = command()
    except SettingsError as error:
        _say(error)
        code = Exit.USAGE
    except GeostackError as error:
        _say(error)
        code = Exit.FAILED
    except (KeyboardInterrupt, InterruptedError):
        errors.print(
            "interrupted: finished dates are stored, nothing is torn; run the command again to go on"
        )
        code = Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader went away (`| head`): not an error, but stdout must not be flushed again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = Exit.OK
    except OSError as error:
        # The system's own word, such as a folder that may not be made: it names the file, a traceback would bury it.
        errors.print("[red]error[/red] ", end="")
        errors.print(f"{error}. Next: check the file or folder it names, then run again.", markup=False)
        code = Exit.FAILED
    raise typer.Exit(int(code))


def _say(error: GeostackError) -> None:
    errors.print("[red]error[/red] ", end="")
    errors.print(str(error), markup=False)


def main(*args: Any) -> None:
    """Entry point of the ``geostack`` script."""
    app(*args)


if __name__ == "__main__":
    main()
