"""What the web pages of a CAS login say: their forms, and the cause that they stand for."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Literal

Cause = Literal["rights", "policy", "password", "login"]
"""What a page stands for: a missing right, a usage policy to accept, a refused password, a login that is asked for."""

_RIGHTS = re.compile(
    r"missing privilege|not authori[sz]ed|access (?:is )?denied|insufficient (?:right|permission)",
    re.IGNORECASE,
)
_POLICY = re.compile(r"usage policy|terms of use|terms and conditions|licen[cs]e agreement", re.IGNORECASE)
_REFUSED = re.compile(
    r"authentication failure|authentication attempt has failed|invalid credentials|"
    r"credentials you provided|account (?:is|has been) (?:locked|disabled)|password (?:has )?expired|wrong password",
    re.IGNORECASE,
)
_FORM = re.compile(r"""name\s*=\s*["']?execution\b""", re.IGNORECASE)
_TAG = re.compile(r"<(script|style)\b.*?</\1\s*>|<[^>]*>", re.IGNORECASE | re.DOTALL)
_SPACE = re.compile(r"\s+")


@dataclass
class Form:
    """One form of a page."""

    action: str | None
    """Where it is posted; None or empty: to the page's own address."""
    fields: dict[str, str] = field(default_factory=dict)
    """Names of its inputs with the values they have; check boxes and buttons left out."""


def cause_of(page: str) -> Cause | None:
    """Return what a web page of the login or of the file server stands for; None for any other page."""
    if _RIGHTS.search(text := text_of(page)):
        return "rights"
    if _POLICY.search(text) and _FORM.search(page) and "password" not in _inputs(page):
        return "policy"
    if _REFUSED.search(text):
        return "password"
    return "login" if _FORM.search(page) or "password" in _inputs(page) else None


def text_of(page: str) -> str:
    """Return the words of a page, without tags."""
    return _SPACE.sub(" ", _TAG.sub(" ", page)).strip()


def login_form(page: str) -> Form | None:
    """Return the form that asks for user name and password; None where no form does, or without its token."""
    return next(
        (form for form in forms(page) if {"username", "password", "execution"} <= form.fields.keys()), None
    )


def forms(page: str) -> list[Form]:
    """Return the forms of a page, each with its own fields."""
    reader = _FormReader()
    reader.feed(page)
    reader.close()
    return reader.forms


class _FormReader(HTMLParser):
    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.forms: list[Form] = []
        self._open: Form | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        if tag == "form":
            self._open = Form(action=found.get("action"))
            self.forms.append(self._open)
        elif tag == "input" and self._open is not None:
            kind, name = (found.get("type") or "text").lower(), found.get("name")
            if name and kind not in {"checkbox", "radio", "submit", "button", "image", "reset"}:
                self._open.fields[name] = found.get("value") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = None


def _inputs(page: str) -> set[str]:
    return {name for form in forms(page) for name in form.fields}


def sentence_of(page: str) -> str:
    """Return the server's own words around the cause, shortened; no field of a form is among them."""
    text = text_of(page)
    for pattern in (_RIGHTS, _REFUSED, _POLICY):
        if match := pattern.search(text):
            start = max(text.rfind(". ", 0, match.start()) + 2, match.start() - 60, 0)
            end = text.find(".", match.end())
            return f"the server says: {text[start : end if 0 < end < match.end() + 160 else match.end() + 80].strip()}"
    return ""
