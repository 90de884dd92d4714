"""nn: modules, containers, layers and losses. The oracle tests run the same programs on PyTorch."""
from __future__ import annotations

import copy
import math
import pickle
from collections import OrderedDict
from typing import Any

import numpy as np
import pytest

import treadle
from treadle import nn
from treadle.nn import functional as F
from treadle.nn.hooks import register_module_forward_hook


def values(tensor: Any) -> np.ndarray:
    return np.asarray(tensor.detach().numpy())


def close(a: Any, b: Any, tolerance: float = 1e-5) -> None:
    np.testing.assert_allclose(values(a), b if isinstance(b, np.ndarray) else values(b), rtol=tolerance, atol=tolerance)


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Linear(3, 4)
        self.second = nn.Linear(4, 2, bias=False)
        self.second_again = self.second
        self.register_buffer("scale", treadle.ones(2))
        self.register_buffer("cache", treadle.zeros(1), persistent=False)

    def forward(self, x: Any) -> Any:
        return self.second(F.relu(self.first(x))) * self.scale


# Registration


def test_names_and_sharing() -> None:
    net = Net()
    assert [n for n, _ in net.named_parameters()] == ["first.weight", "first.bias", "second.weight"]
    assert [n for n, _ in net.named_parameters(remove_duplicate=False)][-1] == "second_again.weight"
    assert [n for n, _ in net.named_modules()] == ["", "first", "second"]
    assert [n for n, _ in net.named_children()] == ["first", "second"]
    assert [n for n, _ in net.named_buffers(prefix="p")] == ["p.scale", "p.cache"]
    assert list(net.state_dict()) == ["scale", "first.weight", "first.bias", "second.weight", "second_again.weight"]
    assert net.get_submodule("first") is net.first and net.get_parameter("first.bias") is net.first.bias
    assert "first" in dir(net) and "scale" in dir(net)


def test_setattr_moves_between_tables() -> None:
    m = nn.Module()
    m.x = 1
    m.x = nn.Parameter(treadle.zeros(2))
    assert "x" in m._parameters and "x" not in m.__dict__
    with pytest.raises(TypeError, match="cannot assign 'int' as parameter 'x'"):
        m.x = 3
    m.x = None
    assert m.x is None and list(m.parameters()) == []
    del m.x
    m.x = nn.Linear(1, 1)
    assert "x" in m._modules
    m.x = nn.Parameter(treadle.zeros(2))
    assert "x" in m._parameters and "x" not in m._modules
    m.b = nn.Buffer(treadle.ones(1), persistent=False)
    assert [name for name, _ in m.named_buffers()] == ["b"] and "b" not in m.state_dict()
    m.b = treadle.zeros(1)
    assert isinstance(m._buffers["b"], treadle.Tensor)
    del m.x
    with pytest.raises(AttributeError, match="'Module' object has no attribute 'x'"):
        _ = m.x


def test_registration_errors() -> None:
    class Early(nn.Module):
        def __init__(self) -> None:
            self.w = nn.Parameter(treadle.zeros(1))

    with pytest.raises(AttributeError, match=r"before Module.__init__\(\) call"):
        Early()
    m = nn.Linear(1, 1)
    with pytest.raises(KeyError, match="already exists"):
        m.register_buffer("forward", None)
    with pytest.raises(KeyError, match="parameter name can"):
        m.register_parameter("a.b", None)
    with pytest.raises(TypeError, match="is not a Module subclass"):
        m.add_module("x", 3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="unexpected keyword argument 'q'"):
        nn.Module(q=1)
    with pytest.raises(NotImplementedError, match='missing the required "forward" function'):
        nn.Module()(1)
    with pytest.raises(ValueError, match="Cannot assign non-leaf Tensor to parameter 'w'"):
        leaf = nn.Parameter(treadle.ones(1))
        made = leaf * 2
        made.__class__ = nn.Parameter
        m.register_parameter("w", made)


# State dicts


