"""Each CPU patch is still needed: without it, the line of verl or vLLM that it answers fails. When one of these
tests fails, a newer release no longer needs that patch: remove it.
"""

from __future__ import annotations

import inspect
import os
import subprocess
import sys

import pytest


def unpatched(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in an interpreter where our plugin does nothing."""
    environment = {**os.environ, "VERL_PLATFORM": "", "VERL_USE_EXTERNAL_PLUGINS": "none"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=180, env=environment
    )


def test_verl_still_looks_for_a_distribution_called_vllm() -> None:
    done = unpatched("import verl.third_party.vllm")
    assert done.returncode != 0
    assert "vllm version None not supported" in done.stderr


def test_verl_still_names_the_cpu_twice() -> None:
    import verl.utils.distributed as distributed

    source = inspect.getsource(distributed.initialize_global_process_group_ray)
    assert 'f"cpu:gloo,{get_device_name()}:{get_nccl_backend()}"' in source
    done = unpatched(
        "import os, torch.distributed as d\n"
        "os.environ.update(MASTER_ADDR='127.0.0.1', MASTER_PORT='0', RANK='0', WORLD_SIZE='1')\n"
        "d.init_process_group('cpu:gloo,cpu:gloo')"
    )
    assert done.returncode != 0
    assert "cpu" in done.stderr.splitlines()[-1]


def test_verl_still_pins_memory_of_forward_only_engines() -> None:
    import verl.workers.engine.fsdp.transformer_impl as engine

    assert "CPUOffloadPolicy(pin_memory=True)" in inspect.getsource(engine.FSDPEngine)


def test_vllm_still_packs_weights_on_the_cpu() -> None:
    layers = pytest.importorskip("vllm.model_executor.layers.utils")
    source = inspect.getsource(layers.dispatch_cpu_unquantized_gemm)
    assert "check_cpu_sgl_kernel" in source
    assert "_supports_onednn" in source
