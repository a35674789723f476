#!/usr/bin/env bash
# Plain Search-R1: GRPO on exact match from its own start. Add sd_search.alpha=1e-3 for SD-Search from there.
# Its prompts differ, so its data do: sd-search data build --out DATA_DIR --protocol search_r1
# usage: search_r1.sh DATA_DIR RUN_DIR [HYDRA_OVERRIDES...]
set -euo pipefail
data=${1:?usage: search_r1.sh DATA_DIR RUN_DIR [HYDRA_OVERRIDES...]}
run=${2:?usage: search_r1.sh DATA_DIR RUN_DIR [HYDRA_OVERRIDES...]}
shift 2
exec "$(dirname "$0")/paper_sd_search.sh" "$data" "$run" start=search_r1 sd_search.alpha=0 "$@"