def test_state_dict_round_trip() -> None:
    a, b = Net(), Net()
    assert str(b.load_state_dict(a.state_dict())) == "<All keys matched successfully>"
    close(a.first.weight, b.first.weight)
    assert a.state_dict()._metadata[""] == {"version": 1}
    assert a.state_dict(keep_vars=True)["first.weight"] is a.first.weight
    assert not a.state_dict()["first.weight"].requires_grad
    weight = b.first.weight
    b.load_state_dict(a.state_dict(), assign=True)
    assert b.first.weight is not weight and isinstance(b.first.weight, nn.Parameter) and b.first.weight.requires_grad


def test_load_state_dict_errors() -> None:
    net = Net()
    state = dict(net.state_dict())
    del state["first.bias"]
    state["extra"] = treadle.zeros(1)
    state["first.weight"] = treadle.zeros(2, 2)
    with pytest.raises(RuntimeError) as caught:
        net.load_state_dict(state)
    text = str(caught.value)
    assert text.startswith('Error(s) in loading state_dict for Net:\n\tMissing key(s) in state_dict: "first.bias". \n\t'
                           'Unexpected key(s) in state_dict: "extra". \n\tsize mismatch for first.weight: copying a param with shape ')
    del state["first.weight"]
    result = net.load_state_dict(state, strict=False)
    assert result.missing_keys == ["first.weight", "first.bias"] and result.unexpected_keys == ["extra"]
    with pytest.raises(TypeError, match="Expected state_dict to be dict-like"):
        net.load_state_dict([1])  # type: ignore[arg-type]


def test_state_dict_hooks_and_extra_state() -> None:
    class Extra(nn.Module):
        found: Any = None

        def get_extra_state(self) -> Any:
            return {"k": 1}

        def set_extra_state(self, state: Any) -> None:
            self.found = state

    m = Extra()
    assert m.state_dict() == OrderedDict(_extra_state={"k": 1})
    m.load_state_dict(m.state_dict())
    assert m.found == {"k": 1}
    net = Net()
    log: list[Any] = []
    net.register_state_dict_pre_hook(lambda module, prefix, keep: log.append(("pre", prefix)))
    net.register_state_dict_post_hook(lambda module, state, prefix, meta: state.pop("scale"))
    net.register_load_state_dict_pre_hook(lambda module, state, *rest: state.update(scale=treadle.full((2,), 5.0)))
    net.register_load_state_dict_post_hook(lambda module, keys: log.append(("post", keys.missing_keys)))
    with pytest.raises(RuntimeError, match="post-hook must return None"):
        net.state_dict()
    net._state_dict_hooks.clear()
    net.load_state_dict(net.state_dict())
    assert values(net.scale).tolist() == [5.0, 5.0] and log[-1] == ("post", []) and log[0] == ("pre", "")


# Hooks


def test_forward_hooks() -> None:
    layer = nn.Identity()
    log: list[str] = []
    handle = layer.register_forward_pre_hook(lambda m, args: (args[0] + 1,))
    layer.register_forward_pre_hook(lambda m, args, kwargs: ((args[0] * 2,), kwargs), with_kwargs=True)
    layer.register_forward_hook(lambda m, args, out: log.append("first"))
    layer.register_forward_hook(lambda m, args, kwargs, out: out + 100, with_kwargs=True, prepend=True)
    assert layer(1) == 104 and log == ["first"]
    handle.remove()
    assert layer(1) == 102
    with layer.register_forward_pre_hook(lambda m, args: 50):
        assert layer(1) == 150
    assert layer(1) == 102


def test_always_called_hook_runs_after_an_error() -> None:
    class Fails(nn.Module):
        def forward(self, x: Any) -> Any:
            raise ValueError("no")

    m = Fails()
    seen: list[Any] = []
    m.register_forward_hook(lambda mod, args, out: seen.append(out), always_call=True)
    m.register_forward_hook(lambda mod, args, out: seen.append("never"))
    with pytest.raises(ValueError, match="no"):
        m(1)
    assert seen == [None]


