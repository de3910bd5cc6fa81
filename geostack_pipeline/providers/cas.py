"""Login through a CAS form (Central Authentication Service), as DLR's download server asks for it.

The exchange, as others found it on the real servers:

1. A file is asked for; the answer is a redirect to ``<cas>/login?service=<file>``.
2. That page has two forms: one for user name and password, with the one-time token ``execution`` and
   ``_eventId=submit``, and one that hands over to another identity provider (EO-Lab).  The fields of the second one
   must not be mixed into the first, or the password is never tried.
3. The form is posted.  A redirect back to the file server with a ``ticket`` means success; a page means that
   something is in the way, and only its text says what.
4. The file server takes the ticket, sets its session cookie, and serves files to whoever shows it.

Each redirect must lead to the exact origin of the login server or of the file server.  The two have cookie jars of
their own, so that neither ever sees the other's cookies, and the password goes to the login server only.
"""

from __future__ import annotations

import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from urllib.parse import parse_qs, urljoin, urlsplit

import httpx

from geostack_pipeline.errors import AuthError, TransferError
from geostack_pipeline.providers import logins
from geostack_pipeline.providers.cas_pages import Cause, cause_of, login_form, sentence_of, text_of
from geostack_pipeline.providers.credentials import Secret

TIMEOUT_S = 30.0
HOPS = 10
ATTEMPTS = 3
LONGEST_WAIT_S = 20.0
PAGE_BYTES = 1 << 20
"""A login page is a few kilobytes; what is longer is not read to its end."""


@dataclass(frozen=True, kw_only=True)
class _Answer:
    """What is needed of a response; the body read no further than a page goes."""

    url: str
    status: int
    headers: httpx.Headers
    text: str

    @property
    def redirects(self) -> bool:
        return 300 <= self.status < 400 and "location" in self.headers


