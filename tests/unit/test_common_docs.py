"""The documentation says what the code says: generated pages are current, and named files exist."""

import functools
import itertools
import re
from pathlib import Path

import pytest

from greenroom.common import docgen_errors, docgen_messages
from greenroom.devtools import all_errors

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted([*DOCS.rglob("*.md"), *ROOT.glob("README.md")])
# Made when things run, so not to be found in a fresh clone.
MADE = (".greenroom/", ".venv/", ".uv/")
_QUOTED = re.compile(r"`([^`\n]+)`")
_PATH = re.compile(r"\.?[\w.-]+(?:/[\w.-]+)+/?|[\w-]+\.(?:py|md|toml|sql|txt|sh|json|yaml|hcl)|Makefile")
_BLOCK = re.compile(r"^```.*?^```$", re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("name", sorted(docgen_messages.generate()))
def test_generated_pages_are_current(name: str) -> None:
    """`python -m greenroom.common.docgen_messages docs` writes them; it is part of every change of a message."""
    assert (DOCS / name).read_text() == docgen_messages.generate()[name]


def test_the_page_of_errors_is_current() -> None:
    """`python -m greenroom.devtools.all_errors > docs/errors.md` writes it, with the errors of all packages."""
    assert (DOCS / "errors.md").read_text() == docgen_errors.render(all_errors.catalogue().values())


def test_the_page_of_errors_has_every_error_of_the_source() -> None:
    """Wherever a class of error is defined, its code is explained."""
    defined = re.compile(r"^class \w+\((\w*Error|\w*Unavailable)\):\n(?:.*\n)*?    code = \"([a-z-]+)\"", re.MULTILINE)
    sources = itertools.chain(ROOT.glob("libs/*/src/**/*.py"), ROOT.glob("services/*/src/**/*.py"))
    codes = {match[2] for path in sources for match in defined.finditer(path.read_text())}
    page = (DOCS / "errors.md").read_text()
    assert codes
    assert not sorted(code for code in codes if f"### {code}\n" not in page)


def test_generating_writes_what_was_generated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The command takes the folder to write to."""
    monkeypatch.setattr("sys.argv", ["docgen_messages", str(tmp_path)])
    docgen_messages.main()
    assert {path.name: path.read_text() for path in tmp_path.iterdir()} == docgen_messages.generate()


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_path_named_in_a_page_exists(page: Path) -> None:
    """What looks like a path in backticks is one: from the root, from the page, or the end of one (`api/app.py`)."""
    text = _BLOCK.sub("", page.read_text())
    named = {match[1] for match in _QUOTED.finditer(text) if looks_like_a_path(match[1])}
    assert not sorted(name for name in named if not exists(name, page))


def looks_like_a_path(text: str) -> bool:
    """Tell whether a quoted text is meant to be a file or folder of the repository."""
    if not _PATH.fullmatch(text) or text.startswith(MADE):
        return False
    first = text.split("/", 1)[0]
    return "/" not in text or "." in text.rsplit("/", 1)[1] or (ROOT / first).is_dir()


def exists(name: str, page: Path) -> bool:
    """Tell whether a name leads to a file or folder."""
    if (ROOT / name).exists() or (page.parent / name).exists():
        return True
    return any(f"/{path}".endswith(f"/{name.rstrip('/')}") for path in kept_paths())


@functools.cache
def kept_paths() -> set[str]:
    """Return every file and folder of the checkout, except for what was made by running things."""
    paths: set[str] = set()
    for top in ROOT.iterdir():
        if not top.name.startswith(".") or top.name == ".ci":
            paths |= {str(path.relative_to(ROOT)) for path in (top, *top.rglob("*")) if "__pycache__" not in path.parts}
    return paths


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("libs/common/src/greenroom/common/ledger.py", True),
        ("common/ledger.py", True),
        ("docs/adr/", True),
        ("ledger.py", True),
        ("Makefile", True),
        ("greenroom.common.ledger", False),
        ("POST /v1/sessions", False),
        ("/v1/sessions", False),
        ("gr.v1.leader.{name}", False),
        ("application/json", False),
        (".greenroom/bench.json", False),
        ("text", False),
    ],
)
def test_a_path_is_known_when_it_is_seen(text: str, expected: bool) -> None:  # noqa: FBT001 - a table of cases
    """Routes, subjects, modules and media types aren't paths."""
    assert looks_like_a_path(text) is expected
