"""Reference `pytorch_encoding`, RESTATED: the official EncNet from the paper and its public definition.

PyTorch-Encoding can't be installed beside today's PyTorch, so these layers are written anew, with its names of
parameters, by Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018. It is the weakest of the
references: an error of understanding could be on both sides.

Letters: N images, D channels, K codewords, P pixels.
"""

from typing import Dict, List, Mapping, Tuple

import numpy as np
import torch
import torch.nn as nn
import torch.nn.functional as F

from diff.inputs import IGNORE_INDEX, NUM_CLASSES, Setup
from diff.torch_side import TorchSide

BLOCKS = {50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
COEFFICIENTS = {"seg": 1.0, "aux": 0.4, "se": 0.2}


def conv(in_channels: int, out_channels: int, kernel: int, stride: int = 1, dilation: int = 1) -> nn.Conv2d:
    return nn.Conv2d(in_channels, out_channels, kernel, stride, dilation * (kernel // 2), dilation, bias=False)


class Bottleneck(nn.Module):
    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, projects: bool):
        super().__init__()
        self.conv1, self.bn1 = conv(in_channels, width, 1), nn.BatchNorm2d(width)
        self.conv2, self.bn2 = conv(width, width, 3, stride, dilation), nn.BatchNorm2d(width)
        self.conv3, self.bn3 = conv(width, 4 * width, 1), nn.BatchNorm2d(4 * width)
        self.downsample = nn.Sequential(
            conv(in_channels, 4 * width, 1, stride), nn.BatchNorm2d(4 * width)) if projects else None

    def forward(self, x):
        branch = F.relu(self.bn1(self.conv1(x)))
        branch = F.relu(self.bn2(self.conv2(branch)))
        branch = self.bn3(self.conv3(branch))
        return F.relu(branch + (x if self.downsample is None else self.downsample(x)))


class ResNet(nn.Module):
    """Stem 64-64-128; stages 3 and 4 dilated by 2 and 4, their first blocks by 1 and 2."""

    def __init__(self, depth: int, width: int):
        super().__init__()
        self.conv1 = nn.Sequential(conv(3, width, 3, 2), nn.BatchNorm2d(width), nn.ReLU(),
                                   conv(width, width, 3), nn.BatchNorm2d(width), nn.ReLU(),
                                   conv(width, 2 * width, 3))
        self.bn1 = nn.BatchNorm2d(2 * width)
        channels = 2 * width
        for stage, (stride, dilation) in enumerate(((1, 1), (2, 1), (1, 2), (1, 4))):
            blocks: List[nn.Module] = []
            for index in range(BLOCKS[depth][stage]):
                first = index == 0
                blocks.append(Bottleneck(channels, width * 2 ** stage, stride if first else 1,
                                         max(dilation // 2, 1) if first else dilation, projects=first))
                channels = 4 * width * 2 ** stage
            setattr(self, f"layer{stage + 1}", nn.Sequential(*blocks))

    def forward(self, x) -> Dict[str, torch.Tensor]:
        stages = {"stem": F.relu(self.bn1(self.conv1(x)))}
        x = F.max_pool2d(stages["stem"], 3, 2, 1)
        for number in range(1, 5):
            x = stages[f"layer{number}"] = getattr(self, f"layer{number}")(x)
        return stages


class Encoding(nn.Module):
    """e_k = sum_i a_ik (x_i - c_k), a_ik = softmax_k(s_k |x_i - c_k|^2), residual by residual (eq. 1-2)."""

    def __init__(self, channels: int, codes: int):
        super().__init__()
        self.codewords = nn.Parameter(torch.zeros(codes, channels))
        self.scale = nn.Parameter(torch.zeros(codes))

    def forward(self, x):
        residuals = x.flatten(2).transpose(1, 2)[:, :, None] - self.codewords  # (N, P, K, D)
        weights = F.softmax(self.scale * residuals.square().sum(-1), dim=2)
        return (weights[..., None] * residuals).sum(1)


class EncModule(nn.Module):
    def __init__(self, channels: int, codes: int = 32):
        super().__init__()
        self.encoding = nn.Sequential(conv(channels, channels, 1), nn.BatchNorm2d(channels), nn.ReLU(),
                                      Encoding(channels, codes), nn.BatchNorm1d(codes), nn.ReLU())
        self.fc = nn.Sequential(nn.Linear(channels, channels), nn.Sigmoid())
        self.selayer = nn.Linear(channels, NUM_CLASSES)

    def forward(self, x):
        encoded = self.encoding(x).mean(1)
        return encoded, F.relu(x + x * self.fc(encoded)[:, :, None, None])


class EncHead(nn.Module):
    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv5 = nn.Sequential(conv(in_channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU())
        self.encmodule = EncModule(channels)
        self.conv6 = nn.Sequential(nn.Dropout(0.0), nn.Conv2d(channels, NUM_CLASSES, 1))


class FCNHead(nn.Module):
    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.conv5 = nn.Sequential(conv(in_channels, channels, 3), nn.BatchNorm2d(channels), nn.ReLU(),
                                   nn.Dropout(0.0), nn.Conv2d(channels, NUM_CLASSES, 1))


class EncNet(nn.Module):
    def __init__(self, setup: Setup):
        super().__init__()
        self.pretrained = ResNet(setup.depth, setup.base_channels)
        self.head = EncHead(32 * setup.base_channels, setup.mid_channels)
        self.auxlayer = FCNHead(16 * setup.base_channels, setup.aux_channels)

    def forward(self, images) -> Dict[str, torch.Tensor]:
        """Every stage by name; aux_logits, aux and se in training only."""
        def enlarge(logits):
            return F.interpolate(logits, images.shape[2:], mode="bilinear", align_corners=True)

        stages = self.pretrained(images)
        stages["bottleneck"] = self.head.conv5(stages["layer4"])
        stages["encoding"], weighted = self.head.encmodule(stages["bottleneck"])
        stages["logits"] = self.head.conv6(weighted)
        stages["seg"] = enlarge(stages["logits"])
        if self.training:
            stages["aux_logits"] = self.auxlayer.conv5(stages["layer3"])
            stages["aux"] = enlarge(stages["aux_logits"])
            stages["se"] = self.head.encmodule.selayer(stages["encoding"])
        return stages


def loss_terms(outputs: Mapping[str, torch.Tensor], label: torch.Tensor) -> Dict[str, torch.Tensor]:
    """Cross entropy over the pixels that have a class, and class presence; each times its coefficient."""
    def cross_entropy(logits):
        return F.cross_entropy(logits, label, ignore_index=IGNORE_INDEX, reduction="sum") / max(
            int((label != IGNORE_INDEX).sum()), 1)

    present = torch.stack([torch.stack([(one == index).any() for index in range(NUM_CLASSES)]) for one in label])
    terms = {"seg": cross_entropy(outputs["seg"]), "aux": cross_entropy(outputs["aux"]),
             "se": F.binary_cross_entropy_with_logits(outputs["se"], present.to(outputs["se"].dtype))}
    return {name: COEFFICIENTS[name] * term for name, term in terms.items()}


def learning_rates(setup: Setup) -> np.ndarray:
    """lr (1 - t / T)^0.9."""
    return setup.learning_rate * (1 - np.arange(setup.iters) / setup.iters) ** 0.9


class Side(TorchSide):
    """The restated network with given weights of ours."""

    dialect = "pytorch_encoding"

    def __init__(self, setup: Setup, weights: Mapping[str, np.ndarray], dtype: str):
        self.model = EncNet(setup).to(getattr(torch, dtype))
        self.load(weights)
        self.optimizer = torch.optim.SGD(self.model.parameters(), setup.learning_rate, setup.momentum,
                                         weight_decay=setup.weight_decay)
        self.rates = iter(learning_rates(setup))

    def stages(self, images: torch.Tensor, train: bool) -> Dict[str, torch.Tensor]:
        return self.model(images)

    def losses(self, logits: Mapping[str, np.ndarray], label: np.ndarray) -> Dict[str, float]:
        return self._terms({name: torch.from_numpy(value) for name, value in logits.items()}, label)[0]

    def backward(self, images: np.ndarray, label: np.ndarray) -> Dict[str, float]:
        self.model.train()
        losses, total = self._terms(self.model(torch.from_numpy(images)), label)
        total.backward()
        return losses

    def _terms(self, outputs: Mapping[str, torch.Tensor], label: np.ndarray) -> Tuple[Dict[str, float], torch.Tensor]:
        """Return the losses and their sum "total" as numbers, and the sum."""
        terms = loss_terms(outputs, torch.from_numpy(label))
        total = sum(terms.values())
        return {name: term.item() for name, term in {**terms, "total": total}.items()}, total

    def update(self) -> float:
        lr = float(next(self.rates))
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad()
        return lr
