"""The kernels compile for the GPUs they are meant for, and compute the plain formulas in Triton's interpreter."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, get_args

import pytest
import torch

from sd_search_verl.config import Divergence
from sd_search_verl.distill import fused, kernels

needs_triton = pytest.mark.skipif(
    not kernels.available, reason="triton is not installed; requirements/cpu.txt has it"
)
ROWS = {"logits": "L", "stride": "i32"}
PAIR = {"student": "L", "stride": "i32", "teacher": "L", "teacher_stride": "i32"}
OF_PAIR = ("highest", "logsumexp", "teacher_highest", "teacher_logsumexp")
OUT = {"out": "L", "out_stride": "i32"}


def floats(*names: str) -> dict[str, str]:
    return dict.fromkeys(names, "*fp32")


SIGNATURES: dict[str, dict[str, str]] = {
    "row_log_probs": ROWS
    | {"index": "*i64", "ascending": "*i64"}
    | floats("log_probs")
    | {"top1_at": "*i64"}
    | floats("entropy_at", "logsumexp_at", "tail_log_prob_at", "highest_at", "tail_logsumexp_at"),
    "support_divergence": floats("log_p", "log_q") | {"index": "*i64"} | floats("values", "gradient_at"),
    "tail_gradient": ROWS | floats("highest", "logsumexp", "gradient") | {"gradient_stride": "i32"} | OUT,
    "write_support": {"index": "*i64"} | floats("gradient") | {"gradient_stride": "i32"} | OUT,
    "whole_sums": PAIR | floats(*OF_PAIR, "values", "totals"),
    "whole_gradient": PAIR | floats(*OF_PAIR, "totals") | OUT,
}
SIZES: dict[str, Any] = {
    "vocab": 151_936,
    "COUNT": 50,
    "PADDED": 64,
    "WIDTH": 51,
    "BUCKET": True,
    "BLOCK": 4096,
}


@needs_triton
@pytest.mark.parametrize("capability", [80, 90])
@pytest.mark.parametrize("dtype", ["*bf16", "*fp32"])
@pytest.mark.parametrize("name", SIGNATURES)
def test_a_kernel_compiles_without_a_gpu(name: str, dtype: str, capability: int) -> None:
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    kernel = getattr(kernels, name)
    signature = {k: dtype if v == "L" else v for k, v in SIGNATURES[name].items()}
    for kind in range(len(get_args(Divergence))) if "KIND" in kernel.arg_names else (0,):
        constants = {k: v for k, v in {**SIZES, "KIND": kind}.items() if k in kernel.arg_names}
        source = ASTSource(kernel, signature | dict.fromkeys(constants, "constexpr"), constants)
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 8})
        assert compiled.asm["cubin"]


@needs_triton
def test_the_kernels_compute_the_plain_formulas_in_the_interpreter() -> None:
    """In a process of its own: Triton decides when it is imported."""
    test = Path(__file__).with_name("test_fused.py")
    command = [sys.executable, "-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", str(test)]
    environment = os.environ | {"TRITON_INTERPRET": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=environment, cwd=test.parents[2], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:]
    assert " passed" in done.stdout
    assert "1 skipped" in done.stdout  # the one about a GPU, and no other


@pytest.mark.skipif(torch.cuda.is_available(), reason="kernels can be built here")
def test_kernels_that_cannot_be_built_are_left_out_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fused, "_can_be_built", fused._can_be_built.__wrapped__)
    with pytest.warns(UserWarning, match="runs without its Triton kernels, right but slower: .*CUDA"):
        assert not fused._can_be_built()
