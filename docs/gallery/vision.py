"""Networks that look at images."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from docs.gallery.entry import Built, Entry
from tests.networks import ArticleCnn, Bottleneck, ResNet, UNet


def image(size: int = 64, channels: int = 3) -> torch.Tensor:
    """Two images."""
    return torch.randn(2, channels, size, size)


class DenseLayer(nn.Module):
    """Norm and convolution, twice; what it makes is put beside what it was given."""

    def __init__(self, inside: int, growth: int) -> None:
        super().__init__()
        self.norm1, self.norm2 = nn.BatchNorm2d(inside), nn.BatchNorm2d(4 * growth)
        self.conv1 = nn.Conv2d(inside, 4 * growth, 1, bias=False)
        self.conv2 = nn.Conv2d(4 * growth, growth, 3, padding=1, bias=False)

    def forward(self, features: list[torch.Tensor]) -> torch.Tensor:
        """The new features, of all that were made before."""
        x = torch.cat(features, 1)
        x = self.conv1(F.relu(self.norm1(x)))
        made: torch.Tensor = self.conv2(F.relu(self.norm2(x)))
        return made


class DenseBlock(nn.Module):
    """Layers of which each reads all before it."""

    def __init__(self, layers: int, inside: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            DenseLayer(inside + number * growth, growth) for number in range(layers)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """All features, those given first."""
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


class Transition(nn.Sequential):
    """Half as many channels, half the size."""

    def __init__(self, inside: int) -> None:
        super().__init__(
            nn.BatchNorm2d(inside),
            nn.ReLU(),
            nn.Conv2d(inside, inside // 2, 1, bias=False),
            nn.AvgPool2d(2),
        )


class DenseNet(nn.Module):
    """Four dense blocks with transitions between them, as DenseNet-121."""

    def __init__(self, *layers: int, growth: int = 4) -> None:
        super().__init__()
        width = 2 * growth
        self.stem = nn.Sequential(
            nn.Conv2d(3, width, 7, 2, 3, bias=False),
            nn.BatchNorm2d(width),
            nn.ReLU(),
            nn.MaxPool2d(3, 2, 1),
        )
        self.blocks, self.transitions = nn.ModuleList(), nn.ModuleList()
        for number, count in enumerate(layers):
            self.blocks.append(DenseBlock(count, width, growth))
            width += count * growth
            if number < len(layers) - 1:
                self.transitions.append(Transition(width))
                width //= 2
        self.norm, self.classifier = nn.BatchNorm2d(width), nn.Linear(width, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Scores of ten classes."""
        x = self.stem(x)
        for number, block in enumerate(self.blocks):
            x = block(x)
            if number < len(self.transitions):
                x = self.transitions[number](x)
        made: torch.Tensor = self.classifier(F.relu(self.norm(x)).mean((2, 3)))
        return made


def vit() -> Built:
    """A vision transformer with twelve layers."""
    from transformers import ViTConfig, ViTForImageClassification

    sizes = {"hidden_size": 32, "num_attention_heads": 4, "intermediate_size": 64}
    model = ViTForImageClassification(ViTConfig(image_size=32, patch_size=8, **sizes))
    return model, {"pixel_values": image(32), "labels": torch.tensor([0, 1])}


def swin() -> Built:
    """Swin-T: two, two, six and two layers."""
    from transformers import SwinConfig, SwinForImageClassification

    config = SwinConfig(
        image_size=64,
        patch_size=2,
        embed_dim=8,
        depths=[2, 2, 6, 2],
        num_heads=[1, 2, 4, 8],
        window_size=4,
    )
    model = SwinForImageClassification(config)
    return model, {"pixel_values": image(), "labels": torch.tensor([0, 1])}


def detr() -> Built:
    """DETR on a ResNet-50, six layers each in encoder and decoder."""
    from transformers import DetrConfig, DetrForObjectDetection, ResNetConfig

    backbone = ResNetConfig(
        embedding_size=8, hidden_sizes=[8, 16, 32, 64], depths=[3, 4, 6, 3], out_features=["stage4"]
    )
    config = DetrConfig(
        use_timm_backbone=False,
        backbone_config=backbone,
        d_model=32,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=64,
        decoder_ffn_dim=64,
        num_queries=10,
    )
    return DetrForObjectDetection(config), {"pixel_values": image()}


def sam() -> Built:
    """SAM: an image encoder, a prompt encoder and a mask decoder."""
    from transformers import SamConfig, SamModel

    vision = {
        "hidden_size": 32,
        "num_hidden_layers": 4,
        "num_attention_heads": 2,
        "image_size": 64,
        "patch_size": 8,
        "output_channels": 16,
        "num_pos_feats": 8,
        "window_size": 4,
        "global_attn_indexes": [1, 3],
        "mlp_dim": 64,
    }
    prompt = {"hidden_size": 16, "image_size": 64, "patch_size": 8, "mask_input_channels": 4}
    mask = {
        "hidden_size": 16,
        "num_attention_heads": 2,
        "mlp_dim": 32,
        "iou_head_hidden_dim": 16,
    }
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompt, mask_decoder_config=mask)
    model = SamModel(config)
    return model, {
        "pixel_values": image(),
        "input_points": torch.rand(2, 1, 2, 2) * 64,
        "input_labels": torch.ones(2, 1, 2, dtype=torch.long),
    }


