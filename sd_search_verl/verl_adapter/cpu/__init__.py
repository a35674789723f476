"""verl and vLLM on a machine without an accelerator: ``VERL_PLATFORM=cpu`` asks for it. Inert beside an accelerator."""

from __future__ import annotations

import os

VARIABLE = "VERL_PLATFORM"
"""verl's own; it reads it when it first needs a device, after its plugins are loaded."""


def accelerator_visible() -> bool:
    """Return whether this process sees a device that verl trains on."""
    import torch

    return torch.cuda.is_available() or (hasattr(torch, "npu") and torch.npu.is_available())


def activate_if_wanted() -> bool:
    """Register the platform and apply the patches where the CPU is asked for. Returns whether it did.

    Beside an accelerator the variable is removed instead: verl stops at the name of a platform that nobody registered,
    and finds the accelerator by itself without one.
    """
    if os.environ.get(VARIABLE, "").strip().lower() != "cpu":
        return False
    if accelerator_visible():
        del os.environ[VARIABLE]
        return False
    from sd_search_verl.verl_adapter.cpu import patches

    # verl's platform classes import parts of verl that look up the vLLM version, so the patches come first.
    patches.apply()
    from sd_search_verl.verl_adapter.cpu import platform

    platform.register()
    return True
