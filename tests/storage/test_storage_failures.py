"""How failures are told apart, and that no secret is in what is told."""

from __future__ import annotations

import errno
import pickle

import obstore.exceptions as obs
import pytest

from geostack_pipeline.errors import StorageError
from geostack_pipeline.storage.failures import kind_of, plain_text, storage_error, storage_errors
from geostack_pipeline.storage.retry import is_temporary, transfer_error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (FileNotFoundError("x"), "missing"),
        (obs.AlreadyExistsError("x"), "exists"),
        (obs.PreconditionError("x"), "changed"),
        (obs.PermissionDeniedError("x"), "denied"),
        (obs.UnauthenticatedError("x"), "login"),
        (obs.NotSupportedError("x"), "unsupported"),
        (NotImplementedError("x"), "unsupported"),
        (OSError(errno.ENOSPC, "x"), "full"),
        (OSError(errno.EDQUOT, "x"), "full"),
        (
            obs.GenericError(
                "Generic LocalFileSystem error: Unable to copy: No space left on device (os error 28)"
            ),
            "full",
        ),
        (obs.GenericError("Disk quota exceeded (os error 122)"), "full"),
        (obs.GenericError("Unable to open file: Permission denied (os error 13)"), "denied"),
        (obs.GenericError("Read-only file system (os error 30)"), "denied"),
        (obs.GenericError("400 Bad Request: <Code>InvalidToken</Code>"), "denied"),
        (PermissionError("x"), "denied"),
        (OSError(errno.EMFILE, "x"), "crowded"),
        (obs.GenericError("Unable to open file /a: Too many open files (os error 24)"), "crowded"),
        (obs.GenericError("HTTP error: error sending request: Too many open files (os error 24)"), "crowded"),
        (obs.GenericError("HTTP error: error sending request"), "unreachable"),
        (obs.GenericError("HTTP error: request or response body error"), "unreachable"),
        (TimeoutError("x"), "unreachable"),
        (obs.GenericError("os error 280"), "other"),
        (obs.GenericError("os error 240"), "other"),
        (ValueError("x"), "other"),
    ],
)
def test_kinds(error: Exception, kind: str) -> None:
    assert kind_of(error) == kind


@pytest.mark.parametrize(
    "text",
    [
        "GET https://acc.blob.core.windows.net/c/k?sv=1&sig=HUSH failed",
        "GET https://user:HUSH@host/k failed",
        "bad header Authorization: HUSH",
        "token=HUSH in answer",
        "Signature=HUSH&x=1",
        'oops\n\nDebug source:\nClient { secret: "HUSH" }',
    ],
)
def test_no_secret_is_told(text: str) -> None:
    assert "HUSH" not in plain_text(obs.GenericError(text))
    error = storage_error(obs.GenericError(text), subject="s", doing="d")
    assert "HUSH" not in str(error) + repr(error) + repr(pickle.dumps(error))


def test_text_is_one_short_line_and_never_empty() -> None:
    assert plain_text(obs.GenericError("a\n  b\tc")) == "a b c"
    assert len(plain_text(obs.GenericError("x" * 5000))) == 300
    assert plain_text(TimeoutError()) == "TimeoutError"


def test_answers_pass_through_and_failures_become_storage_errors() -> None:
    for answer in (FileNotFoundError("x"), obs.AlreadyExistsError("x"), obs.PreconditionError("x")):
        with pytest.raises(type(answer)), storage_errors("s", "d"):
            raise answer
    own = StorageError("p", subject="inner")
    with pytest.raises(StorageError, match="inner"), storage_errors("outer", "d"):
        raise own
    with (
        pytest.raises(
            StorageError, match=r"root: no space left while writing\..*os error 28.*Next: free space"
        ),
        storage_errors("root", "writing"),
    ):
        raise obs.GenericError("No space left on device (os error 28)")
    with pytest.raises(ZeroDivisionError), storage_errors("s", "d"):
        raise ZeroDivisionError


def test_a_process_without_files_left_is_not_asked_to_wait() -> None:
    error = obs.GenericError("Unable to open file /a: Too many open files (os error 24)")
    assert not is_temporary(error)
    told = transfer_error(error, "a")
    assert not told.retryable
    assert "ulimit -n" in str(told)
