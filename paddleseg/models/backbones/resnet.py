"""Dilated residual networks: five depths times four stems and shortcuts.

He et al., "Deep Residual Learning for Image Recognition", CVPR 2016; the variants b to d are those of
He et al., "Bag of Tricks for Image Classification with Convolutional Neural Networks", CVPR 2019; s is c
with a stem of twice the width (PyTorch-Encoding).

Letters: N images, C channels, H, W size of the image.

Parameter names are PaddleSeg's in every variant: the stem is `conv1_1` (variant b) or `conv1_1`,
`conv1_2`, `conv1_3`; block b of stage s, both from 0, is `bb_{s}_{b}` with `conv0`, `conv1`, `conv2`
(bottlenecks only) and `short`; each holds `_conv` and `_batch_norm`.

Parameters start as the framework sets them, as in PaddleSeg (see layers/conv_bn.py).
"""

import itertools
from typing import List, NamedTuple, Optional, Sequence

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs import manager
from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.layers.conv_bn import ConvBN, ConvBNReLU, add_relu
from paddleseg.weights.load import load_pretrained


class Variant(NamedTuple):
    """The differences between the variants; stem widths are in units of half a base_channels."""

    stem_kernel: int
    stem_halves: Sequence[int]
    avg_down: bool  # shortcuts of stride 2 average 2x2 pixels, instead of taking every other one
    projects_first: bool  # stage 1 starts with a projection even where the shape stays


VARIANTS = {
    "vd": Variant(3, (1, 1, 2), avg_down=True, projects_first=True),
    "v1b": Variant(7, (2,), avg_down=False, projects_first=False),
    "v1c": Variant(3, (1, 1, 2), avg_down=False, projects_first=False),
    "v1s": Variant(3, (2, 2, 4), avg_down=False, projects_first=False),
}
DEPTHS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}  # blocks
# output stride -> (stride, dilation) of each stage; a stage that doesn't halve the map doubles the dilation.
STAGES = {
    8: ((1, 1), (2, 1), (1, 2), (1, 4)),
    16: ((1, 1), (2, 1), (2, 1), (1, 2)),
    32: ((1, 1), (2, 1), (2, 1), (2, 1)),
}


class Shortcut(ConvBN):
    """The projection beside a block: 1x1, with its stride in the convolution or in an average pool before."""

    def __init__(self, in_channels: int, out_channels: int, stride: int, avg_down: bool):
        avg_down = avg_down and stride > 1
        super().__init__(in_channels, out_channels, 1, stride=1 if avg_down else stride, padding=0, bias_attr=False)
        # At an odd edge the pool averages the pixels that are there (exclusive), as every reference does.
        self.pool = nn.AvgPool2D(stride, stride, ceil_mode=True, exclusive=True) if avg_down else None

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        if self.pool is not None:
            x = self.pool(x)
        return self._batch_norm(self._conv(x))


class Block(nn.Layer):
    """A residual block: relu(branch(x) + shortcut(x)).

    The branch is 3x3, 3x3, or for a bottleneck 1x1, 3x3, 1x1 to four times the width. The stride sits in
    its first 3x3 convolution, the dilation in every 3x3 one, as in PaddleSeg (mmsegmentation doesn't
    dilate the second one of a basic block).

    Args:
        width: channels of the 3x3 convolutions.
        short: the projection, or None for the identity.
    """

    def __init__(self, in_channels: int, width: int, stride: int, dilation: int, is_bottleneck: bool,
                 short: Optional[nn.Layer]):
        super().__init__()
        wide = dict(kernel_size=3, padding=dilation, dilation=dilation, bias_attr=False)
        if is_bottleneck:
            self.conv0 = ConvBNReLU(in_channels, width, 1, padding=0, bias_attr=False)
            self.conv1 = ConvBNReLU(width, width, stride=stride, **wide)
            self.conv2 = ConvBN(width, 4 * width, 1, padding=0, bias_attr=False)
        else:
            self.conv0 = ConvBNReLU(in_channels, width, stride=stride, **wide)
            self.conv1 = ConvBN(width, width, **wide)
            self.conv2 = None
        self.short = short

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        branch = self.conv1(self.conv0(x))
        if self.conv2 is not None:
            branch = self.conv2(branch)
        return add_relu(branch, x if self.short is None else self.short(x))


