"""Worlds harder than the usual one: what each number of the config does."""

from collections import Counter
from pathlib import Path
from random import Random

import pytest

from sd_search_verl.errors import UserError
from sd_search_verl.world import World, WorldConfig, questions, text
from sd_search_verl.world.demonstrations import demonstration, stage
from sd_search_verl.world.files import difficulty, write_difficulty
from sd_search_verl.world.tokenizer import build_tokenizer
from sd_search_verl.world.warmstart import Encoder

TOKENIZER = build_tokenizer()
AGENT = WorldConfig(hops=4, one_hop_share=0.25, words=2, candidates=3, filler=0.5, documents=3)


def test_a_phrasing_of_words_is_one_of_each_places_candidates() -> None:
    world = World(WorldConfig(words=2, candidates=3))
    phrasings = world.phrasings("mentor")
    assert len(set(phrasings)) == world.config.phrasings == 9
    assert phrasings[:4] == ("teacher guide", "teacher trainer", "teacher adviser", "tutor guide")
    assert world.alternatives["trainer"] == ("guide", "trainer", "adviser")
    values = {world.value("Ada", "mentor", phrasing) for phrasing in phrasings}
    assert len(values) == 9


def test_every_word_must_be_right_and_their_order_does_not_matter() -> None:
    world = World(WorldConfig(words=2, candidates=3))
    right = world.right_phrasing("mentor")
    first, second = right.split()
    assert world.retrieve(f"{first} {second} Ada") == world.retrieve(f"{second} Ada {first}") != []
    assert world.retrieve(f"{first} Ada") == []
    other = next(word for word in world.alternatives[second] if word != second)
    assert world.retrieve(f"{first} {other} Ada") != world.retrieve(f"{right} Ada")


@pytest.mark.parametrize("hops", [1, 2, 3, 4])
def test_questions_have_up_to_so_many_hops_equally_often(hops: int) -> None:
    world = World(WorldConfig(hops=hops, one_hop_share=0.4, train_questions=300))
    chosen = questions(world, "train")
    counts = Counter(len(question.relations) for question in chosen)
    share = 120 if hops > 1 else 300
    assert counts[1] == share
    assert all(counts[n] == pytest.approx(180 / (hops - 1), abs=1) for n in range(2, hops + 1))
    assert len(set(chosen)) == 300
    assert all(len(set(question.relations)) == len(question.relations) for question in chosen)


def test_questions_are_drawn_evenly_over_subjects_and_relations() -> None:
    chosen = questions(World(WorldConfig(hops=3, one_hop_share=0.0, train_questions=4000)), "train")
    firsts = Counter(question.relations[0] for question in chosen)
    lasts = Counter(question.relations[-1] for question in chosen)
    subjects = Counter(question.subject for question in chosen)
    # 4000 draws over 12 and over 48: means 333 and 83, standard deviations 17 and 9.
    assert all(260 < firsts[r] < 410 and 260 < lasts[r] < 410 for r in firsts)
    assert (len(firsts), len(subjects)) == (12, 48)
    assert all(45 < count < 125 for count in subjects.values())


def test_a_search_finds_more_passages_about_the_same_name_and_relation() -> None:
    world = World(WorldConfig(documents=3))
    found = world.retrieve("tutor Ada")
    assert found == world.retrieve("tutor Ada")
    assert found[0] == world.contents("Ada", "mentor", "tutor")
    about = {world.contents("Ada", "mentor", phrasing) for phrasing in world.phrasings("mentor")}
    assert len(set(found)) == 3
    assert set(found) <= about


def test_a_habit_is_never_right_and_common_in_demonstrations() -> None:
    config = WorldConfig(habit=0.6)
    worlds = [World(WorldConfig(seed=seed, habit=0.6)) for seed in range(40)]
    assert all(world.right_phrasing(r) != world.phrasings(r)[0] for world in worlds for r in world.relations)
    draw, first = Random(0), World(config)
    habitual = {first.phrasings(relation)[0] for relation in first.relations}
    used: list[bool] = []
    while len(used) < 600:
        example = demonstration(draw, stage(0.0), config)
        if example.prompt.startswith("Question:"):  # no block
            whole = "".join(segment for segment, _ in example.response)
            used += [query.split()[0] in habitual for query in text.PROTOCOL.parse(whole).queries]
    assert 0.54 < sum(used) / len(used) < 0.66  # standard deviation 0.02
    assert config.chance == pytest.approx(0.4 / 7)


def test_filler_has_the_mean_length_it_says() -> None:
    draw = Random(0)
    lengths = [len(text.thinking(draw, 0.75)) for _ in range(4000)]
    assert sum(lengths) / len(lengths) == pytest.approx(3.0, abs=0.25)  # geometric: standard error 0.055
    assert text.thinking(draw, 0.0) == []


def test_demonstrations_of_hard_worlds_follow_the_protocol_and_the_oracle() -> None:
    draw, encode = Random(2), Encoder(TOKENIZER)
    hops = set()
    for _ in range(100):
        example = demonstration(draw, stage(0.9), AGENT)
        whole = example.prompt + "".join(segment for segment, _ in example.response)
        assert encode(example)[0][:-1] == TOKENIZER.encode(whole)
        parsed = text.PROTOCOL.parse(whole[len(example.prompt) :])
        asked = whole[whole.index("Question:") :].split("?")[0].count(" of ")
        assert parsed.answer is not None
        assert len(parsed.queries) == asked
        assert all(len(query.split()) == 3 for query in parsed.queries)
        hops.add(asked)
    assert hops == {1, 2, 3, 4}


def test_a_checkpoint_says_for_which_worlds_it_is(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="warmstart --out"):
        difficulty(tmp_path)
    write_difficulty(AGENT, tmp_path)
    assert difficulty(tmp_path) == AGENT
    (tmp_path / "world.json").write_text('{"phrasings": 3}')
    with pytest.raises(UserError, match="phrasings"):
        difficulty(tmp_path)
