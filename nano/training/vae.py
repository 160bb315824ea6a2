"""Trains the autoencoder on the episodes' pictures, for exact reconstructions from smooth latents.

With `keep_latents` only its decoder learns, so a transformer that was trained on its latents stays valid.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...reference.vae import VAE
from . import checkpoint
from .loop import Options, Schedule, Training
from .shards import read_by_size, to_device, wait_for_shards

BATCH = 16
MOST_SHARDS = 16
NOISE_VARIANCE = 4e-4
"""The pixel variance of the evidence lower bound's likelihood: it balances reconstruction and divergence at about 34 dB."""
EDGE_WEIGHT = 0.1
INITIAL_LOGVAR = -4.0
"""The initial log variance of the latents: training starts with little noise."""
MEASURED = 512
"""The pictures of the last measurement; none is trained on."""
SCHEDULE = Schedule(learning_rate=2e-3, averaging=0.998, with_muon=True, with_bfloat16=False)


def train(options: Options) -> None:
    """Run one session. Writes the weights and, unless the latents are kept, their shift and scale into the config.

    A session that keeps the latents has a state of its own, without the encoder.
    """
    torch.manual_seed(0)
    network: VAE = checkpoint.load_or_build("vae", initialize, options.checkpoint).to(options.device)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload] # missing in torch's stubs
    if options.keep_latents:
        network.encoder.requires_grad_(False)
        decoder = nn.ModuleDict({"decoder": network.decoder})
        training = Training(decoder, SCHEDULE, options.work / "vae_decoder.pt", options.rate)
    else:
        training = Training(network, SCHEDULE, options.work / "vae.pt", options.rate)
    by_size = _pictures(options)
    measured = [pictures[: MEASURED // len(by_size)] for pictures in by_size]
    trained = [pictures[MEASURED // len(by_size) :] for pictures in by_size]
    shares = torch.tensor([float(len(pictures)) for pictures in trained])
    generator = torch.Generator(options.device).manual_seed(training.step)

    def loss() -> tuple[Tensor, dict[str, float]]:
        pictures = trained[int(torch.multinomial(shares, 1))]
        chosen = torch.randint(len(pictures), (BATCH * options.scale,), generator=generator, device=options.device)
        pixels = to_pixels(pictures[chosen])
        mean, logvar = network.encode(pixels)
        decoded = network.decode(mean + (0.5 * logvar).exp() * torch.randn_like(mean))
        squared, divergence = F.mse_loss(decoded.float(), pixels), _divergence(mean.float(), logvar.float())
        bits = 2 * NOISE_VARIANCE * divergence / pixels[0].numel()
        at_edges = edge_error(decoded.float(), pixels)
        metrics = {"psnr": 10 * math.log10(4 / float(squared.detach())), "at_edges": float(at_edges.detach())}
        return squared + EDGE_WEIGHT * at_edges + bits, metrics | {"divergence": float(divergence.detach())}

    training.run(loss, options.remaining_s)
    training.load_averaged_weights()
    scale = measure(network, measured)
    if not options.keep_latents:
        checkpoint.update_config("vae", scale, options.checkpoint)
    checkpoint.save("vae", network, options.checkpoint)


def _pictures(options: Options) -> list[Tensor]:
    """The pictures of the first shards, (P, height, width, 3) uint8 of each size."""
    shards = min(options.shards, MOST_SHARDS)
    wait_for_shards(options.episodes, shards)
    return [
        torch.cat([to_device(pictures, options.device) for _, pictures in of_size])
        for of_size in read_by_size(options.episodes, shards)
    ]


def to_pixels(pictures: Tensor) -> Tensor:
    """(B, height, width, 3) uint8 -> (B, 3, height, width) float32 in [-1, 1], channels last in memory."""
    return pictures.permute(0, 3, 1, 2).float() / 127.5 - 1


def initialize(network: VAE) -> None:
    """Set the initial log variance."""
    bias = network.encoder.conv_out.bias
    assert bias is not None
    nn.init.constant_(bias[network.config.latent_channels :], INITIAL_LOGVAR)


@torch.no_grad()
def measure(network: VAE, by_size: Sequence[Tensor]) -> dict[str, float]:
    """The shift_factor and scaling_factor that bring the latents to mean 0 and variance 1. Prints the reconstruction's PSNR.

    by_size: pictures (P, height, width, 3) uint8 of each size.
    """
    latents, errors = [], []
    for pictures in by_size:
        for part in torch.split(pictures, 32):
            pixels = to_pixels(part)
            mean, _ = network.encode(pixels)
            latents.append(mean.flatten())
            errors.append((network.decode(mean).clamp(-1, 1) - pixels).square().mean(dim=(1, 2, 3)))
    psnr = 10 * torch.log10(4 / torch.cat(errors))
    print(f"reconstruction: {float(psnr.mean()):.2f} dB on average, {float(psnr.min()):.2f} dB at worst", flush=True)
    return {
        "shift_factor": round(float(torch.cat(latents).mean()), 6),
        "scaling_factor": round(1 / float(torch.cat(latents).std()), 6),
    }


def edge_error(decoded: Tensor, pixels: Tensor) -> Tensor:
    """Mean squared error at edges, averaged over pictures with equal weights: the points of a small star are few pixels."""
    highest, lowest = F.max_pool2d(pixels, 5, 1, 2), -F.max_pool2d(-pixels, 5, 1, 2)
    edges = ((highest - lowest).amax(1) > 0.1).float()
    squared = (decoded - pixels).square().mean(1) * edges
    return (squared.sum((1, 2)) / edges.sum((1, 2)).clamp(min=1)).mean()


def _divergence(mean: Tensor, logvar: Tensor) -> Tensor:
    """Kullback-Leibler divergence from the standard normal, in nats per picture."""
    return 0.5 * (mean.square() + logvar.exp() - 1 - logvar).sum(dim=(1, 2, 3)).mean()
