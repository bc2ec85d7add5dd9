"""Reference `mmseg`: mmsegmentation's own EncoderDecoder, losses, optimizer wrapper and PolyLR.

mmcv-lite has no compiled operators, and EncNet calls none; a module in their place lets mmseg be imported.
"""

import contextlib
import sys
import types
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Dict, List, Mapping

import numpy as np
import torch


class _NoOperators(types.ModuleType):
    """Has every operator that mmcv asks for by name, and refuses to run it."""

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*args, **kwargs):
            raise NotImplementedError(f"mmcv-lite has no compiled operator {name}")
        return refuse


_operators = _NoOperators("mmcv._ext")
_operators.__spec__ = ModuleSpec("mmcv._ext", loader=None)  # mmengine looks for it and then takes mmcv as lite
sys.modules.setdefault("mmcv._ext", _operators)

import mmseg  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.model import revert_sync_batchnorm  # noqa: E402
from mmengine.optim import build_optim_wrapper  # noqa: E402
from mmengine.registry import PARAM_SCHEDULERS  # noqa: E402
from mmengine.structures import PixelData  # noqa: E402
from mmseg.models.utils import resize  # noqa: E402
from mmseg.registry import MODELS  # noqa: E402
from mmseg.structures import SegDataSample  # noqa: E402
from mmseg.utils import register_all_modules  # noqa: E402
from torch.overrides import TorchFunctionMode  # noqa: E402

from diff.inputs import Setup  # noqa: E402
from diff.stages import watched  # noqa: E402
from diff.torch_side import TorchSide  # noqa: E402


class _FloatMeansDouble(TorchFunctionMode):
    """Lets `tensor.float()` give float64.

    mmsegmentation casts the SE loss's targets so; beside float64 logits PyTorch then computes
    (1 - target) * logit in float32.
    """

    def __torch_function__(self, func, types, args=(), kwargs=None):
        return func(*args, **(kwargs or {})) if func is not torch.Tensor.float else args[0].double()


CONFIG = Path(mmseg.__file__).parent / ".mim/configs/encnet/encnet_r101-d8_4xb2-80k_cityscapes-512x1024.py"


def load_config(setup: Setup) -> Config:
    """mmsegmentation's config with the setup's widths and schedule, without dropout and initial weights."""
    config = Config.fromfile(str(CONFIG))
    config.model.pretrained = None
    config.model.backbone.update(depth=setup.depth, base_channels=setup.base_channels,
                                 stem_channels=setup.base_channels)
    expansion = 4  # of bottleneck blocks
    channels = [expansion * setup.base_channels * 2 ** stage for stage in range(4)]
    config.model.decode_head.update(in_channels=channels[1:], channels=setup.mid_channels, dropout_ratio=0.0)
    config.model.auxiliary_head.update(in_channels=channels[2], channels=setup.aux_channels, dropout_ratio=0.0)
    config.optim_wrapper.optimizer.update(lr=setup.learning_rate, momentum=setup.momentum,
                                          weight_decay=setup.weight_decay)
    config.param_scheduler[0].end = setup.iters
    return config


