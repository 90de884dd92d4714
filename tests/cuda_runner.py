"""The software CUDA driver under the real runtime. A test helper."""
from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import pytest
from ptx_simulator import software_driver
from ptx_simulator.driver_core import SoftwareDriver

from treadle.ir.graph import Graph
from treadle.runtime import cuda_driver, cuda_memory, cuda_plan, memory

pytest.importorskip("cuda.bindings.driver", reason="needs the [cuda] extra")


def fresh(**options: int) -> SoftwareDriver:
    """A software driver with nothing loaded, and a runtime that has not met it."""
    driver = software_driver.install(**{"memory": 1 << 28, **options})
    cuda_driver.forget()
    return driver


@pytest.fixture
def driver() -> Iterator[SoftwareDriver]:
    """Faults of kernels fail the test, when it does not look at them itself."""
    found = fresh()
    yield found
    faults = list(found.faults)
    cuda_driver.forget()
    found.count = 0  # other tests of this process are on a machine without a device
    found.reset()
    assert not faults, faults[0]


def run_on_device(graph: Graph, arrays: Sequence[np.ndarray]) -> tuple[list[np.ndarray] | None, list[str]]:
    """The graph's results as the device computes them (None: a fault in the data), and its launches."""
    device = cuda_driver.device(0)
    plan = cuda_plan.build(graph, device)
    given = [np.ascontiguousarray(a, v.type.dtype.np) for a, v in zip(arrays, graph.inputs, strict=True)]
    buffers = [cuda_memory.upload(memory.from_numpy(a), device) for a, v in zip(given, graph.inputs, strict=True) if not v.type.weak]
    numbers = [a.item() for a, v in zip(given, graph.inputs, strict=True) if v.type.weak]
    found = plan.run(buffers, numbers)
    if found is None:
        return None, plan.labels
    return [memory.array_of(b.host(), v.type) for b, v in zip(found, graph.outputs, strict=True)], plan.labels
