"""Credentials stay out of every message, log line and report."""

from __future__ import annotations

import os
import re

__all__ = ["without_credentials"]

_HIDDEN = "***"
_SECRET_WORD = r"(?:passw(?:or)?d|pwd|token|secret|signature|\bsig|credential|api_?key|access_?key)"

# user:password@ after a scheme. A password in a database URI may hold '/' and '@', so this takes
# everything up to the last '@' of the word: hiding too much is the harmless mistake.
_USER_INFO = re.compile(r"""(?<=://)(?:[^\s'"<>:/@]*:[^\s'"<>]*@|[^\s'"<>/?#]*@)""")
_SECRET_FIELD = re.compile(
    rf"""(?i)([\w.-]*{_SECRET_WORD}[\w.-]*(?:=|["']\s*:\s*["']))[^&\s'"<>;,]+"""
)
_AUTHORIZATION = re.compile(r"\b(Bearer|Basic) +[\w.~+/=-]{4,}")
_SECRET_VARIABLE = re.compile(rf"(?i){_SECRET_WORD}|_pass$")
_VARIABLE_OWNERS = ("MLFLOW_", "DATABRICKS_", "AWS_", "AZURE_", "GOOGLE_", "GCP_")
_SHORTEST_SECRET = 4


def without_credentials(text: str) -> str:
    """Replace what could be a credential by ``***``.

    Hidden are the user part of URIs (``http://ann:pw@host``), values of fields that sound secret
    (``?token=...``), Authorization headers, and the values of this process's environment variables
    of MLflow and the clouds that sound secret (``MLFLOW_TRACKING_PASSWORD``).

    Args:
        text: A URI, or any message that may contain one.

    Returns:
        The text, safe to print.
    """
    for name, value in os.environ.items():
        secret = name.startswith(_VARIABLE_OWNERS) and _SECRET_VARIABLE.search(name)
        # A switch such as ..._TOKEN_ENABLED=true hides nothing.
        if secret and len(value) >= _SHORTEST_SECRET and value.lower() not in ("true", "false"):
            text = text.replace(value, _HIDDEN)
    text = _USER_INFO.sub(f"{_HIDDEN}@", text)
    text = _AUTHORIZATION.sub(rf"\1 {_HIDDEN}", text)
    return _SECRET_FIELD.sub(rf"\1{_HIDDEN}", text)
