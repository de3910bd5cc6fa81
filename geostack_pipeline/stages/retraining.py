"""When the model is trained again: enough labels that it has not learnt from, one training at a time, no data twice.

Like :mod:`~geostack_pipeline.stages.changes`, a turn first writes down what it means to do and does it in the next turn,
so that a turn that is repeated after a crash starts the same training under the same key.  What a training learnt from is
read from what it stored, never guessed from what was stored when it was asked for.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

from geostack_pipeline.errors import SettingsError
from geostack_pipeline.providers.coerce import format_time
from geostack_pipeline.storage.digest import version_of

Labelled = Iterable[tuple[str, str]]
"""(item id, label revision) of granules with usable outlines."""
_FORM = 2
_MOST_DOUBLINGS = 20


@dataclass(frozen=True, kw_only=True)
class Known:
    """What the store tells of labels and models."""

    labelled: Labelled
    """What is stored now."""
    champion: Labelled | None = None
    """What the model in use learnt from; None where there is no model."""
    trained_at: datetime | None = None
    """When the model in use was made."""
    judged: Labelled | None = None
    """What the candidate learnt from that was judged last, promoted or not; None where none is stored."""
    judged_at: datetime | None = None


@dataclass(frozen=True, kw_only=True)
class Last:
    """What became of the training that was started last."""

    learnt: bool = False
    """It came to its end: what it learnt from is what was judged."""
    failed_at: datetime | None = None
    """It failed, and nobody tries it again.  With neither of both it has not ended, was cancelled, or was deleted."""


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """What was meant and done so far."""

    intent: str | None = None
    """Key of the training that the next free turn starts."""
    started: str | None = None
    """Key of the training that was started last."""
    tried: Mapping[str, str] = field(default_factory=dict)
    """Short digest of an item -> of its label's revision, for the labels that were stored at the last start."""
    tried_at: datetime | None = None
    waiting_since: datetime | None = None
    """When labels were first seen that no training was meant for."""
    failures: int = 0
    """Trainings in a row that failed and were meant again for about the same labels."""


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What one turn decides."""

    start: str | None
    """Key of the training to start; None starts none."""
    attempts: Attempts
    """To be committed together with the start."""
    reason: str
    new: int
    """Granules whose label the champion has not learnt from, or whose label it learnt from is gone."""


def decide(
    known: Known,
    attempts: Attempts,
    *,
    busy: bool,
    now: datetime,
    granules: int,
    days: float,
    last: Last | None = None,
    pause: timedelta = timedelta(hours=1),
) -> Decision:
    """Decide a turn.  Pure.

    A training is meant once ``granules`` labels, or any at all after ``days``, separate what is stored both from what
    the champion learnt from and from what was judged last: a candidate that was refused is not trained again from the
    same labels, nor for each single label more.  A training that failed is meant again after a pause that doubles.

    Args:
        known: What the store tells.  It must be read after ``busy`` and ``last``: a training that ends in between
            has then been heard of.
        attempts: The committed ones.
        busy: Whether a training runs or is queued, by whomever it was started, or is about to be tried again.
        now: The present, UTC.
        granules: Smallest number of granules with other labels.
        days: Time after which a smaller number is enough.
        last: What became of ``attempts.started``; None where nothing was started.
        pause: Time after a failure until the training is meant again, for the first failure.
    """
    stored = _digests(known.labelled)
    new = len(_different(stored, _digests(known.champion or ())))
    failed_at = _owed(known, last)
    fresh = _fresh(stored, new, known, attempts, last, failed_at)
    if attempts.intent is not None:
        if busy:
            return _wait(attempts, new, "a training runs; the next one waits for its end")
        if fresh and stored:
            started = replace(
                attempts, intent=None, started=attempts.intent, tried=stored, tried_at=now, waiting_since=None
            )
            reason = f"{new} granule(s) with labels that the champion has not learnt from"
            return Decision(start=attempts.intent, attempts=started, new=new, reason=reason)
        # Another training, or this one whose start was not written down, has learnt from it meanwhile.
        attempts = replace(attempts, intent=None)
    if not stored:
        return _wait(attempts, new, "no labelled granule is stored")
    if fresh == 0:
        what = (
            "the champion has learnt from what is stored" if new == 0 else "no label since the last training"
        )
        return _wait(replace(attempts, waiting_since=None), new, what)
    waiting = attempts.waiting_since or now
    moments = (known.trained_at, known.judged_at, attempts.tried_at)
    before = max((moment for moment in moments if moment is not None), default=waiting)
    attempts = replace(attempts, waiting_since=waiting)
    if failed_at is not None and len(_different(stored, attempts.tried)) < granules:
        # What it was meant for is still to be learnt from, however few labels that is.
        doubled = pause * 2 ** min(attempts.failures, _MOST_DOUBLINGS)
        due = failed_at + min(doubled, timedelta(days=days))
        if now < due:
            return _wait(
                attempts, new, f"the last training failed; it is meant again at {due:%Y-%m-%dT%H:%M:%SZ}"
            )
        return _mean(attempts, stored, now, new, "the last training failed", failures=attempts.failures + 1)
    overdue = now - before >= timedelta(days=days)
    if fresh < granules and not overdue:
        return _wait(
            attempts,
            new,
            f"{fresh} of {granules} granule(s) with new labels, "
            f"{(now - before).total_seconds() / 86400.0:.1f} of {days:g} day(s)",
        )
    late = " after the longest wait" if fresh < granules else ""
    return _mean(attempts, stored, now, new, f"{fresh} granule(s) with new labels{late}")


def _owed(known: Known, last: Last | None) -> datetime | None:
    """Return when the last training failed; None where it did not, or where one was judged since."""
    if last is None or last.failed_at is None:
        return None
    if known.judged_at is not None and known.judged_at > last.failed_at:
        return None
    return last.failed_at


def _fresh(
    stored: Mapping[str, str],
    new: int,
    known: Known,
    attempts: Attempts,
    last: Last | None,
    failed_at: datetime | None,
) -> int:
    """Return how many granules have labels that nothing was trained from."""
    if failed_at is not None:
        # Also where it failed after its candidate was judged: the verdict was not carried out.
        return new
    if known.judged is not None:
        new = min(new, len(_different(stored, _digests(known.judged))))
    if last is not None and not (last.learnt and known.judged is not None) and last.failed_at is None:
        # It goes on, or was cancelled: whoever does that does not want it back at the next turn.
        new = min(new, len(_different(stored, attempts.tried)))
    return new


def _mean(
    attempts: Attempts, stored: Mapping[str, str], now: datetime, new: int, why: str, *, failures: int = 0
) -> Decision:
    # The same labels may be right once more after others were tried in between, and Dagster launches a key once.  A
    # turn that is repeated takes the key from the cursor, where this turn writes it down.
    key = f"retrain/{version_of({'labelled': sorted(stored.items()), 'at': format_time(now)})}"
    return Decision(
        start=None,
        attempts=replace(attempts, intent=key, failures=failures),
        new=new,
        reason=f"{why}: a training begins at the next turn",
    )


def encode(attempts: Attempts) -> str:
    """Return the attempts as text."""
    return json.dumps(
        {
            "form": _FORM,
            "intent": attempts.intent,
            "started": attempts.started,
            "tried": dict(sorted(attempts.tried.items())),
            "tried_at": _text(attempts.tried_at),
            "waiting_since": _text(attempts.waiting_since),
            "failures": attempts.failures,
        },
        separators=(",", ":"),
    )


def decode(text: str | None) -> Attempts:
    """Return the attempts that :func:`encode` wrote; none where there is no text.

    Raises:
        SettingsError: It is no such text.
    """
    if not text:
        return Attempts()
    try:
        content = json.loads(text)
        form = {1: 1, _FORM: _FORM}[content["form"]]
        tried = {str(item): str(revision) for item, revision in content["tried"].items()}
        tried_at, waiting_since = _moment(content["tried_at"]), _moment(content["waiting_since"])
        if form == 1:
            # Its keys could repeat: what it meant is decided again.
            return Attempts(tried=tried, tried_at=tried_at, waiting_since=waiting_since)
        return Attempts(
            intent=content["intent"],
            started=content["started"],
            tried=tried,
            tried_at=tried_at,
            waiting_since=waiting_since,
            failures=int(content["failures"]),
        )
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise SettingsError(
            "the sensor's cursor cannot be read",
            subject="sensor enough_new_labels",
            found=f"{type(error).__name__}: {error}"[:160],
            action="reset the cursor in the UI; labels that were tried before may then be tried once more",
        ) from None


def _wait(attempts: Attempts, new: int, reason: str) -> Decision:
    return Decision(start=None, attempts=attempts, new=new, reason=reason)


def _digests(labelled: Labelled) -> dict[str, str]:
    return {_short(item, 12): _short(revision, 8) for item, revision in labelled}


def _different(one: Mapping[str, str], other: Mapping[str, str]) -> set[str]:
    return {item for item in {*one, *other} if one.get(item) != other.get(item)}


def _short(text: str, length: int) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:length]


def _text(moment: datetime | None) -> str | None:
    return None if moment is None else format_time(moment)


def _moment(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).astimezone(UTC)
