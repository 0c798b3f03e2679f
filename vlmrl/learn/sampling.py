"""From noise to a chunk: DDPM, DDIM and DPM-Solver through `diffusers`' schedulers, and Euler steps of a flow.

All chance is an argument. DDPM is DDIM with eta 1 over every step of training (Song et al. 2021, arXiv 2010.02502,
equation 16): the same posterior, whose noise can then be handed in.
"""

from collections.abc import Callable
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor

from vlmrl.errors import ConfigError

Sampler = Literal["ddpm", "ddim", "dpm_solver", "euler"]
Network = Callable[[Tensor, Tensor, Tensor], Tensor]

FLOW_TIME = 1000.0
"""A flow's time runs from 0 to 1, the sinusoids that the network sees it by were made for steps."""


def schedule(sampler: Sampler, training_steps: int) -> Any:
    """A scheduler of `diffusers` with the squared-cosine schedule; predictions are of the noise.

    Raises:
        ConfigError: if `diffusers` is not installed.
    """
    try:
        from diffusers.schedulers.scheduling_ddim import DDIMScheduler
        from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
    except ImportError as error:
        raise ConfigError("diffusion policies need diffusers: pip install 'vlmrl[diffusion]'") from error
    common: dict[str, Any] = {"num_train_timesteps": training_steps, "beta_schedule": "squaredcos_cap_v2"}
    if sampler == "dpm_solver":
        # The cosine schedule ends in almost pure noise, where log SNR has no bottom: diffusers' value for it.
        return DPMSolverMultistepScheduler(**common, lambda_min_clipped=-5.1)
    # From the noisiest step on, however few there are.
    spacing = "trailing" if sampler == "ddpm" else "leading"
    return DDIMScheduler(**common, clip_sample=True, timestep_spacing=spacing)


def rounds(sampler: Sampler, steps: int) -> int:
    """How often a chunk's worth of noise is drawn."""
    return steps if sampler == "ddpm" else 1


def denoise(
    network: Network,
    seen: Float[Tensor, "B D"],
    chance: Float[Tensor, "B R T A"],
    *,
    sampler: Sampler,
    steps: int,
    training_steps: int,
) -> Float[Tensor, "B T A"]:
    """Chunks in the network's units after `steps` evaluations."""
    if sampler == "euler":
        return _euler(network, seen, chance[:, 0], steps)
    scheduler, x = schedule(sampler, training_steps), chance[:, 0]
    scheduler.set_timesteps(steps)
    for k, step in enumerate(scheduler.timesteps):
        noise = network(x, torch.full((len(x),), float(step)), seen)
        if sampler == "dpm_solver":
            x = scheduler.step(noise, step, x).prev_sample
            continue
        stochastic = sampler == "ddpm"
        fresh = chance[:, k + 1] if stochastic and k + 1 < steps else torch.zeros_like(x)
        x = scheduler.step(
            noise, step, x, eta=float(stochastic), use_clipped_model_output=stochastic, variance_noise=fresh
        ).prev_sample
    return x.clamp(-1, 1)


def _euler(network: Network, seen: Tensor, x: Tensor, steps: int) -> Tensor:
    for k in range(steps):
        x = x + network(x, torch.full((len(x),), FLOW_TIME * k / steps), seen) / steps
    return x.clamp(-1, 1)
