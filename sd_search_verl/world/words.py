"""The world's words: relations with their candidate phrasings, and names.

Their stems are distinct and none is an English stop word, so that a stemming BM25 analyzer cannot merge two
of them. The tokenizer holds exactly these words, so a world can use fewer of them but no others.
"""

from __future__ import annotations

RELATIONS: dict[str, tuple[str, ...]] = {
    "mentor": ("teacher", "tutor", "coach", "guide", "trainer", "adviser", "professor", "guru"),
    "friend": ("pal", "buddy", "mate", "chum", "ally", "companion", "comrade", "crony"),
    "spouse": ("partner", "consort", "husband", "wife", "bride", "groom", "darling", "fiance"),
    "boss": ("manager", "chief", "leader", "head", "director", "supervisor", "foreman", "captain"),
    "doctor": ("physician", "medic", "healer", "surgeon", "nurse", "clinician", "therapist", "paramedic"),
    "neighbor": ("resident", "local", "tenant", "lodger", "occupant", "boarder", "dweller", "settler"),
    "rival": ("enemy", "foe", "opponent", "adversary", "competitor", "challenger", "nemesis", "contender"),
    "heir": (
        "successor",
        "inheritor",
        "beneficiary",
        "legatee",
        "scion",
        "descendant",
        "offspring",
        "recipient",
    ),
    "lawyer": ("attorney", "solicitor", "barrister", "counsel", "advocate", "jurist", "litigator", "notary"),
    "cook": ("chef", "baker", "caterer", "butcher", "brewer", "steward", "waiter", "grocer"),
    "driver": ("chauffeur", "motorist", "pilot", "cabbie", "courier", "racer", "rider", "trucker"),
    "guard": ("sentry", "watchman", "warden", "keeper", "patrol", "protector", "defender", "bouncer"),
}
"""Word of the question -> the words a query may use for it, of which a world makes one right."""

_NAMES = """
    Ada Alma Amos Anton Aria Basil Bella Boris Bruno Carla Cedric Cyril Daria Dexter Diana Edgar
    Edith Elias Elsa Emil Erik Esther Fabian Felix Fiona Floyd Frida Gavin Greta Gustav Hanna Hector
    Helga Hugo Ida Igor Irene Isaac Jonas Judith Karl Leona Linus Lydia Magnus Marta Milo Nadia
    Nora Olga Oscar Otto Petra Quentin Ralph Rosa Rufus Selma Simon Tessa Ursula Victor Wanda Yvonne
"""
NAMES: tuple[str, ...] = tuple(_NAMES.split())
