"""Each change of a catalog gets its run exactly once: for any events, crashes, failed pages and late answers."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from geostack_pipeline.areas import Area
from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.revisions import Revision
from geostack_pipeline.stages import changes
from geostack_pipeline.stages.changes import Cursor, RunWanted, advance, decode, encode, touched_days

BASE = datetime(2026, 3, 1, tzinfo=UTC)
OVERLAP = timedelta(seconds=40)
FIRST = date(2026, 2, 10)
DAYS = [FIRST + timedelta(days=n) for n in range(4)]
AREA = Area(name="a", bbox=(50.0, 30.0, 51.0, 31.0))
INSIDE, OUTSIDE = (50.5, 30.5, 52.0, 32.0), (-20.0, 30.0, -19.0, 31.0)


@dataclass(frozen=True)
class State:
    """One revision of a granule."""

    revision: int
    revised: float
    visible: float
    day: date | None
    """None: deleted."""
    inside: bool


@dataclass
class World:
    """A catalog with a clock, the lists that runs stored, and a daemon that knows the keys of its runs."""

    clock: float = 0.0
    granules: dict[str, list[State]] = field(default_factory=dict)
    named: dict[str, date] = field(default_factory=dict)
    lists: dict[str, set[tuple[str, int]]] = field(default_factory=dict)
    launched: dict[str, RunWanted] = field(default_factory=dict)
    waiting: list[str] = field(default_factory=list)
    cursor: str = ""
    flying: tuple[float, str, set[tuple[str, int]]] | None = None
    """The one run that has searched and not stored yet: when it searched, its date, what it found."""

    def change(self, name: str, day: date | None, *, inside: bool, lag: float) -> None:
        """Add, revise or delete a granule; it shows after ``lag``."""
        states = self.granules.setdefault(name, [])
        if day is None and (not states or states[-1].day is None):
            return
        self.named.setdefault(name, day or FIRST)
        before = states[-1] if states else State(0, 0.0, 0.0, None, False)
        states.append(
            State(before.revision + 1, self.clock, max(before.visible, self.clock + lag), day, inside)
        )

    def shown(self) -> dict[str, State]:
        """Return what the catalog shows now."""
        found = {}
        for name, states in self.granules.items():
            seen = [state for state in states if state.visible <= self.clock]
            if seen:
                found[name] = seen[-1]
        return found

    def revisions(self, since: datetime, until: datetime) -> list[Revision]:
        """Answer as :meth:`RevisionSource.revisions` does: whole seconds, both included."""
        since, until = since.replace(microsecond=0), until.replace(microsecond=0) + timedelta(seconds=1)
        found = []
        for name, state in self.shown().items():
            when = BASE + timedelta(seconds=state.revised)
            if since <= when <= until:
                found.append(
                    Revision(
                        concept_id=name,
                        item=name,
                        collection="c",
                        revision_id=None if state.day is None else state.revision,
                        revision_date=when,
                        deleted=state.day is None,
                        dates=() if state.day is None else (state.day,),
                        named=self.named[name],
                        bbox=None if state.day is None else INSIDE if state.inside else OUTSIDE,
                    )
                )
        return sorted(found, key=lambda each: (each.revision_date, each.concept_id))

    def tick(self, *, crash: int | None, page_fails: bool, most: int) -> None:
        """One turn of the sensor; a crash comes after so many runs were launched, and before the commit."""
        if page_fails:
            return
        cursor = decode(self.cursor).get("p") or Cursor(since=BASE)
        now = BASE + timedelta(seconds=self.clock)
        done = advance(
            cursor,
            self.revisions(cursor.since, now),
            now,
            lambda revision: touched_days(
                revision,
                [AREA],
                lambda day, item: item in {name for name, _ in self.lists.get(day, ())},
                first=DAYS[0],
                last=DAYS[-1],
            ),
            overlap=OVERLAP,
            most=most,
        )
        for wanted in done.runs[:crash]:
            if wanted.key not in self.launched:
                self.launched[wanted.key] = wanted
                self.waiting.append(wanted.key)
        if crash is None:
            self.cursor = encode({"p": done.cursor})

    def content(self, day: str) -> set[tuple[str, int]]:
        """Return what a search for a date gives now."""
        return {
            (name, state.revision)
            for name, state in self.shown().items()
            if state.day is not None and state.day.isoformat() == day and state.inside
        }

    def search(self) -> None:
        """Let the run that has waited longest ask for its date; a provider has one run at a time."""
        self.store()
        if self.waiting:
            day = self.launched[self.waiting.pop(0)].day
            self.flying = (self.clock, day, self.content(day))

    def store(self) -> None:
        """Let the run that has searched store its list."""
        if self.flying is not None:
            _, day, found = self.flying
            self.lists[day], self.flying = found, None

    def wait(self, seconds: float) -> None:
        """Let time pass; no run takes longer than the overlap."""
        if self.flying is not None and self.clock + seconds - self.flying[0] >= OVERLAP.total_seconds() - 1:
            self.store()
        self.clock += seconds

    def settle(self, most: int) -> None:
        """Let time pass without faults until nothing more can come."""
        for _ in range(4 + math.ceil(len(DAYS) / most) * 2):
            self.tick(crash=None, page_fails=False, most=most)
            while self.waiting:
                self.search()
            self.store()
            self.wait(OVERLAP.total_seconds() / 4)
        assert decode(self.cursor)["p"].pending == {}


NAMES = st.sampled_from(["g1", "g2", "g3", "g4"])
# Halves of seconds: several changes share an instant, and instants lie between the whole seconds of a question.
LAGS = st.sampled_from([0.0, 0.5, 10.0, 39.5])
EVENTS = st.one_of(
    st.tuples(st.just("put"), NAMES, st.sampled_from(DAYS), st.booleans(), LAGS),
    st.tuples(st.just("delete"), NAMES, LAGS),
    st.tuples(st.just("wait"), st.sampled_from([0.0, 0.5, 7.0, 40.0, 90.0])),
    st.tuples(st.just("tick"), st.sampled_from([None, None, 0, 1, 2]), st.sampled_from([False, False, True])),
    st.tuples(st.just("search")),
    st.tuples(st.just("store")),
    st.tuples(st.just("schedule"), st.sampled_from(DAYS)),
)


TICK = ("tick", None, False)
ADDED = ("put", "g1", DAYS[0], True, 0.0)
AT_THE_END_OF_THE_OVERLAP = [ADDED, TICK, ("wait", 0.5), ("wait", 40.0), TICK, TICK]
"""The overlap ends between two whole seconds, and a change lies before its end in the same second."""
DELETED_IN_FLIGHT = [ADDED, TICK, TICK, ("search",), ("delete", "g1", 0.0), TICK, ("store",)]
"""A run has found a granule, which is deleted, and stores it when the deletion was told already."""


def play(events: list[Any], most: int) -> World:
    world = World()
    for kind, *more in events:
        if kind == "put":
            name, day, inside, lag = more
            # A revision may move a granule by a day at most: its name says where it began.
            first = world.named.get(name, day)
            day = min(max(day, first - timedelta(days=1)), first + timedelta(days=1))
            world.change(name, day, inside=inside, lag=lag)
        elif kind == "delete":
            world.change(more[0], None, inside=False, lag=more[1])
        elif kind == "wait":
            world.wait(more[0])
        elif kind == "tick":
            world.tick(crash=more[0], page_fails=more[1], most=most)
        elif kind == "search":
            world.search()
        elif kind == "store":
            world.store()
        else:
            world.store()
            world.lists[more[0].isoformat()] = world.content(more[0].isoformat())
    return world


@settings(max_examples=300)
@example(AT_THE_END_OF_THE_OVERLAP, 1)
@example(DELETED_IN_FLIGHT, 1)
@given(st.lists(EVENTS, max_size=40), st.integers(1, 3))
def test_each_change_gets_its_run_exactly_once(events: list[Any], most: int) -> None:
    world = play(events, most)
    world.settle(most)
    # Nothing is lost: every stored list is what the catalog has.
    for day in DAYS:
        assert world.lists.get(day.isoformat(), set()) == world.content(day.isoformat())
    # Nothing is done twice: a change has one run for a date.
    done = Counter((wanted.day, change) for wanted in world.launched.values() for change in wanted.changes)
    assert set(done.values()) <= {1}
    assert all(wanted.changes for wanted in world.launched.values())
    # Every granule that belongs into a list got there by its own change.
    for name, state in world.shown().items():
        if state.day is not None and state.inside:
            assert done[state.day.isoformat(), f"{name} {state.revision}"] == 1


@settings(max_examples=100)
@given(st.lists(EVENTS, max_size=40), st.integers(1, 3))
def test_a_quiet_catalog_leads_to_no_run(events: list[Any], most: int) -> None:
    world = play(events, most)
    world.settle(most)
    before = dict(world.launched)
    for _ in range(5):
        world.clock += 13.0
        world.tick(crash=None, page_fails=False, most=most)
    assert world.launched == before
    assert decode(world.cursor)["p"].seen == {}


def revision(**more: Any) -> Revision:
    return replace(
        Revision(
            concept_id="G1",
            item="g",
            collection="c",
            revision_id=1,
            revision_date=BASE,
            deleted=False,
            dates=(DAYS[1],),
            named=DAYS[1],
            bbox=INSIDE,
        ),
        **more,
    )


@pytest.mark.parametrize(
    ("changed", "stored", "days", "reason"),
    [
        ({}, [], ["2026-02-11"], ""),
        ({"bbox": None}, [], ["2026-02-11"], ""),
        ({"bbox": OUTSIDE}, [], [], "outside the areas"),
        # It moved out of the areas, or to another day: the list that holds it is asked again.
        ({"bbox": OUTSIDE}, ["2026-02-11"], ["2026-02-11"], ""),
        ({"dates": (DAYS[2],)}, ["2026-02-11"], ["2026-02-11", "2026-02-12"], ""),
        ({"dates": ()}, [], [], "without a time"),
        ({"dates": ()}, ["2026-02-12"], ["2026-02-12"], ""),
        ({"dates": (date(2020, 1, 1),), "named": None}, [], [], "outside the partitions"),
        ({"deleted": True, "dates": (), "bbox": None}, [], [], "deleted and in no stored scene list"),
        ({"deleted": True, "dates": (), "bbox": None}, ["2026-02-10"], ["2026-02-10"], ""),
    ],
)
def test_which_dates_a_change_concerns(
    changed: dict[str, Any], stored: list[str], days: list[str], reason: str
) -> None:
    found = touched_days(
        revision(**changed), [AREA], lambda day, _: day in stored, first=DAYS[0], last=DAYS[-1]
    )
    assert sorted(found.days) == days
    assert found.reason == reason


@pytest.mark.parametrize(
    ("box", "area", "meet"),
    [
        ((179.0, 0.0, -179.0, 1.0), (-179.5, 0.5, -178.0, 2.0), True),
        ((179.0, 0.0, -179.0, 1.0), (-178.5, 0.5, -178.0, 2.0), False),
        ((179.0, 0.0, 181.0, 1.0), (-179.5, 0.5, -178.0, 2.0), True),
        ((-10.0, 0.0, 10.0, 1.0), (170.0, 0.0, -170.0, 1.0), False),
        ((-10.0, 0.0, 10.0, 1.0), (170.0, 0.0, -5.0, 1.0), True),
        ((0.0, 0.0, 1.0, 1.0), (0.5, 1.5, 2.0, 2.0), False),
        ((-180.0, -90.0, 180.0, 90.0), (12.0, 1.5, 13.0, 2.0), True),
    ],
)
def test_boxes_across_the_antimeridian(box: Any, area: Any, meet: bool) -> None:
    assert changes._meets(box, [Area(name="a", bbox=area)]) is meet


def test_more_dates_than_one_turn_may_run() -> None:
    many = [
        revision(concept_id=f"G{n}", dates=(DAYS[n % 4],), named=None, revision_date=BASE) for n in range(8)
    ]
    cursor, days = Cursor(since=BASE - OVERLAP), []
    for turn in range(4):
        done = advance(
            cursor,
            many,
            BASE + timedelta(seconds=turn),
            lambda each: touched_days(each, [AREA], lambda *_: False, first=DAYS[0], last=DAYS[-1]),
            overlap=OVERLAP,
            most=3,
        )
        assert done.found == (8 if turn == 0 else 0)
        cursor, days = done.cursor, [*days, [wanted.day for wanted in done.runs]]
    assert days == [[], ["2026-02-10", "2026-02-11", "2026-02-12"], ["2026-02-13"], []]


@pytest.mark.parametrize("text", ["{", "[]", '{"form":9}', '{"form":1,"providers":{"p":{"since":3}}}'])
def test_a_cursor_that_is_none_says_what_to_do(text: str) -> None:
    with pytest.raises(SettingsError, match="reset the cursor"):
        decode(text)
    assert decode("") == decode(None) == {}
