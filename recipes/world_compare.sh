#!/usr/bin/env bash
# GRPO against SD-Search through the whole stack (verl, Ray, vLLM, FSDP, BM25), paired by seed: the same world, the same
# questions in the same order. About 3 minutes a run on 2 cores. A finished run is kept: call it again to go on.
# usage: world_compare.sh "SEEDS" [RUN_DIR] [STEPS] [HYDRA_OVERRIDES...]      for instance: world_compare.sh "0 1 2 3"
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
seeds=${1:?usage: world_compare.sh \"SEEDS\" [RUN_DIR] [STEPS] [HYDRA_OVERRIDES...]}
out=${2:-$here/runs/world_compare}
steps=${3:-28}
shift $(($# > 3 ? 3 : $#))
# shellcheck source=recipes/run_dir.bash
source "$here/recipes/run_dir.bash"

runs=()
for seed in $seeds; do
  for arm in grpo:0 sd:0.3; do
    run=$out/${arm%:*}-seed$seed
    runs+=("$run")
    if [ -e "$run/report.html" ]; then continue; fi
    check_run_dir "$run" world
    rm -rf "$run"
    sd-search world build --out "$run/world" --seed "$seed"
    sd-search local --run "$run" --inputs "$run/world" --config-dir "$here/hydra_configs" --config cpu_demo \
      --steps "$steps" sd_search.alpha="${arm#*:}" sd_search.warmup_steps=0 "$@"
  done
done
PYTHONPATH="$here" python -m benchmarks.world from-runs "${runs[@]}" --csv "$out/world.csv"
sd-search report "${runs[@]}" --out "$out/report.html"
