"""The variables of a run on a CPU: the user's own numbers of threads and gigabytes count."""

from sd_search_verl.launch.environment import ENVIRONMENT, QUIET, cpu_environment, environment


def test_without_variables_of_the_user_the_defaults_hold() -> None:
    assert cpu_environment({"PATH": "/bin"}) == ENVIRONMENT


def test_threads_and_cache_of_the_user_are_kept() -> None:
    given = {"OMP_NUM_THREADS": "2", "VLLM_CPU_OMP_THREADS_BIND": "0-1", "VLLM_CPU_KVCACHE_SPACE": "4"}
    assert cpu_environment(given) == {**ENVIRONMENT, **given}


def test_what_the_cpu_needs_is_set_whatever_the_user_has() -> None:
    found = cpu_environment({"VERL_PLATFORM": "cuda", "TORCHDYNAMO_DISABLE": "0"})
    assert (found["VERL_PLATFORM"], found["TORCHDYNAMO_DISABLE"]) == ("cpu", "1")


def test_a_gpu_gets_nothing_of_a_cpu() -> None:
    assert environment("cpu", {}) == ENVIRONMENT
    assert environment("cuda", {"OMP_NUM_THREADS": "1"}) == {**QUIET, "VERL_PLATFORM": "nvidia"}
