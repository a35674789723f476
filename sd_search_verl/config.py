"""The configuration: every option with its default, unit and rule. No default stands anywhere else.

``+sd_search=default`` on the command line of ``verl.trainer.main_ppo`` adds the sections ``sd_search:`` (the method),
``search:`` (the agent loop) and ``health:`` (alarms), filled from the models below and from ``health/config.py``. The
text under a field is its help on the command line and its line in docs/configuration.md.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Field, StringConstraints, ValidationInfo, model_validator

from sd_search_verl.config_base import (
    A_RUN,
    Affects,
    ConfigError,
    ConfigModel,
    Count,
    Seed,
    Share,
    Tokens,
    Unit,
    read_config,
)
from sd_search_verl.health.config import HealthConfig

__all__ = ["ConfigError", "HealthConfig", "HindsightConfig", "SDSearchConfig", "SearchConfig", "read_config"]

Divergence = Literal["jsd", "forward_kl", "reverse_kl", "mse"]
SupportKind = Literal["teacher", "union"]
Tail = Literal["bucket", "renormalize"]
Layout = Literal["lines", "outcome_last", "sentences", "tags", "scores", "sections"]
TagProtocolName = Literal["search_r1", "autorefine"]
ProtocolName = Literal["search_r1", "autorefine", "tool_call"]
ToolName = Literal["search", "read"]
Url = Annotated[str, StringConstraints(pattern=r"^https?://")]


class HindsightConfig(ConfigModel):
    """What the teacher sees in addition to the student's context."""

    content: Literal["queries", "full", "current_documents", "none"] = "queries"
    """queries: every rollout's queries (the method). full: whole rollouts, no future masking. current_documents:
    the documents the scored query retrieved, one teacher row per query. none: no block, the teacher is the student."""
    label: Literal["f1", "em", "reward"] = "f1"
    """What makes a rollout CORRECT. f1: a token F1 above ``correct_above_f1``. em: an exact match. reward: a reward
    above ``correct_above_reward``, whatever the reward function is."""
    labels: Literal["outcome", "none", "shuffled", "flipped"] = "outcome"
    """outcome: CORRECT or INCORRECT per rollout. none: no label. Controls: shuffled, labels permuted over the whole
    batch; flipped, every label inverted."""
    group: Literal["all", "own", "leave_one_out", "correct_only", "best_sibling", "other_question"] = "all"
    """Which rollouts of the question enter the block, seen from the rollout that is scored. best_sibling: the CORRECT
    one with the fewest queries, if it has fewer than the scored one or that is INCORRECT. other_question: those of the
    batch's next question, a control."""
    correct_above_f1: Annotated[float, Field(ge=0, lt=1), Unit("F1")] = 0.0
    """With ``label=f1`` a rollout is CORRECT when its answer's token F1 is greater than this."""
    correct_above_reward: Annotated[float, Unit("reward")] = 0.0
    """With ``label=reward`` a rollout is CORRECT when its reward is greater than this: the most of a wrong answer."""
    layout: Layout = "lines"
    """Wording of the attempts. lines: ``1. CORRECT: query``. outcome_last: ``1. query -> CORRECT``. sentences, tags:
    words of a text, or a tag. scores: the F1 in place of the label. sections: queries sorted by outcome."""
    order: Literal["sampling", "correct_first", "correct_last"] = "sampling"
    """Of the attempts in the block."""
    own: Literal["shown", "hidden", "cut"] = "shown"
    """The scored rollout's own line. hidden: without its queries. cut: with what it had written before the scored
    token, so that no token can be copied from itself; one teacher row for every scored token."""
    instruction: bool = False
    """End the block with a sentence that tells the teacher to search as CORRECT attempts did."""
    demonstration: bool = False
    """Begin the block with a worked example of another question."""
    placement: Literal["before_question", "after_question", "system"] = "before_question"
    """Start of the last user message, end of it, or end of the system message (made if absent)."""
    max_tokens: Annotated[int, Field(ge=16), Unit("tokens")] = 1024
    """Longest block. A longer one loses rollouts from its end (never the scored one); this is counted."""

    @model_validator(mode="after")
    def _combines(self) -> Self:
        wording = [
            name for name in ("layout", "order", "own", "instruction", "demonstration") if self._changed(name)
        ]
        if wording and self.content in ("current_documents", "none"):
            raise ValueError(
                f"{wording[0]}={getattr(self, wording[0])} has no attempts to word with content={self.content}. "
                f"Fix: leave {wording[0]} out, or use content=queries"
            )
        if self.own != "shown" and self.group in ("leave_one_out", "best_sibling", "other_question"):
            raise ValueError(
                f"own={self.own} has no own line to change with group={self.group}. Fix: use own=shown or group=all"
            )
        if self.own != "shown" and self.content != "queries":
            raise ValueError(
                f"own={self.own} hides queries, content={self.content} shows more. Fix: use own=shown"
            )
        if self.labels == "none" and (self.instruction or self.demonstration or self.layout != "lines"):
            raise ValueError(
                "labels=none leaves nothing for layout, instruction and demonstration. Fix: leave them out"
            )
        return self

    def without_labels(self) -> str:
        """Return why inverting labels would invert none that the block shows, with the fix; "" where it would."""
        for name, bad, why in (
            ("content", ("current_documents", "none"), "shows none"),
            ("labels", ("none", "shuffled", "flipped"), "has no true ones"),
            ("group", ("correct_only", "best_sibling"), "chooses rollouts by them"),
        ):
            if (value := getattr(self, name)) in bad:
                usual = type(self).model_fields[name].default
                return f"hindsight.{name}={value} {why}. Fix: use hindsight.{name}={usual}"
        return ""

    def _changed(self, name: str) -> bool:
        return bool(getattr(self, name) != type(self).model_fields[name].default)