def test_full_backward_hooks() -> None:
    layer = nn.Linear(2, 2, bias=False)
    nn.init.ones_(layer.weight)
    seen: list[Any] = []

    def hook(module: Any, grad_input: Any, grad_output: Any) -> Any:
        seen.append((values(grad_input[0]).tolist(), values(grad_output[0]).tolist()))
        return (grad_input[0] * 2,)

    layer.register_full_backward_hook(hook)
    layer.register_full_backward_pre_hook(lambda module, grad_output: (grad_output[0] * 3,))
    x = treadle.ones(1, 2, requires_grad=True)
    layer(x).sum().backward()
    assert seen == [([[6.0, 6.0]], [[3.0, 3.0]])]
    assert values(x.grad).tolist() == [[12.0, 12.0]]
    assert values(layer.weight.grad).tolist() == [[3.0, 3.0], [3.0, 3.0]]


def test_global_hooks() -> None:
    names: list[str] = []
    with register_module_forward_hook(lambda m, args, out: names.append(type(m).__name__)):
        Net()(treadle.zeros(1, 3))
    Net()(treadle.zeros(1, 3))
    assert names == ["Linear", "Linear", "Net"]


# Changing a whole module


def test_modes_casts_and_gradients() -> None:
    net = Net()
    assert not net.eval().first.training and net.train().first.training
    with pytest.raises(ValueError, match="training mode"):
        net.train(1)  # type: ignore[arg-type]
    weight = net.first.weight
    net(treadle.ones(1, 3)).sum().backward()
    net.to(treadle.float64)
    assert net.first.weight is weight and weight.dtype is treadle.float64 and net.scale.dtype is treadle.float64
    assert weight.grad.dtype is treadle.float64
    net.zero_grad(set_to_none=False)
    assert values(weight.grad).sum() == 0
    net.zero_grad()
    assert weight.grad is None
    net.requires_grad_(False)
    assert not any(p.requires_grad for p in net.parameters())
    assert net.float().half().first.weight.dtype is treadle.float16
    with pytest.raises(TypeError, match="only accepts floating point"):
        net.to(treadle.int64)
    order: list[str] = []
    net.apply(lambda m: order.append(type(m).__name__))
    assert order == ["Linear", "Linear", "Net"]


def test_copy_and_pickle() -> None:
    net = Net()
    for other in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert repr(other) == repr(net) and other.first.weight is not net.first.weight
        assert other.second is other.second_again and isinstance(other.first.weight, nn.Parameter)
        close(other.first.weight, net.first.weight)


def test_repr() -> None:
    net = nn.Sequential(OrderedDict(a=nn.Linear(1, 2), b=nn.ModuleList([nn.ReLU(), nn.ReLU(), nn.Dropout(0.1)])))
    assert repr(net) == ("Sequential(\n  (a): Linear(in_features=1, out_features=2, bias=True)\n  (b): ModuleList(\n    (0-1): 2 x ReLU()\n"
                         "    (2): Dropout(p=0.1, inplace=False)\n  )\n)")
    assert repr(nn.Parameter(treadle.zeros(1))).startswith("Parameter containing:\n")


# Containers


def test_sequential() -> None:
    net = nn.Sequential(nn.ReLU(), nn.Tanh(), nn.Sigmoid())
    assert [type(m).__name__ for m in net[1:]] == ["Tanh", "Sigmoid"] and type(net[-1]) is nn.Sigmoid
    net.insert(1, nn.GELU())
    net.append(nn.SiLU()).extend([nn.ELU()])
    del net[0]
    assert [type(m).__name__ for m in net] == ["GELU", "Tanh", "Sigmoid", "SiLU", "ELU"] and list(net._modules) == list("01234")
    assert type(net.pop(0)) is nn.GELU and len(net + net) == 8 and len(net * 2) == 8
    net[0] = nn.ReLU()
    assert type(net[0]) is nn.ReLU
    with pytest.raises(IndexError, match="out of range"):
        net[9]


