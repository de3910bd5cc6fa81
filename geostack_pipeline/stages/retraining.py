"""When the model is trained again: enough labels that it has not learnt from, one training at a time, no data twice.

Like :mod:`~geostack_pipeline.stages.changes`, a turn first writes down what it means to do and does it in the next turn,
so that a turn that is repeated after a crash starts the same training under the same key.
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
_FORM = 1


@dataclass(frozen=True, kw_only=True)
class Attempts:
    """What was meant and done so far."""

    intent: str | None = None
    """Key of the training that the next free turn starts."""
    tried: Mapping[str, str] = field(default_factory=dict)
    """Short digest of an item -> of its label's revision, for the labels of the last training that was meant."""
    tried_at: datetime | None = None
    waiting_since: datetime | None = None
    """When labels were first seen that no training was meant for."""


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
    labelled: Labelled,
    champion: Labelled | None,
    attempts: Attempts,
    *,
    busy: bool,
    now: datetime,
    granules: int,
    days: float,
    trained_at: datetime | None = None,
) -> Decision:
    """Decide a turn.  Pure.

    A training is meant once ``granules`` labels, or any at all after ``days``, separate what is stored both from what
    the champion learnt from and from what the last training was meant for: a candidate that was refused is not
    trained again from the same labels, nor for each single label more.

    Args:
        labelled: What is stored now.
        champion: What the model in use learnt from; None where there is no model.
        attempts: The committed ones.
        busy: Whether a training runs or is queued, by whomever it was started.
        now: The present, UTC.
        granules: Smallest number of granules with other labels.
        days: Time after which a smaller number is enough.
        trained_at: When the champion was made.
    """
    stored = _digests(labelled)
    learnt = None if champion is None else _digests(champion)
    new = len(_different(stored, learnt or {}))
    if attempts.intent is not None:
        if busy:
            return Decision(
                start=None,
                attempts=attempts,
                new=new,
                reason="a training runs; the next one waits for its end",
            )
        return Decision(
            start=attempts.intent,
            attempts=replace(attempts, intent=None),
            new=new,
            reason=f"{new} granule(s) with labels that the champion has not learnt from",
        )
    if not stored:
        return _wait(attempts, new, "no labelled granule is stored")
    fresh = min(new, len(_different(stored, attempts.tried)))
    if fresh == 0:
        what = (
            "the champion has learnt from what is stored" if new == 0 else "no label since the last training"
        )
        return _wait(replace(attempts, waiting_since=None), new, what)
    waiting = attempts.waiting_since or now
    last = max((moment for moment in (trained_at, attempts.tried_at) if moment is not None), default=waiting)
    attempts = replace(attempts, waiting_since=waiting)
    overdue = now - last >= timedelta(days=days)
    if fresh < granules and not overdue:
        return _wait(
            attempts,
            new,
            f"{fresh} of {granules} granule(s) with new labels, "
            f"{(now - last).total_seconds() / 86400.0:.1f} of {days:g} day(s)",
        )
    # The moment is in the key: the same labels may be right once more after others were tried in between.
    key = (
        f"retrain/{version_of({'labelled': sorted(stored.items()), 'after': sorted(attempts.tried.items())})}"
    )
    return Decision(
        start=None,
        attempts=Attempts(intent=key, tried=stored, tried_at=now),
        new=new,
        reason=f"{fresh} granule(s) with new labels{' after the longest wait' if fresh < granules else ''}: "
        "a training begins at the next turn",
    )


def encode(attempts: Attempts) -> str:
    """Return the attempts as text."""
    return json.dumps(
        {
            "form": _FORM,
            "intent": attempts.intent,
            "tried": dict(sorted(attempts.tried.items())),
            "tried_at": _text(attempts.tried_at),
            "waiting_since": _text(attempts.waiting_since),
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
        known = {_FORM: content}[content["form"]]
        return Attempts(
            intent=known["intent"],
            tried={str(item): str(revision) for item, revision in known["tried"].items()},
            tried_at=_moment(known["tried_at"]),
            waiting_since=_moment(known["waiting_since"]),
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
