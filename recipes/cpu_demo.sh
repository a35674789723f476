#!/usr/bin/env bash
# SD-Search end to end on a CPU, in the synthetic world: real verl, Ray, vLLM, FSDP and Pyserini BM25.
# PROTOCOL=tool_call runs it in tool calls.
# usage: cpu_demo.sh [RUN_DIR] [HYDRA_OVERRIDES...]
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=recipes/demo.bash
source "$here/recipes/demo.bash"
demo cpu_demo "${1:-$here/runs/demo}" "${@:2}"
