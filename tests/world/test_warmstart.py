"""The warm start, and the checkpoint that it made."""

from random import Random
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from sd_search_verl.errors import UserError
from sd_search_verl.hindsight.layout import HEADER
from sd_search_verl.world import World, WorldConfig, questions, text
from sd_search_verl.world.config import CHECKPOINT, HEAD_DIM, FitConfig
from sd_search_verl.world.demonstrations import demonstration, stage
from sd_search_verl.world.files import difficulty
from sd_search_verl.world.model import build_model
from sd_search_verl.world.probe import Probe, initial_success, probe
from sd_search_verl.world.sampling import rollouts
from sd_search_verl.world.supervised import fit
from sd_search_verl.world.tokenizer import build_tokenizer
from sd_search_verl.world.warmstart import Encoder, WarmStartError, check, train
from sd_search_verl.world.words import RELATIONS

TOKENIZER = build_tokenizer()
WORLD = WorldConfig()


@pytest.fixture(scope="module")
def shipped() -> Any:
    return AutoModelForCausalLM.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()


def test_a_few_steps_lower_the_loss() -> None:
    model = build_model(TOKENIZER)
    draw, encode = Random(0), Encoder(TOKENIZER)
    config = FitConfig(steps=40, batch=16, warmup_steps=10)
    losses = fit(
        model, lambda progress: [encode(demonstration(draw, stage(0.5), WORLD)) for _ in range(16)], config
    )
    assert sum(losses[-5:]) < 0.6 * sum(losses[:5])


def test_heads_of_odd_width_are_refused() -> None:
    with pytest.raises(UserError, match="head_dim=7 must be even"):
        build_model(TOKENIZER, head_dim=7)


def test_a_model_that_does_not_copy_halfway_stops_the_training() -> None:
    with pytest.raises(WarmStartError, match="does not copy"):
        train(build_model(TOKENIZER), TOKENIZER, FitConfig(steps=4, batch=4), WORLD)


def test_a_random_model_fails_the_probe() -> None:
    with pytest.raises(WarmStartError, match="CORRECT"):
        check(build_model(TOKENIZER), TOKENIZER, WORLD)


def test_demonstrations_use_the_texts_of_the_stack_and_end_with_eos() -> None:
    draw, encode = Random(0), Encoder(TOKENIZER)
    blocks = 0
    for _ in range(200):
        example = demonstration(draw, stage(0.5), WORLD)
        whole = example.prompt + "".join(segment for segment, _ in example.response)
        ids, weights = encode(example)
        assert ids[:-1] == TOKENIZER.encode(whole)
        assert ids[-1] == TOKENIZER.eos_token_id
        parsed = text.PROTOCOL.parse(whole[len(example.prompt) :])
        assert parsed.answer is not None
        assert len(parsed.queries) == whole[whole.index("Question:") :].split("?")[0].count(" of ")
        # Observations carry no loss.
        start = len(TOKENIZER.encode(example.prompt))
        unweighted = TOKENIZER.decode(
            [i for i, w in zip(ids[start:], weights[start:], strict=True) if w == 0]
        )
        assert unweighted.count("<information>") == unweighted.count("</information>") == len(parsed.queries)
        blocks += HEADER in whole
    assert 130 < blocks < 190


def test_plain_demonstrations_tell_nothing_of_the_right_phrasing() -> None:
    draw = Random(1)
    used = dict.fromkeys((phrasing for candidates in RELATIONS.values() for phrasing in candidates), 0)
    for _ in range(4000):
        example = demonstration(draw, stage(0.0), WORLD)
        if HEADER not in example.prompt:
            for query in text.PROTOCOL.parse("".join(segment for segment, _ in example.response)).queries:
                used[query.split()[0]] += 1
    # About 880 draws over 96 phrasings.
    assert min(used.values()) >= 1
    assert max(used.values()) <= 26


def test_the_shipped_checkpoint_fits_the_stack(shipped: Any) -> None:
    assert sum(file.stat().st_size for file in CHECKPOINT.iterdir()) <= 1_000_000
    loaded = AutoTokenizer.from_pretrained(CHECKPOINT)
    assert loaded.get_vocab() == TOKENIZER.get_vocab(), "the words or texts changed: remake the checkpoint"
    config = shipped.config
    assert config.vocab_size == len(loaded)
    assert config.model_type == "qwen2"
    assert config.hidden_size == config.num_attention_heads * HEAD_DIM
    assert config.tie_word_embeddings
    assert (config.eos_token_id, config.pad_token_id) == (loaded.eos_token_id, loaded.pad_token_id)


def test_the_shipped_checkpoint_reads_blocks_and_knows_no_world(shipped: Any) -> None:
    found = probe(shipped, TOKENIZER, difficulty(CHECKPOINT), samples=512, seed=1)
    assert found.failures() == [], found
    assert found.wrong > 0.15, found


def test_before_training_few_rollouts_succeed_but_nearly_all_follow_the_protocol(shipped: Any) -> None:
    assert 0.04 < initial_success(shipped, TOKENIZER, WORLD, seed=100) < 0.14
    world = World(WorldConfig(seed=9))
    asked = questions(world, "val")
    finished = rollouts(shipped, TOKENIZER, world, asked, seed=0)
    assert sum(rollout.answer is not None for rollout in finished) > 0.95 * len(asked)
    searches = [
        len(rollout.queries) == len(question.relations)
        for question, rollout in zip(asked, finished, strict=True)
    ]
    assert sum(searches) > 0.9 * len(asked)


def test_probe_failures_are_named() -> None:
    assert Probe(plain=0.125, correct=0.97, wrong=0.2, chance=0.125).failures() == []
    assert len(Probe(plain=0.5, correct=0.3, wrong=0.2, chance=0.125).failures()) == 2
