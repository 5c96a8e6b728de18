"""Networks that make something: images, samples, actions."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from docs.gallery.entry import Built, Entry
from tests.networks import Gan


class Vae(nn.Module):
    """A latent is drawn around what the encoder says, and read by the decoder."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(784, 64), nn.ReLU())
        self.mean, self.log_variance = nn.Linear(64, 8), nn.Linear(64, 8)
        self.decoder = nn.Sequential(nn.Linear(8, 64), nn.ReLU(), nn.Linear(64, 784))

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        """How far the image is from its copy, and the latent from a normal one."""
        flat = image.flatten(1)
        seen = self.encoder(flat)
        mean, log_variance = self.mean(seen), self.log_variance(seen)
        latent = mean + torch.randn_like(mean) * torch.exp(0.5 * log_variance)
        reconstruction = F.mse_loss(self.decoder(latent), flat)
        divergence = -0.5 * (1 + log_variance - mean**2 - log_variance.exp()).mean()
        return reconstruction + divergence


class ActorCritic(nn.Module):
    """The loss of PPO: a policy and a value on one trunk."""

    def __init__(self) -> None:
        super().__init__()
        self.trunk = nn.Sequential(nn.Linear(8, 64), nn.Tanh(), nn.Linear(64, 64), nn.Tanh())
        self.actor, self.critic = nn.Linear(64, 4), nn.Linear(64, 1)

    def forward(
        self,
        observation: torch.Tensor,
        action: torch.Tensor,
        old_log_prob: torch.Tensor,
        advantage: torch.Tensor,
        returns: torch.Tensor,
    ) -> torch.Tensor:
        """The clipped loss of the policy, that of the value, and the entropy."""
        seen = self.trunk(observation)
        policy = torch.distributions.Categorical(logits=self.actor(seen))
        ratio = (policy.log_prob(action) - old_log_prob).exp()
        clipped = ratio.clamp(0.8, 1.2)
        policy_loss = -torch.min(ratio * advantage, clipped * advantage).mean()
        value_loss = F.mse_loss(self.critic(seen).squeeze(-1), returns)
        return policy_loss + 0.5 * value_loss - 0.01 * policy.entropy().mean()


def actor_critic() -> Built:
    """The loss of PPO on sixteen steps."""
    return ActorCritic(), {
        "observation": torch.randn(16, 8),
        "action": torch.randint(0, 4, (16,)),
        "old_log_prob": torch.randn(16),
        "advantage": torch.randn(16),
        "returns": torch.randn(16),
    }


def diffusion_unet() -> Built:
    """The denoiser of a diffusion model that is told a text."""
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=16,
        block_out_channels=(8, 16, 32),
        norm_num_groups=4,
        layers_per_block=2,
        down_block_types=("CrossAttnDownBlock2D", "CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
    )
    return model, {
        "sample": torch.randn(2, 4, 16, 16),
        "timestep": torch.tensor([3, 7]),
        "encoder_hidden_states": torch.randn(2, 5, 8),
    }


def dit() -> Built:
    """DiT: a transformer that denoises patches."""
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=8,
        in_channels=4,
        num_layers=6,
        sample_size=8,
        num_embeds_ada_norm=10,
        norm_num_groups=2,
    )
    return model, {
        "hidden_states": torch.randn(2, 4, 8, 8),
        "timestep": torch.tensor([3, 7]),
        "class_labels": torch.tensor([1, 2]),
    }


ENTRIES = (
    Entry(
        "gan",
        "the step of a GAN",
        "noise into the generator; one discriminator for real and made",
        lambda: (Gan(), {"real": torch.zeros(8, 1, 28, 28), "noise": torch.zeros(8, 16)}),
    ),
    Entry(
        "vae",
        "VAE",
        "encoder to mean and variance, a latent drawn from them, decoder; two losses",
        lambda: (Vae(), {"image": torch.rand(8, 1, 28, 28)}),
    ),
    Entry(
        "diffusion_unet",
        "diffusion U-Net",
        "a U-Net of residual and cross-attention blocks, told of the step and of the text",
        diffusion_unet,
    ),
    Entry(
        "dit",
        "DiT",
        "patches through blocks whose norms are scaled and shifted by step and class",
        dit,
    ),
    Entry(
        "actor_critic",
        "actor-critic, PPO's loss",
        "one trunk, two heads; the clipped policy loss, the value loss and the entropy",
        actor_critic,
    ),
)
