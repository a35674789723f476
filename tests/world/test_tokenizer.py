"""The tokenizer: lossless, independent of neighbours, and without unknown pieces in what the stack shows."""

import unicodedata
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from sd_search_verl.config import HindsightConfig
from sd_search_verl.hindsight.block import RolloutSummary, insert_block, render_block
from sd_search_verl.protocol.spans import query_spans
from sd_search_verl.protocol.token_bytes import token_bytes
from sd_search_verl.world import World, WorldConfig, questions, text
from sd_search_verl.world.tokenizer import CHAT_TEMPLATE, build_tokenizer, pieces, save_tokenizer

TOKENIZER = build_tokenizer()
PIECES = pieces()
FIRST = TOKENIZER.convert_tokens_to_ids(PIECES[0])
ANY = st.text(st.characters(exclude_categories=["Cs"])).map(lambda text: unicodedata.normalize("NFC", text))
WORDS = st.lists(st.sampled_from(PIECES), max_size=30).map("".join)


@given(ANY | WORDS)
def test_decoding_restores_the_text(string: str) -> None:
    assert TOKENIZER.decode(TOKENIZER.encode(string)) == string
    assert TOKENIZER.decode(TOKENIZER.encode(string), skip_special_tokens=True) == string


@given(st.lists(st.integers(FIRST, FIRST + len(PIECES) - 1), max_size=30))
def test_a_tokens_text_does_not_depend_on_its_neighbours(ids: list[int]) -> None:
    assert TOKENIZER.decode(ids) == "".join(TOKENIZER.decode([index]) for index in ids)
    assert [piece.decode() for piece in token_bytes(ids, TOKENIZER)] == [TOKENIZER.decode([i]) for i in ids]


def test_the_saved_tokenizer_is_the_built_one(tmp_path: Path) -> None:
    save_tokenizer(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == TOKENIZER.get_vocab()
    sample = (
        "Question: friend of mentor of Ada ?\n<search> tutor Ada </search>\n\n<information>Doc 1(Title: Ada)"
    )
    assert loaded.encode(sample) == TOKENIZER.encode(sample)
    assert (loaded.eos_token, loaded.pad_token) == (TOKENIZER.eos_token, TOKENIZER.pad_token)
    assert loaded.chat_template == CHAT_TEMPLATE


def test_the_chat_template_emits_contents_only() -> None:
    messages = [{"role": "system", "content": "a b\n"}, {"role": "user", "content": "c"}]
    rendered = TOKENIZER.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    assert rendered == "a b\nc" == text.render(messages)


def test_tags_are_not_special() -> None:
    ids = TOKENIZER.encode(text.search_turn("tutor Ada") + text.answer_turn("Ada"))
    assert not set(ids) & set(TOKENIZER.all_special_ids)
    assert [TOKENIZER.decode([i]) for i in ids[:4]] == ["<search>", " tutor", " Ada", " </search>"]


def _everything_shown() -> list[str]:
    world = World(WorldConfig(seed=1))
    asked = questions(world, "train")[:100]
    protocol = text.PROTOCOL
    many = [
        RolloutSummary(world.right_queries(question), float(i % 2)) for i, question in enumerate(asked[:14])
    ]
    groups = [[*many, RolloutSummary([], 0.0), RolloutSummary(["tutor Ada"], 1.0)]]
    blocks = [
        insert_block(text.prompt(asked[0].text), render_block(group, 0, config), config)
        for group in groups
        for config in (
            HindsightConfig(),
            HindsightConfig(labels="none"),
            HindsightConfig(placement="after_question"),
            HindsightConfig(placement="system"),
        )
    ]
    return [
        *(text.observation([passage]) for passage in list(world.passages())[::50]),
        protocol.observation(protocol.documents(list(world.passages())[:5])),
        text.observation([]),
        protocol.observation(protocol.unavailable),
        protocol.invalid_action,
        *(text.render(text.prompt(question.text)) for question in asked),
        *map(text.render, blocks),
    ]


def test_nothing_that_is_shown_needs_single_characters() -> None:
    allowed = {":", ")", "\n"}
    for shown in _everything_shown():
        ids = TOKENIZER.encode(shown)
        assert TOKENIZER.decode(ids) == shown
        singles = {piece for piece in map(TOKENIZER.decode, ([i] for i in ids)) if len(piece) == 1}
        assert singles <= allowed, (singles, shown)


def test_a_one_document_observation_is_eight_tokens() -> None:
    passage = World(WorldConfig()).contents("Ada", "mentor", "tutor")
    assert len(TOKENIZER.encode(text.observation([passage]))) == 8


@pytest.mark.parametrize("with_mask", [True, False])
def test_query_spans_are_the_query_words(with_mask: bool) -> None:
    world = World(WorldConfig())
    passages = world.retrieve("tutor Ada")
    turns = [text.search_turn("tutor Ada"), text.search_turn("pal Boris"), text.answer_turn("Otto")]
    ids: list[int] = []
    mask: list[int] = []
    for turn in turns:
        for string, wrote in ((turn, 1), (text.observation(passages), 0)):
            pieces = TOKENIZER.encode(string)
            ids, mask = ids + pieces, mask + [wrote] * len(pieces)
    spans = query_spans(ids, TOKENIZER, text.PROTOCOL, mask if with_mask else None)
    assert [TOKENIZER.decode(ids[start:end]) for start, end in spans] == [" tutor Ada", " pal Boris"]
