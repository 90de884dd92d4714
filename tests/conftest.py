"""What all test files share."""
from __future__ import annotations

import gc
from collections.abc import Iterator

import pytest


@pytest.fixture(autouse=True, scope="module")
def fresh_garbage() -> Iterator[None]:
    """What earlier files left behind is not looked through again by every `gc.collect()` of a test: a fifth of a second each."""
    gc.collect()
    gc.freeze()
    yield
