"""Every differentiable op's gradient against central differences, and second derivatives where training takes them."""
from __future__ import annotations

import numpy as np
import pytest
from op_cases import GRADIENT_CASES, build, check_gradients, float_inputs, gradient_graph, random_array, samples_of

from treadle.ir import dtypes
from treadle.ir.op import TABLE

# Where PyTorch's gradient is not the slope: class weights are constants, the padding row of an embedding gets none, float32 is coarse.
ONLY_FIRST = {"cross_entropy", "nll_loss"}
# Symmetric matrices cannot be varied entry by entry: test_linalg varies them through x @ x.T. Eigenvectors have a phase of their own.
NOT_THE_SLOPE = {("embedding", 1), ("cast", 0), ("cholesky", 0), ("cholesky", 1), ("eigh", 0), ("eigh", 1),
                 ("eig", 0), ("eig", 1), ("eig", 2)}
TWICE = ["mul", "div", "pow", "exp", "tanh", "sigmoid", "matmul", "softmax", "log_softmax", "logsumexp", "gelu", "silu", "layer_norm",
         "rms_norm",
         "cross_entropy", "var", "cumsum", "gather", "index_select", "index", "mse_loss", "linear_bias", "rnn_layer", "lstm_layer",
         "gru_layer"]


@pytest.mark.parametrize(("name", "which"), [c for c in GRADIENT_CASES if c not in NOT_THE_SLOPE])
def test_gradient_equals_differences(name: str, which: int) -> None:
    op = TABLE[name]
    graph, arrays = build(op, samples_of(op)[which], dtypes.float64)
    check_gradients(graph, arrays, wrt=(0,) if name in ONLY_FIRST else None)


@pytest.mark.parametrize("name", [n for n in TWICE if n in TABLE])
def test_second_derivative_equals_differences(name: str) -> None:
    op = TABLE[name]
    graph, arrays = build(op, samples_of(op)[0], dtypes.float64)
    first = gradient_graph(graph, float_inputs(graph))
    rng = np.random.default_rng(3)
    extra = [random_array(v.type.shape, dtypes.float64, rng) for v in first.inputs[len(arrays):]]
    check_gradients(first, [*arrays, *extra], tolerance=5e-6)
