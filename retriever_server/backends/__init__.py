"""Back ends by name. Each is imported only when asked for, so that none needs another's packages."""

from __future__ import annotations

from .base import Documents, Engine, Hit, LocalEngine, Ranker
from .registry import load

__all__ = ["Documents", "Engine", "Hit", "LocalEngine", "Ranker", "load"]
