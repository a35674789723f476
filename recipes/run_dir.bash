# Of recipes that replace their RUN_DIR, which source this.

# check_run_dir RUN_DIR PART: end the recipe unless RUN_DIR is new, empty, or a run that holds PART.
check_run_dir() {
  if [[ $1 =~ ^[+~]*[a-z0-9_.]+= ]]; then
    echo "RUN_DIR is missing: $1 is an override. Fix: give RUN_DIR before it, or write ./$1 for a folder of that name" >&2
    exit 2
  fi
  if [ -e "$1" ] && [ ! -d "$1/$2" ] && [ -n "$(ls -A "$1")" ]; then
    echo "RUN_DIR $1 exists and is no run of this recipe, so it is not replaced. Fix: give another RUN_DIR" >&2
    exit 2
  fi
}
