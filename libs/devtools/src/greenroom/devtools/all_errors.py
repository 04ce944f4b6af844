"""The whole catalogue of errors: importing the modules that define some of their own enters them."""

from greenroom.common.catalogue import Entry
from greenroom.common.catalogue import catalogue as common_catalogue
from greenroom.devtools import call, caller, client, process, state, up, wav
from greenroom.recorder import migrate

_DEFINING = (call, caller, client, process, state, up, wav, migrate)


def catalogue() -> dict[str, Entry]:
    """Return every error and reason of the system by code."""
    return common_catalogue()