def test_module_list_and_dict() -> None:
    layers = nn.ModuleList([nn.Linear(1, 1)])
    layers += [nn.ReLU()]
    layers.insert(0, nn.Tanh())
    assert [type(m).__name__ for m in layers] == ["Tanh", "Linear", "ReLU"] and len(layers[1:]) == 2
    with pytest.raises(TypeError, match="should be called with an iterable"):
        layers.extend(3)  # type: ignore[arg-type]
    table = nn.ModuleDict({"a": nn.ReLU()})
    table["b"] = nn.Tanh()
    table.update([("c", nn.ELU())])
    assert list(table) == ["a", "b", "c"] and "b" in table and type(table.pop("b")) is nn.Tanh and len(table) == 2


def test_parameter_containers() -> None:
    params = nn.ParameterList([treadle.zeros(2), 5])
    params.append(nn.Parameter(treadle.ones(1)))
    assert isinstance(params[0], nn.Parameter) and params[1] == 5 and len(list(params.parameters())) == 2
    table = nn.ParameterDict({"b": treadle.zeros(1), "a": treadle.zeros(2)})
    assert list(table) == ["a", "b"] and isinstance(table["a"], nn.Parameter)
    assert table.pop("a").shape == (2,) and "a" not in table and len(table | table) == 1


# Layers


def test_linear_and_embedding() -> None:
    layer = nn.Linear(3, 2)
    x = treadle.randn(4, 5, 3)
    close(layer(x), values(x) @ values(layer.weight).T + values(layer.bias))
    table = nn.Embedding(5, 3, padding_idx=1)
    index = treadle.tensor([[1, 2], [4, 1]])
    out = table(index)
    close(out, values(table.weight)[[[1, 2], [4, 1]]])
    assert values(table.weight)[1].sum() == 0
    out.sum().backward()
    assert values(table.weight.grad).sum(1).tolist() == [0, 0, 3, 0, 3]
    limited = nn.Embedding(5, 3, max_norm=0.5)
    norms = np.linalg.norm(values(limited(index)), axis=-1)
    assert (norms <= 0.5 + 1e-5).all()
    frozen = nn.Embedding.from_pretrained(treadle.ones(2, 2))
    assert not frozen.weight.requires_grad


def test_dropout() -> None:
    treadle.manual_seed(0)
    x = treadle.ones(1000)
    out = values(nn.Dropout(0.25)(x))
    np.testing.assert_allclose(np.unique(out), [0, 4 / 3], rtol=1e-6)
    assert 0.15 < (out == 0).mean() < 0.35
    treadle.manual_seed(0)
    np.testing.assert_array_equal(values(nn.Dropout(0.25)(x)), out)
    assert nn.Dropout(0.5).eval()(x) is x and values(nn.Dropout(1.0)(x)).sum() == 0
    channels = values(nn.Dropout2d(0.5)(treadle.ones(8, 8, 3, 3)))
    assert (channels.reshape(64, 9) == channels.reshape(64, 9)[:, :1]).all()
    with pytest.raises(ValueError, match="between 0 and 1, but got 2"):
        nn.Dropout(2)


def test_norms_match_their_formulas() -> None:
    x = treadle.randn(4, 6)
    v = values(x)
    expected = (v - v.mean(-1, keepdims=True)) / np.sqrt(v.var(-1, keepdims=True) + 1e-5)
    close(nn.LayerNorm(6)(x), expected)
    close(nn.RMSNorm(6, eps=1e-5)(x), v / np.sqrt((v * v).mean(-1, keepdims=True) + 1e-5))
    with pytest.raises(RuntimeError, match=r"Given normalized_shape=\[5\]"):
        nn.LayerNorm(5)(x)


def test_flatten() -> None:
    assert nn.Flatten()(treadle.zeros(2, 3, 4)).shape == (2, 12)
    assert nn.Unflatten(1, (3, -1))(treadle.zeros(2, 12)).shape == (2, 3, 4)


