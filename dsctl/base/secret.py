"""A value that never prints: tokens and keys travel in it, and only `reveal()` gives them out."""

from __future__ import annotations

from typing import NoReturn

SHOWN = "‹secret›"


class Secret:
    """Holds one secret string; every way of showing it shows a placeholder, and serialising it is an error."""

    __slots__ = ("__value",)

    def __init__(self, value: str) -> None:
        self.__value = value

    def reveal(self) -> str:
        """The secret itself. Only a door (dsctl/reach) has a reason to call this."""
        return self.__value

    def __repr__(self) -> str:
        return SHOWN

    def __str__(self) -> str:
        return SHOWN

    def __format__(self, spec: str) -> str:
        return format(SHOWN, spec)

    def __bool__(self) -> bool:
        return bool(self.__value)

    def __eq__(self, other: object) -> bool:
        from hmac import compare_digest

        return isinstance(other, Secret) and compare_digest(self.__value.encode(), other.reveal().encode())

    __hash__ = None  # type: ignore[assignment]  # a secret is not a key of a table

    def __reduce__(self) -> NoReturn:
        raise TypeError("a secret is never serialised")


def redact(text: str, *secrets: Secret) -> str:
    """`text` with every secret in it replaced by the placeholder."""
    for secret in secrets:
        if secret:
            text = text.replace(secret.reveal(), SHOWN)
    return text
