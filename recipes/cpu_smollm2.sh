#!/usr/bin/env bash
# SD-Search on a CPU with a real language model: SmolLM2-135M-Instruct, Wikipedia passages, NQ questions. A warm start on
# the protocol, EM of 100 held-out questions, ten steps through the whole stack, the same questions again, and a report.
# usage: cpu_smollm2.sh DATA_DIR [RUN_DIR] [OPTIONS_OF_TRAIN...] [HYDRA_OVERRIDES...]
#   DATA_DIR holds corpus.jsonl, questions_nq.jsonl and trajectories_nq.jsonl.gz
#   MODEL: a folder that `sd-search model smollm2` wrote (default: runs/smollm2-135m, written where it is missing)
#   WARM_START: options of benchmarks.real_model.warmstart; OPTIONS_OF_TRAIN: of benchmarks.real_model.train
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
data=${1:?usage: cpu_smollm2.sh DATA_DIR [RUN_DIR] [OPTIONS_OF_TRAIN...] [HYDRA_OVERRIDES...]}
run=${2:-$here/runs/smollm2}
shift $(($# > 1 ? 2 : 1))
# shellcheck source=recipes/run_dir.bash
source "$here/recipes/run_dir.bash"
check_run_dir "$run" inputs
for part in corpus.jsonl questions_nq.jsonl trajectories_nq.jsonl.gz; do
  [ -e "$data/$part" ] || { echo "$data/$part is missing. Fix: python -m benchmarks.data.wiki18_mini_data --out DIR, and give DIR/wiki18-mini" >&2; exit 2; }
done
model=${MODEL:-$here/runs/smollm2-135m}
export PYTHONPATH="$here${PYTHONPATH:+:$PYTHONPATH}"
# Actor and vLLM take turns, so each may have all cores: a step takes two thirds of the time of one thread each.
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(getconf _NPROCESSORS_ONLN)}

rm -rf "$run"
mkdir -p "$run"
[ -d "$model" ] || sd-search model smollm2 "$model"
# shellcheck disable=SC2086
python -m benchmarks.real_model.warmstart "$data" "$model" --out "$run/inputs" ${WARM_START:-}
exec python -m benchmarks.real_model.train --run "$run" --inputs "$run/inputs" --corpus "$data/corpus.jsonl" "$@"
