"""What a run would change, found by comparing versions: nothing is launched and no catalog is asked."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from functools import cache
from typing import Literal

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.contract import Product, Provider
from geostack_pipeline.stages import cube, granules, methane, plumes, published, scenes, selected
from geostack_pipeline.stages.workspace import Workspace, asset_name, parse_day
from geostack_pipeline.storage.snapshot import Snapshot

STAGES = ("scenes", "selected", "granules", "cube", "methane")
"""The stages in the order in which they depend on each other; a provider may have the first ones only."""

ACROSS = (plumes.NAME, published.NAME)
"""What is made over all providers, in order, after the methane of one of them."""

Action = Literal["fresh", "ask", "build", "follow"]


@dataclass(frozen=True, kw_only=True)
class Step:
    """What one stage needs for one date."""

    stage: str
    day: str
    action: Action
    """``fresh``: nothing; ``ask``: the catalog must be asked; ``build``: the stored version is not the one that the
    inputs lead to; ``follow``: known only once the stage before has run."""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The steps of a range of dates, date by date in stage order."""

    provider: str
    steps: tuple[Step, ...]

    def pending(self, stage: str | None = None) -> list[Step]:
        """Return the steps that are not fresh, of one stage or of all."""
        return [step for step in self.steps if step.action != "fresh" and stage in {None, step.stage}]

    def days(self, *actions: Action, stage: str | None = None) -> list[str]:
        """Return the dates with a step of one of these actions."""
        return sorted(
            {step.day for step in self.steps if step.action in actions and stage in {None, step.stage}}
        )


def stages_of(product: Product, until: str | None = None) -> tuple[str, ...]:
    """Return the stages that a provider's scenes go through, in order, up to ``until`` or to their end.

    Raises:
        SettingsError: There is no such stage for these scenes.
    """
    stages = STAGES if product.methane else tuple(stage for stage in STAGES if stage != methane.NAME)
    if until is None:
        return stages
    if until not in stages:
        raise SettingsError(
            "there is no such stage" if until not in STAGES else "its scenes do not go through this stage",
            subject=f"stage {until}",
            action=f"choose one of {', '.join(stages)}",
        )
    return stages[: stages.index(until) + 1]


def day_range(ws: Workspace, first: str, last: str) -> list[str]:
    """Return the dates from first to last, both included, or say why they cannot be."""
    start, end = parse_day(first), parse_day(last)
    today = ws.now().date()
    if start > end:
        raise SettingsError(
            "the range of dates is empty", subject=f"{first} to {last}", action="give the earlier date first"
        )
    if start < ws.settings.start_date:
        raise SettingsError(
            "the date lies before the first partition",
            subject=f"date {first}",
            found=f"start_date {ws.settings.start_date}",
            action="choose a later date or move start_date in the settings",
        )
    final = ws.settings.end_date
    if final is not None and end > final:
        raise SettingsError(
            "the date lies after the last partition",
            subject=f"date {last}",
            found=f"end_date {final}",
            action="choose an earlier date or move end_date in the settings",
        )
    if end > today:
        raise SettingsError(
            "the date lies in the future",
            subject=f"date {last}",
            found=f"today is {today} (UTC)",
            action="choose a date up to today",
        )
    return [(start + timedelta(days=offset)).isoformat() for offset in range((end - start).days + 1)]


def make_plan(
    ws: Workspace,
    provider: Provider,
    days: Sequence[str],
    *,
    until: str | None = None,
    refresh: bool = False,
    frozen: Collection[str] = (),
) -> Plan:
    """Compare the stored versions of dates with those that their inputs lead to.

    Args:
        until: Last stage that is wanted; None takes the provider's last one and what is made over all providers.
        refresh: Treat every scene list as due.
        frozen: Dates whose stored list is taken as it is, because it was asked just now.
    """
    wanted = stages_of(provider.product, until)
    steps: list[Step] = []
    # The look-backs of neighbouring dates share all but one date: each cube is read once.
    cubes = _Cubes(cache(lambda day: ws.current(asset_name(provider.key, cube.NAME), day)))
    for day in sorted(days):
        chain = _day(ws, provider, day, wanted, cubes, refresh=refresh, frozen=day in frozen)
        if any(step.stage == cube.NAME and step.action != "fresh" for step in chain):
            cubes.moving.add(day)
        steps += chain
        if until is None and provider.product.methane:
            counted = _plumes(ws, day, chain[-1])
            steps += [counted, _published(ws, day, counted)]
    return Plan(provider=provider.key, steps=tuple(steps))


@dataclass(frozen=True)
class _Cubes:
    """The cubes of one provider while a range is planned."""

    of: Callable[[str], Snapshot | None]
    """Date -> current version."""
    moving: set[str] = field(default_factory=set)
    """Dates whose cube is to be built."""


