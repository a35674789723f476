"""A thousand malformed rows of more than twenty kinds: each is reported with its line, none is dropped."""

from __future__ import annotations

import gzip
import json
import random
from pathlib import Path

import pytest

from sd_search_verl.cli import main
from sd_search_verl.data.jsonl import MalformedRowsError, read_objects
from sd_search_verl.data.questions import read_questions
from sd_search_verl.errors import UserError
from sd_search_verl.protocol import get

R1 = get("search_r1")


def line(**fields: object) -> bytes:
    return json.dumps({"question": "q", "golden_answers": ["x"], **fields}).encode()


KINDS: dict[bytes, str | None] = {
    b'{"question": "q", "golden_answers": ["x"]': None,  # cut
    b'{"question": "q", "golden_answers": ["x"],}': None,
    b"{'question': 'q', 'golden_answers': ['x']}": None,
    b'{"question": "q" "golden_answers": ["x"]}': None,
    b'{"question": "a\tb", "golden_answers": ["x"]}': None,  # a control character
    b'{"question": "\xff\xfe", "golden_answers": ["x"]}': None,  # not UTF-8
    b'{"question": "q", "golden_answers": ["x"]} {}': None,  # two values
    b"": None,
    b"   ": None,
    b"null": None,
    b"3": None,
    b'"text"': None,
    b'["q", ["x"]]': None,
    b"question,golden_answers": None,
    b"[" * 100_000: None,
    b'{"question": "q", "golden_answers": ["x"], "n": ' + b"9" * 5000 + b"}": None,
    b'{"question": "q", "question": "r", "golden_answers": ["x"]}': "question",
    b'{"golden_answers": ["x"]}': "question",
    line(question=None): "question",
    line(question=""): "question",
    line(question="  \n"): "question",
    line(question=7): "question",
    line(question=["q"]): "question",
    line(question={"text": "q"}): "question",
    line(question="half \ud83d"): "question",
    line(question="nul \0"): "question",
    b'{"question": "q"}': "golden_answers",
    b'{"question": "q", "answer": "x"}': "golden_answers",
    line(golden_answers=None): "golden_answers",
    line(golden_answers=[]): "golden_answers",
    line(golden_answers=""): "golden_answers",
    line(golden_answers=5): "golden_answers",
    line(golden_answers=True): "golden_answers",
    line(golden_answers={"target": ["x"]}): "golden_answers",
    line(golden_answers=["x", ""]): "golden_answers[1]",
    line(golden_answers='["x", "y"]'): "golden_answers",
    line(golden_answers=["x", "['y']"]): "golden_answers",
    line(golden_answers=["x", "y", None]): "golden_answers[2]",
    line(golden_answers=[1912]): "golden_answers[0]",
    line(golden_answers=[["x"]]): "golden_answers[0]",
    line(golden_answers=["\udc00"]): "golden_answers[0]",
    line(id=None): "id",
    line(id=["a"]): "id",
    line(id="taken"): "id",
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_every_malformed_row_is_reported(tmp_path: Path, suffix: str) -> None:
    draw = random.Random(0)
    kinds = [kind for kind in KINDS if len(kind) < 10_000 or suffix]  # the longest once is enough
    bad = [draw.choice(kinds) for _ in range(1000 - len(kinds))] + kinds
    draw.shuffle(bad)
    lines = [line(id="taken")]
    expected: dict[int, str | None] = {}
    for kind in bad:
        if draw.random() < 0.5:
            lines.append(line(id=f"good {len(lines)}"))
        lines.append(kind)
        expected[len(lines)] = KINDS[kind]
    path = tmp_path / f"mine.jsonl{suffix}"
    content = b"\n".join(lines) + b"\n"
    path.write_bytes(gzip.compress(content, 1) if suffix else content)
    with pytest.raises(MalformedRowsError) as error:
        read_questions(path, None, R1)
    assert {problem.line: problem.field for problem in error.value.problems} == expected
    assert len(error.value.problems) == 1000
    assert str(error.value).count("\n") == 1000
    assert "1000 malformed rows" in str(error.value)


def test_the_command_names_them_all_and_writes_nothing(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "mine.jsonl"
    path.write_bytes(b"\n".join(kind for kind in KINDS) + b"\n")
    assert main(["data", "own", "mine", str(path), "--out", str(tmp_path / "out")]) == 1
    shown = capsys.readouterr().err
    assert all(f"\n  line {number}" in shown for number in range(1, len(KINDS)))
    assert not (tmp_path / "out").exists()


def test_good_rows_of_odd_form_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl"
    rows = [
        b"\xef\xbb\xbf" + line(),  # a byte order mark
        line(question="emoji \U0001f600"),
        line(golden_answers=["---"]),  # Natural Questions has it
        line(extra={"anything": [None]}) + b"\r",
        line(question="no line end"),
    ]
    path.write_bytes(b"\n".join(rows))
    assert [q.id for q in read_questions(path, None, R1)] == ["0", "1", "2", "3", "4"]


def test_a_file_cut_in_its_compressed_data_is_an_error(tmp_path: Path) -> None:
    path = tmp_path / "mine.jsonl.gz"
    whole = gzip.compress(b"\n".join(line(id=i, question=str(i * 7919)) for i in range(5000)))
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be read to its end"):
        list(read_objects(path))


@pytest.mark.parametrize(
    ("name", "written", "says"),
    [
        (
            "mine.jsonl",
            gzip.compress(line() + b"\n"),
            "is compressed by gzip. Fix: rename it to mine.jsonl.gz",
        ),
        *(
            (
                name,
                packed(line().decode().encode(encoding)),
                "is not UTF-8; it looks like UTF-16. Fix: `iconv",
            )
            for encoding in ("utf-16", "utf-16-le", "utf-16-be")
            for name, packed in (("mine.jsonl", bytes), ("mine.jsonl.gz", gzip.compress))
        ),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_a_file_of_another_encoding_is_one_error(
    tmp_path: Path, name: str, written: bytes, says: str
) -> None:
    (file := tmp_path / name).write_bytes(written)
    with pytest.raises(UserError) as error:
        read_questions(file, None, R1)
    assert says in str(error.value)
    assert "\n" not in str(error.value)


def test_a_row_of_other_fields_is_named_with_those_it_has(tmp_path: Path) -> None:
    (file := tmp_path / "mine.jsonl").write_text(
        '{"query": "q", "answers": ["x"]}\n{"question": "q", "answer": "x"}\n'
    )
    with pytest.raises(MalformedRowsError) as error:
        read_questions(file, None, R1)
    assert (
        "line 1, field 'question': is missing or null; a text is needed; the fields there are query, answers"
        in str(error.value)
    )
    assert "line 2, field 'golden_answers': is missing" in str(error.value)
    assert "the fields there are question, answer" in str(error.value)


def test_options_are_named_as_they_are_typed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (file := tmp_path / "mine.jsonl").write_bytes(line())
    assert main(["data", "own", "mine", str(file), "--out", str(tmp_path), "--protocol", "autorefin"]) == 1
    said = capsys.readouterr().err
    assert "--protocol='autorefin' must be 'search_r1', 'autorefine'" in said
    assert "Fix: set --protocol, default" in said
    assert "data." not in said
