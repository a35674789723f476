"""Without a GPU the kernels run in Triton's interpreter only, which ``test_kernels.py`` starts."""

import os

import torch

collect_ignore = ["test_fused.py"]
if torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1":
    collect_ignore.clear()
