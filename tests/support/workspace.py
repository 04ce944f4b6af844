"""What the files at the root of the workspace say."""

import tomllib
from functools import cache
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


@cache
def members() -> dict[str, Path]:
    """Return the folder of each member by the name of its distribution."""
    folders = [
        path.parent for pattern in ("libs", "services") for path in sorted((ROOT / pattern).glob("*/pyproject.toml"))
    ]
    return {pyproject(folder)["project"]["name"]: folder for folder in folders}


@cache
def pyproject(folder: Path) -> dict[str, Any]:
    """Return the parsed pyproject.toml of a folder."""
    return tomllib.loads((folder / "pyproject.toml").read_text())
