"""The arms of a comparison: what is changed in the method, and in what the block is told."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor

from sd_search_verl.config import HindsightConfig, SDSearchConfig, read_config
from sd_search_verl.errors import UserError
from sd_search_verl.hindsight.teacher_inputs import TeacherInputs
from sd_search_verl.world.facts import World

METHOD = SDSearchConfig(alpha=0.3, warmup_steps=0, top_k=None)
"""SD-Search in the world. The paper's alpha is far smaller, for a policy whose GRPO gradient is far larger: Adam
does not see the scale of a gradient, only the ratio of its two parts."""


NEVER = -30.0
"""A logit whose probability is nothing, but no infinity."""


@dataclass(frozen=True)
class Arm:
    """``candidates``: where a phrasing's word is asked for, the target is uniform over its candidates; the teacher's
    elsewhere."""

    about: str
    method: SDSearchConfig = METHOD
    candidates: bool = False

    def retarget(
        self, logits: Tensor, inputs: Sequence[TeacherInputs], tokenizer: Any, world: World
    ) -> Tensor:
        """Return the teacher's ``[M, V]`` logits at the batch's M scored tokens as the student's targets."""
        if not self.candidates:
            return logits
        candidates = {
            _id(tokenizer, word): [_id(tokenizer, other) for other in others]
            for word, others in world.alternatives.items()
        }
        scored = [
            row.input_ids[at + 1] for item in inputs for row in item.rows for at in row.teacher_positions
        ]
        logits = logits.clone()
        for slot, token in enumerate(scored):
            if token in candidates:
                logits[slot] = NEVER
                logits[slot, candidates[token]] = 0.0
        return logits


def _id(tokenizer: Any, word: str) -> int:
    return int(tokenizer.convert_tokens_to_ids(f" {word}"))


def _method(about: str, **changes: Any) -> Arm:
    return Arm(about, METHOD.replace(**changes))


def _block(about: str, **changes: Any) -> Arm:
    return _method(about, hindsight=HindsightConfig(**changes))


BASELINE = "grpo"
ARMS = {
    BASELINE: _method("no distillation", alpha=0.0),
    "sd": Arm("SD-Search"),
    "sd_alpha_1": _method("SD-Search with alpha 1", alpha=1.0),
    "sd_alpha_3": _method("SD-Search with alpha 3", alpha=3.0),
    # Controls: hindsight taken away or falsified. None may beat the baseline.
    "no_block": _block("an empty block: the teacher is the student", content="none"),
    "shuffled": _block("outcome labels permuted over the batch", labels="shuffled"),
    "flipped": _block("every outcome label inverted", labels="flipped"),
    "uniform": _method("uniform over the vocabulary in place of the teacher", target="uniform"),
    "uniform_candidates": Arm(
        "uniform over a phrasing's candidate words in place of the teacher", candidates=True
    ),
    "contrast": _method("the student tilted by true against inverted labels", target="contrast"),
    # Ablations of the paper.
    "own": _block("only the scored rollout in its block", group="own"),
    "leave_one_out": _block("all rollouts but the scored one", group="leave_one_out"),
    "correct_only": _block("only CORRECT rollouts in the block", group="correct_only"),
    "no_labels": _block("queries without outcomes", labels="none"),
    "full": _block("whole rollouts in the block, documents and answers too", content="full"),
    "current_documents": _block("the scored query's documents as the block", content="current_documents"),
    "response": _method("every token of the policy is scored", positions="response"),
    "forward_kl": _method("KL(teacher || student)", divergence="forward_kl"),
    "reverse_kl": _method("KL(student || teacher)", divergence="reverse_kl"),
    "mse": _method("squared difference of probabilities", divergence="mse"),
    "group_variance": _method("weighted by sqrt(p (1 - p)) of the group", weighting="group_variance"),
    # Other methods of the family. Regularizers act from a step's second mini-batch on.
    "llds": _method("GRPO with LLDS", alpha=0.0, regularizer="llds"),
    "sapo": _method("GRPO with SAPO's conditional KL", alpha=0.0, regularizer="sapo"),
    "sd_llds": _method("SD-Search with LLDS", regularizer="llds"),
    "gate": _method("SD-Search with SDAR's gate", gate="sigmoid"),
    "gate_llds": _method("SD-Search with SDAR's gate and LLDS", gate="sigmoid", regularizer="llds"),
    "advantage": _method("the teacher scales the turns' advantages", use="advantage", alpha=1.0),
    "info_gain": _method("GRPO with the information gain of searches", alpha=0.0, information_gain=0.3),
    "sd_info_gain": _method("SD-Search with the information gain of searches", information_gain=0.3),
    "best_sibling": _block("only the best CORRECT sibling in the block", group="best_sibling"),
    "cosine": _method("alpha falls along a cosine over 28 steps", schedule="cosine", distil_steps=28),
    "first": _method("L_SD alone for 14 steps, then GRPO", schedule="stages", distil_steps=14),
    "in_turns": _method(
        "2 steps of L_SD alone, 2 of GRPO, in turns", schedule="stages", distil_steps=2, rl_steps=2
    ),
    "ema": _method("a moving average as the teacher", teacher="ema", teacher_decay=0.9),
}


def arm(name: str, alpha: float | None = None) -> Arm:
    """Return the arm of a name; with another alpha, where one is given and the arm distils at all.

    Raises:
        UserError: there is none, or alpha is no number of at least 0.
    """
    if name not in ARMS:
        raise UserError(f"arm {name!r} is unknown; choose from {', '.join(ARMS)}")
    found = ARMS[name]
    if alpha is None or not found.method.alpha:
        return found
    changed = {**found.method.model_dump(), "alpha": alpha}
    return replace(found, method=read_config(SDSearchConfig, changed, "arm"))