class ResNet(nn.Layer):
    """A ResNet that returns the feature map of each of its four stages.

    Args:
        depth: 18, 34, 50, 101 or 152.
        variant: vd, v1b, v1c or v1s.
        output_stride: 8, 16 or 32, the size of the image over that of the last map.
        multi_grid: factors on the dilations of the blocks of stage 4, one for each block; ones, however
            many, change nothing.
        contract_dilation: halve the dilation of the first block of each dilated stage. A factor of
            multi_grid comes on top of it.
        base_channels: width of stage 1; the stem's scales with it.
        in_channels: C.
        pretrained: weights for everything, a path or a URL; None leaves the random start.
        frozen_stages: 0 trains everything; n from 1 to 4 freezes the stem and the first n stages: their parameters
            stay, and their batch norms normalise by the running statistics. As in mmsegmentation, but for its -1,
            which is 0 here, and its 0, the stem alone.
        recompute_stages: the stages, from 1 to 4, whose blocks keep only their inputs for the backward pass, and
            compute the rest again there: less memory, at the cost of a second forward pass. Nothing else changes.

    Attributes:
        feat_channels: channels of the four maps.
        layers: the depth, by the name that PaddleSeg's SFNet asks for.
        avg_down: the shortcuts of stride 2 pool, which no parameter tells.

    Shapes:
        input (N, C, H, W), outputs (N, feat_channels[s], H / r, W / r), rounded up, with r = 4, 8, 16, 32
        up to output_stride.

    Raises:
        ConfigError: output_stride, base_channels, multi_grid, frozen_stages or recompute_stages doesn't fit.
    """

    def __init__(self, depth: int, variant: str, output_stride: int = 8,
                 multi_grid: Sequence[int] = (1, 1, 1), contract_dilation: bool = False,
                 base_channels: int = 64, in_channels: int = 3, pretrained: Optional[str] = None,
                 frozen_stages: int = 0, recompute_stages: Sequence[int] = ()):
        super().__init__()
        blocks, self._is_bottleneck, self._variant = DEPTHS[depth], depth >= 50, VARIANTS[variant]
        error = _find_error(blocks[3], output_stride, multi_grid, base_channels, frozen_stages, recompute_stages)
        if error:
            raise ConfigError(f"ResNet{depth}_{variant}: {error}")
        self.layers = depth
        self.avg_down = self._variant.avg_down
        channels = self._add_stem(in_channels, base_channels)
        self._stages = []
        self.feat_channels = []
        for stage, (stride, dilation) in enumerate(STAGES[output_stride]):
            has_grid = stage == 3 and any(factor != 1 for factor in multi_grid)
            dilations = block_dilations(dilation, contract_dilation, multi_grid if has_grid else [1] * blocks[stage])
            channels = self._add_stage(channels, base_channels * 2 ** stage, stride, dilations)
            self.feat_channels.append(channels)
        load_pretrained(self, pretrained)
        self._recomputed = {name for stage in recompute_stages for name in self._stages[stage - 1]}
        if frozen_stages:
            self._freeze([*self._stem, *itertools.chain(*self._stages[:frozen_stages])])

    def _add_stem(self, in_channels: int, base_channels: int) -> int:
        """Add conv1_1 and following; returns the channels of the last."""
        kernel, self._stem = self._variant.stem_kernel, []
        for index, halves in enumerate(self._variant.stem_halves):
            out_channels = halves * base_channels // 2
            self._stem.append(f"conv1_{index + 1}")
            self.add_sublayer(self._stem[-1], ConvBNReLU(in_channels, out_channels, kernel, padding=kernel // 2,
                                                         stride=2 if index == 0 else 1, bias_attr=False))
            in_channels = out_channels
        return in_channels

    def _add_stage(self, in_channels: int, width: int, stride: int, dilations: Sequence[int]) -> int:
        """Add the next stage's blocks, one for each dilation; returns their channels."""
        out_channels = 4 * width if self._is_bottleneck else width
        names = []
        for index, dilation in enumerate(dilations):
            short = None
            if index == 0 and (self._variant.projects_first or stride > 1 or in_channels != out_channels):
                short = Shortcut(in_channels, out_channels, stride, self._variant.avg_down)
            names.append(f"bb_{len(self._stages)}_{index}")
            self.add_sublayer(names[-1], Block(in_channels, width, stride if index == 0 else 1, dilation,
                                               self._is_bottleneck, short))
            in_channels = out_channels
        self._stages.append(names)
        return out_channels

    def _freeze(self, names: Sequence[str]) -> None:
        frozen = [layer for name in names for layer in getattr(self, name).sublayers()]
        for layer in frozen:
            for parameter in layer.parameters(include_sublayers=False):
                parameter.stop_gradient = True

        def stay_in_evaluation(*args) -> None:
            for layer in frozen:
                layer.training = False

        # train() of a layer around this one only sets the attribute of all layers within.
        self.register_forward_pre_hook(stay_in_evaluation)

    def forward(self, x: paddle.Tensor) -> List[paddle.Tensor]:
        for name in self._stem:
            x = getattr(self, name)(x)
        x = F.max_pool2d(x, 3, stride=2, padding=1)
        recomputed = self._recomputed if self.training and paddle.is_grad_enabled() else ()
        feats = []
        for stage in self._stages:
            for name in stage:
                block = getattr(self, name)
                x = recompute_block(block, x) if name in recomputed else block(x)
            feats.append(x)
        return feats


