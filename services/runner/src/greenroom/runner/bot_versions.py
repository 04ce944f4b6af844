"""Which version of a bot a session gets, where a runner has one or several. Pure."""

from collections.abc import Collection


def fitting(known: Collection[int], wanted: int) -> int | None:
    """Return which of the `known` versions of a bot runs a session that was leased in version `wanted`, if any.

    That version. Version 1 is also what everybody has who says nothing of versions, a session as well as a runner: of a
    bot of which there is one version only, it goes with any.
    """
    if wanted in known:
        return wanted
    if len(known) != 1:
        return None
    (only,) = known
    return only if 1 in (only, wanted) else None
