"""A training begins when enough labels separate the model from what is stored; never two, never the same data twice."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.stages.retraining import Attempts, Decision, Known, Last, decide, decode, encode

NOW = datetime(2026, 3, 1, tzinfo=UTC)
N, DAYS = 3, 10.0
HOUR = timedelta(hours=1)


def labels(*names: str, revision: str = "1") -> set[tuple[str, str]]:
    return {(name, revision) for name in names}


def turn(attempts: Attempts, labelled: Any, champion: Any = None, **more: Any) -> Decision:
    known = {name: more.pop(name) for name in ("trained_at", "judged", "judged_at") if name in more}
    given_ = {"busy": False, "now": NOW, "granules": N, "days": DAYS, "pause": HOUR, **more}
    done = decide(Known(labelled=labelled, champion=champion, **known), attempts, **given_)
    assert decode(encode(done.attempts)) == done.attempts
    return done


def train(attempts: Attempts, labelled: Any, champion: Any = None, **more: Any) -> tuple[str, Attempts]:
    """Take the two turns that start a training."""
    first = turn(attempts, labelled, champion, **more)
    assert first.start is None
    assert first.attempts.intent is not None, first.reason
    second = turn(first.attempts, labelled, champion, **more)
    assert second.start == first.attempts.intent
    assert second.attempts.intent is None
    return second.start, second.attempts


def quiet(attempts: Attempts, labelled: Any, champion: Any = None, **more: Any) -> Decision:
    done = turn(attempts, labelled, champion, **more)
    assert done.start is None
    assert done.attempts.intent is None
    return done


def test_enough_labels_start_the_first_training() -> None:
    assert "no labelled granule" in quiet(Attempts(), set()).reason
    assert "2 of 3" in quiet(Attempts(), labels("a", "b")).reason
    _, attempts = train(Attempts(), labels("a", "b", "c"))
    # It was promoted: nothing separates the model from what is stored.
    learnt = labels("a", "b", "c")
    assert "has learnt from" in quiet(attempts, learnt, learnt, judged=learnt, last=Last(learnt=True)).reason


def test_revised_and_withdrawn_labels_count() -> None:
    champion = labels("a", "b", "c", "d")
    revised = labels("a", "b", revision="2") | labels("c", "d")
    assert quiet(Attempts(), revised, champion).new == 2
    train(Attempts(), revised - labels("c"), champion)


def test_a_refused_candidate_is_not_trained_again_from_the_same_labels() -> None:
    champion, stored = labels("a"), labels("a", "b", "c", "d")
    key, attempts = train(Attempts(), stored, champion)
    ended: dict[str, Any] = {"judged": stored, "judged_at": NOW, "last": Last(learnt=True)}
    # Refused: the champion stays, and so does the difference.
    for later in (0, 5, 50, 5000):
        done = quiet(attempts, stored, champion, now=NOW + timedelta(days=later), **ended)
        assert done.new == 3
        assert "no label since the last training" in done.reason
    # Nor for each single label more…
    more = stored | labels("e", "f")
    assert "2 of 3" in quiet(attempts, more, champion, **ended).reason
    # …but for enough of them, or after the longest wait, and then under another key.
    again, _ = train(attempts, more | labels("g"), champion, **ended)
    late, _ = train(attempts, more, champion, now=NOW + timedelta(days=DAYS), **ended)
    assert len({key, again, late}) == 3


def test_labels_that_came_before_the_run_began_were_tried_as_well() -> None:
    champion, meant = labels("a"), labels("a", "b", "c", "d")
    _, attempts = train(Attempts(), meant, champion)
    # The run waited in the queue, learnt from what was there by then, and was refused.
    learnt = meant | labels("e", "f", "g")
    ended: dict[str, Any] = {"judged": learnt, "judged_at": NOW, "last": Last(learnt=True)}
    for later in (0, 5, 50):
        quiet(attempts, learnt, champion, now=NOW + timedelta(days=later), **ended)
    # The same for a training that somebody else started, whatever was meant meanwhile.
    intent = turn(Attempts(), learnt, champion).attempts
    dropped = turn(intent, learnt, champion, judged=learnt, judged_at=NOW)
    assert (dropped.start, dropped.attempts.intent) == (None, None)


def test_labels_that_go_to_and_fro_have_a_key_each_time() -> None:
    one, other = labels("a", "b", "c"), labels("a", "b", "c", revision="2")
    attempts, champion, now = Attempts(), None, NOW
    keys = []
    for stored in (one, other, one, other, one):
        now += timedelta(hours=3)
        last = Last(learnt=True) if keys else None
        key, attempts = train(
            attempts, stored, champion, now=now, judged=champion, judged_at=champion and now, last=last
        )
        keys.append(key)
        champion = stored
    assert len(set(keys)) == 5


def test_a_training_that_failed_is_meant_again_later_and_later() -> None:
    champion, stored = labels("a"), labels("a", "b", "c", "d")
    key, attempts = train(Attempts(), stored, champion)
    keys, moment = [key], NOW
    for hours in (1, 2, 4, 8):
        last = Last(failed_at=moment)
        done = quiet(attempts, stored, champion, last=last, now=moment + timedelta(hours=hours - 0.1))
        assert "failed" in done.reason
        # A single label more does not make it due.
        quiet(attempts, stored | labels("e"), champion, last=last, now=moment + timedelta(hours=hours - 0.1))
        moment += timedelta(hours=hours)
        key, attempts = train(attempts, stored, champion, last=last, now=moment)
        keys.append(key)
    assert len(set(keys)) == 5
    # Other labels do, at once; and no wait is longer than the longest.
    train(attempts, stored | labels("e", "f", "g"), champion, last=Last(failed_at=moment), now=moment)
    many = replace(attempts, failures=5000)
    train(many, stored, champion, last=Last(failed_at=moment), now=moment + timedelta(days=DAYS))
    # It failed after its candidate was judged: the verdict has still to be carried out.
    train(attempts, stored, champion, judged=stored, judged_at=moment, last=Last(failed_at=moment + HOUR),
          now=moment + timedelta(days=DAYS))  # fmt: skip
    # Somebody trained by hand since.
    quiet(attempts, stored, champion, judged=stored, judged_at=moment + HOUR, last=Last(failed_at=moment),
          now=moment + timedelta(days=DAYS))  # fmt: skip


def test_a_training_that_was_cancelled_stays_so() -> None:
    champion, stored = labels("a"), labels("a", "b", "c", "d")
    _, attempts = train(Attempts(), stored, champion)
    quiet(attempts, stored, champion, last=Last(), now=NOW + timedelta(days=500))
    train(attempts, stored | labels("e", "f", "g"), champion, last=Last())


def test_few_labels_wait_for_the_longest_wait_only() -> None:
    champion, stored = labels("a"), labels("a", "b")
    made = NOW - timedelta(days=4)
    assert "4.0 of 10 day" in quiet(Attempts(), stored, champion, trained_at=made).reason
    train(Attempts(), stored, champion, trained_at=NOW - timedelta(days=10))
    # Without a model the wait begins when labels are first seen.
    waiting = quiet(Attempts(), stored).attempts
    assert quiet(waiting, stored, now=NOW + timedelta(days=9)).attempts.waiting_since == NOW
    train(waiting, stored, now=NOW + timedelta(days=10))
    # The same labels are never late.
    quiet(Attempts(), stored, stored, trained_at=NOW - timedelta(days=5000))


def test_never_two_trainings_at_once() -> None:
    stored = labels("a", "b", "c")
    meant = turn(Attempts(), stored).attempts
    waiting = turn(meant, stored, busy=True)
    assert waiting.start is None
    assert waiting.attempts == meant
    assert turn(waiting.attempts, stored).start == meant.intent


def test_a_turn_repeated_after_a_crash_starts_the_same_training() -> None:
    stored = labels("a", "b", "c")
    meant = turn(Attempts(), stored).attempts
    once = turn(meant, stored)
    # The commit is lost, more labels come, and the first try may be running already.
    later = NOW + timedelta(days=1)
    assert turn(meant, stored | labels("d", "e", "f"), busy=True, now=later).start is None
    assert turn(meant, stored | labels("d", "e", "f"), now=later).start == once.start


EVENT = st.one_of(
    st.tuples(st.just("label"), st.sampled_from("abcdef"), st.integers(1, 3)),
    st.tuples(st.just("remove"), st.sampled_from("abcdef")),
    st.tuples(st.just("turn"), st.booleans()),
    st.tuples(st.just("begin")),
    st.tuples(st.just("end"), st.sampled_from(["promoted", "refused", "refused", "failed", "unpromoted"])),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 6.0, 11.0])),
)


class World:
    """Labels, runs as Dagster launches them, and what they store."""

    def __init__(self) -> None:
        self.attempts, self.now = Attempts(), NOW
        self.stored: dict[str, str] = {}
        self.champion: dict[str, str] | None = None
        self.trained_at: datetime | None = None
        self.judged: list[dict[str, str]] = []
        self.judged_at: datetime | None = None
        self.runs: dict[str, Last | None] = {}
        """Key -> what became of it; None while it waits or runs."""
        self.queued: str | None = None
        self.running: tuple[str, dict[str, str]] | None = None

    def turn(self, *, commit: bool = True) -> bool:
        """Take a turn; return whether a run was launched."""
        self.now += timedelta(seconds=1)
        busy = self.queued is not None or self.running is not None
        done = turn(
            self.attempts,
            self.stored.items(),
            None if self.champion is None else self.champion.items(),
            busy=busy,
            now=self.now,
            last=None if self.attempts.started is None else self.runs[self.attempts.started] or Last(),
            trained_at=self.trained_at,
            judged=self.judged[-1].items() if self.judged else None,
            judged_at=self.judged_at,
        )
        new = done.start is not None and done.start not in self.runs
        if new:
            assert done.start is not None
            assert not busy, "two trainings at once"
            assert self.stored != self.champion, "the champion has learnt from this"
            owed = self.attempts.started is not None and (
                (last := self.runs[self.attempts.started]) is not None and last.failed_at is not None
            )
            assert owed or not self.judged or self.stored != self.judged[-1], "this was tried and refused"
            self.runs[done.start] = None
            self.queued = done.start
        if commit:
            self.attempts = done.attempts
        return new

    def begin(self) -> None:
        """Take a run from the queue: it learns from what is stored now."""
        if self.queued is not None:
            self.running, self.queued = (self.queued, dict(self.stored)), None

    def end(self, how: str) -> None:
        """End the run."""
        if self.running is None:
            return
        self.now += timedelta(seconds=1)
        (key, learnt), self.running = self.running, None
        if how != "failed":
            self.judged.append(learnt)
            self.judged_at = self.now
            self.now += timedelta(seconds=1)
        if how == "promoted":
            self.champion, self.trained_at = learnt, self.now
        bad = how in {"failed", "unpromoted"}
        self.runs[key] = Last(failed_at=self.now) if bad else Last(learnt=True)


@settings(max_examples=300)
@given(st.lists(EVENT, max_size=60))
def test_any_sequence_of_labels_crashes_and_verdicts(events: list[Any]) -> None:
    world = World()
    for kind, *more in events:
        if kind == "label":
            world.stored[more[0]] = str(more[1])
        elif kind == "remove":
            world.stored.pop(more[0], None)
        elif kind == "wait":
            world.now += timedelta(days=more[0])
        elif kind == "begin":
            world.begin()
        elif kind == "end":
            world.end(more[0])
        else:  # A turn; without the commit there was a crash before it.
            world.turn(commit=not more[0])
    # From here on labels stay as they are, and each training is refused.  What is under way ends first.
    world.begin()
    world.end("refused")
    launched = 0
    for _ in range(12):
        world.now += timedelta(days=DAYS)
        launched += world.turn()
        world.begin()
        world.end("refused")
    assert launched <= 1
    # Nothing is forgotten: what is stored was learnt from.
    assert not world.stored or world.stored in (world.champion, world.judged[-1])
    assert world.attempts.intent is None


def test_a_cursor_of_an_earlier_version_is_read() -> None:
    text = (
        '{"form":1,"intent":"retrain/1","tried":{"a":"1"},"tried_at":"2026-03-01T00:00:00.000000Z",'
        '"waiting_since":null}'
    )
    # What it meant is decided again, under a key that was never used.
    assert decode(text) == Attempts(tried={"a": "1"}, tried_at=NOW)
    train(decode(text), labels("a", "b", "c"))


def test_a_cursor_that_is_none_says_what_to_do() -> None:
    for text in ("{", "[]", '{"form":7}', '{"form":1,"tried":3}'):
        with pytest.raises(SettingsError, match="reset the cursor"):
            decode(text)
    assert decode(None) == Attempts()
