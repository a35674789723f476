#!/usr/bin/env bash
# The paper's run with asynchronous rollouts on this machine's 8 GPUs, with a retriever at 127.0.0.1:8000. docs/async.md
# says which mode to use. sd_search.alpha=0 makes it the GRPO twin.
# usage: paper_async.sh DATA_DIR RUN_DIR colocate|separate [HYDRA_OVERRIDES...]
#   colocate: all GPUs make rollouts and updates in turn; late rollouts go on in the next step
#   separate: 4 GPUs make rollouts all the time, 4 update
set -euo pipefail
usage="usage: paper_async.sh DATA_DIR RUN_DIR colocate|separate [HYDRA_OVERRIDES...]"
data=${1:?$usage} run=${2:?$usage} mode=${3:?$usage}
shift 3

# Older weights sampled some of the tokens: importance weights by token, cut at 2.
options=(trainer.v1.trainer_mode="sd_search_${mode}_async" algorithm.rollout_correction.rollout_is=token)
case $mode in
  colocate) ;;
  separate)
    options+=(
      actor_rollout_ref.hybrid_engine=false trainer.n_gpus_per_node=4
      actor_rollout_ref.rollout.nnodes=1 actor_rollout_ref.rollout.n_gpus_per_node=4
      actor_rollout_ref.rollout.checkpoint_engine.backend=nccl
      # Each update is handed on: one update a step, as in the synchronous run.
      trainer.v1.separate_async.parameter_sync_step=1
      actor_rollout_ref.actor.ppo_mini_batch_size='${data.train_batch_size}'
    )
    ;;
  *) echo "$usage" >&2; exit 2 ;;
esac
exec "$(dirname "$0")/paper_sd_search.sh" "$data" "$run" "${options[@]}" "$@"
