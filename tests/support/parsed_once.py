"""Let Hydra parse each of verl's 30 YAML files once a process, not once a config: nearly half of a composition."""

from __future__ import annotations

import copy
import io
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

_load = OmegaConf.load
_read: dict[str, Any] = {}


def _load_once(file: Any) -> Any:
    if "verl" not in Path(getattr(file, "name", "")).parts:
        return _load(file)  # its errors name the file
    text = file.read()
    if text not in _read:
        _read[text] = _load(io.StringIO(text))
    return copy.deepcopy(_read[text])


def install() -> None:
    """Replace ``OmegaConf.load`` in this process."""
    OmegaConf.load = staticmethod(_load_once)
