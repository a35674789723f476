"""verl and vLLM on a machine without an accelerator. Inert unless ``VERL_PLATFORM=cpu`` and no accelerator is there."""

from __future__ import annotations

import os


def wanted() -> bool:
    """Whether this process shall run verl on the CPU: asked for by verl's own variable, and no accelerator visible."""
    if os.environ.get("VERL_PLATFORM", "").strip().lower() != "cpu":
        return False
    import torch

    return not (torch.cuda.is_available() or (hasattr(torch, "npu") and torch.npu.is_available()))


def activate_if_wanted() -> bool:
    """Register the platform and apply the patches if :func:`wanted`. Returns whether it did."""
    if not wanted():
        return False
    from sd_search_verl.verl_adapter.cpu import patches

    # verl's platform classes import parts of verl that look up the vLLM version, so the patches come first.
    patches.apply()
    from sd_search_verl.verl_adapter.cpu import platform

    platform.register()
    return True
