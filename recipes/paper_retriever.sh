#!/usr/bin/env bash
# Serves the index of paper_data.sh on port 8000 until it is stopped. Dense search takes 33 GB on one GPU: give it a
# machine of its own, and every trainer its address with search.retriever_urls=[http://HOST:8000/retrieve].
# usage: paper_retriever.sh DATA_DIR [E5_BASE_V2_DIR] [SERVER_OPTIONS...]
set -euo pipefail
data=${1:?usage: paper_retriever.sh DATA_DIR [E5_BASE_V2_DIR] [SERVER_OPTIONS...]}
shift
encoder=
if [[ $# -gt 0 && $1 != -* ]]; then encoder=$1; shift; fi

backend=(--backend bm25)
if [ -n "$encoder" ]; then backend=(--backend dense --encoder "$encoder" --device cuda:0); fi
exec python -m retriever_server "${backend[@]}" --corpus "$data/wiki-18.jsonl" --index "$data/index" "$@"
