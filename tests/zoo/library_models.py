"""Models of libraries that come without weights, in tiny configurations.

The libraries are imported when a case is built: some take seconds, and a test may want no model
of theirs.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.zoo.cases import Shelf

shelf = Shelf("diffusers")
CASES = shelf.cases

_BLOCKS = {"block_out_channels": (8, 16), "norm_num_groups": 4, "layers_per_block": 1}
_STEPS = torch.tensor([3, 7])


def _image(channels: int = 3, size: int = 8) -> torch.Tensor:
    return torch.randn(2, channels, size, size)


@shelf.builder("diffusers: a denoiser of images")
def unet_2d() -> Any:
    from diffusers import UNet2DModel

    model = UNet2DModel(
        sample_size=8,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        attention_head_dim=4,
        **_BLOCKS,
    )
    return model, (_image(), _STEPS), {}


@shelf.builder("diffusers: a denoiser that attends to a text")
def unet_2d_condition() -> Any:
    from diffusers import UNet2DConditionModel

    model = UNet2DConditionModel(
        sample_size=8,
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        **_BLOCKS,
    )
    return model, (_image(4), _STEPS, torch.randn(2, 5, 8)), {}


@shelf.builder("diffusers: a variational autoencoder that draws its latent")
def autoencoder_kl() -> Any:
    from diffusers import AutoencoderKL

    model = AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=4,
        **_BLOCKS,
    )
    return model, (_image(),), {"sample_posterior": True}


@shelf.builder("diffusers: a vector-quantised autoencoder")
def vq_model() -> Any:
    from diffusers import VQModel

    model = VQModel(
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        latent_channels=3,
        num_vq_embeddings=8,
        **_BLOCKS,
    )
    return model, (_image(),), {}


@shelf.builder("diffusers: a transformer that denoises patches, told of step and class")
def dit() -> Any:
    from diffusers import DiTTransformer2DModel

    model = DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=4,
        in_channels=4,
        num_layers=2,
        sample_size=8,
        num_embeds_ada_norm=10,
        norm_num_groups=2,
    )
    return model, (_image(4), _STEPS), {"class_labels": torch.tensor([1, 2])}


@shelf.builder("diffusers: a transformer over image and text in two streams")
def sd3_transformer() -> Any:
    from diffusers import SD3Transformer2DModel

    model = SD3Transformer2DModel(
        sample_size=8,
        patch_size=2,
        in_channels=4,
        num_layers=2,
        attention_head_dim=4,
        num_attention_heads=2,
        joint_attention_dim=8,
        caption_projection_dim=8,
        pooled_projection_dim=8,
        out_channels=4,
        pos_embed_max_size=8,
    )
    text, pooled = torch.randn(2, 5, 8), torch.randn(2, 8)
    return model, (_image(4), text, pooled, _STEPS), {}


@shelf.builder("diffusers: a copy of the encoder that steers a denoiser")
def controlnet() -> Any:
    from diffusers import ControlNetModel

    model = ControlNetModel(
        down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
        cross_attention_dim=8,
        attention_head_dim=4,
        conditioning_embedding_out_channels=(4, 8),
        **_BLOCKS,
    )
    return model, (_image(4), _STEPS, torch.randn(2, 5, 8), _image(3, 16)), {}


# --- peft


peft_shelf = Shelf("peft")


class _Mlp(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Linear(4, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.second(self.first(x).relu())  # type: ignore[no-any-return]


def _adapted(name: str, **options: Any) -> Any:
    import peft

    config = getattr(peft, f"{name}Config")(**options)
    return peft.get_peft_model(_Mlp(), config), (torch.randn(3, 4),), {}  # type: ignore[arg-type]


@peft_shelf.builder("peft: low-rank updates, with dropout")
def lora() -> Any:
    return _adapted("Lora", r=2, lora_dropout=0.1, target_modules=["first", "second"])


@peft_shelf.builder("peft: low-rank updates of a direction, with a length of their own")
def dora() -> Any:
    return _adapted("Lora", r=2, use_dora=True, target_modules=["first", "second"])


@peft_shelf.builder("peft: learned scales of activations")
def ia3() -> Any:
    modules = {"target_modules": ["first", "second"], "feedforward_modules": ["second"]}
    return _adapted("IA3", **modules)


@peft_shelf.builder("peft: low-rank Hadamard products")
def loha() -> Any:
    return _adapted("LoHa", r=2, target_modules=["first", "second"])


@peft_shelf.builder("peft: Kronecker products")
def lokr() -> Any:
    return _adapted("LoKr", r=2, target_modules=["first", "second"])


# --- torchdiffeq, tensordict


flow_shelf = Shelf("torchdiffeq")


class _Ode(nn.Module):
    """A network whose layers are the steps of a solver."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.speed = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 4))
        self.options = options

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        from torchdiffeq import odeint

        times = torch.linspace(0, 1, 3)
        return odeint(lambda _, y: self.speed(y), x, times, **self.options)[-1]  # type: ignore[no-any-return]


