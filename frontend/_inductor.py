"""`treadle._inductor`: PyTorch's name for its code generator, of which programs set `config`."""
from __future__ import annotations

from typing import Any

__all__ = ["config"]


class Settings:
    """Settings of PyTorch's compiler, of no effect here: they are kept, any name may be set, and one not set is a group of more."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        group = self.__dict__[name] = Settings()
        return group

    def __bool__(self) -> bool:
        return False


config = Settings()