@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
def test_recurrent_layers_agree_with_their_cells(kind: str) -> None:
    layer = getattr(nn, kind)(3, 4)
    cell = getattr(nn, kind + "Cell")(3, 4)
    cell.load_state_dict({name[:-3]: value for name, value in layer.state_dict().items()})
    x = treadle.randn(5, 2, 3)
    out, last = layer(x)
    state = None
    for t in range(5):
        state = cell(x[t], state)
        close(out[t], state[0] if kind == "LSTM" else state)
    close(last[0][0] if kind == "LSTM" else last[0], out[4])


def test_recurrent_shapes_and_errors() -> None:
    layer = nn.LSTM(3, 4, num_layers=2, bidirectional=True, batch_first=True)
    assert "weight_hh_l1_reverse" in layer.state_dict() and layer.weight_ih_l1.shape == (16, 8)
    out, (h, c) = layer(treadle.randn(2, 5, 3))
    assert out.shape == (2, 5, 8) and h.shape == c.shape == (4, 2, 4)
    out, (h, c) = layer(treadle.randn(5, 3))
    assert out.shape == (5, 8) and h.shape == (4, 4)
    with pytest.raises(RuntimeError, match=r"must be equal to input_size\. Expected 3, got 2"):
        layer(treadle.randn(2, 5, 2))
    bad = treadle.zeros(1, 2, 4)
    with pytest.raises(RuntimeError, match=r"Expected hidden\[0\] size \(4, 2, 4\), got \[1, 2, 4\]"):
        layer(treadle.randn(2, 5, 3), (bad, bad))
    with pytest.raises(ValueError, match="hidden_size must be greater than zero"):
        nn.GRU(3, 0)
    assert repr(layer) == "LSTM(3, 4, num_layers=2, batch_first=True, bidirectional=True)"


# Functions


def test_pad_one_hot_normalize() -> None:
    x = treadle.arange(6).float().view(2, 3)
    close(F.pad(x, (1, 2)), np.pad(values(x), ((0, 0), (1, 2))))
    close(F.pad(x, (-1, 0, 1, 0), value=7.0), np.pad(values(x)[:, 1:], ((1, 0), (0, 0)), constant_values=7))
    close(F.pad(x, (2, 1), mode="reflect"), np.pad(values(x), ((0, 0), (2, 1)), mode="reflect"))
    close(F.pad(x, (2, 1), mode="replicate"), np.pad(values(x), ((0, 0), (2, 1)), mode="edge"))
    close(F.pad(x, (2, 1), mode="circular"), np.pad(values(x), ((0, 0), (2, 1)), mode="wrap"))
    assert values(F.one_hot(treadle.tensor([0, 2]))).tolist() == [[1, 0, 0], [0, 0, 1]]
    with pytest.raises(RuntimeError, match="smaller than num_classes"):
        F.one_hot(treadle.tensor([3]), 2)
    close(F.normalize(x, dim=1).norm(dim=1), np.ones(2))


def test_losses() -> None:
    x, target = treadle.randn(4, 5, requires_grad=True), treadle.tensor([0, 3, -100, 1])
    logs = values(x) - np.log(np.exp(values(x)).sum(1, keepdims=True))
    picked = -logs[[0, 1, 3], [0, 3, 1]]
    loss = nn.CrossEntropyLoss()(x, target)
    close(loss, np.asarray(picked.mean(), np.float32))
    loss.backward()
    soft = np.exp(logs)
    soft[[0, 1, 3], [0, 3, 1]] -= 1
    soft[2] = 0
    close(x.grad, soft / 3)
    close(F.nll_loss(F.log_softmax(x, 1), target, reduction="sum"), np.asarray(picked.sum(), np.float32))
    a, b = treadle.tensor([1.0, 2.0]), treadle.tensor([3.0, 2.5])
    assert math.isclose(nn.MSELoss()(a, b).item(), 2.125) and math.isclose(nn.L1Loss(reduction="sum")(a, b).item(), 2.5)
    assert math.isclose(nn.HuberLoss()(a, b).item(), (1.5 + 0.125) / 2)
    with pytest.warns(UserWarning, match="Using a target size"):
        F.mse_loss(treadle.zeros(2), treadle.zeros(2, 1))


