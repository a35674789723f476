#!/usr/bin/env bash
# SD-Search end to end on a CPU, in the synthetic world: real verl, Ray, vLLM, FSDP and Pyserini BM25.
# PROTOCOL=tool_call runs it in tool calls.
# usage: cpu_demo.sh [RUN_DIR] [HYDRA_OVERRIDES...]
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
run=${1:-$here/runs/demo}
protocol=${PROTOCOL:-search_r1}
shift $(($# > 0 ? 1 : 0))
# shellcheck source=recipes/run_dir.bash
source "$here/recipes/run_dir.bash"
check_run_dir "$run" world

rm -rf "$run"
mkdir -p "$run"
sd-search world build --out "$run/world" --protocol "$protocol"
exec sd-search local --run "$run" --inputs "$run/world" --config-dir "$here/hydra_configs" --config cpu_demo \
  search.protocol="$protocol" "$@"
