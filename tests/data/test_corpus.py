"""``sd-search corpus``: costs first, consent, room on the disk, and what is made of the downloads."""

from __future__ import annotations

import gzip
import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from retriever_server.corpus import CorpusError, scan
from sd_search_verl.cli import main
from sd_search_verl.data.corpus import PARTS, Plan, assemble, check_corpus, convert, fetch
from sd_search_verl.data.hub import RemoteFile, agrees
from sd_search_verl.data.jsonl import MalformedRowsError
from sd_search_verl.errors import UserError

ROWS = [{"id": str(i), "contents": f"Title {i}\ntext"} for i in range(50)]


def remote(name: str, size: int) -> RemoteFile:
    return RemoteFile(name, "http://nowhere", size, "")


def test_packed_and_split_files_become_one(tmp_path: Path) -> None:
    content = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
    packed = tmp_path / "wiki-18.jsonl.gz"
    packed.write_bytes(gzip.compress(content))
    assemble([packed], tmp_path / "wiki-18.jsonl")
    assert (tmp_path / "wiki-18.jsonl").read_bytes() == content
    parts = [tmp_path / "part_aa", tmp_path / "part_ab"]
    for i, part in enumerate(parts):
        part.write_bytes(bytes([i]) * 1000)
    assemble(parts, tmp_path / "e5_Flat.index")
    assert (tmp_path / "e5_Flat.index").read_bytes() == b"\0" * 1000 + b"\1" * 1000
    assert sorted(path.name for path in tmp_path.iterdir()) == ["e5_Flat.index", "wiki-18.jsonl"]
    assert check_corpus(tmp_path / "wiki-18.jsonl").passages == 50


def test_a_damaged_download_leaves_no_corpus(tmp_path: Path) -> None:
    packed = tmp_path / "wiki-18.jsonl.gz"
    packed.write_bytes(gzip.compress(b"x" * 100_000)[:-20])
    with pytest.raises(EOFError):
        assemble([packed], tmp_path / "wiki-18.jsonl")
    assert packed.exists()
    assert not (tmp_path / "wiki-18.jsonl").exists()


@pytest.mark.parametrize(
    "content", [b'{"id": "1"}\n', gzip.compress(b"x" * 100_000)[:-20], b"\x1f\x8b\x08\0"]
)
def test_a_file_that_is_damaged_on_the_hub_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "wiki-18.jsonl.gz").write_bytes(content)
    job = Plan(PARTS["corpus"], [remote("wiki-18.jsonl.gz", len(content))])
    with pytest.raises(UserError, match=r"wiki-18\.jsonl\.gz is not a whole gzip file.*Fix: ") as error:
        fetch(job, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "wiki-18.jsonl").exists()


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"id": True}, "id"),
        ({"id": None, "_id": 1.5}, "_id"),
        ({"id": None}, "id"),
        ({"title": "a\nb"}, "title"),
        ({"text": None}, "text"),
    ],
)
def test_titles_and_texts_that_cannot_be_told_apart_are_refused(
    tmp_path: Path, change: dict[str, Any], field: str
) -> None:
    path = tmp_path / "titled.jsonl"
    path.write_text(json.dumps({"id": "1", "title": "a", "text": "b", **change}))
    with pytest.raises(MalformedRowsError) as error:
        convert(path, tmp_path / "result.jsonl")
    assert [problem.field for problem in error.value.problems] == [field]


def test_every_malformed_line_of_a_conversion_is_counted(tmp_path: Path) -> None:
    path = tmp_path / "titled.jsonl"
    lines = [json.dumps({"id": str(n), "title": "a", "text": "b" if n % 2 else ""}) for n in range(50)]
    path.write_text("\n".join(["no JSON", *lines]))
    with pytest.raises(MalformedRowsError) as error:
        convert(path, tmp_path / "result.jsonl")
    assert [problem.line for problem in error.value.problems] == [1, *range(2, 40, 2)]
    assert "26 malformed rows" in str(error.value)
    assert str(error.value).endswith("and 6 more rows")
    assert [file.name for file in tmp_path.iterdir()] == ["titled.jsonl"]


def test_what_it_costs_is_said(tmp_path: Path) -> None:
    job = Plan(PARTS["e5-index"], [remote("part_aa", 40 * 10**9), remote("part_ab", 20 * 10**9)])
    said = job.describe(free=200 * 10**9)
    for words in ("download 60.0 GB", "disk 120.0 GB", "200.0 GB are free", "30 minutes", "65 GB of memory"):
        assert words in said
    huge = Plan(PARTS["corpus"], [remote("wiki-18.jsonl.gz", 10**18)])
    with pytest.raises(UserError, match="GB are needed"):
        fetch(huge, tmp_path)


