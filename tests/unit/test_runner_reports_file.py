"""What a runner has to publish, on disk: nothing is lost of what was written, nothing is read that wasn't."""

import os
import time
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from greenroom.common.spool import Waiting
from greenroom.runner.reports_file import MAX_AGE_S, SUFFIX, ReportsFile, adopt, decoded, encoded

WAITING = st.builds(
    Waiting,
    subject=st.text(max_size=20),
    data=st.binary(max_size=200),
    msg_id=st.text(max_size=10),
    headers=st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=2),
    droppable=st.booleans(),
)


def waiting(number: int) -> Waiting:
    """Return a message."""
    return Waiting(subject=f"gr.{number}", data=b"said", msg_id=str(number), headers={}, droppable=False)


@given(items=st.lists(WAITING, max_size=6), cut=st.integers(0, 400))
def test_a_file_that_ends_anywhere_gives_its_whole_records(items: list[Waiting], cut: int) -> None:
    """A process that is killed in the middle of a record loses that one and none before it."""
    records = [encoded(item) for item in items]
    whole = b"".join(records)
    kept = whole[: max(len(whole) - cut, 0)]
    fit = sum(1 for index in range(len(records)) if len(b"".join(records[: index + 1])) <= len(kept))
    assert list(decoded(kept)) == items[:fit]


@given(items=st.lists(WAITING, min_size=1, max_size=4), at=st.integers(0, 10_000), change=st.integers(1, 255))
def test_a_record_that_was_changed_is_not_read(items: list[Waiting], at: int, change: int) -> None:
    """What comes out is what went in, up to the damage."""
    data = bytearray(b"".join(map(encoded, items)))
    data[at % len(data)] ^= change
    found = list(decoded(bytes(data)))
    assert found == items[: len(found)]
    assert len(found) < len(items)


def test_what_nobody_holds_is_taken_over_once(tmp_path: Path) -> None:
    """A file of a runner that lives stays its own; one of a runner that is gone goes to whoever comes first."""
    living, gone = ReportsFile.open(tmp_path, "living"), ReportsFile.open(tmp_path, "gone")
    living.append(waiting(1))
    gone.append(waiting(2))
    gone.append(waiting(3))
    os.close(gone._descriptor)
    own = tmp_path / f"own{SUFFIX}"
    found = list(adopt(tmp_path, own=own, now=time.time()))
    assert [(path.name.split("-")[0], items) for path, items in found] == [("gone", [waiting(2), waiting(3)])]
    assert list(adopt(tmp_path, own=own, now=time.time())) == []
    assert living.path.exists()
    living.clear()
    living.close()
    assert list(tmp_path.iterdir()) == []


def test_a_runner_of_the_same_name_takes_over_too(tmp_path: Path) -> None:
    """Started anew with the name and the process id that it had before, it publishes what was left."""
    before = ReportsFile.open(tmp_path, "runner")
    before.append(waiting(1))
    os.close(before._descriptor)
    after = ReportsFile.open(tmp_path, "runner")
    assert after.size == 0
    assert [items for _, items in adopt(tmp_path, own=after.path, now=time.time())] == [[waiting(1)]]
    after.append(waiting(2))
    assert list(decoded(after.path.read_bytes())) == [waiting(2)]


def test_what_is_older_than_a_day_is_dropped(tmp_path: Path) -> None:
    """It isn't published, and doesn't lie there for ever."""
    file = ReportsFile.open(tmp_path, "gone")
    file.append(waiting(1))
    os.close(file._descriptor)
    own = tmp_path / f"own{SUFFIX}"
    assert [items for _, items in adopt(tmp_path, own=own, now=time.time() + MAX_AGE_S + 60)] == [[]]
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_takes_nothing_is_no_trouble(tmp_path: Path) -> None:
    """The message is in memory still, and the next one is tried again."""
    file = ReportsFile.open(tmp_path, "runner")
    kept = os.dup(file._descriptor)
    os.close(file._descriptor)
    file.append(waiting(1))
    assert file.size == 0
    os.dup2(kept, file._descriptor)
    file.append(waiting(2))
    assert list(decoded(file.path.read_bytes())) == [waiting(2)]
