"""The process of one part: ``python -m benchmarks.gpu.part MODULE RUN [ARGUMENT...]``, started by the main command."""

from __future__ import annotations

import importlib
import json
import sys
from pathlib import Path

import torch

from benchmarks.gpu.results import Run


def main(module: str, told: str, *arguments: str) -> None:
    """Run ``module.run``; ``told`` is a :class:`Run` in JSON."""
    values = json.loads(told)
    run = Run(**values | {"out": Path(values["out"])})
    torch.manual_seed(run.seed)
    if not run.gpu:
        torch.set_num_threads(1)
    importlib.import_module(module).run(run, *arguments)


if __name__ == "__main__":
    main(*sys.argv[1:])