class SDSearchConfig(ConfigModel):
    """The distillation term of L = L_GRPO + alpha * L_SD."""

    alpha: Annotated[float, Field(ge=0), Unit("weight")] = 1.0e-3
    """Weight of L_SD."""
    warmup_steps: Annotated[int, Field(ge=0), Unit("steps")] = 50
    """Training steps at the start with alpha 0; nothing of the method is computed in them."""
    schedule: Literal["constant", "cosine", "stages"] = "constant"
    """Of alpha after the warm-up. cosine: falls to 0 over ``distil_steps``. stages: L_SD alone for ``distil_steps``,
    then GRPO alone for ``rl_steps``, in turns."""
    distil_steps: Annotated[Count, Unit("steps")] = 50
    """Length of the cosine, or of a stage of distillation."""
    rl_steps: Annotated[Count | None, Unit("steps")] = None
    """Length of a stage of GRPO; null = to the end of the run."""
    teacher: Literal["live", "ema"] = "live"
    """live: the current weights. ema: their moving average over mini-batches, one more copy of the trained weights, in
    fp32."""
    teacher_decay: Annotated[float, Field(ge=0, lt=1), Unit("share")] = 0.95
    """What the moving average keeps of itself at every mini-batch."""
    use: Literal["loss", "advantage"] = "loss"
    """loss: L_SD is added to GRPO's loss. advantage: no L_SD; the mean log P_teacher - log P_student of a turn's scored
    tokens scales the turn's advantage, and alpha is the share of the factor that is applied; 0.5 is usual."""
    factor_bound: Annotated[float, Field(gt=0, lt=1), Unit("share")] = 0.5
    """The factor of ``use=advantage`` lies within 1 - this and 1 + this."""
    gate: Literal["none", "sigmoid", "labels"] = "none"
    """Factor of a scored token. sigmoid: of gate_beta (log P_teacher - log P_student) of the sampled token. labels: the
    share of this credit that turns when the block's labels are inverted; one more teacher pass."""
    gate_beta: Annotated[float, Field(gt=0), Unit("1 / nats")] = 5.0
    """Slope of the gate."""
    information_gain: Annotated[float, Field(ge=0), Unit("weight")] = 0.0
    """Weight of a search's information gain in the advantage of its query tokens; 0 = not computed. Independent of
    alpha."""
    regularizer: Literal["none", "llds", "llds_response", "sapo"] = "none"
    """Penalty on tokens of non-negative advantage that have become less likely than when they were sampled. llds: in
    turns that have become less likely as a whole. llds_response: in such responses. sapo: below 0.8 times the old
    probability. Independent of alpha."""
    regularizer_coef: Annotated[float, Field(ge=0), Unit("weight")] = 0.2
    """Weight of the penalty, a mean over the mini-batch's policy tokens as GRPO's loss is."""
    divergence: Divergence = "jsd"
    """Between teacher and student at one position; forward_kl is KL(teacher || student)."""
    top_k: Annotated[Count | None, Unit("tokens")] = 50
    """Vocabulary entries compared one by one; null = the full vocabulary."""
    support: SupportKind = "teacher"
    """Whose top_k entries are compared: the teacher's, or the union with the student's."""
    tail: Tail = "bucket"
    """bucket: all other entries form one more entry. renormalize: they are dropped and the rest renormalised."""
    positions: Literal["query", "first_difference", "tool_arguments", "response"] = "query"
    """query: tokens strictly inside a query. first_difference: of these up to the first at which the group's queries
    differ; what follows it a rollout mostly copies from its own line. tool_arguments: strictly inside any argument of
    any tool call. response: every token of the policy."""
    weighting: Literal["uniform", "group_variance"] = "uniform"
    """group_variance multiplies a trajectory's term by sqrt(p (1 - p)), p = its group's share of CORRECT."""
    target: Literal["teacher", "contrast", "uniform"] = "teacher"
    """contrast: the student's own distribution times P_true / P_flipped, of the teacher behind the block and behind its
    labels inverted: what the labels say, without what is copied whichever way they stand; one more teacher pass.
    uniform replaces the teacher by the uniform distribution over the whole vocabulary, whatever ``top_k`` says: a
    control that must not help."""
    chunk_rows: Annotated[Count, Unit("tokens")] = 128
    """Scored tokens whose fp32 distributions exist at a time; each takes about 14 V bytes (30 V without top-k)."""
    labels_every: Annotated[Count | None, Unit("steps"), Affects.OPERATION] = 50
    """Steps between two measurements of sd_search/label_sensitivity and sd_search/copy_share; each takes one more
    teacher pass over one mini-batch. Not where the block shows no true labels. null = never."""
    grad_share_every: Annotated[Count | None, Unit("steps"), Affects.OPERATION] = 50
    """Steps between two measurements of sd_search/grad_share = |alpha grad L_SD| / |grad L_GRPO|; each takes two more
    forwards and backwards over one mini-batch. null = never."""
    max_staleness: Annotated[int | None, Field(ge=0), Unit("versions")] = None
    """Query tokens sampled by weights more versions behind the policy than this leave L_SD; the rollout stays in L_GRPO
    and in its siblings' blocks. For asynchronous modes: otherwise every token has staleness 0. null = no limit."""
    hindsight: HindsightConfig = HindsightConfig()
    """What the teacher sees in addition to the student's context."""

    @property
    def reads_flipped(self) -> bool:
        """Whether the loss needs the teacher behind inverted labels."""
        return self.target == "contrast" or self.gate == "labels"

    @model_validator(mode="after")
    def _combines(self, info: ValidationInfo) -> Self:
        # One entry renormalised is the constant 1: no gradient, at any alpha. The formulas may still be evaluated.
        constant = self.top_k == 1 and self.tail == "renormalize" and self.support == "teacher"
        if constant and info.context == A_RUN:
            raise ValueError("top_k=1 with tail=renormalize has zero loss. Fix: use tail=bucket or top_k>=2")
        if self.gate != "none" and self.target != "teacher":
            raise ValueError(
                f"gate={self.gate} weighs by the teacher, target={self.target} has another target. Fix: use gate=none"
            )
        own_block = self.hindsight.content == "current_documents" or self.hindsight.own == "cut"
        if self.positions in ("tool_arguments", "response") and own_block:
            raise ValueError(
                f"positions={self.positions!r} does not go with hindsight.content=current_documents or "
                "hindsight.own=cut, whose blocks belong to queries. Fix: use positions=query"
            )
        if self.reads_flipped and (found := self.hindsight.without_labels()):
            switch = "target=contrast" if self.target == "contrast" else "gate=labels"
            raise ValueError(f"{switch} compares true labels with inverted ones, {found}")
        if self.use == "loss":
            return self
        for name, usable in {"gate": "none", "target": "teacher", "weighting": "uniform"}.items():
            if getattr(self, name) != usable:
                raise ValueError(
                    f"{name}={getattr(self, name)} changes L_SD, which use=advantage has not. Fix: use {name}={usable}"
                )
        if self.schedule == "stages":
            raise ValueError(
                "schedule=stages trains L_SD alone, which use=advantage has not. Fix: use constant"
            )
        if self.alpha * self.factor_bound >= 1:
            raise ValueError(
                f"alpha={self.alpha:g} times factor_bound={self.factor_bound:g} must be below 1: the "
                "factor of use=advantage must not turn an advantage's sign. Fix: lower alpha, 0.5 is usual"
            )
        return self


