"""A synthetic world: a policy must find out how to word its queries, and every query's credit is known.

Data flows down: ``words`` and ``config`` -> ``facts`` -> ``questions`` -> ``files`` (what the stack reads);
``demonstrations`` -> ``warmstart`` -> ``probe`` (the model).
``sd-search world`` builds all of it; the study of the method in it is `benchmarks.world`.
"""

from sd_search_verl.world.config import WorldConfig
from sd_search_verl.world.facts import Question, World
from sd_search_verl.world.questions import questions

__all__ = ["Question", "World", "WorldConfig", "questions"]
