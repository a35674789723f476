"""Print the pins of a set, one `name==version` a line: ``python requirements/pins.py cpu``.

A set names packages whose versions stand in versions.txt; tools that know nothing of constraint files read this.
"""

from __future__ import annotations

import sys
from pathlib import Path

FOLDER = Path(__file__).parent


def pins(name: str) -> dict[str, str]:
    """Return package -> version of ``NAME.txt``."""
    versions = dict(_lines("versions"))
    return {package: version or versions[package] or "" for package, version in _lines(name)}


def _lines(name: str) -> list[tuple[str, str | None]]:
    found = []
    for line in (FOLDER / f"{name}.txt").read_text(encoding="utf-8").splitlines():
        text = line.partition("#")[0].strip()
        if text and not text.startswith("-"):
            package, _, version = text.partition("==")
            found.append((package, version or None))
    return found


if __name__ == "__main__":
    print(*(f"{package}=={version}" for package, version in pins(sys.argv[1]).items()), sep="\n")