class Side(TorchSide):
    """mmsegmentation's EncNet with given weights of ours."""

    dialect = "mmseg"

    def __init__(self, setup: Setup, weights: Mapping[str, np.ndarray], dtype: str):
        register_all_modules(init_default_scope=True)
        config = load_config(setup)
        self.model = revert_sync_batchnorm(MODELS.build(config.model)).to(getattr(torch, dtype))
        self.load(weights)
        self.casts = _FloatMeansDouble if dtype == "float64" else contextlib.nullcontext
        self.optim_wrapper = build_optim_wrapper(self.model, config.optim_wrapper)
        self.scheduler = PARAM_SCHEDULERS.build(
            dict(config.param_scheduler[0]), default_args={"optimizer": self.optim_wrapper})

    def stages(self, images: torch.Tensor, train: bool) -> Dict[str, torch.Tensor]:
        model, head = self.model, self.model.decode_head
        layers = {"stem": model.backbone.stem, "backbone": model.backbone, "bottleneck": head.bottleneck,
                  "encoding": head.enc_module, "logits": head.conv_seg}
        if train:
            layers["aux_logits"] = model.auxiliary_head.conv_seg
        with watched(layers, "register_forward_hook") as found:
            outputs = self._outputs(images, train)
        return {**found, **outputs}

    def _outputs(self, images: torch.Tensor, train: bool) -> Dict[str, torch.Tensor]:
        size = tuple(images.shape[2:])
        if not train:
            metas = [dict(img_shape=size, ori_shape=size, pad_shape=size)] * len(images)
            return {"seg": self.model.encode_decode(images, metas)}
        feats = self.model.extract_feat(images)
        seg, se = self.model.decode_head(feats)
        aux = self.model.auxiliary_head(feats)
        return {"seg": self._full_size(seg, size), "aux": self._full_size(aux, size), "se": se}

    def _full_size(self, logits: torch.Tensor, size) -> torch.Tensor:
        """Resize as the heads' `loss_by_feat` does."""
        return resize(logits, size=size, mode="bilinear", align_corners=self.model.decode_head.align_corners)

    def losses(self, logits: Mapping[str, np.ndarray], label: np.ndarray) -> Dict[str, float]:
        tensors = {name: torch.from_numpy(value) for name, value in logits.items()}
        samples = data_samples(label)
        with self.casts():
            decode = self.model.decode_head.loss_by_feat((tensors["seg"], tensors["se"]), samples)
            aux = self.model.auxiliary_head.loss_by_feat(tensors["aux"], samples)
        return self._named({**{f"decode.{name}": value for name, value in decode.items()},
                            **{f"aux.{name}": value for name, value in aux.items()}})[0]

    def _named(self, losses: Mapping[str, torch.Tensor]):
        """(our names of mmsegmentation's loss terms and their sum as numbers, the sum)."""
        total, _ = self.model.parse_losses(dict(losses))
        terms = {"seg": losses["decode.loss_ce"], "aux": losses["aux.loss_ce"], "se": losses["decode.loss_se"],
                 "total": total}
        return {name: term.item() for name, term in terms.items()}, total

    def backward(self, images: np.ndarray, label: np.ndarray) -> Dict[str, float]:
        self.model.train()
        with self.casts():
            found = self.model.loss(torch.from_numpy(images), data_samples(label))
        losses, total = self._named(found)
        self.optim_wrapper.backward(total)
        return losses

    def update(self) -> float:
        lr = self.optim_wrapper.get_lr()["lr"][0]
        self.optim_wrapper.step()
        self.optim_wrapper.zero_grad()
        self.scheduler.step()
        return lr


def data_samples(label: np.ndarray) -> List[SegDataSample]:
    """Labels int64 (N, H, W) as mmsegmentation's losses take them."""
    samples = []
    for one in label:
        sample = SegDataSample(metainfo=dict(img_shape=one.shape, ori_shape=one.shape, pad_shape=one.shape))
        sample.gt_sem_seg = PixelData(data=torch.from_numpy(one[None]))
        samples.append(sample)
    return samples


def learning_rates(setup: Setup) -> np.ndarray:
    """The rate of each iteration, with mmsegmentation's optimizer and schedule stepped that often."""
    config = load_config(setup)
    register_all_modules(init_default_scope=True)
    optim_wrapper = build_optim_wrapper(torch.nn.Linear(1, 1), config.optim_wrapper)
    scheduler = PARAM_SCHEDULERS.build(dict(config.param_scheduler[0]), default_args={"optimizer": optim_wrapper})
    rates = np.zeros(setup.iters)
    optim_wrapper.step()  # a schedule warns where it is stepped before the optimizer
    for iteration in range(setup.iters):
        rates[iteration] = optim_wrapper.get_lr()["lr"][0]
        scheduler.step()
    return rates
