"""Which variables of the runner its sessions see."""

from hypothesis import given
from hypothesis import strategies as st

from greenroom.runner.isolation.environment import session_environment

_NAMES = st.sampled_from(
    ("PATH", "LC_ALL", "PYTHONPATH", "NATS_URL", "DATABASE_URL", "GREENROOM_POOL", "GREENROOM_SECRET_KEY", "MINE")
) | st.text("ABC_", min_size=1, max_size=6)


@given(environment=st.dictionaries(_NAMES, st.text(max_size=5)), more=st.sets(_NAMES))
def test_nothing_passes_but_what_is_listed(environment: dict[str, str], more: set[str]) -> None:
    """What passes is unchanged, and is of the list or was named; what was named passes."""
    shown = session_environment(environment, more)
    assert shown.items() <= environment.items()
    assert {name for name in environment if name in more} <= shown.keys()
    assert not {name for name in shown.keys() - more if name.startswith(("NATS", "DATABASE", "GREENROOM", "MINE"))}
    assert {name for name in environment if name in {"PATH", "LC_ALL", "PYTHONPATH"}} <= shown.keys()