def recompute_block(block: nn.Layer, x: paddle.Tensor) -> paddle.Tensor:
    """block(x), of which only x is kept for the backward pass; that computes the block again, mixed precision included.

    The block may have batch norms, whose running statistics move once, but no dropout.
    """
    from paddle.distributed.fleet.utils import recompute

    passes = []

    def run(x: paddle.Tensor) -> paddle.Tensor:
        passes.append(None)
        if len(passes) == 1:
            return block(x)
        kept = [(tensor, tensor.clone()) for key, tensor in block.state_dict().items()
                if key.endswith(("._mean", "._variance"))]
        out = block(x)
        with paddle.no_grad():
            for tensor, value in kept:
                tensor.set_value(value)
        return out

    if x.stop_gradient:  # what comes before is frozen; without a gradient here there would be none in the block
        x = x.detach()
        x.stop_gradient = False
    # Reentrant, it would call paddle.DataParallel's reducer twice, which ends the run.
    return recompute(run, x, preserve_rng_state=False, use_reentrant=False)


def block_dilations(dilation: int, contract: bool, factors: Sequence[int]) -> List[int]:
    """The dilation of each block of a stage; `contract` halves the first one, if it is dilated.

    Each is multiplied by its factor, as in PaddleSeg; mmsegmentation replaces it.
    """
    first = dilation // 2 if contract and dilation > 1 else dilation
    return [first * factors[0], *(dilation * factor for factor in factors[1:])]


def _find_error(last_blocks: int, output_stride: int, multi_grid: Sequence[int], base_channels: int,
                frozen_stages: int, recompute_stages: Sequence[int]) -> Optional[str]:
    """Describe the first impossible argument, and the fix."""
    if output_stride not in STAGES:
        return f"output_stride is {output_stride}; choose 8, 16 or 32"
    if base_channels < 2 or base_channels % 2:
        return f"base_channels is {base_channels}; choose an even number from 2 up"
    if any(factor < 1 for factor in multi_grid):
        return f"multi_grid is {list(multi_grid)}; its factors start at 1"
    if any(factor != 1 for factor in multi_grid) and len(multi_grid) != last_blocks:
        return f"multi_grid is {list(multi_grid)}; give {last_blocks} factors, one for each block of stage 4"
    if not 0 <= frozen_stages <= 4:
        return f"frozen_stages is {frozen_stages}; choose 0 to 4"
    if not all(frozen_stages < stage <= 4 for stage in recompute_stages):
        return (f"recompute_stages is {list(recompute_stages)}; choose stages from {frozen_stages + 1} to 4"
                + (", as others are frozen" if frozen_stages else ""))
    return None


def _make_constructor(depth: int, variant: str):
    def construct(output_stride: int = 8, multi_grid: Sequence[int] = (1, 1, 1),
                  contract_dilation: bool = False, base_channels: int = 64, in_channels: int = 3,
                  pretrained: Optional[str] = None, frozen_stages: int = 0,
                  recompute_stages: Sequence[int] = ()) -> ResNet:
        return ResNet(depth, variant, output_stride, multi_grid, contract_dilation, base_channels,
                      in_channels, pretrained, frozen_stages, recompute_stages)

    construct.__name__ = construct.__qualname__ = f"ResNet{depth}_{variant}"
    construct.__doc__ = f"`ResNet` of depth {depth}, variant {variant}; the arguments are explained there."
    return manager.BACKBONES.add_component(construct)


CONSTRUCTORS = [_make_constructor(depth, variant) for variant in VARIANTS for depth in DEPTHS]
globals().update({construct.__name__: construct for construct in CONSTRUCTORS})
__all__ = ["ResNet", *(construct.__name__ for construct in CONSTRUCTORS)]
