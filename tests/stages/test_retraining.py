"""A training begins when enough labels separate the model from what is stored; never two, never the same data twice."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.stages.retraining import Attempts, Decision, decide, decode, encode

NOW = datetime(2026, 3, 1, tzinfo=UTC)
N, DAYS = 3, 10.0


def labels(*names: str, revision: str = "1") -> set[tuple[str, str]]:
    return {(name, revision) for name in names}


def turn(attempts: Attempts, labelled: Any, champion: Any = None, **more: Any) -> Decision:
    given_ = {"busy": False, "now": NOW, "granules": N, "days": DAYS, **more}
    done = decide(labelled, champion, attempts, **given_)
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
    assert "has learnt from" in quiet(attempts, labels("a", "b", "c"), labels("a", "b", "c")).reason


def test_revised_and_withdrawn_labels_count() -> None:
    champion = labels("a", "b", "c", "d")
    revised = labels("a", "b", revision="2") | labels("c", "d")
    assert quiet(Attempts(), revised, champion).new == 2
    train(Attempts(), revised - labels("c"), champion)


def test_a_refused_candidate_is_not_trained_again_from_the_same_labels() -> None:
    champion, stored = labels("a"), labels("a", "b", "c", "d")
    key, attempts = train(Attempts(), stored, champion)
    # Refused: the champion stays, and so does the difference.
    for later in (0, 5, 50, 5000):
        done = quiet(attempts, stored, champion, now=NOW + timedelta(days=later))
        assert done.new == 3
        assert "no label since the last training" in done.reason
    # Nor for each single label more…
    more = stored | labels("e", "f")
    assert "2 of 3" in quiet(attempts, more, champion).reason
    # …but for enough of them, or after the longest wait, and then under another key.
    again, _ = train(attempts, more | labels("g"), champion)
    late, _ = train(attempts, more, champion, now=NOW + timedelta(days=DAYS))
    assert len({key, again, late}) == 3


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
    assert turn(meant, stored | labels("d", "e", "f"), busy=True).start is None
    assert turn(meant, stored | labels("d", "e", "f")).start == once.start


EVENT = st.one_of(
    st.tuples(st.just("label"), st.sampled_from("abcdef"), st.integers(1, 3)),
    st.tuples(st.just("remove"), st.sampled_from("abcdef")),
    st.tuples(st.just("turn"), st.booleans()),
    st.tuples(st.just("end"), st.booleans()),
    st.tuples(st.just("wait"), st.sampled_from([0.5, 6.0, 11.0])),
)


@settings(max_examples=200)
@given(st.lists(EVENT, max_size=50))
def test_any_sequence_of_labels_crashes_and_verdicts(events: list[Any]) -> None:
    attempts, champion, running = Attempts(), None, None
    stored: dict[str, str] = {}
    keys: set[str] = set()
    judged: list[dict[str, str]] = []
    now = NOW
    for kind, *more in events:
        if kind == "label":
            stored[more[0]] = str(more[1])
        elif kind == "remove":
            stored.pop(more[0], None)
        elif kind == "wait":
            now += timedelta(days=more[0])
        elif kind == "end" and running is not None:
            if more[0]:
                champion = running
            judged.append(running)
            running = None
        elif kind == "turn":
            done = turn(
                attempts,
                stored.items(),
                None if champion is None else champion.items(),
                busy=running is not None,
                now=now,
            )
            if done.start is not None and done.start not in keys:
                assert running is None, "two trainings at once"
                keys.add(done.start)
                running = dict(stored)
            if not more[0]:  # else: a crash before the commit
                attempts = done.attempts
    # Labels that stay as they are lead to one more training at most: the one that is meant or waited for already.
    before = len(keys)
    for _ in range(8):
        running = None
        now += timedelta(days=DAYS)
        done = turn(attempts, stored.items(), None if champion is None else champion.items(), now=now)
        attempts = done.attempts
        if done.start is not None:
            keys.add(done.start)
    assert len(keys) - before <= 2
    assert attempts.intent is None


def test_a_cursor_that_is_none_says_what_to_do() -> None:
    for text in ("{", "[]", '{"form":7}', '{"form":1,"tried":3}'):
        with pytest.raises(SettingsError, match="reset the cursor"):
            decode(text)
    assert decode(None) == Attempts()
