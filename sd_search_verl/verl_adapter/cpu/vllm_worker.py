"""vLLM's worker on a CPU, able to take new weights.

Chosen by ``actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls``.
"""

from __future__ import annotations

from typing import Any

from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension


class CpuWorkerExtension(vLLMColocateWorkerExtension):
    """verl's worker extension with vLLM's packed CPU kernels off.

    vllm/model_executor/layers/utils.py (dispatch_cpu_unquantized_gemm) packs every linear weight after loading and
    leaves an empty parameter behind, so no later weight could be loaded. With both kernels off vLLM takes its own
    fallback, ``F.linear`` on the live weight.
    """

    def __new__(cls, **kwargs: Any) -> CpuWorkerExtension:
        import vllm._custom_ops
        import vllm.model_executor.layers.utils as layer_utils

        vllm._custom_ops._supports_onednn = False
        layer_utils.check_cpu_sgl_kernel = lambda *_: False
        return super().__new__(cls, **kwargs)
