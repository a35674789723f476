"""Files that are written in one step."""

from __future__ import annotations

from pathlib import Path

import pytest

from sd_search_verl.files import part_of, whole, write_text


def test_a_file_is_old_or_new_and_leaves_no_part(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    write_text(path, "old")

    def spoil() -> None:
        with whole(path) as part:
            assert part == part_of(path) == tmp_path / "a.json.part"
            part.write_text("half")
            assert path.read_text() == "old"
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        spoil()
    assert path.read_text() == "old"
    write_text(path, "new")
    assert [(file.name, file.read_text()) for file in tmp_path.iterdir()] == [("a.json", "new")]


def test_where_nothing_can_be_written_the_error_is_the_systems(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        write_text(tmp_path / "file" / "below", "text")