def test_init_and_utils() -> None:
    treadle.manual_seed(1)
    weight = treadle.empty(200, 300)
    assert abs(values(nn.init.xavier_normal_(weight)).std() - math.sqrt(2 / 500)) < 1e-3
    assert abs(values(nn.init.kaiming_uniform_(weight, nonlinearity="relu")).max() - math.sqrt(6 / 300)) < 1e-3
    truncated = values(nn.init.trunc_normal_(weight, std=2.0, a=-2.0, b=2.0))
    assert abs(truncated).max() <= 2 and abs(truncated.mean()) < 0.05
    q = values(nn.init.orthogonal_(treadle.empty(4, 6)))
    np.testing.assert_allclose(q @ q.T, np.eye(4), atol=1e-5)
    close(nn.init.eye_(treadle.empty(2, 3)), np.eye(2, 3))
    assert nn.init.calculate_gain("tanh") == 5 / 3
    with pytest.raises(ValueError, match="fewer than 2 dimensions"):
        nn.init.xavier_uniform_(treadle.empty(3))
    layer = nn.Linear(2, 2)
    layer(treadle.ones(1, 2)).sum().backward()
    total = nn.utils.clip_grad_norm_(layer.parameters(), 1.0)
    assert math.isclose(total.item(), math.sqrt(6), rel_tol=1e-5)
    assert math.isclose(nn.utils.get_total_norm([p.grad for p in layer.parameters()]).item(), 1.0, rel_tol=1e-4)
    nn.utils.clip_grad_value_(layer.parameters(), 0.1)
    assert abs(values(layer.weight.grad)).max() <= 0.1 + 1e-6
    vector = nn.utils.parameters_to_vector(layer.parameters())
    nn.utils.vector_to_parameters(vector * 0 + 3, layer.parameters())
    assert values(layer.bias).tolist() == [3.0, 3.0]
    padded = nn.utils.pad_sequence([treadle.ones(2), treadle.ones(3)], batch_first=True)
    assert values(padded).tolist() == [[1, 1, 0], [1, 1, 1]]


# Against PyTorch


def _both(array: np.ndarray) -> tuple[Any, Any]:
    import torch

    return treadle.tensor(array).requires_grad_(), torch.tensor(array, requires_grad=True)


_POINTS = np.concatenate([np.linspace(-9, 9, 37), [0.5, -0.5, 1e-8, 100.0, -100.0]])
_ACTIVATIONS = ("relu hardtanh relu6 leaky_relu elu selu celu mish sigmoid tanh softplus logsigmoid softsign tanhshrink softshrink "
                "hardshrink hardsigmoid hardswish gelu silu").split()


@pytest.mark.oracle
@pytest.mark.parametrize("name", _ACTIVATIONS)
def test_activation_oracle(name: str) -> None:
    import torch

    ours, theirs = _both(_POINTS)
    a, b = getattr(F, name)(ours), getattr(torch.nn.functional, name)(theirs)
    close(a, b.detach().numpy(), 1e-9)
    a.sum().backward()
    b.sum().backward()
    close(ours.grad, theirs.grad.numpy(), 1e-7)  # PyTorch keeps some constants in float32


def _loss_cases() -> list[Any]:
    rng = np.random.default_rng(0)
    classes, rest = np.array([0, 4, -100, 2]), rng.random((4, 5))
    weight = rng.random(5)
    cases: list[Any] = []
    for reduction in ("none", "mean", "sum"):
        cases += [(name, (rest,), {"reduction": reduction}) for name in ("mse_loss", "l1_loss", "smooth_l1_loss", "huber_loss")]
        cases += [("cross_entropy", (target,), {"reduction": reduction, "weight": w, "label_smoothing": smoothing})
                  for target in (classes, rest) for w in (None, weight) for smoothing in (0.0, 0.1)]
        cases += [("nll_loss", (classes,), {"reduction": reduction, "weight": weight}),
                  ("binary_cross_entropy_with_logits", (rest,), {"reduction": reduction, "pos_weight": weight}),
                  ("kl_div", (rest,), {"reduction": reduction}), ("soft_margin_loss", (np.sign(rest - 0.5),), {"reduction": reduction}),
                  ("cosine_embedding_loss", (rest, np.array([1, -1, 1, -1])), {"reduction": reduction}),
                  ("poisson_nll_loss", (rest * 4,), {"reduction": reduction, "full": True}),
                  ("gaussian_nll_loss", (rest, rest + 0.1), {"reduction": reduction, "full": True}),
                  ("triplet_margin_loss", (rest, rest[::-1].copy()), {"reduction": reduction, "swap": True})]
    return cases


