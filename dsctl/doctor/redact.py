"""Takes secrets out of everything the doctor shows."""

from __future__ import annotations

import re
from typing import cast

SHOWN = "‹secret›"
_NAMES = r"(?:[\w-]*(?:token(?!iz|s\b|s_)|secret|passw(?:or)?d|passwd|api[_-]?key|apikey|access[_-]?key|private[_-]?key|credentials?|auth[_-]?key|signature|webhook)[\w-]*)"
_HARMLESS = r"(?!max|num|total|\d+(?:\.\d+)?\b|None\b|null\b|true\b|false\b|\*{3})"
_NAMED = re.compile(_NAMES, re.IGNORECASE)
RULES: tuple[tuple[re.Pattern[str], str], ...] = tuple(
    (re.compile(pattern, flags), shown)
    for pattern, flags, shown in (
        (r"-----BEGIN [A-Z ]*PRIVATE KEY-----[\s\S]*?(?:-----END [A-Z ]*PRIVATE KEY-----|\Z)", 0, SHOWN),
        (r"\b(?:hf_|sk-(?:proj-|ant-)?|gh[pousr]_|github_pat_|glpat-|xox[abprs]-|AKIA|ASIA|nvapi-|dsk[-_]|r8_|AIza)[A-Za-z0-9_-]{12,}", 0, SHOWN),
        (r"\beyJ[A-Za-z0-9_-]{8,}\.[A-Za-z0-9_-]{8,}(?:\.[A-Za-z0-9_-]*)?", 0, SHOWN),
        (r"(?P<k>\b(?:Bearer|Basic)\s+)[A-Za-z0-9._~+/=-]{6,}", re.IGNORECASE, rf"\g<k>{SHOWN}"),
        (r"(?P<k>\bauthorization['\"]?\s*[:=]\s*['\"]?)(?!(?:Bearer|Basic)\s)[^\s'\",]+", re.IGNORECASE, rf"\g<k>{SHOWN}"),
        (r"(?P<k>\b[a-z][a-z0-9+.-]*://)[^\s/:@]*:[^\s/@]+@", re.IGNORECASE, rf"\g<k>{SHOWN}@"),
        (r"(?P<k>https://hooks\.slack\.com/services/)\S+", 0, rf"\g<k>{SHOWN}"),
        (r"(?P<k>[?&](?:access_token|key|token|sig|signature|X-Amz-\w+|secret)=)[^&\s'\"]+", re.IGNORECASE, rf"\g<k>{SHOWN}"),
        (rf"(?P<k>\b{_NAMES}['\"]?\s*[:=]\s*\[?['\"]?){_HARMLESS}[^\s'\",\])&]{{3,}}", re.IGNORECASE, rf"\g<k>{SHOWN}"),
        (r"(?P<k>--(?:[\w-]*(?:api-key|token(?!iz|s\b|s_)|password|secret)[\w-]*)[ =]+['\"]?)(?!max|num|\d+\b|-)[^\s'\"]{3,}", re.IGNORECASE, rf"\g<k>{SHOWN}"),
    )
)  # fmt: skip


def redact(text: str) -> str:
    """`text` without tokens, keys, passwords and credentials in addresses."""
    for pattern, shown in RULES:
        text = pattern.sub(shown, text)
    return text


def redacted(value: object) -> object:
    """The same for every text inside a JSON value."""
    if isinstance(value, str):
        return redact(value)
    if isinstance(value, list):
        return [redacted(item) for item in cast("list[object]", value)]
    if isinstance(value, dict):
        return {key: _named(key, item) for key, item in cast("dict[str, object]", value).items()}
    return value


def is_secret_name(name: str) -> bool:
    """True for a setting or variable whose value is a secret by its name."""
    return _NAMED.fullmatch(name) is not None


def _named(key: str, value: object) -> object:
    if (
        isinstance(value, str)
        and value
        and is_secret_name(key)
        and not re.fullmatch(r"[\d.]+|None|null|true|false", value)
    ):
        return SHOWN
    return redacted(value)
