"""The files that a build sees: the repository without what .dockerignore leaves out."""

from __future__ import annotations

from fnmatch import fnmatch
from pathlib import Path

REPO = Path(__file__).resolve().parents[2]


def ignore(folder: str, names: list[str]) -> set[str]:
    """For :func:`shutil.copytree`; as Docker does, patterns without ``**/`` count from the root only."""
    patterns = (REPO / ".dockerignore").read_text(encoding="utf-8").split()
    at_root = Path(folder).resolve() == REPO
    return {
        name
        for name in names
        for pattern in patterns
        if fnmatch(name, pattern.removeprefix("**/")) and (at_root or pattern.startswith("**/"))
    }
