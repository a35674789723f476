#!/usr/bin/env bash
# The same loop on real text: BM25 over Wikipedia passages, NQ questions, Qwen2.5's tokenizer, a small model that has
# only learned the format from real trajectories.
# usage: cpu_wiki18_mini.sh DATA_DIR [RUN_DIR] [HYDRA_OVERRIDES...]
#   DATA_DIR holds wiki18-mini/ and qwen2.5-tokenizer/
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
data=${1:?usage: cpu_wiki18_mini.sh DATA_DIR [RUN_DIR] [HYDRA_OVERRIDES...]}
run=${2:-$here/runs/wiki18_mini}
shift $(($# > 1 ? 2 : 1))
# shellcheck source=recipes/run_dir.bash
source "$here/recipes/run_dir.bash"
check_run_dir "$run" world
for part in wiki18-mini/corpus.jsonl qwen2.5-tokenizer; do
  [ -e "$data/$part" ] || { echo "$data/$part is missing. Fix: python -m benchmarks.data.wiki18_mini_data --out $data --tokenizer" >&2; exit 2; }
done

rm -rf "$run"
mkdir -p "$run"
PYTHONPATH="$here" python -m benchmarks.data.wiki18_mini "$data/wiki18-mini" "$data/qwen2.5-tokenizer" --out "$run/world"
exec sd-search local --run "$run" --inputs "$run/world" --corpus "$data/wiki18-mini/corpus.jsonl" \
  --config-dir "$here/hydra_configs" --config cpu_wiki18_mini "$@"
