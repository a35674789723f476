"""Versions of the libraries that the code is written for; setup.py and ``sd-search doctor`` read them here.

This module imports nothing, so that setup.py can run it alone. Pinned environments are in requirements/.
"""

SUPPORTED = {
    "verl": ">=0.9.1,<0.10",
    "TransferQueue": ">=0.1.10",
    "tensordict": ">=0.10,<0.11",
    "transformers": ">=5.5.3,<5.11,!=5.6.0",
    "torch": ">=2.7",
    "ray": ">=2.47",
    "hydra-core": ">=1.3",
    "omegaconf": ">=2.3",
    "pydantic": ">=2.10",
    "aiohttp": ">=3.9",
    "vllm": ">=0.18",
}
