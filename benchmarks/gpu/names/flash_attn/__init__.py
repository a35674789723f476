"""The names of flash-attn that verl and transformers import, over the FlashAttention-2 kernels that torch itself ships.

For a machine without flash-attn's wheel. ``bert_padding.py`` and ``ops/triton/cross_entropy.py`` are flash-attn's own
files; ``benchmarks/gpu/bundle.py`` puts them beside this one.
"""

from .varlen import flash_attn_func, flash_attn_varlen_func

__version__ = "2.8.3"
flash_attn_with_kvcache = None
__all__ = ["flash_attn_func", "flash_attn_varlen_func", "flash_attn_with_kvcache"]
