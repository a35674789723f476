#!/usr/bin/env bash
# Install a wheel or sdist in a clean environment and use what needs neither torch nor verl: commands and retrieval server.
# usage: use_release.sh PYTHON FILE FOLDER
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
python=$1 file=$(realpath "$2") folder=$(realpath -m "$3")

rm -rf "$folder"
"$python" -m venv "$folder"
cd "$folder" # not in the tree, whose packages would be found first
bin/python -m pip install --quiet --disable-pip-version-check --no-deps "$file"
bin/python -m pip install --quiet --disable-pip-version-check -r "$here/retriever.txt" -c "$here/versions.txt" \
  aiohttp huggingface_hub hydra-core omegaconf packaging psutil pyarrow

bin/sd-search --version
bin/sd-search --help >/dev/null
bin/python -m retriever_server --help >/dev/null
bin/python -m compileall -q lib/python*/site-packages/sd_search_verl lib/python*/site-packages/retriever_server
bin/python - <<'PYTHON'
import importlib.metadata as metadata, importlib.resources as resources
plugins = [found.value for found in metadata.entry_points(group="verl.plugins") if found.name == "sd_search"]
assert plugins == ["sd_search_verl.plugin"], plugins
config = resources.files("sd_search_verl.hydra_configs").joinpath("paper.yaml").read_text()
assert "sd_search" in config
PYTHON
echo "$(basename "$file") works in a clean environment of $("$python" --version)"