@flow_shelf.builder("torchdiffeq: fixed steps")
def neural_ode_fixed() -> Any:
    return _Ode(method="rk4"), (torch.randn(3, 4),), {}


@flow_shelf.builder("torchdiffeq: steps chosen by the error, which Python reads")
def neural_ode_adaptive() -> Any:
    return _Ode(method="dopri5", rtol=1e-2, atol=1e-2), (torch.randn(3, 4),), {}


dict_shelf = Shelf("tensordict")


@dict_shelf.builder("tensordict: modules that read and write keys")
def tensordict_sequential() -> Any:
    from tensordict import TensorDict
    from tensordict.nn import TensorDictModule, TensorDictSequential

    model = TensorDictSequential(
        TensorDictModule(nn.Linear(4, 5), in_keys=["observation"], out_keys=["hidden"]),
        TensorDictModule(nn.Linear(5, 2), in_keys=["hidden"], out_keys=["action"]),
    )
    return model, (TensorDict({"observation": torch.randn(3, 4)}, batch_size=[3]),), {}


# --- e3nn


equivariant_shelf = Shelf("e3nn")


@equivariant_shelf.builder("e3nn: linear maps of irreducible representations")
def equivariant_linear() -> Any:
    from e3nn import o3

    return o3.Linear("4x0e + 2x1o", "3x0e + 2x1o"), (torch.randn(3, 10),), {}


