#!/usr/bin/env bash
# The demo of cpu_demo.sh on one GPU, in the environment of `make install-gpu`. Its config has run on an H200.
# usage: gpu_demo.sh [RUN_DIR] [HYDRA_OVERRIDES...]
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
# shellcheck source=recipes/demo.bash
source "$here/recipes/demo.bash"
demo gpu_demo "${1:-$here/runs/gpu_demo}" "${@:2}"
