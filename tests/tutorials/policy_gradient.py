"""REINFORCE and actor-critic on a small corridor, deep Q-learning from a replay memory with a target network."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
from collections import deque, namedtuple
from itertools import count

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F
import torch.optim as optim
from filling import fill
from torch.distributions import Categorical, Normal

SavedAction = namedtuple("SavedAction", ["log_prob", "value"])
Transition = namedtuple("Transition", ("state", "action", "next_state", "reward"))
eps = np.finfo(np.float32).eps.item()


class Corridor:
    def reset(self):
        self.at = 2
        return self.observe()

    def observe(self):
        return np.array([self.at / 4, self.at == 0, self.at == 4, 1.0], dtype=np.float32)

    def step(self, action):
        self.at += 1 if action else -1
        return self.observe(), float(self.at == 4) - 0.05, self.at in (0, 4)


class Policy(nn.Module):
    def __init__(self):
        super().__init__()
        self.affine1, self.action_head, self.value_head = nn.Linear(4, 16), nn.Linear(16, 2), nn.Linear(16, 1)
        self.saved_actions, self.rewards = [], []

    def forward(self, x):
        x = F.relu(self.affine1(x))
        return F.softmax(self.action_head(x), dim=-1), self.value_head(x)


def finish_episode(model, optimizer, gamma=0.95):
    R, policy_losses, value_losses, returns = 0, [], [], []
    for r in model.rewards[::-1]:
        R = r + gamma * R
        returns.insert(0, R)
    returns = torch.tensor(returns)
    returns = (returns - returns.mean()) / (returns.std() + eps) if len(returns) > 1 else returns
    for (log_prob, value), R in zip(model.saved_actions, returns):
        advantage = R - value.item()
        policy_losses.append(-log_prob * advantage)
        value_losses.append(F.smooth_l1_loss(value, torch.tensor([R])))
    optimizer.zero_grad()
    loss = torch.stack(policy_losses).sum() + torch.stack(value_losses).sum()
    loss.backward()
    optimizer.step()
    del model.rewards[:]
    del model.saved_actions[:]
    return loss.item()


def actor_critic(rng):
    model = fill(Policy())
    optimizer = optim.Adam(model.parameters(), lr=3e-2)
    curve, running, env = [], 10.0, Corridor()
    for _episode in range(8):
        state, ep_reward = env.reset(), 0.0
        for _t in range(20):
            probs, state_value = model(torch.from_numpy(state).float())
            m = Categorical(probs)
            action = torch.tensor(int(rng.random() < probs[1].item()))
            model.saved_actions.append(SavedAction(m.log_prob(action) + 0.01 * m.entropy(), state_value))
            state, reward, done = env.step(action.item())
            model.rewards.append(reward)
            ep_reward += reward
            if done:
                break
        running = 0.05 * ep_reward + (1 - 0.05) * running
        curve += [finish_episode(model, optimizer), running]
    return curve


class ReplayMemory:
    def __init__(self, capacity):
        self.memory = deque([], maxlen=capacity)

    def push(self, *args):
        self.memory.append(Transition(*args))

    def __len__(self):
        return len(self.memory)


def deep_q(rng):
    def make():
        return nn.Sequential(nn.Linear(4, 16), nn.ReLU(), nn.Linear(16, 2))
    policy_net, target_net = fill(make(), 4), make()
    target_net.load_state_dict(policy_net.state_dict())
    target_net.eval()
    optimizer = optim.AdamW(policy_net.parameters(), lr=1e-2, amsgrad=True)
    memory, env, curve = ReplayMemory(100), Corridor(), []
    for _episode in range(5):
        state = torch.tensor(env.reset(), dtype=torch.float32).unsqueeze(0)
        for t in count():
            if rng.random() > 0.3:
                with torch.no_grad():
                    action = policy_net(state).max(1).indices.view(1, 1)
            else:
                action = torch.tensor([[int(rng.integers(2))]], dtype=torch.long)
            observation, reward, done = env.step(action.item())
            next_state = None if done else torch.tensor(observation, dtype=torch.float32).unsqueeze(0)
            memory.push(state, action, next_state, torch.tensor([reward]))
            state = next_state
            if len(memory) >= 6:
                batch = Transition(*zip(*[memory.memory[i] for i in rng.choice(len(memory), 6, replace=False)]))
                non_final_mask = torch.tensor(tuple(map(lambda s: s is not None, batch.next_state)), dtype=torch.bool)
                state_action_values = policy_net(torch.cat(batch.state)).gather(1, torch.cat(batch.action))
                next_state_values = torch.zeros(6)
                if non_final_mask.any():
                    with torch.no_grad():
                        non_final = torch.cat([s for s in batch.next_state if s is not None])
                        next_state_values[non_final_mask] = target_net(non_final).max(1).values
                expected = (next_state_values * 0.9) + torch.cat(batch.reward)
                loss = nn.SmoothL1Loss()(state_action_values, expected.unsqueeze(1))
                optimizer.zero_grad()
                loss.backward()
                torch.nn.utils.clip_grad_value_(policy_net.parameters(), 100)
                optimizer.step()
                curve.append(loss.item())
                target_dict, policy_dict = target_net.state_dict(), policy_net.state_dict()
                for key in policy_dict:
                    target_dict[key] = policy_dict[key] * 0.05 + target_dict[key] * 0.95
                target_net.load_state_dict(target_dict)
            if done or t > 15:
                break
    return curve


def proximal(rng):
    """Clipped ratios of a Gaussian policy whose spread is a parameter."""
    mean = fill(nn.Linear(3, 2), 5)
    log_std = nn.Parameter(torch.zeros(2) - 0.5)
    optimizer = optim.Adam([*mean.parameters(), log_std], lr=1e-2, eps=1e-5)
    obs = torch.as_tensor(rng.standard_normal((16, 3)), dtype=torch.float32)
    act = torch.as_tensor(rng.standard_normal((16, 2)), dtype=torch.float32)
    adv = torch.as_tensor(rng.standard_normal(16), dtype=torch.float32)
    with torch.no_grad():
        old = Normal(mean(obs), log_std.exp()).log_prob(act).sum(-1)
    curve = []
    for _ in range(6):
        pi = Normal(mean(obs), torch.exp(log_std))
        ratio = (pi.log_prob(act).sum(axis=-1) - old).exp()
        clip_adv = torch.clamp(ratio, 1 - 0.2, 1 + 0.2) * adv
        loss = -(torch.min(ratio * adv, clip_adv)).mean() - 0.01 * pi.entropy().mean()
        approx_kl = (old - pi.log_prob(act).sum(-1)).mean().item()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        curve += [loss.item(), approx_kl, (ratio.gt(1.2) | ratio.lt(0.8)).float().mean().item()]
    return curve


def main():
    rng = np.random.default_rng(3)
    return actor_critic(rng) + deep_q(rng) + proximal(rng)
