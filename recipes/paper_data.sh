#!/usr/bin/env bash
# What the paper's runs read: NQ + HotpotQA and the seven evaluation sets as parquet, Wikipedia of 2018, and its index.
# Downloads some 15 GB. The paper retrieves with E5-base-v2: give the encoder's folder; without one BM25 is indexed.
# usage: paper_data.sh DATA_DIR [E5_BASE_V2_DIR]
set -euo pipefail
data=${1:?usage: paper_data.sh DATA_DIR [E5_BASE_V2_DIR]}
encoder=${2:-}

sd-search data build --out "$data" --protocol autorefine
sd-search corpus fetch --out "$data" --yes
if [ -n "$encoder" ]; then
  python -m retriever_server.build_index --backend dense --encoder "$encoder" --device cuda:0 \
    --corpus "$data/wiki-18.jsonl" --index "$data/index"
else
  python -m retriever_server.build_index --backend bm25 --corpus "$data/wiki-18.jsonl" --index "$data/index"
fi