@pytest.mark.oracle
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name,args,kwargs", _loss_cases())
def test_loss_oracle(name: str, args: Any, kwargs: dict[str, Any]) -> None:
    import torch

    ours, theirs = _both(np.random.default_rng(1).standard_normal((4, 5)))
    def call(function: Any, make: Any, x: Any) -> Any:
        return function(x, *(make(a) for a in args), **{k: make(v) if isinstance(v, np.ndarray) else v for k, v in kwargs.items()})

    a = call(getattr(F, name), treadle.tensor, ours)
    b = call(getattr(torch.nn.functional, name), torch.tensor, theirs)
    close(a, b.detach().numpy(), 1e-8)
    a.sum().backward()
    b.sum().backward()
    close(ours.grad, theirs.grad.numpy(), 1e-8)


@pytest.mark.oracle
@pytest.mark.parametrize("kind", ["RNN", "GRU", "LSTM"])
@pytest.mark.parametrize("settings", [{}, {"num_layers": 2, "bidirectional": True}, {"batch_first": True, "bias": False}])
def test_recurrent_oracle(kind: str, settings: dict[str, Any]) -> None:
    import torch

    ours, theirs = getattr(nn, kind)(3, 4, **settings), getattr(torch.nn, kind)(3, 4, **settings)
    assert repr(ours) == repr(theirs)
    ours.load_state_dict({k: treadle.tensor(v.numpy()) for k, v in theirs.state_dict().items()})
    x, y = _both(np.random.default_rng(0).standard_normal((5, 2, 3)).astype(np.float32))
    (a, last), (b, their_last) = ours(x), theirs(y)
    close(a, b.detach().numpy())
    for u, v in zip(last if kind == "LSTM" else [last], their_last if kind == "LSTM" else [their_last], strict=True):
        close(u, v.detach().numpy())
    a.sum().backward()
    b.sum().backward()
    close(x.grad, y.grad.numpy())
    for p, q in zip(ours.parameters(), theirs.parameters(), strict=True):
        close(p.grad, q.grad.numpy(), 1e-4)


@pytest.mark.oracle
def test_repr_oracle() -> None:
    import torch

    def build(m: Any) -> Any:
        return m.Sequential(
            m.Linear(3, 4), m.ModuleList([m.Linear(1, 2), m.Linear(1, 2), m.Dropout(0.1)]),
            m.ModuleDict({"a": m.GELU(), "b": m.LayerNorm(3)}),
            m.Embedding(5, 3, padding_idx=0), m.Sequential(), m.Bilinear(1, 2, 3), m.Softmax(1), m.Flatten(), m.Unflatten(1, (2, 3)),
            m.RMSNorm(3), m.PReLU(), m.LeakyReLU(0.2, True), m.Threshold(1, 2), m.Softplus(), m.ELU(inplace=True), m.Hardtanh(),
            m.ReLU6(True), m.GLU(), m.LogSoftmax(0), m.Hardshrink(), m.CrossEntropyLoss(), m.Dropout2d(), m.BCEWithLogitsLoss())

    ours, theirs = build(nn), build(torch.nn)
    assert repr(ours) == repr(theirs)
    assert list(ours.state_dict()) == list(theirs.state_dict()) and ours.state_dict()._metadata == theirs.state_dict()._metadata
