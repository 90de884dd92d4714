"""A recurrent network on a batch of one, then the same network learns a sine wave."""
import math

import treadle as torch
import treadle.nn.functional as F
input_size, hidden_size, output_size = 1, 5, 1
rnn = torch.nn.RNN(input_size, hidden_size, batch_first=True)
fc = torch.nn.Linear(hidden_size, output_size)
def forward(x):
    h0 = torch.zeros(1, x.size(0), hidden_size)
    out, _ = rnn(x, h0)
    return fc(out[:, -1, :])
print(forward(torch.randn(1, 10, input_size)))


def sine(batch, steps):
    """Windows of a sine wave at random phases, and the value that follows each."""
    phase = torch.rand(batch, 1) * 2 * math.pi
    t = torch.arange(steps + 1) * 0.3
    wave = torch.sin(phase + t)
    return wave[:, :-1].unsqueeze(-1), wave[:, -1:]


torch.manual_seed(0)
optimizer = torch.optim.Adam([*rnn.parameters(), *fc.parameters()], lr=1e-2)
for step in range(1, 401):
    x, y = sine(64, 10)
    loss = F.mse_loss(forward(x), y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if step % 100 == 0:
        print(f"step {step}  mean squared error {loss.item():.5f}")

x, y = sine(5, 10)
for predicted, wanted in zip(forward(x).tolist(), y.tolist(), strict=True):
    print(f"predicted {predicted[0]:+.3f}  true {wanted[0]:+.3f}")
