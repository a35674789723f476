#!/usr/bin/env bash
# The paper's run on this machine's 8 GPUs, with a retriever at 127.0.0.1:8000. The same command again goes on from the
# last checkpoint. On more machines: ray_job_submit.sh.
# usage: paper_sd_search.sh DATA_DIR RUN_DIR [HYDRA_OVERRIDES...]
#   for instance: paper_sd_search.sh data runs/sd-7b policy=qwen2.5_7b_instruct seed=1
set -euo pipefail
data=$(realpath -m "${1:?usage: paper_sd_search.sh DATA_DIR RUN_DIR [HYDRA_OVERRIDES...]}")
run=$(realpath -m "${2:?usage: paper_sd_search.sh DATA_DIR RUN_DIR [HYDRA_OVERRIDES...]}")
shift 2
if [[ ${run##*/} =~ ^[+~]*[a-z0-9_.]+= ]] && [ ! -e "$run" ]; then
  echo "RUN_DIR is missing: ${run##*/} is an override. Fix: give RUN_DIR before it" >&2
  exit 2
fi

exec python -m verl.trainer.main_ppo --config-name=paper data_dir="'$data'" trainer.default_local_dir="'$run'" \
  trainer.experiment_name="'$(basename "$run")'" hydra.run.dir="'$run/hydra'" "$@"