@equivariant_shelf.builder("e3nn: a tensor product with spherical harmonics, and a norm")
def equivariant_convolution() -> Any:
    from e3nn import nn as e3nn_nn
    from e3nn import o3

    class Convolution(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.product = o3.FullyConnectedTensorProduct(
                "4x0e + 1x1o", "1x0e + 1x1o", "2x0e + 2x1o"
            )
            self.norm = e3nn_nn.BatchNorm("2x0e + 2x1o")

        def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
            around = o3.spherical_harmonics([0, 1], positions, normalize=True)
            return self.norm(self.product(x, around))  # type: ignore[no-any-return]

    return Convolution(), (torch.randn(3, 7), torch.randn(3, 3)), {}


# --- sentence-transformers


sentence_shelf = Shelf("sentence_transformers")


@sentence_shelf.builder("sentence-transformers: words, convolutions, pooling, a head")
def sentence_encoder() -> Any:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.models import CNN, Dense, Normalize, Pooling, WordEmbeddings
    from sentence_transformers.models.tokenizer import WhitespaceTokenizer

    words = WordEmbeddings(
        WhitespaceTokenizer(["the", "cat", "sat"]), torch.randn(3, 8), update_embeddings=True
    )
    convolution = CNN(8, 6, kernel_sizes=[1, 3])
    parts = [words, convolution, Pooling(12), Dense(12, 4), Normalize()]
    model = SentenceTransformer(modules=parts, device="cpu")
    features = {
        "input_ids": torch.tensor([[0, 1, 2], [1, 2, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 1, 0]]),
        "sentence_lengths": torch.tensor([3, 2]),
    }
    return model.train(), (features,), {}


# --- monai


medical_shelf = Shelf("monai")


@medical_shelf.builder("monai: a U-Net with residual units")
def monai_unet() -> Any:
    from monai.networks.nets import UNet

    model = UNet(2, 1, 2, channels=(4, 8, 16), strides=(2, 2), num_res_units=1)
    return model, (_image(1, 16),), {}


@medical_shelf.builder("monai: a U-Net over volumes that attends along its skips")
def monai_attention_unet() -> Any:
    from monai.networks.nets import AttentionUnet

    model = AttentionUnet(3, 1, 2, channels=(4, 8), strides=(2,))
    return model, (torch.randn(2, 1, 8, 8, 8),), {}


@medical_shelf.builder("monai: residual segmentation with group norms")
def monai_segresnet() -> Any:
    from monai.networks.nets import SegResNet

    return SegResNet(2, 8, 1, 2, blocks_down=(1, 1), blocks_up=(1,)), (_image(1, 16),), {}


@medical_shelf.builder("monai: a transformer as the encoder of a U-Net")
def monai_unetr() -> Any:
    from monai.networks.nets import UNETR

    model = UNETR(1, 2, (16, 16), feature_size=4, hidden_size=12, mlp_dim=16, num_heads=3,
                  spatial_dims=2)  # fmt: skip
    return model, (_image(1, 16),), {}


@medical_shelf.builder("monai: attention in shifted windows as the encoder of a U-Net")
def monai_swin_unetr() -> Any:
    from monai.networks.nets import SwinUNETR

    model = SwinUNETR(1, 2, depths=(1, 1, 1, 1), num_heads=(1, 1, 2, 2), feature_size=12,
                      norm_name=("group", {"num_groups": 4}), spatial_dims=2)  # fmt: skip
    return model, (_image(1, 32),), {}


@medical_shelf.builder("monai: a vision transformer that rebuilds its image")
def monai_vit_autoencoder() -> Any:
    from monai.networks.nets import ViTAutoEnc

    model = ViTAutoEnc(1, (16, 16), (4, 4), hidden_size=12, mlp_dim=16, num_layers=1, num_heads=3,
                       spatial_dims=2)  # fmt: skip
    return model, (_image(1, 16),), {}


@medical_shelf.builder("monai: a variational autoencoder that returns four tensors")
def monai_var_autoencoder() -> Any:
    from monai.networks.nets import VarAutoEncoder

    model = VarAutoEncoder(2, (1, 16, 16), 1, 3, channels=(4, 8), strides=(2, 2))
    return model, (_image(1, 16),), {}


# --- stable-baselines3


policy_shelf = Shelf("stable_baselines3")


class _Evaluates(nn.Module):
    """A policy as PPO trains it: what its actions were worth."""

    def __init__(self, policy: nn.Module) -> None:
        super().__init__()
        self.policy = policy

    def forward(self, observations: torch.Tensor, actions: torch.Tensor) -> torch.Tensor:
        values, log_probability, entropy = self.policy.evaluate_actions(observations, actions)  # type: ignore[operator]
        loss: torch.Tensor = F.mse_loss(values[:, 0], log_probability.detach()) - entropy.mean()
        return loss - log_probability.mean()


@policy_shelf.builder("stable-baselines3: an actor and a critic with one head each")
def actor_critic() -> Any:
    import gymnasium
    from stable_baselines3.common.policies import ActorCriticPolicy

    space = gymnasium.spaces.Box(-1, 1, (4,))
    policy = ActorCriticPolicy(space, gymnasium.spaces.Discrete(3), lambda _: 1e-3, net_arch=[8])
    return _Evaluates(policy).train(), (torch.randn(5, 4), torch.tensor([0, 1, 2, 0, 1])), {}


CASES += [
    *peft_shelf.cases,
    *flow_shelf.cases,
    *dict_shelf.cases,
    *equivariant_shelf.cases,
    *sentence_shelf.cases,
    *medical_shelf.cases,
    *policy_shelf.cases,
]
