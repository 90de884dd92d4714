"""Functions with gradients of their own, checked numerically; hooks, checkpoints, straight-through estimates, Hessians."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
from filling import fill
from torch.autograd import Function, gradcheck, gradgradcheck
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint, checkpoint_sequential


class LegendrePolynomial3(torch.autograd.Function):
    @staticmethod
    def forward(ctx, input):
        ctx.save_for_backward(input)
        return 0.5 * (5 * input ** 3 - 3 * input)

    @staticmethod
    def backward(ctx, grad_output):
        input, = ctx.saved_tensors
        return grad_output * 1.5 * (5 * input ** 2 - 1)


class LinearFunction(Function):
    @staticmethod
    def forward(ctx, input, weight, bias=None):
        ctx.save_for_backward(input, weight, bias)
        output = input.mm(weight.t())
        if bias is not None:
            output += bias.unsqueeze(0).expand_as(output)
        return output

    @staticmethod
    def backward(ctx, grad_output):
        input, weight, bias = ctx.saved_tensors
        grad_input = grad_weight = grad_bias = None
        if ctx.needs_input_grad[0]:
            grad_input = grad_output.mm(weight)
        if ctx.needs_input_grad[1]:
            grad_weight = grad_output.t().mm(input)
        if bias is not None and ctx.needs_input_grad[2]:
            grad_bias = grad_output.sum(0)
        return grad_input, grad_weight, grad_bias


class GradReverse(Function):
    @staticmethod
    def forward(ctx, x, alpha):
        ctx.alpha = alpha
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad_output):
        return grad_output.neg() * ctx.alpha, None


class SignSTE(Function):
    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        ctx.set_materialize_grads(False)
        return x.sign(), x.abs().mean()

    @staticmethod
    @once_differentiable
    def backward(ctx, g, g_scale):
        x, = ctx.saved_tensors
        found = torch.zeros_like(x)
        if g is not None:
            found = found + g * (x.abs() <= 1).to(g.dtype)
        if g_scale is not None:
            found = found + g_scale * x.sign() / x.numel()
        return found


class Domain(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.empty(8, 5)), nn.Parameter(torch.empty(8))
        self.deep = nn.Sequential(*[nn.Sequential(nn.Linear(8, 8), nn.Tanh()) for _ in range(4)])
        self.label, self.domain = nn.Linear(8, 3), nn.Linear(8, 2)
        self.apply(self._init_weights)

    def _init_weights(self, m):
        if isinstance(m, nn.Linear):
            nn.init.trunc_normal_(m.weight, std=0.02)
            nn.init.zeros_(m.bias)

    def forward(self, x, alpha):
        h = LegendrePolynomial3.apply(LinearFunction.apply(x, self.weight, self.bias) * 0.2)
        h = checkpoint_sequential(self.deep, 2, h, use_reentrant=False)
        return self.label(h), self.domain(GradReverse.apply(h, alpha))


def main():
    rng = np.random.default_rng(2)

    def doubles(*shape):
        return torch.tensor(rng.standard_normal(shape), dtype=torch.double, requires_grad=True)
    assert gradcheck(LinearFunction.apply, (doubles(4, 5), doubles(3, 5), doubles(3)), eps=1e-6, atol=1e-4)
    assert gradgradcheck(LegendrePolynomial3.apply, (doubles(6),))
    try:
        gradcheck(lambda x: GradReverse.apply(x, 1.0), (doubles(3),))
        raise AssertionError("a reversed gradient is no gradient")
    except RuntimeError as error:
        assert "Jacobian mismatch" in str(error)
    curve = []
    net = fill(Domain(), 1)
    norms = []
    handle = net.label.register_full_backward_hook(lambda module, gin, gout: norms.append(gout[0].norm().item()))
    net.weight.register_hook(lambda grad: grad.clamp(-0.5, 0.5))
    optimizer = torch.optim.Adagrad(net.parameters(), lr=0.05)
    x, y, d = torch.from_numpy(rng.standard_normal((12, 5))).float(), torch.from_numpy(rng.integers(0, 3, 12)), torch.arange(12) % 2
    for step in range(6):
        p = step / 6
        alpha = 2.0 / (1.0 + np.exp(-10 * p)) - 1
        label, domain = net(x, alpha)
        loss = F.nll_loss(F.log_softmax(label, -1), y) + F.cross_entropy(domain, d)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve += [loss.item(), norms[-1]]
    handle.remove()
    w = fill(nn.Linear(5, 4), 3)
    for _ in range(3):
        binary, scale = SignSTE.apply(w.weight)
        out = checkpoint(lambda b, v: torch.sin(F.linear(x, b, v)), binary * scale, w.bias, use_reentrant=False)
        w.zero_grad()
        (out ** 2).sum().backward()
        with torch.no_grad():
            for q in w.parameters():
                q -= 0.01 * q.grad
        curve.append(out.abs().mean().item())
    v = torch.tensor([1.0, -2.0, 0.5], requires_grad=True)
    value = (v ** 3).sum() * v.prod()
    grads, = torch.autograd.grad(value, v, create_graph=True)
    hessian = torch.stack([torch.autograd.grad(g, v, retain_graph=True)[0] for g in grads])
    again = torch.autograd.functional.hessian(lambda u: (u ** 3).sum() * u.prod(), v.detach())
    assert torch.allclose(hessian, again)
    with torch.autograd.set_detect_anomaly(True):
        z = (v * 2).requires_grad_()
        z.retain_grad()
        z.exp().sum().backward()
    return [*curve, *hessian.flatten().tolist(), *z.grad.tolist(), *v.grad.tolist()]