def _day(
    ws: Workspace,
    provider: Provider,
    day: str,
    wanted: Iterable[str],
    cubes: _Cubes,
    *,
    refresh: bool,
    frozen: bool,
) -> list[Step]:
    due = None if frozen else "refresh asked for" if refresh else scenes.is_due(ws, provider, day)
    if due is not None:
        return [
            Step(stage=stage, day=day, action="ask" if stage == scenes.NAME else "follow", reason=due)
            for stage in wanted
        ]
    steps: list[Step] = []
    upstream: str | None = None
    open_end = False
    for stage in wanted:
        if open_end:
            steps.append(
                Step(stage=stage, day=day, action="follow", reason="the stage before is to be built")
            )
            continue
        asset = asset_name(provider.key, stage)
        pinned = f"{asset}/{day}" in ws.pins
        snapshot = ws.current(asset, day) if pinned else ws.stored(asset, day)
        if snapshot is None:
            lost = ws.artifacts.pointer(asset, day) is not None
            reason = "the stored version is gone" if lost else "never built"
        elif pinned or stage == scenes.NAME:
            # A pinned version is read as it is, whatever its own inputs would lead to by now.
            upstream = snapshot.version
            reason = None
        else:
            assert upstream is not None
            reason = _difference(ws, provider, day, stage, upstream, snapshot.version, snapshot.meta, cubes)
            upstream = snapshot.version
        if reason is None:
            steps.append(Step(stage=stage, day=day, action="fresh", reason="up to date"))
        else:
            open_end = True
            steps.append(Step(stage=stage, day=day, action="build", reason=reason))
    return steps


def _plumes(ws: Workspace, day: str, before: Step) -> Step:
    """Return the step of the plumes of a date, after the methane of one provider."""
    if before.action != "fresh":
        return Step(
            stage=plumes.NAME, day=day, action="follow", reason="the methane of this provider is to be built"
        )
    sources = plumes.detections(ws, day)
    stored = ws.stored(plumes.NAME, day)
    if stored is None:
        reason = "never built"
    elif stored.version == plumes.target(ws, day, sources):
        return Step(stage=plumes.NAME, day=day, action="fresh", reason="up to date")
    else:
        reason = "the methane of a provider, or the wind, changed"
    return Step(stage=plumes.NAME, day=day, action="build", reason=reason)


def _published(ws: Workspace, day: str, before: Step) -> Step:
    """Return the step of what is published of a date, after its plumes."""
    if before.action != "fresh":
        return Step(stage=published.NAME, day=day, action="follow", reason="the plumes are to be counted")
    counted = ws.stored(plumes.NAME, day)
    stored = ws.stored(published.NAME, day)
    if stored is None or counted is None:
        reason = "never published"
    elif stored.version == published.target(counted):
        return Step(stage=published.NAME, day=day, action="fresh", reason="up to date")
    else:
        reason = "the plumes, or the code, changed"
    return Step(stage=published.NAME, day=day, action="build", reason=reason)


def _difference(
    ws: Workspace,
    provider: Provider,
    day: str,
    stage: str,
    upstream: str,
    stored: str,
    meta: object,
    cubes: _Cubes,
) -> str | None:
    changed = "inputs, settings or code changed"
    if stage == selected.NAME:
        return None if stored == selected.version(ws, provider, upstream) else changed
    if stage == granules.NAME:
        assert hasattr(meta, "get")
        return None if meta.get("base") == granules.base(ws, provider, upstream) else changed
    if stage == cube.NAME:
        return None if stored == cube.version(ws, provider, upstream) else changed
    if stage == methane.NAME:
        own = cubes.of(day)  # fresh, or this stage would only follow
        if own is None or not own.nodes:
            return None if stored == methane.version(ws, provider, upstream, {}) else changed
        if cubes.moving.intersection(methane.lookback(ws, day)):
            return "a reference date is to be built"
        earlier = {
            name: snapshot.version
            for name, snapshot in methane.references(ws, provider, day, cubes.of).items()
        }
        return None if stored == methane.version(ws, provider, upstream, earlier) else changed
    raise AssertionError(stage)


def contiguous(days: Sequence[str], *, blocked: Iterable[str] = (), bridge: int = 7) -> list[tuple[str, str]]:
    """Return the ranges (first, last) that cover the dates, joined over gaps of up to ``bridge`` dates.

    A gap that holds a blocked date is never bridged.
    """
    stop = set(blocked)
    ranges: list[tuple[date, date]] = []
    for day in sorted(date.fromisoformat(day) for day in days):
        if ranges:
            first, last = ranges[-1]
            gap = [(last + timedelta(days=step)).isoformat() for step in range(1, (day - last).days)]
            if len(gap) <= bridge and not stop.intersection(gap):
                ranges[-1] = (first, day)
                continue
        ranges.append((day, day))
    return [(first.isoformat(), last.isoformat()) for first, last in ranges]
