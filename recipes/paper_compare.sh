#!/usr/bin/env bash
# SD-Search against its GRPO twin, paired by seed: training, evaluation on the seven sets with the training's retriever,
# and their differences.
# usage: paper_compare.sh DATA_DIR RUN_DIR ["SEEDS"] [HYDRA_OVERRIDES...]     for instance: paper_compare.sh data runs "0 1 2 3 4"
set -euo pipefail
here=$(dirname "$0")
usage='usage: paper_compare.sh DATA_DIR RUN_DIR ["SEEDS"] [HYDRA_OVERRIDES...]'
data=${1:?$usage}
runs=${2:?$usage}
seeds=${3:-0 1 2 3 4}
shift $(($# > 3 ? 3 : $#))

questions=()
for file in "$data"/eval/*.parquet; do
  [ -e "$file" ] || { echo "$file: no question set is there. Fix: recipes/paper_data.sh $data" >&2; exit 2; }
  questions+=(--questions "$file")
done
for seed in $seeds; do
  for arm in grpo sd_search; do
    run=$runs/$arm-seed$seed
    "$here/paper_$arm.sh" "$data" "$run" seed="$seed" "$@"
    last=$(cat "$run/latest_checkpointed_iteration.txt")
    sd-search evaluate --model "$run/global_step_$last" "${questions[@]}" --out "$run/eval"
  done
  sd-search compare "$runs/grpo-seed$seed/eval" "$runs/sd_search-seed$seed/eval"
done
sd-search report "$runs"/*-seed* --out "$runs/report.html"
