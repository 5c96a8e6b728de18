"""Credentials stay out of every message, log line, report and graph.

The text may be anybody's and of any length: it is cut first, and every step is linear.
"""

from __future__ import annotations

import os
import re

__all__ = ["without_credentials"]

_HIDDEN = "***"
# Letters that are looked at, and shown; nobody reads more of an error.
_LONGEST = 20_000
_CUT = " … (cut)"

_WORD = re.compile(r"""[^\s'"<>]+""")
_SCHEME = "://"
_USER_END = re.compile("[:/@]")
_HOST_END = re.compile("[/?#]")
_SECRET_WORD = r"passw(?:or)?d|pwd|token|secret|signature|\bsig|credential|api_?key|access_?key"
_SECRET_NAME = re.compile(_SECRET_WORD, re.IGNORECASE)
# After these, what follows a bare colon is hidden, too ("token: " is what parsers complain with).
_PASSWORD_NAME = re.compile(r"passw(?:or)?d|pwd|secret|api_?key|access_?key", re.IGNORECASE)
# A field's whole name and what stands between it and the value. It begins at the beginning of a
# name only, so that a long name is read once.
# In code a text is assigned to it, maybe with a type between.
_ASSIGNED = r"""(?:["']\])?\s{0,8}(?::\s{0,8}[\w.]{1,40}\s{0,8})?=\s{0,8}[bfruBFRU]{0,2}(?=["'])"""
_FIELD = re.compile(
    rf"""(?<![\w.-])([\w.-]+)({_ASSIGNED}|=|["']\s{{0,8}}[:=]\s{{0,8}}|:\s{{1,8}})(["']?)"""
)
_VALUE = re.compile(r"""[^&\s'"<>;,]+""")
_AUTHORIZATION = re.compile(r"\b(Bearer|Basic) {1,8}[\w.~+/=-]{4,}")
_SECRET_VARIABLE = re.compile(rf"{_SECRET_WORD}|_pass$", re.IGNORECASE)
_VARIABLE_OWNERS = ("MLFLOW_", "DATABRICKS_", "AWS_", "AZURE_", "GOOGLE_", "GCP_")
_SHORTEST_SECRET = 4


def without_credentials(text: str, longest: int = _LONGEST) -> str:
    """Replace what could be a credential by ``***``.

    Hidden are the user part of URIs (``http://ann:pw@host``), values of fields that sound secret
    (``?token=...``, ``password='...'``), Authorization headers, and the values of this process's
    environment variables of MLflow and the clouds that sound secret
    (``MLFLOW_TRACKING_PASSWORD``).

    Args:
        text: A URI, or any message that may contain one.
        longest: How many letters of it are kept.

    Returns:
        The text, safe to print; what was cut is said at its end.
    """
    if len(text) > longest:
        # Half a credential would not be recognised, so the word that is cut goes as a whole.
        head, *word = text[:longest].rsplit(None, 1) or [""]
        text = (head if word else "") + _CUT
    for name, value in os.environ.items():
        secret = name.startswith(_VARIABLE_OWNERS) and _SECRET_VARIABLE.search(name)
        # A switch such as ..._TOKEN_ENABLED=true hides nothing.
        if secret and len(value) >= _SHORTEST_SECRET and value.lower() not in ("true", "false"):
            text = text.replace(value, _HIDDEN)
    if _SCHEME in text:
        text = _WORD.sub(lambda word: _without_user(word[0]), text)
    text = _AUTHORIZATION.sub(rf"\1 {_HIDDEN}", text)
    return _without_values(text)


def _without_user(word: str) -> str:
    """A word without the user parts of the URIs in it.

    A password in a database's URI may hold '/' and '@', so all goes up to the last '@' of the
    word: hiding too much is the harmless mistake.
    """
    parts: list[str] = []
    done, last = 0, word.rfind("@")
    start = word.find(_SCHEME)
    while 0 <= start < last:
        start += len(_SCHEME)
        # Either is read up to the next scheme at most, which has a ':' and a '/'.
        user = _USER_END.search(word, start)
        if user is not None and user[0] == ":" and user.start() < last:
            end = last
        else:
            host = _HOST_END.search(word, start)
            end = word.rfind("@", start, host.start() if host is not None else len(word))
        if end >= 0:
            parts += [word[done:start], _HIDDEN]
            done = end
        start = word.find(_SCHEME, max(start, end))
    return "".join([*parts, word[done:]])


def _without_values(text: str) -> str:
    """A text without the values of fields that sound secret."""
    parts: list[str] = []
    done = 0
    for field in _FIELD.finditer(text):
        name, between, quote = field.groups()
        names = _PASSWORD_NAME if between[0] == ":" and "=" not in between else _SECRET_NAME
        if field.start() < done or not names.search(name):
            continue
        value = _end_of_value(text, field.end(), quote)
        if value > field.end():
            parts += [text[done : field.end()], _HIDDEN]
            done = value
    return "".join([*parts, text[done:]])


def _end_of_value(text: str, start: int, quote: str) -> int:
    """Where a value ends that begins somewhere: at its quote, or with its word."""
    if quote:
        closing = text.find(quote, start)
        return len(text) if closing < 0 else closing
    found = _VALUE.match(text, start)
    return found.end() if found else start
