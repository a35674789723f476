"""Let Hydra parse each of verl's 30 YAML files and each interpolation once a process: half of a composition."""

from __future__ import annotations

import copy
import functools
import io
from pathlib import Path
from typing import Any

import omegaconf._utils
import omegaconf.base
from omegaconf import OmegaConf, grammar_parser

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
    """Replace ``OmegaConf.load`` and OmegaConf's parser of interpolations in this process."""
    OmegaConf.load = staticmethod(_load_once)
    omegaconf.base.parse = omegaconf._utils.parse = functools.cache(grammar_parser.parse)
