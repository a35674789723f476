#!/usr/bin/env bash
# SD-Search end to end on a CPU, in the synthetic world: real verl, Ray, vLLM, FSDP and Pyserini BM25.
# PROTOCOL=tool_call runs it in tool calls.
# usage: cpu_demo.sh [RUN_DIR] [HYDRA_OVERRIDES...]
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
run=${1:-$here/runs/demo}
protocol=${PROTOCOL:-search_r1}
shift $(($# > 0 ? 1 : 0))
if [[ $run =~ ^[+~]*[a-z0-9_.]+= ]]; then
  echo "RUN_DIR is missing: $run is an override. Fix: give RUN_DIR before it, or write ./$run for a folder of that name" >&2
  exit 2
fi
if [ -e "$run" ] && [ ! -d "$run/world" ] && [ -n "$(ls -A "$run")" ]; then
  echo "RUN_DIR $run exists and is no run of this recipe, so it is not replaced. Fix: give another RUN_DIR" >&2
  exit 2
fi

rm -rf "$run"
mkdir -p "$run"
sd-search world build --out "$run/world" --protocol "$protocol"
exec sd-search local --run "$run" --inputs "$run/world" --config-dir "$here/hydra_configs" --config cpu_demo \
  search.protocol="$protocol" "$@"
