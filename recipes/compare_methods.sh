#!/usr/bin/env bash
# Methods against each other through the whole stack (verl, Ray, vLLM, FSDP, BM25) at equal rollouts, paired by seed: the
# same world, the same questions in the same order, two updates a step. One table. A finished run is kept: call it again
# to go on. dapo's dropped groups count as rollouts, so its rows lie further on for the same number of steps.
# Its success and p(right) are those of the mixed groups that it trains on, so they are not those of other methods.
# usage: compare_methods.sh "METHODS" "SEEDS" [RUN_DIR] [STEPS] [HYDRA_OVERRIDES...]
#   for instance: compare_methods.sh "grpo gspo dapo llds sd sd_llds" "0 1 2 3"
#   CSV: file of the table (default: RUN_DIR/methods.csv)
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
usage='usage: compare_methods.sh "METHODS" "SEEDS" [RUN_DIR] [STEPS] [HYDRA_OVERRIDES...]'
methods=${1:?$usage}
seeds=${2:?$usage}
out=${3:-$here/runs/compare_methods}
steps=${4:-28}
shift $(($# > 4 ? 4 : $#))
# shellcheck source=recipes/run_dir.bash
source "$here/recipes/run_dir.bash"

actor=actor_rollout_ref.actor
correction=algorithm.rollout_correction
declare -A overrides=(
  # verl's own
  [grpo]="sd_search.alpha=0"
  [gspo]="sd_search.alpha=0 $actor.policy_loss.loss_mode=gspo $actor.loss_agg_mode=seq-mean-token-mean
    $actor.clip_ratio_low=3e-4 $actor.clip_ratio_high=4e-4"
  [dapo]="sd_search.alpha=0 algorithm.filter_groups.enable=True $actor.clip_ratio_high=0.28"
  [rollout_correction]="sd_search.alpha=0 $correction.rollout_is=token $correction.rollout_is_threshold=2.0"
  # this package's
  [sd]="sd_search.alpha=0.3"
  [llds]="sd_search.alpha=0 sd_search.regularizer=llds"
  [sapo]="sd_search.alpha=0 sd_search.regularizer=sapo"
  [sd_llds]="sd_search.alpha=0.3 sd_search.regularizer=llds"
  [gate]="sd_search.alpha=0.3 sd_search.gate=sigmoid"
  [gate_llds]="sd_search.alpha=0.3 sd_search.gate=sigmoid sd_search.regularizer=llds"
  [advantage]="sd_search.alpha=1 sd_search.use=advantage"
  [info_gain]="sd_search.alpha=0 sd_search.information_gain=0.3"
  [best_sibling]="sd_search.alpha=0.3 sd_search.hindsight.group=best_sibling"
  [first]="sd_search.alpha=0.3 sd_search.schedule=stages sd_search.distil_steps=14"
  [ema]="sd_search.alpha=0.3 sd_search.teacher=ema sd_search.teacher_decay=0.9"
)
for method in $methods; do
  [ -n "${overrides[$method]:-}" ] || { echo "no method $method; there are ${!overrides[*]}" >&2; exit 2; }
done

runs=()
for seed in $seeds; do
  for method in $methods; do
    run=$out/$method-seed$seed
    runs+=("$run")
    if [ -e "$run/report.html" ]; then continue; fi
    check_run_dir "$run" world
    rm -rf "$run"
    sd-search world build --out "$run/world" --seed "$seed"
    # shellcheck disable=SC2086  a method is several overrides
    sd-search local --run "$run" --inputs "$run/world" --config-dir "$here/hydra_configs" --config cpu_demo \
      --steps "$steps" $actor.ppo_mini_batch_size=4 sd_search.warmup_steps=0 ${overrides[$method]} "$@"
  done
done
PYTHONPATH="$here" python -m benchmarks.world from-runs "${runs[@]}" --csv "${CSV:-$out/methods.csv}"
sd-search report "${runs[@]}" --out "$out/report.html"