def test_what_is_there_is_not_fetched_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "wiki-18.jsonl").write_text("{}")
    assert main(["corpus", "fetch", "--out", str(tmp_path)]) == 0  # the hub is out of reach
    assert f"build_index --backend bm25 --corpus {tmp_path / 'wiki-18.jsonl'}" in capsys.readouterr().out


def test_without_the_hub_the_way_out_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["corpus", "fetch", "--out", str(tmp_path)]) == 1
    shown = capsys.readouterr().err
    assert "set HF_ENDPOINT to a mirror, or give a copy that you have" in shown
    assert "corpus check FILE" in shown


def test_a_corpus_that_the_user_has(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "corrected.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    assert main(["corpus", "check", str(path)]) == 0
    shown = capsys.readouterr().out
    assert f"{path}: the first 50 lines are a corpus" in shown
    assert f"build_index --backend bm25 --corpus {path}" in shown
    assert "ready" not in shown, "the rest has not been read"
    bad = [ROWS[0], {"contents": "T\nt"}, {"id": 3}, {"id": 7, "contents": "T\nt"}, ROWS[0], {"id": "8"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in bad))
    with pytest.raises(MalformedRowsError) as error:
        check_corpus(path)
    assert [(p.line, p.field) for p in error.value.problems] == [
        (2, "id"),
        (3, "id"),
        (4, "id"),
        (5, "id"),
        (6, "contents"),
    ]
    assert "line 5, field 'id': '0' stands in line 1 already" in str(error.value)
    for nothing in ("", "\n \n"):
        path.write_text(nothing)
        with pytest.raises(UserError, match="holds no passage"):
            check_corpus(path)


GOOD = '{"id": "a", "contents": "T\\nt"}'
SAME_VERDICT: dict[str, tuple[bytes, int | None]] = {
    "good": (GOOD.encode(), 0),
    "a line end at the end": (f"{GOOD}\n\n \t\r\n".encode(), 0),
    "a blank line first": (f"\n{GOOD}".encode(), 0),
    "a byte order mark": (f"\ufeff{GOOD}".encode(), 0),
    "a byte order mark alone on its line": (f"\ufeff\n{GOOD}".encode(), 0),
    "no title": (GOOD.replace("\\n", " ").encode(), 1),
    "no text": (f'{GOOD}\n{{"id": "b", "contents": ""}}'.encode(), 1),
    "no text anywhere": (GOOD.replace("T\\nt", " \\n").encode(), None),
    "an empty id": (GOOD.replace('"a"', '""').encode(), 0),
    "a NUL": (GOOD.replace("T", "\\u0000").encode(), 0),
    "a field twice": (GOOD.replace("{", '{"id": "b", ').encode(), 0),
    "an id twice": (f"{GOOD}\n{GOOD}".encode(), None),
    "not a number": (GOOD.replace("{", '{"score": NaN, ').encode(), None),
    "too large a number": (GOOD.replace("{", '{"score": 1e999, ').encode(), None),
    "half a surrogate pair": (GOOD.replace("{", '{"more": ["\\ud800"], ').encode(), None),
    "not UTF-8": (GOOD.encode() + b"\n\xff", None),
    "a second byte order mark": (f"{GOOD}\n\ufeff{GOOD.replace('a', 'b')}".encode(), None),
    "another kind of space": (f"{GOOD}\n\u3000".encode(), None),
    "a list": (f"{GOOD}\n[]".encode(), None),
    "no object": (f"{GOOD}\nnull".encode(), None),
    "a number as id": (GOOD.replace('"a"', "1").encode(), None),
    "null as contents": (f'{GOOD}\n{{"id": "b", "contents": null}}'.encode(), None),
    "gzip": (gzip.compress(GOOD.encode()), None),
    "UTF-16": (GOOD.encode("utf-16"), None),
}
"""Kind of corpus -> its bytes and the passages without a title, None where it is refused."""


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("kind", SAME_VERDICT)
def test_check_and_build_index_say_the_same(tmp_path: Path, kind: str, suffix: str) -> None:
    content, expected = SAME_VERDICT[kind]
    path = tmp_path / f"corpus.jsonl{suffix}"
    path.write_bytes(gzip.compress(content) if suffix else content)

    def checked() -> int | None:
        try:
            return check_corpus(path).untitled
        except UserError:
            return None

    def scanned() -> int | None:
        try:
            found = scan(path)
        except CorpusError:
            return None
        return None if found.bad_line_count else found.untitled

    assert (checked(), scanned()) == (expected, expected)


def test_passages_without_a_title_are_warned_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "corpus.jsonl"
    path.write_text('{"id": "1", "contents": "no title"}\n' + json.dumps(ROWS[0]) + "\n\n")
    assert main(["corpus", "check", str(path)]) == 0
    shown = capsys.readouterr()
    assert "warning: 1 of 2 passages have no line end between title and text" in shown.err
    assert "build_index checks every line, and every id against all others" in shown.out


def test_the_corrected_corpus_is_converted(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """``wiki-fixed.jsonl`` of arXiv 2605.27881 has titles apart; models have read them in quotation marks."""
    path = tmp_path / "wiki-fixed.jsonl"
    rows = [
        {"doc_id": "0", "title": '"Ohm\'s law"', "text": "It is."},
        {"doc_id": 21015324, "title": "Añadido", "text": " New text.\n", "more": 1},
    ]
    path.write_text("\n" + "".join(json.dumps(row) + "\n" for row in rows) + "\n")
    assert main(["corpus", "convert", str(path), "--out", str(tmp_path / "out")]) == 0
    made = tmp_path / "out" / "wiki-fixed.contents.jsonl"
    shown = capsys.readouterr().out
    assert f"--corpus {made}" in shown
    assert ": 2 passages" in shown
    assert [json.loads(line) for line in made.read_text().splitlines()] == [
        {"id": "0", "contents": '"Ohm\'s law"\nIt is.'},
        {"id": "21015324", "contents": '"Añadido"\nNew text.'},
    ]
    assert check_corpus(made).passages == 2
    path.write_text(path.read_text() + '{"doc_id": "2", "title": "no text"}\n')
    made.unlink()
    assert main(["corpus", "convert", str(path), "--out", str(tmp_path / "out")]) == 1
    assert "line 5, field 'text': is missing" in capsys.readouterr().err
    assert list((tmp_path / "out").iterdir()) == []


@pytest.mark.parametrize("name", ["id", "_id", "doc_id"])
def test_a_corpus_with_titles_is_told_to_be_converted_and_can_be(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "titled.jsonl"
    path.write_text(json.dumps({name: 7, "title": "Ohm", "text": "A law."}))
    assert main(["corpus", "check", str(path)]) == 1
    assert f"Fix: `sd-search corpus convert {path}`" in capsys.readouterr().err
    assert main(["corpus", "convert", str(path), "--out", str(tmp_path)]) == 0
    assert json.loads((tmp_path / "titled.contents.jsonl").read_text()) == {
        "id": "7",
        "contents": '"Ohm"\nA law.',
    }


def test_the_hubs_checksums(tmp_path: Path) -> None:
    path = tmp_path / "hello"
    path.write_bytes(b"hello\n")
    # As `sha256sum` and `git hash-object` say.
    assert agrees(path, "5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03")
    assert agrees(path, "ce013625030ba8dba906f756967f9e9ca394464a")
    assert not agrees(path, "ce013625030ba8dba906f756967f9e9ca394464b")
    assert not agrees(path, "0" * 64)
    assert agrees(path, "a mirror's own")


def test_the_real_passages_are_a_corpus(real_data: Path) -> None:
    assert check_corpus(real_data / "wiki18-mini" / "corpus.jsonl").passages == 9654


def test_a_broken_part_that_is_there_is_not_taken_as_whole(tmp_path: Path) -> None:
    path = tmp_path / "part_aa"
    path.write_bytes(b"x" * 999)
    whole = RemoteFile("part_aa", "http://nowhere", 1000, hashlib.sha256(b"x" * 1000).hexdigest())
    with pytest.raises(
        UserError, match=r"part_aa has 999 bytes, the hub's file 1,000.*Rename it to part_aa.part"
    ):
        fetch(Plan(PARTS["e5-index"], [whole]), tmp_path)
    path.write_bytes(b"y" * 1000)
    with pytest.raises(UserError, match="is damaged: its checksum is not the hub's"):
        fetch(Plan(PARTS["e5-index"], [whole]), tmp_path)
    assert path.exists()
    assert not (tmp_path / "e5_Flat.index").exists()
