"""SmolLM2 as the package index gives it, its tokenizer on recorded trajectories, and what is refused."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from support.hub_server import serve

from sd_search_verl.data.smollm2 import HUB_FILES, SIZES, check, make
from sd_search_verl.errors import UserError
from sd_search_verl.protocol import get
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.scoring import exact_match, extract_answer, token_f1
from sd_search_verl.world.config import CHECKPOINT

R1 = get("search_r1")


@pytest.fixture(scope="module")
def tokenizer(smollm2: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(smollm2)


def test_the_folder_holds_smollm2(smollm2: Path) -> None:
    assert check(smollm2, SIZES["135m"].parameters).startswith(
        "134,515,008 parameters, 49,152 tokens, perplexity"
    )


def test_the_tokenizer_gives_every_passage_back(real_data: Path, tokenizer: Any) -> None:
    lines = (real_data / "wiki18-mini" / "corpus.jsonl").read_text().splitlines()
    passages = [json.loads(line)["contents"] for line in lines[::5]]
    ids = tokenizer(passages, add_special_tokens=False)["input_ids"]
    assert tokenizer.batch_decode(ids) == passages


def test_spans_masks_and_scores_of_recorded_trajectories_are_exact(real_data: Path, tokenizer: Any) -> None:
    """Encoded turn by turn, as the agent loop holds them, against the texts of the record and its scorer."""
    with gzip.open(real_data / "wiki18-mini" / "trajectories_nq.jsonl.gz", "rt") as file:
        records = [json.loads(line) for line in file]
    assert len(records) == 2000
    queries = 0
    for record in records:
        response = record["response"]
        ids, mask = encode(response, tokenizer)
        assert tokenizer.decode(ids) == response
        written = tokenizer.decode([token for token, own in zip(ids, mask, strict=True) if own])
        assert written == "".join(response[start:end] for start, end in R1.policy_segments(response))
        spans = query_spans(ids, tokenizer, R1, mask)
        found = [tokenizer.decode(ids[start:end]).strip() for start, end in spans]
        assert found == R1.parse(response).queries
        assert all(all(mask[start:end]) for start, end in spans)
        answer = extract_answer(tokenizer.decode(ids))
        assert exact_match(answer, record["golden_answers"]) == record["metric"]["em"]
        assert token_f1(answer, record["golden_answers"]) == pytest.approx(record["metric"]["f1"], abs=1e-6)
        queries += len(spans)
    assert queries > 1900


def encode(response: str, tokenizer: Any) -> tuple[list[int], list[int]]:
    """Token ids and mask of a rollout: turns and observations are encoded one by one."""
    ids: list[int] = []
    mask: list[int] = []
    end = 0
    for start, stop in [*R1.policy_segments(response), (len(response), len(response))]:
        for text, own in ((response[end:start], 0), (response[start:stop], 1)):
            tokens = tokenizer.encode(text, add_special_tokens=False)
            ids, mask = ids + tokens, mask + [own] * len(tokens)
        end = stop
    return ids, mask


def test_another_model_on_the_hub_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    repository = SIZES["135m"].repository
    files = {f"{repository}/{name}": (CHECKPOINT / name).read_bytes() for name in HUB_FILES}
    with serve(files) as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr(
            "huggingface_hub.constants.HUGGINGFACE_CO_URL_TEMPLATE",
            hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        )
        with pytest.raises(UserError, match="the tokenizer is not SmolLM2's"):
            make("135m", "hub", tmp_path / "model")
    assert not (tmp_path / "model").exists()


@pytest.mark.parametrize(
    ("size", "source", "message"),
    [
        ("360m", "package", "holds the 135m model only"),
        ("135m", "nowhere.gguf", "neither hub, package nor a file"),
        ("135m", "hub", "cannot be reached .*--source package"),
    ],
)
def test_what_cannot_be_had_is_named(size: str, source: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        make(size, source, tmp_path / "model")


@pytest.mark.parametrize("content", [b"", b"<html>", b"GGUF\x03\0\0\0" + bytes(64)])
def test_a_file_that_is_no_whole_model_is_named(content: bytes, tmp_path: Path) -> None:
    pytest.importorskip("gguf", reason="needs the package gguf")
    source = tmp_path / "model.gguf"
    source.write_bytes(content)
    with pytest.raises(UserError, match=r"model\.gguf: the model cannot be read .*Fix: ") as error:
        make("135m", str(source), tmp_path / "model")
    assert "\n" not in str(error.value)
    assert not (tmp_path / "model").exists()


def test_a_page_in_place_of_the_hubs_files_is_named(tmp_path: Path) -> None:
    for name in HUB_FILES:
        (tmp_path / name).write_text("<html>")
    with pytest.raises(UserError, match=r"cannot be read .*Fix: "):
        check(tmp_path, 1)


def test_a_folder_that_is_there_is_not_overwritten(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is there already"):
        make("135m", None, tmp_path)


def test_without_the_reader_of_gguf_nothing_is_downloaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    monkeypatch.setattr("subprocess.call", lambda command: pytest.fail("a download began"))
    with pytest.raises(UserError, match="the package gguf is missing"):
        make("135m", "package", tmp_path / "model")
