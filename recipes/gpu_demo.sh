#!/usr/bin/env bash
# The demo of cpu_demo.sh on one GPU, in the environment of `make install-gpu`: verl, Ray, vLLM, FSDP2, Pyserini BM25.
# usage: gpu_demo.sh [RUN_DIR] [HYDRA_OVERRIDES...]
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
run=${1:-$here/runs/gpu_demo}
protocol=${PROTOCOL:-search_r1}
shift $(($# > 0 ? 1 : 0))
# shellcheck source=recipes/run_dir.bash
source "$here/recipes/run_dir.bash"
check_run_dir "$run" world

rm -rf "$run"
mkdir -p "$run"
sd-search world build --out "$run/world" --protocol "$protocol"
exec sd-search local --device cuda --run "$run" --inputs "$run/world" --config-dir "$here/hydra_configs" --config gpu_demo \
  search.protocol="$protocol" "$@"
