#!/usr/bin/env bash
# A training on a Ray cluster, and the retriever as a job of its own on the head node. The retriever is stopped when Ray
# says that the training has ended; a lost connection to its log stops nothing. Folders must be shared by the nodes.
# To use a retriever that runs already: RETRIEVER=http://HOST:8000/retrieve, its key in RETRIEVER_API_KEY of the nodes.
# A cluster that runs everybody's commands is refused: ALLOW_OPEN_RAY=1 uses it all the same.
# usage: ray_job_submit.sh ADDRESS DATA_DIR COMMAND...
#   for instance: ray_job_submit.sh http://HEAD:8265 /shared/data \
#                   recipes/paper_sd_search.sh /shared/data /shared/runs/sd gpus=2x8
set -euo pipefail
here=$(cd "$(dirname "$0")/.." && pwd)
usage="usage: ray_job_submit.sh ADDRESS DATA_DIR COMMAND..."
address=${1:?$usage}
data=${2:?$usage}
: "${3:?$usage}"
shift 2

for given in "retriever_urls=${RETRIEVER:-}" "$@"; do
  if [[ $given == *retriever_urls=*@* ]]; then
    echo "a retriever's address holds a key, which Ray would store and show with the job. Fix: leave it out, and set" \
      "RETRIEVER_API_KEY on every node before ray start" >&2
    exit 2
  fi
done
# Without a token, so that jobs are listed only where Ray asks for none.
jobs="import json, sys, urllib.request as http; json.load(http.urlopen(sys.argv[1], timeout=10))"
if python3 -I -c "$jobs" "${address%/}/api/jobs/" > /dev/null 2>&1; then
  echo "warning: Ray at $address asks for no token: whoever reaches it can run commands as this user. Fix: ray" \
    "get-auth-token --generate, and RAY_AUTH_MODE=token before ray start on every node (docs/cluster.md)" >&2
  own='^https?://(127\.0\.0\.1|localhost|\[::1\])(:[0-9]+)?/?$'
  if ! [[ $address =~ $own || ${ALLOW_OPEN_RAY:-} == 1 ]]; then
    echo "nothing is submitted; ALLOW_OPEN_RAY=1 submits all the same" >&2
    exit 2
  fi
fi

submit() {
  ray job submit --address "$address" --working-dir "$here" --runtime-env "$here/recipes/ray_runtime_env.yaml" "$@"
}

job=
training=training-$(date +%s)
if [ -z "${RETRIEVER:-}" ]; then
  host=${address#*://}
  host=${host##*@}
  port=${RETRIEVER_PORT:-8000}
  RETRIEVER=http://${host%:*}:$port/retrieve
  job=retriever-$(date +%s)
  submit --no-wait --submission-id "$job" -- \
    recipes/paper_retriever.sh "$data" "${E5_BASE_V2_DIR:-}" --host 0.0.0.0 --port "$port"
fi
status=0
submit --submission-id "$training" -- "$@" "search.retriever_urls=[$RETRIEVER]" || status=$?
if [ "$status" != 0 ]; then
  found=$(ray job status --address "$address" "$training" 2>&1) || true
  ended="Job .* (succeeded|failed|was stopped)|does not exist"
  if ! [[ $found =~ $ended ]]; then
    echo "$training may go on${job:+, and so does $job}. Fix: ray job logs --address $address --follow $training" \
      "${job:+and at its end ray job stop --address $address $job}" >&2
    exit "$status"
  fi
fi
if [ -n "$job" ]; then ray job stop --address "$address" "$job" || true; fi
exit "$status"
