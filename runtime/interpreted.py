"""The first tier: a graph run op by op on numpy, without needless memory and without losing what does not depend on a fault."""
from __future__ import annotations

from collections.abc import Collection, Sequence
from typing import Any

import numpy as np

from treadle.ir.graph import Graph, Node, Value
from treadle.ir.interpreter import DataError, evaluate
from treadle.runtime import memory, timing
from treadle.runtime.memory import LARGE, array_of
from treadle.runtime.recorder import Data


class Interpretation:
    """One run of `graph`. Every step can be repeated, so a run that was interrupted goes on where it stopped.

    `given` are the values of the tensor inputs, `wanted` those of the outputs. Inputs at the positions `dead` are given up with their last
    use: nobody but the run refers to them. A training step then never holds the parameters of before and after the update at once.
    """

    def __init__(self, graph: Graph, given: Sequence[Data], scalars: Sequence[Any], wanted: Sequence[Data], dead: Collection[int]) -> None:
        self.graph, self.wanted = graph, wanted
        self.env: dict[Value, np.ndarray] = {}
        self.owned: dict[Value, memory.Buffer] = {}
        for value, data in zip(graph.inputs, given, strict=False):
            self.env[value] = array_of(data.buffer, value.type)
        for value, number in zip(graph.inputs[len(given):], scalars, strict=True):
            self.env[value] = np.asarray(number)
        self.dying = {graph.inputs[i]: given[i] for i in dead}
        self.failure: DataError | None = None
        self.at = 0
        self.last: dict[Value, int] = {}
        for i, node in enumerate(graph.nodes):
            for value in node.inputs:
                self.last[value] = i
        self.results = set(graph.outputs)
        self.keep = self.results | (set(graph.inputs) - set(self.dying))
        self.released = False

    def run(self) -> None:
        """Compute and store the results. A fault is raised once everything that does not depend on it is stored.

        An interrupt stops the run at once as long as all inputs are there: then it can be repeated. Later it is raised at the end.
        """
        interrupt: BaseException | None = None
        while True:
            try:
                self.compute()
                self.store()
                break
            except BaseException as error:
                if isinstance(error, Exception) or not self.released:
                    raise
                interrupt = error
        if interrupt is not None:
            raise interrupt
        if self.failure is not None:
            raise self.failure

    def compute(self) -> None:
        """Every value that can be computed, from node `at` on."""
        nodes = self.graph.nodes
        with np.errstate(all="ignore"):
            while self.at < len(nodes):
                node = nodes[self.at]
                if self.failure is None or all(v in self.env for v in node.inputs):
                    self.step(node)
                self.at += 1
                self.release(node)

    def step(self, node: Node) -> None:
        assert node.op is not None
        env = self.env
        start = 0 if timing.ACTIVE is None else timing.now()
        try:
            results = evaluate(node.op, [env[v] for v in node.inputs], node.attrs, tuple([v.type for v in node.inputs]),
                               tuple([o.type for o in node.outputs]))
        except (IndexError, RuntimeError, ValueError, ArithmeticError, DataError) as error:
            self.failure = self.failure or DataError(error.error if isinstance(error, DataError) else error, node)
            return
        if start and timing.ACTIVE is not None:
            timing.ACTIVE.note("interpret", node.op.name, start, node)
        for value, array in zip(node.outputs, results, strict=True):
            env[value] = array
            # Large results go to memory of their own at once, else there would be two of each in the end.
            if value in self.results and value.type.nbytes >= LARGE and value.type.device == "cpu":
                self.owned[value] = memory.own_copy(array, value.type)
                env[value] = array_of(self.owned[value], value.type)

    def release(self, node: Node) -> None:
        """Drop what the node before `at` was the last to use."""
        if self.failure is not None:
            return
        for value in node.inputs:
            if self.last[value] < self.at and value not in self.keep:
                self.env.pop(value, None)
                data = self.dying.get(value)
                if data is not None:
                    self.released = True
                    data.buffer = None

    def store(self) -> None:
        for value, data in zip(self.graph.outputs, self.wanted, strict=True):
            if value in self.env and data.buffer is None:
                data.buffer = self.owned.pop(value, None) or memory.own_copy(self.env[value], value.type)
            if data.buffer is not None:
                data.trace = None
