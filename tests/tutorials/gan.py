"""A generator against a discriminator: two optimizers, labels that are refilled, spectral norm, a gradient penalty."""
# For a test marked `pytest.mark.oracle`, which runs it with this import and with Treadle in its place.
import numpy as np
import torch
import torch.nn as nn
import torch.optim as optim
from filling import fill
from torch import autograd
from torch.autograd import Variable

nz, ngf, ndf, nc = 6, 4, 4, 1


def weights_init(m):
    classname = m.__class__.__name__
    if classname.find("Conv") != -1:
        torch.nn.init.normal_(m.weight, 0.0, 0.02)
    elif classname.find("BatchNorm") != -1:
        torch.nn.init.normal_(m.weight, 1.0, 0.02)
        torch.nn.init.zeros_(m.bias)


class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.ConvTranspose2d(nz, ngf * 2, 4, 1, 0, bias=False), nn.BatchNorm2d(ngf * 2), nn.ReLU(True),
            nn.ConvTranspose2d(ngf * 2, ngf, 4, 2, 1, bias=False), nn.BatchNorm2d(ngf), nn.ReLU(True),
            nn.ConvTranspose2d(ngf, nc, 4, 2, 1, bias=False), nn.Tanh())

    def forward(self, input):
        return self.main(input)


class Discriminator(nn.Module):
    def __init__(self):
        super().__init__()
        self.main = nn.Sequential(
            nn.Conv2d(nc, ndf, 4, 2, 1, bias=False), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf, ndf * 2, 4, 2, 1, bias=False), nn.BatchNorm2d(ndf * 2), nn.LeakyReLU(0.2, inplace=True),
            nn.Conv2d(ndf * 2, 1, 4, 1, 0, bias=False), nn.Sigmoid())

    def forward(self, input):
        return self.main(input).view(-1, 1).squeeze(1)


def gradient_penalty(critic, real, fake, alpha):
    alpha = alpha.expand(real.size())
    interpolates = Variable(alpha * real + ((1 - alpha) * fake), requires_grad=True)
    disc = critic(interpolates)
    gradients = autograd.grad(outputs=disc, inputs=interpolates, grad_outputs=torch.ones(disc.size()), create_graph=True,
                              retain_graph=True, only_inputs=True)[0]
    gradients = gradients.view(gradients.size(0), -1)
    return ((gradients.norm(2, dim=1) - 1) ** 2).mean() * 10


def main():
    rng = np.random.default_rng(0)

    def draws(*shape):
        return torch.from_numpy(rng.standard_normal(shape)).float()
    netG, netD = Generator(), Discriminator()
    netG.apply(weights_init)
    netD.apply(weights_init)
    fill(netG, 0, 0.2), fill(netD, 1, 0.2)
    criterion = nn.BCELoss()
    fixed_noise = draws(3, nz, 1, 1)
    real_label, fake_label = 1.0, 0.0
    optimizerD = optim.Adam(netD.parameters(), lr=0.002, betas=(0.5, 0.999))
    optimizerG = optim.Adam(netG.parameters(), lr=0.002, betas=(0.5, 0.999))
    curve = []
    for _ in range(5):
        netD.zero_grad()
        real = torch.tanh(draws(6, nc, 16, 16))
        label = torch.full((real.size(0),), real_label, dtype=real.dtype)
        output = netD(real)
        errD_real = criterion(output, label)
        errD_real.backward()
        D_x = output.mean().item()
        fake = netG(draws(6, nz, 1, 1))
        label.fill_(fake_label)
        output = netD(fake.detach())
        errD_fake = criterion(output, label)
        errD_fake.backward()
        D_G_z1 = output.mean().item()
        errD = errD_real + errD_fake
        optimizerD.step()
        netG.zero_grad()
        label.fill_(real_label)
        output = netD(fake)
        errG = criterion(output, label)
        errG.backward()
        optimizerG.step()
        curve += [errD.item(), errG.item(), D_x, D_G_z1, output.mean().item()]
    netG.eval()
    curve.append(netG(fixed_noise).detach().cpu().abs().mean().item())
    critic = fill(nn.Sequential(nn.utils.spectral_norm(nn.Linear(8, 16)), nn.LeakyReLU(0.2), nn.Linear(16, 1)), 3)
    with torch.no_grad():
        critic[0].weight_u.fill_(0.25)
    optimizer = optim.RMSprop(critic.parameters(), lr=5e-3)
    for _ in range(6):
        for p in critic.parameters():
            p.requires_grad = True
        optimizer.zero_grad(set_to_none=True)
        real, fake = draws(5, 8) + 1, draws(5, 8)
        loss = critic(fake).mean() - critic(real).mean() + gradient_penalty(critic, real, fake, draws(5, 1).sigmoid())
        loss.backward()
        optimizer.step()
        curve.append(loss.item())
    return curve