class ToolCallConfig(ConfigModel):
    """What the policy calls with ``search.protocol=tool_call``; other protocols do not read it."""

    family: Annotated[str, StringConstraints(pattern=r"^\w[\w-]*$")] = "hermes"
    """How the model writes calls, named as verl's tool parser: hermes (Qwen2.5, Qwen3), qwen3_coder (Qwen3-Coder,
    Qwen3.5), gemma4."""
    tools: Annotated[list[ToolName], Field(min_length=1)] = Field(default=["search"])
    """Tools of the retrieval server. Those of verl's actor_rollout_ref.rollout.multi_turn come beside them."""
    answer: Literal["tag", "last_message"] = "tag"
    """tag: an answer stands between <answer> and </answer>. last_message: where there is none, the whole message of a
    turn without a call is the answer."""
    parallel: bool = True
    """Whether a turn may hold several calls. false: it ends at its first call or answer, as with tags, which keeps a
    model from inventing the results; the environment writes its end-of-turn token."""


class SearchConfig(ConfigModel):
    """The agent loop: how a rollout searches."""

    retriever_urls: Annotated[list[Url], Field(min_length=1), Affects.OPERATION] = Field(
        default=["http://127.0.0.1:8000/retrieve"]
    )
    """Retrieval servers; more than one are spread over and fail over."""
    top_k: Annotated[Count, Unit("documents")] = 3
    """Documents per query."""
    max_turns: Annotated[Count, Unit("turns")] = 5
    """Turns in which a search may be executed; one more turn follows in which only an answer counts."""
    max_observation_tokens: Tokens = 512
    """Longest observation; a longer one is cut, and counted."""
    max_turn_tokens: Tokens = 512
    """Longest generation in one turn."""
    protocol: ProtocolName = "search_r1"
    """search_r1, autorefine: tags and observation text. tool_call: tool calls of the model's chat template."""
    tool_call: ToolCallConfig = ToolCallConfig()
    """Tool calls."""
    timeout_s: Annotated[float, Field(gt=0), Unit("s"), Affects.OPERATION] = 30.0
    """Total time one search may take, retries included."""
    max_retries: Annotated[int, Field(ge=0), Unit("tries"), Affects.OPERATION] = 3
    """Further tries after the first; servers that refuse connections, as one that restarts does, are asked until
    timeout_s."""
    max_loading_s: Annotated[float, Field(ge=0), Unit("s"), Affects.OPERATION] = 1800.0
    """How long a start waits for retrievers that are loading their index (HTTP 503)."""
    max_failure_rate: Annotated[Share | None, Unit("share"), Affects.OPERATION] = None
    """Stop the run when a larger share of a step's searches failed; null = never."""
    traces_per_step: Annotated[int, Field(ge=0), Unit("rollouts"), Affects.OPERATION] = 40
    """Rollouts a step, in whole groups, written to traces.jsonl in trainer.default_local_dir; 0 = none."""
    sampling_seed: Annotated[Seed | None, Unit("seed"), Affects.OPERATION] = None
    """A number makes every rollout's sampling depend on it, the step, the question, the rollout's place in its group
    and the turn, and on nothing else, so that a resumed run samples as an uninterrupted one. null = the rollout
    engine's own random state, which is faster on GPUs and starts anew when a run is resumed."""
