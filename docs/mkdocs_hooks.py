"""What the site adds to docs/: README and CONTRIBUTING as pages, and the files of the repository that pages link to."""

from __future__ import annotations

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

REPO = Path(__file__).resolve().parents[1]
PAGES = {"README.md": "index.md", "CONTRIBUTING.md": "contributing.md"}
"""Pages outside docs/ -> their place in the site."""

SOURCE = "source"
"""Folder of the site for other files of the repository."""

_LINK = re.compile(r"(\]\()(?!https?://|#|mailto:)([^)\s#]+)")


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of ``PAGES`` and every file that a page links to outside docs/."""
    texts = {f"docs/{file.src_uri}": file.content_string for file in files.documentation_pages()}
    outside = {name: (REPO / name).read_text(encoding="utf-8") for name in PAGES}
    for name, place in PAGES.items():
        files.append(File.generated(config, place, content=_with_links(outside[name], name)))
    for name, text in (texts | outside).items():
        for _, target in _LINK.findall(text):
            path = _in_repository(target, name)
            place = _place(path)
            if place.startswith(f"{SOURCE}/") and files.get_file_from_path(place) is None:
                files.append(File.generated(config, place, content=_content(REPO / path)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Let a page's links lead to the places of the site."""
    if page.file.src_uri in PAGES.values():
        return markdown
    return _with_links(markdown, f"docs/{page.file.src_uri}")


def _with_links(text: str, name: str) -> str:
    """Return a page's text with its links as places of the site; ``name`` is its path in the repository."""
    return _LINK.sub(lambda match: match[1] + _place(_in_repository(match[2], name)), text)


def _in_repository(target: str, name: str) -> str:
    return posixpath.normpath(posixpath.join(posixpath.dirname(name), target))


def _place(path: str) -> str:
    """Return where the site has a path of the repository."""
    if path in PAGES:
        return PAGES[path]
    return path.removeprefix("docs/") if path.startswith("docs/") else f"{SOURCE}/{path}"


def _content(path: Path) -> str | bytes:
    """Return a file's content; of a folder, the list of its files."""
    if path.is_dir():
        return "\n".join(sorted(found.name for found in path.iterdir())) + "\n"
    return path.read_bytes()
