"""verl's rollout correction and its estimators: what they read is computed, and what they promise happens."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from omegaconf import DictConfig, OmegaConf

from sd_search_verl.finding import Finding, Rule

_CORRECTION = "algorithm.rollout_correction"
_LOSS = "actor_rollout_ref.actor.policy_loss"
_ROLLOUT = "actor_rollout_ref.rollout"

NO_LOG_PROBS = Rule(
    f"{_ROLLOUT}.calculate_log_probs",
    f"{_ROLLOUT}.calculate_log_probs=False: {_CORRECTION}.{{option}}={{value}} needs the log-probs of the rollouts; "
    "without them verl corrects nothing and says nothing, or ends the first step in bypass mode",
    f"set {_ROLLOUT}.calculate_log_probs=True, or {_CORRECTION}.{{option}}={{off}}",
)
OTHER_NUMBERS = Rule(
    f"{_ROLLOUT}.logprobs_mode",
    f"{_ROLLOUT}.logprobs_mode={{mode}} at temperature {{temperature}}: {_CORRECTION}.{{option}}={{value}} would "
    "compare the policy's log-probs with other numbers",
    f"set {_ROLLOUT}.logprobs_mode=processed_logprobs",
)
LEFT_OUT = Rule(
    f"{_CORRECTION}.bypass_mode",
    f"{_CORRECTION}.{{option}}={{value}} with bypass_mode=True: verl's V1 trainer never hands it to the policy loss, "
    "so the loss stays {loss} and no token is rejected",
    f"set {_CORRECTION}.bypass_mode=False, or {_CORRECTION}.{{option}}={{off}}",
)
LATE_REJECTION = Rule(
    f"{_LOSS}.rollout_correction.rollout_rs",
    f"{_LOSS}.loss_mode=bypass_mode rejects tokens inside verl's policy loss (rollout_rs={{value}}), after the scored "
    "tokens were chosen: rejected rollouts would stay in L_SD",
    f"leave {_LOSS}.rollout_correction.rollout_rs out, and reject by {_CORRECTION}.rollout_rs without bypass_mode",
)
NOT_COMPUTED = Rule(
    "algorithm.adv_estimator",
    "algorithm.adv_estimator={value} reads {what}, which verl's V1 trainer does not compute: it ends the first step",
    "set algorithm.adv_estimator=grpo",
)
READS = {
    "remax": "rewards of greedy rollouts",
    "gdpo": "the parts of the reward beside the batch",
    "optimal_token_baseline": "the sums of squared probabilities",
    "tir_optimal_token_baseline": "the sums of squared probabilities",
}
OFF = {"rollout_is": "null", "rollout_rs": "null", "bypass_mode": "False", "loss_type": "ppo_clip"}
"""Value of each option that asks for nothing."""


def check_correction(config: DictConfig) -> Iterator[Finding]:
    """Check that verl's rollout correction has its numbers and is applied, and that the estimator has what it reads."""
    value = partial(OmegaConf.select, config)
    asked = {name: found for name in OFF if name != "loss_type" and (found := value(f"{_CORRECTION}.{name}"))}
    for name, found in asked.items():
        values = {"option": name, "value": found, "off": OFF[name]}
        mode, temperature = value(OTHER_NUMBERS.name), value(f"{_ROLLOUT}.temperature")
        if value(NO_LOG_PROBS.name) is False:
            yield NO_LOG_PROBS.finding(**values)
        elif mode not in (None, "processed_logprobs") and not (mode == "raw_logprobs" and temperature == 1):
            yield OTHER_NUMBERS.finding(**values, mode=mode, temperature=temperature)
    if "bypass_mode" in asked:
        for name in ("rollout_rs", "loss_type"):
            found, loss = value(f"{_CORRECTION}.{name}"), value(f"{_LOSS}.loss_mode")
            handed = loss == "bypass_mode" and value(f"{_LOSS}.rollout_correction.{name}") == found
            if found not in (None, OFF[name]) and not handed:
                yield LEFT_OUT.finding(option=name, value=found, off=OFF[name], loss=loss)
    late = value(LATE_REJECTION.name)
    if late and value(f"{_LOSS}.loss_mode") == "bypass_mode" and value("sd_search.alpha") != 0:
        yield LATE_REJECTION.finding(value=late)
    estimator = value(NOT_COMPUTED.name)
    if estimator in READS:
        yield NOT_COMPUTED.finding(value=estimator, what=READS[estimator])
