#!/usr/bin/env bash
# GRPO against SD-Search through the whole stack, as compare_methods.sh has it, but with one update a step. About 3
# minutes a run on 2 cores.
# usage: world_compare.sh "SEEDS" [RUN_DIR] [STEPS] [HYDRA_OVERRIDES...]      for instance: world_compare.sh "0 1 2 3"
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
seeds=${1:?usage: world_compare.sh \"SEEDS\" [RUN_DIR] [STEPS] [HYDRA_OVERRIDES...]}
out=${2:-$here/runs/world_compare}
steps=${3:-28}
shift $(($# > 3 ? 3 : $#))
CSV=$out/world.csv exec "$here/recipes/compare_methods.sh" "grpo sd" "$seeds" "$out" "$steps" \
  actor_rollout_ref.actor.ppo_mini_batch_size=8 "$@"
