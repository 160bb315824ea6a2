"""Trains the autoencoder on rendered scenes, for exact reconstructions from smooth latents."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reference.vae import VAE
from ..drawing_tasks import draw_count, draw_one, draw_two
from ..render import render
from ..world import Sampler, Scene
from . import checkpoint
from .loop import Schedule, Training

BATCH = 16
NOISE_VARIANCE = 1e-3
"""The pixel variance of the evidence lower bound's likelihood: it balances reconstruction and divergence at about 30 dB."""
EDGE_WEIGHT = 0.1
INITIAL_LOGVAR = -4.0
"""The initial log variance of the latents: training starts with little noise."""
SCHEDULE = Schedule(learning_rate=3e-3, averaging=0.998, with_muon=True, with_bfloat16=False)


def render_batch(scenes: list[Scene]) -> Tensor:
    """The scenes' pictures, (B, 3, 128, 128) float32 in [-1, 1]."""
    pictures = np.stack([np.asarray(render(scene)) for scene in scenes])
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 127.5 - 1


def random_scene(sampler: Sampler) -> Scene:
    """A scene of one to three things, none of a held-out combination."""
    return sampler.choice((draw_one, draw_two, draw_count))(sampler).target


def train(work: Path, seconds: float) -> None:
    """Run one session. Writes the weights, and the latents' shift and scale into the config."""
    torch.manual_seed(0)
    network: VAE = checkpoint.load_or_build("vae", initialize)
    training = Training(network, SCHEDULE, work / "vae.pt")
    sampler = Sampler(np.random.SeedSequence([1, training.step]))

    def loss() -> tuple[Tensor, dict[str, float]]:
        pixels = render_batch([random_scene(sampler) for _ in range(BATCH)])
        mean, logvar = network.encode(pixels)
        decoded = network.decode(mean + (0.5 * logvar).exp() * torch.randn_like(mean))
        squared, divergence = F.mse_loss(decoded.float(), pixels), _divergence(mean.float(), logvar.float())
        bits = 2 * NOISE_VARIANCE * divergence / pixels[0].numel()
        at_edges = edge_error(decoded.float(), pixels)
        metrics = {"psnr": 10 * np.log10(4 / float(squared.detach())), "at_edges": float(at_edges.detach())}
        return squared + EDGE_WEIGHT * at_edges + bits, metrics | {"divergence": float(divergence.detach())}

    training.run(loss, seconds)
    training.load_averaged_weights()
    checkpoint.update_config("vae", measure(network))
    checkpoint.save("vae", network)


def initialize(network: VAE) -> None:
    """Set the initial log variance."""
    bias = network.encoder.conv_out.bias
    assert bias is not None
    nn.init.constant_(bias[network.config.latent_channels :], INITIAL_LOGVAR)


@torch.no_grad()
def measure(network: VAE, pictures: int = 512) -> dict[str, float]:
    """The shift_factor and scaling_factor that bring the latents to mean 0 and variance 1. Prints the reconstruction's PSNR."""
    sampler = Sampler(2)
    means, errors = [], []
    for _ in range(pictures // 32):
        batch = render_batch([random_scene(sampler) for _ in range(32)])
        mean, _ = network.encode(batch)
        means.append(mean)
        errors.append((network.decode(mean).clamp(-1, 1) - batch).square().mean(dim=(1, 2, 3)))
    latents = torch.cat(means)
    psnr = 10 * torch.log10(4 / torch.cat(errors))
    print(f"reconstruction: {float(psnr.mean()):.2f} dB on average, {float(psnr.min()):.2f} dB at worst", flush=True)
    return {
        "shift_factor": round(float(latents.mean()), 6),
        "scaling_factor": round(1 / float(latents.std()), 6),
    }


def edge_error(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Mean squared error at edges, averaged over pictures with equal weights: the points of a small star are few pixels."""
    highest, lowest = F.max_pool2d(pixels, 5, 1, 2), -F.max_pool2d(-pixels, 5, 1, 2)
    edges = ((highest - lowest).amax(1) > 0.1).float()
    squared = (decoded - pixels).square().mean(1) * edges
    return (squared.sum((1, 2)) / edges.sum((1, 2))).mean()


def _divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the standard normal, in nats per picture."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
