#!/usr/bin/env bash
# The paper's ablations, one after the other; a run that is whole is only looked at. Each is one override; no_masking
# also raises the block's limit, since whole rollouts fill it: 1024 tokens hold 1.1 of 5 recorded rollouts, 4096 all.
# usage: paper_ablations.sh DATA_DIR RUN_DIR ["NAMES"|all] [HYDRA_OVERRIDES...]
set -euo pipefail
here=$(dirname "$0")
usage='usage: paper_ablations.sh DATA_DIR RUN_DIR ["NAMES"|all] [HYDRA_OVERRIDES...]'
data=${1:?$usage}
runs=${2:?$usage}
names=${3:-all}
shift $(($# > 3 ? 3 : $#))

declare -A ablation=(
  [documents]=sd_search.hindsight.content=current_documents
  [no_masking]="sd_search.hindsight.content=full sd_search.hindsight.max_tokens=16384"
  [shuffled_labels]=sd_search.hindsight.labels=shuffled
  [no_labels]=sd_search.hindsight.labels=none
  [own_rollout]=sd_search.hindsight.group=own
  [correct_only]=sd_search.hindsight.group=correct_only
  [leave_one_out]=sd_search.hindsight.group=leave_one_out
  [all_tokens]=sd_search.positions=response
  [forward_kl]=sd_search.divergence=forward_kl
  [reverse_kl]=sd_search.divergence=reverse_kl
  [mse]=sd_search.divergence=mse
)
if [ "$names" = all ]; then names=${!ablation[*]}; fi
for name in $names; do
  [ -n "${ablation[$name]:-}" ] || { echo "no ablation $name; there are ${!ablation[*]}" >&2; exit 2; }
done
for name in $names; do
  read -ra overrides <<< "${ablation[$name]}"
  "$here/paper_sd_search.sh" "$data" "$runs/$name" "${overrides[@]}" "$@"
done
