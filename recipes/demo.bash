# The demo of cpu_demo.sh and gpu_demo.sh: build a world and train in it.
# usage: demo CONFIG RUN_DIR [HYDRA_OVERRIDES...], with PROTOCOL=tool_call in tool calls
demo() {
  local config=$1 run=$2 protocol=${PROTOCOL:-search_r1} recipes
  recipes=$(dirname "${BASH_SOURCE[0]}")
  # shellcheck source=recipes/run_dir.bash
  source "$recipes/run_dir.bash"
  check_run_dir "$run" world
  rm -rf "$run"
  mkdir -p "$run"
  sd-search world build --out "$run/world" --protocol "$protocol"
  exec sd-search local --run "$run" --inputs "$run/world" \
    --config-dir "$recipes/../hydra_configs" --config "$config" search.protocol="$protocol" "${@:3}"
}
