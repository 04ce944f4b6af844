"""Settings of calls: which agent of which tenant answers a number, and what webhooks are signed with."""

import base64
import binascii
from collections.abc import Iterable
from typing import Final

import msgspec

from greenroom.api.canonical import canonical_number

ANY: Final = "*"


class Answering(msgspec.Struct, frozen=True, kw_only=True):
    """Who answers."""

    tenant: str
    agent: str


def answering(entries: Iterable[str]) -> dict[str, Answering]:
    """Return who answers which number, from `NUMBER=TENANT/AGENT`; the number `*` is for all others.

    Raises:
        ValueError: an entry isn't of this form, or a number is there twice.
    """
    found: dict[str, Answering] = {}
    for entry in entries:
        number, _, who = entry.rpartition("=")
        tenant, slash, agent = who.strip().partition("/")
        if not (number.strip() and slash and tenant and agent):
            raise ValueError(f"{entry!r} isn't NUMBER=TENANT/AGENT")
        key = canonical_number(number.strip())
        if key in found:
            raise ValueError(f"{key} is there twice")
        found[key] = Answering(tenant=tenant, agent=agent)
    return found


def find(numbers: dict[str, Answering], called: str | None) -> Answering | None:
    """Return who answers `called`, however it is written."""
    exact = numbers.get(canonical_number(called)) if called else None
    return exact or numbers.get(ANY)


def secret_bytes(secrets: Iterable[str]) -> tuple[bytes, ...]:
    """Return secrets that are written in base64.

    Raises:
        ValueError: one isn't, or is empty.
    """
    try:
        found = tuple(base64.b64decode(secret, validate=True) for secret in secrets)
    except binascii.Error as error:
        raise ValueError("it isn't base64") from error
    if not all(found):
        raise ValueError("it is empty")
    return found
