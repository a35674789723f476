#!/usr/bin/env bash
# The GRPO twin of paper_sd_search.sh: the same seed, data, order and steps, without the distillation.
# usage: paper_grpo.sh DATA_DIR RUN_DIR [HYDRA_OVERRIDES...]
set -euo pipefail
exec "$(dirname "$0")/paper_sd_search.sh" "$@" sd_search.alpha=0
