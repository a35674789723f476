"""Room for the hindsight block."""

from __future__ import annotations

from collections.abc import Iterator

from omegaconf import DictConfig

from sd_search_verl.finding import Finding, Rule
from sd_search_verl.verl_adapter.settings import read_sd_search

SHORT_BLOCK = Rule(
    "sd_search.hindsight.max_tokens",
    "sd_search.hindsight.content=full puts whole rollouts into the block, sd_search.hindsight.max_tokens={room} is "
    "less than data.max_response_length={longest}; a rollout that does not fit leaves the block empty, and the teacher "
    "equals the student",
    "set sd_search.hindsight.max_tokens to at least {longest}, better {better} for a group of {n}; the model's context "
    "must hold prompt, block and response together",
)


def check_hindsight(config: DictConfig) -> Iterator[Finding]:
    """Check that a block of whole rollouts holds at least one rollout of the longest length.

    A rollout that does not fit leaves an empty block: teacher and student then read the same, and L_SD is 0.
    """
    method = read_sd_search(config)
    if method.alpha == 0 or method.hindsight.content != "full":
        return
    room, longest = method.hindsight.max_tokens, config.data.max_response_length
    if room < longest:
        n = config.actor_rollout_ref.rollout.n
        yield SHORT_BLOCK.finding(room=room, longest=longest, n=n, better=n * longest)
    else:
        yield Finding(SHORT_BLOCK.name, True, f"{room} tokens hold a rollout of {longest}")