class RegionProposals(nn.Module):
    """At each place, how likely something is there, and its box."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.objectness, self.deltas = nn.Conv2d(channels, 3, 1), nn.Conv2d(channels, 12, 1)

    def forward(self, features: torch.Tensor, best: int = 8) -> torch.Tensor:
        """The boxes that are most likely, two corners each, between 0 and 1."""
        seen = F.relu(self.conv(features))
        scores = self.objectness(seen).flatten(1)
        boxes = self.deltas(seen).permute(0, 2, 3, 1).reshape(len(seen), -1, 4).sigmoid()
        chosen = scores.topk(best, 1).indices
        return boxes.gather(1, chosen[..., None].expand(-1, -1, 4))


class RegionHead(nn.Module):
    """What is in a region, and its box made better."""

    def __init__(self, channels: int, classes: int) -> None:
        super().__init__()
        self.fc1, self.fc2 = nn.Linear(channels * 16, 64), nn.Linear(64, 64)
        self.classes, self.boxes = nn.Linear(64, classes), nn.Linear(64, 4 * classes)

    def forward(self, regions: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Scores and boxes by class."""
        x = F.relu(self.fc2(F.relu(self.fc1(regions.flatten(2)))))
        return self.classes(x), self.boxes(x)


class FasterRCNN(nn.Module):
    """Regions are proposed on a ResNet's features, cut out of them and told apart."""

    def __init__(self, channels: int = 32, classes: int = 5) -> None:
        super().__init__()
        self.backbone = nn.Sequential(
            nn.Conv2d(3, channels, 7, 2, 3),
            nn.BatchNorm2d(channels),
            nn.ReLU(),
            *(Bottleneck(channels, channels // 4) for _ in range(4)),
        )
        self.rpn = RegionProposals(channels)
        self.head = RegionHead(channels, classes)

    def align(self, features: torch.Tensor, boxes: torch.Tensor) -> torch.Tensor:
        """Four by four values of each box, taken from the features."""
        steps = torch.linspace(0, 1, 4)
        x = boxes[..., 0:1] + (boxes[..., 2:3] - boxes[..., 0:1]) * steps
        y = boxes[..., 1:2] + (boxes[..., 3:4] - boxes[..., 1:2]) * steps
        places = torch.stack(
            [x[..., None, :].expand(-1, -1, 4, -1), y[..., None].expand(-1, -1, -1, 4)], -1
        )
        found = F.grid_sample(features, 2 * places.flatten(1, 2) - 1, align_corners=False)
        return found.unflatten(2, (-1, 4)).transpose(1, 2)

    def forward(self, images: torch.Tensor) -> dict[str, torch.Tensor]:
        """Proposed boxes, their classes and their better boxes."""
        features = self.backbone(images)
        proposals = self.rpn(features)
        scores, boxes = self.head(self.align(features, proposals))
        return {"scores": scores, "boxes": boxes, "proposals": proposals}


ENTRIES = (
    Entry(
        "article_cnn",
        "CNN with two branches",
        "convolutions, then two layers side by side, joined",
        lambda: (ArticleCnn(), {"x": torch.zeros(64, 1, 28, 28)}),
    ),
    Entry(
        "resnet50",
        "ResNet-50",
        "stem, four stages of 3, 4, 6 and 3 bottlenecks with their skips, classifier",
        lambda: (ResNet(3, 4, 6, 3, kind=Bottleneck), {"x": image()}),
    ),
    Entry(
        "densenet",
        "DenseNet-121",
        "four dense blocks, in which each layer reads all before it; transitions between them",
        lambda: (DenseNet(6, 12, 24, 16), {"x": image()}),
    ),
    Entry(
        "unet",
        "U-Net",
        "down on one side, up on the other, a skip across on each level",
        lambda: (UNet(), {"x": torch.zeros(2, 3, 32, 32)}),
    ),
    Entry(
        "vit",
        "ViT",
        "patches, a class token and positions; 12 × (attention, MLP); the class token classifies",
        vit,
    ),
    Entry(
        "swin",
        "Swin",
        "four stages; blocks in pairs, windows and shifted windows; patches merged between stages",
        swin,
    ),
    Entry(
        "detr",
        "DETR",
        "backbone, encoder, decoder fed by object queries, heads for class and box",
        detr,
    ),
    Entry(
        "sam",
        "SAM",
        "image encoder and prompt encoder side by side, both into the mask decoder",
        sam,
    ),
    Entry(
        "faster_rcnn",
        "Faster R-CNN",
        "backbone; proposals from its features; regions cut out of them and told apart",
        lambda: (FasterRCNN(), {"images": image()}),
    ),
)