class CasSession:
    """The session of one user at one file server, opened when it is first needed; thread-safe.

    Args:
        subject: Name for messages: the provider's key.
        login_url: Address of the login page, e.g. ``https://sso.eoc.dlr.de/eoc/auth/login``.
        service_url: A folder of the file server that asks for the login.
        credentials: Gives user name and password, or raises what is to be told where there are none.
        help_text: Cause of a refusal -> what the user can do about it.
    """

    def __init__(
        self,
        *,
        subject: str,
        login_url: str,
        service_url: str,
        credentials: Callable[[], tuple[Secret, Secret]],
        help_text: Mapping[Cause, str],
    ) -> None:
        self._subject = subject
        self._login_url = login_url
        self._service_url = service_url
        self._credentials = credentials
        self._help = dict(help_text)
        self._lock = threading.Lock()
        self._cookie: Secret | None = None

    def cookie(self) -> Secret:
        """Return the value of the file server's ``Cookie`` header; logs in (five requests) where there is none yet.

        Raises:
            AuthError: The login was refused; the message names the cause and the variables to check.
            TransferError: A server did not answer.
        """
        with self._lock:
            if self._cookie is None:
                self._cookie = self._log_in()
            return self._cookie

    def renew(self) -> bool:
        """Forget the cookie if the file server does not take it any more (one request); True.

        A cookie that it still takes is kept: another thread has renewed it, or the login was not what was missing.
        """
        with self._lock:
            if self._cookie is not None:
                with self._client() as files:
                    answer = self._get(
                        files, self._service_url, {"cookie": self._cookie.reveal()}, stay=self._service_url
                    )
                if self._to_login(answer) or answer.status == httpx.codes.UNAUTHORIZED:
                    self._cookie = None
        return True

    def refusal(self, cause: Cause, said: str = "") -> AuthError:
        """Return the error of a cause; ``said`` is the server's own sentence."""
        problem = {
            "rights": "the account lacks the right to these files",
            "policy": "the usage policy of the files has not been accepted",
            "password": "the login was refused: user name or password is wrong, or the account is locked",
            "login": "the login page came instead of the file: no session, or an expired one",
        }[cause]
        return AuthError(
            problem,
            subject=self._subject,
            found=said or None,
            action=self._help.get(cause, "check the login"),
        )

    # -- the exchange ---------------------------------------------------------------------------------

    def _log_in(self) -> Secret:
        username, password = self._credentials()
        with self._client() as files, self._client() as cas:
            answer = self._get(files, self._service_url)
            hops = 0
            while not self._to_login(answer):
                if not answer.redirects:
                    # Some folders need no login at all: then there is no cookie either.
                    return self._session(files, answer)
                answer = self._get(files, self._target(answer), stay=self._service_url)
                hops = self._hop(hops)
            page = self._get(cas, self._target(answer), stay=self._login_url)
            while page.redirects and not _same_origin(self._target(page), self._service_url):
                page = self._get(cas, self._target(page), stay=self._login_url)
                hops = self._hop(hops)
            if not page.redirects:
                page = self._submit(cas, page, username, password)
            return self._redeem(files, page)

    def _submit(self, cas: httpx.Client, page: _Answer, username: Secret, password: Secret) -> _Answer:
        """Post the login form of a page; return the redirect that carries the ticket."""
        text = page.text
        form = login_form(text)
        if form is None:
            if (cause := cause_of(text)) not in {None, "login"}:
                assert cause is not None
                raise self.refusal(cause, sentence_of(text))
            raise self._strange(page, "a page without a form for user name and password")
        here = page.url
        target = urljoin(here, form.action or "")
        if urlsplit(target).path == urlsplit(here).path and not urlsplit(target).query:
            # the service that is logged in to stands in the query, which a relative address would drop
            target = here
        sent = {
            **form.fields,
            "username": username.reveal(),
            "password": password.reveal(),
            "_eventId": "submit",
        }
        answer = self._ask(cas, "POST", self._checked(target, self._login_url), data=sent)
        hops = 0
        while answer.redirects and not _same_origin(self._target(answer), self._service_url):
            answer = self._get(cas, self._target(answer), stay=self._login_url)
            hops = self._hop(hops)
        if answer.redirects:
            return answer
        text = answer.text
        cause = cause_of(text)
        if cause is None and answer.status < 400:
            raise self._strange(answer, "a page that asks for something else after the login")
        # the form once more, or a bare 401: the password was not taken
        raise self.refusal("password" if cause in {None, "login"} else cause, sentence_of(text))

    def _redeem(self, files: httpx.Client, answer: _Answer) -> Secret:
        """Follow the ticket to the file server until it serves; return its cookie."""
        target = self._target(answer)
        if "ticket" not in parse_qs(urlsplit(target).query):
            raise self._strange(answer, "a redirect back to the files without a ticket")
        hops = 0
        answer = self._get(files, target, stay=self._service_url)
        while answer.redirects:
            if self._to_login(answer):
                raise self._strange(answer, "the file server asks for the login again right after it")
            answer = self._get(files, self._target(answer), stay=self._service_url)
            hops = self._hop(hops)
        return self._session(files, answer)

    def _session(self, files: httpx.Client, answer: _Answer) -> Secret:
        text = answer.text if "html" in answer.headers.get("content-type", "").lower() else ""
        cause = cause_of(text)
        if cause is not None or answer.status == httpx.codes.UNAUTHORIZED:
            raise self.refusal(cause or "password", sentence_of(text))
        cookie = files.build_request("GET", self._service_url).headers.get("cookie", "")
        return Secret(cookie)

    def _to_login(self, answer: _Answer) -> bool:
        return answer.redirects and _same_origin(self._target(answer), self._login_url)

    def _target(self, answer: _Answer) -> str:
        """Return where a redirect leads, if that is the login server or the file server."""
        target = urljoin(answer.url, str(answer.headers.get("location", "")))
        if _same_origin(target, self._login_url) or _same_origin(target, self._service_url):
            return target
        raise self._strange(answer, f"a redirect to {_place(target)}")

    def _checked(self, url: str, home: str) -> str:
        if not _same_origin(url, home):
            raise AuthError(
                "the login leads to another server and was not followed",
                subject=self._subject,
                found=_place(url),
                action=f"expected {_place(home)}; check the endpoints, and docs/providers for what changed",
            )
        return url

    def _hop(self, hops: int) -> int:
        if hops >= HOPS:
            raise AuthError(
                "the login goes round in circles",
                subject=self._subject,
                found=f"more than {HOPS} redirects",
                action="log in once with a browser, then run again",
                retryable=True,
            )
        return hops + 1

    def _strange(self, answer: _Answer, found: str) -> AuthError:
        title = re.search(r"<title[^>]*>(.*?)</title>", answer.text, re.IGNORECASE | re.DOTALL)
        about = f" (titled {text_of(title[1])[:80]!r})" if title else ""
        return AuthError(
            "the login went another way than expected",
            subject=self._subject,
            found=f"{found}{about}, status {answer.status} from {_place(answer.url)}",
            action="log in once with a browser and follow what the page asks for, then run again",
        )

    # -- requests -------------------------------------------------------------------------------------

    def _client(self) -> httpx.Client:
        return httpx.Client(
            trust_env=False,
            follow_redirects=False,
            timeout=TIMEOUT_S,
            headers={"user-agent": "geostack_pipeline", "accept": "text/html, */*"},
            event_hooks=logins.HOOKS,
        )

    def _get(
        self,
        client: httpx.Client,
        url: str,
        headers: Mapping[str, str] | None = None,
        *,
        stay: str | None = None,
    ) -> _Answer:
        return self._ask(client, "GET", self._checked(url, stay) if stay else url, headers=headers)

    def _ask(
        self,
        client: httpx.Client,
        method: str,
        url: str,
        *,
        headers: Mapping[str, str] | None = None,
        data: Mapping[str, str] | None = None,
    ) -> _Answer:
        """Return an answer, asked for again after 429, 5xx and broken connections."""
        found, wait = "no answer", 0.0
        for attempt in range(ATTEMPTS):
            time.sleep(wait)
            wait = 0.5 * 2**attempt
            try:
                with client.stream(method, url, headers=headers, data=data) as response:
                    body = bytearray()
                    # a file may be what is served: only as much as a page has is read
                    for chunk in response.iter_bytes(16384):
                        body += chunk
                        if len(body) > PAGE_BYTES:
                            break
                answer = _Answer(
                    url=str(response.url),
                    status=response.status_code,
                    headers=response.headers,
                    text=body[:PAGE_BYTES].decode("utf-8", "replace"),
                )
            except httpx.HTTPError as error:
                # its text may hold the ticket
                found = f"{type(error).__name__} from {_place(url)}"
                continue
            if answer.status != httpx.codes.TOO_MANY_REQUESTS and answer.status < 500:
                return answer
            found = f"status {answer.status} from {_place(url)}"
            asked = answer.headers.get("retry-after", "")
            if asked.isdecimal():
                wait = min(max(wait, float(asked)), LONGEST_WAIT_S)
        raise TransferError(
            "the login server does not answer",
            subject=self._subject,
            found=found,
            action="run again later; what is stored stays as it is",
            retryable=True,
        )


def _same_origin(url: str, home: str) -> bool:
    try:
        one, other = urlsplit(url), urlsplit(home)
        ports = (one.port, other.port)
    except ValueError:
        return False
    return (
        (one.scheme, one.hostname) == (other.scheme, other.hostname)
        and ports[0] == ports[1]
        and "@" not in one.netloc
        and "\\" not in url
    )


def _place(url: str) -> str:
    """Return scheme, host and path: no user info, no query with a ticket in it."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return "an address that cannot be read"
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"[:120]
