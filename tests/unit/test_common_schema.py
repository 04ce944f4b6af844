"""What services are told of the schema."""

from greenroom.common.schema import MIGRATIONS
from greenroom.recorder.migrate import migrations


def test_the_list_is_that_of_the_files() -> None:
    """In order: whoever adds a migration adds its name to `greenroom.common.schema`."""
    assert list(MIGRATIONS) == [file.name for file in migrations()]
