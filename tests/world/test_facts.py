"""The generator and its oracle."""

import pytest

from sd_search_verl.config import read_config
from sd_search_verl.errors import UserError
from sd_search_verl.world import Question, World, WorldConfig, questions
from sd_search_verl.world.words import NAMES, RELATIONS

SMALL = WorldConfig(
    seed=3,
    relations=4,
    candidates=5,
    names=12,
    held_out_names=4,
    train_questions=40,
    val_questions=20,
)


def test_a_world_is_a_function_of_its_config_whatever_is_asked_first() -> None:
    first, second = World(SMALL), World(SMALL)
    asked_late = second.answer(questions(second, "train")[0])
    assert list(first.passages()) == list(second.passages())
    assert first.answer(questions(first, "train")[0]) == asked_late
    assert questions(first, "val") == questions(second, "val")


def test_worlds_of_other_seeds_differ() -> None:
    worlds = [World(WorldConfig(seed=seed)) for seed in range(6)]
    right = {tuple(world.right_phrasing(relation) for relation in world.relations) for world in worlds}
    assert len(right) == len(worlds)
    assert len({tuple(questions(world, "train")) for world in worlds}) == len(worlds)


def test_right_phrasings_are_uniform_over_worlds() -> None:
    worlds = [World(WorldConfig(seed=seed)) for seed in range(100)]
    counts = [0] * 8
    for world in worlds:
        for relation in world.relations:
            counts[world.phrasings(relation).index(world.right_phrasing(relation))] += 1
    # 1200 draws over 8: mean 150, standard deviation 11.5.
    assert all(100 < count < 200 for count in counts), counts


def test_every_phrasing_of_a_relation_gives_another_value() -> None:
    world = World(WorldConfig())
    for name in world.names[:10]:
        for relation in world.relations:
            values = [world.value(name, relation, phrasing) for phrasing in world.phrasings(relation)]
            assert len(set(values)) == 8
            assert name not in values


def test_exactly_one_phrasing_leads_to_the_answer() -> None:
    world = World(WorldConfig())
    for question in [q for q in questions(world, "val") if len(q.relations) == 1]:
        values = [
            world.value(question.subject, question.relations[0], phrasing)
            for phrasing in world.phrasings(question.relations[0])
        ]
        assert values.count(world.answer(question)) == 1


def test_the_oracles_queries_find_the_passages_that_lead_to_the_answer() -> None:
    world = World(WorldConfig(seed=5))
    for question in questions(world, "train")[:50]:
        name = question.subject
        for query in world.right_queries(question):
            (passage,) = world.retrieve(query)
            assert passage.startswith(f"{name}\n{name} {query.split()[0]} is ")
            name = passage.split()[-2]
        assert name == world.answer(question)


def test_two_hop_questions_read_from_the_last_relation_to_the_first() -> None:
    assert Question("Ada", ("mentor", "friend")).text == "friend of mentor of Ada ?"


def test_held_out_names_are_subjects_of_validation_questions_only() -> None:
    world = World(WorldConfig())
    train = {question.subject for question in questions(world, "train")}
    val = {question.subject for question in questions(world, "val")}
    assert len(world.held_out) == 16
    assert val <= set(world.held_out)
    assert not train & set(world.held_out)


@pytest.mark.parametrize(("split", "size"), [("train", 600), ("val", 100)])
def test_splits_have_the_sizes_and_hops_of_the_config_and_no_duplicates(split: str, size: int) -> None:
    chosen = questions(World(WorldConfig(one_hop_share=0.75, train_questions=600, val_questions=100)), split)
    assert len(chosen) == len(set(chosen)) == size
    assert sum(len(question.relations) == 2 for question in chosen) == size // 4


def test_more_questions_than_there_are_is_an_error() -> None:
    with pytest.raises(UserError, match=r"world.train_questions=1024 .* 1 hops, the world has 576"):
        questions(World(WorldConfig(one_hop_share=1.0)), "train")


def test_distractors_say_which_wrong_phrasings_have_passages() -> None:
    world = World(WorldConfig(distractors=2))
    assert len(list(world.passages())) == 64 * 12 * 3
    found = [world.retrieve(f"{phrasing} Ada") for phrasing in world.phrasings("mentor")]
    assert [len(passages) for passages in found].count(1) == 3
    assert world.retrieve(f"{world.right_phrasing('mentor')} Ada")


@pytest.mark.parametrize("query", ["", "tutor", "tutor Nobody", "unheard Ada", "tutor tutor Ada", "Ada Ada"])
def test_other_queries_find_nothing(query: str) -> None:
    assert World(WorldConfig()).retrieve(query) == []


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("relations", 13),
        ("words", 5),
        ("candidates", 1),
        ("candidates", 9),
        ("distractors", -1),
        ("documents", 6),
        ("hops", 5),
        ("filler", 1.0),
        ("habit", -0.1),
        ("names", 8),
        ("held_out_names", 64),
        ("one_hop_share", 2.0),
    ],
)
def test_impossible_configs_are_refused_by_name(field: str, value: float) -> None:
    with pytest.raises(UserError, match=f"world.{field}="):
        read_config(WorldConfig, {field: value}, "world")


def test_words_are_distinct_and_lower_case_but_for_names() -> None:
    words = [*RELATIONS, *(phrasing for candidates in RELATIONS.values() for phrasing in candidates), *NAMES]
    assert len({word.lower() for word in words}) == len(words) == 12 + 96 + 64
    assert all(word.isalpha() for word in words)
