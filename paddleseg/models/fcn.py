"""FCN on a dilated ResNet, the baseline of the EncNet paper.

Long et al., "Fully Convolutional Networks for Semantic Segmentation", CVPR 2015; with a dilated backbone
and an auxiliary loss as in Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018.

Letters: N images, C classes, H, W size of the image, h, w of a feature map.
"""

from typing import List, Optional

import paddle
import paddle.nn as nn

from paddleseg.cvlibs import manager
from paddleseg.models.layers.conv_bn import AuxLayer, ConvBNReLU, make_dropout, use_unbiased_variance
from paddleseg.models.layers.resize import resize
from paddleseg.weights.load import load_pretrained


class FCNHead(nn.Layer):
    """3x3 convolution, dropout, 1x1 classifier.

    The names are those of PaddleSeg's head, whose `conv_1` is 1x1, however.

    Shapes:
        input (N, in_channels, h, w), output (N, num_classes, h, w).
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, dropout: float,
                 spatial_dropout: bool, bias_attr: Optional[bool]):
        super().__init__()
        self.conv_1 = ConvBNReLU(in_channels, channels, 3, padding=1, bias_attr=bias_attr)
        self.dropout = make_dropout(dropout, spatial_dropout)
        self.cls = nn.Conv2D(channels, num_classes, 1)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.cls(self.dropout(self.conv_1(x)))


@manager.MODELS.add_component
class FCN(nn.Layer):
    """FCN on the last feature map, with an auxiliary head on stage 3.

    Args:
        num_classes: C.
        backbone: gives four feature maps and their `feat_channels`.
        channels: inner width of the head.
        pretrained: weights for the whole model, a path or a URL.
        aux_channels: inner width of the auxiliary head; None for `channels`.
        dropout: before the classifier.
        aux_dropout: before the classifier of the auxiliary head.
        spatial_dropout: both drop whole channels, as in mmsegmentation; else single values, as in PaddleSeg.
        conv_bias: convolutions before a batch norm have a bias, as in PaddleSeg.
        align_corners: for all bilinear resizing.
        unbiased_variance: batch norms, the backbone's too, track the unbiased variance, as in PyTorch.

    Shapes:
        input (N, 3, H, W); training outputs seg and aux, both (N, C, H, W); evaluation outputs [seg].
        All are logits.
    """

    loss_names = ("seg", "aux")

    def __init__(self, num_classes: int, backbone: nn.Layer, channels: int = 512,
                 pretrained: Optional[str] = None, aux_channels: Optional[int] = None, dropout: float = 0.1,
                 aux_dropout: float = 0.1, spatial_dropout: bool = False, conv_bias: bool = True,
                 align_corners: bool = False, unbiased_variance: bool = False):
        super().__init__()
        self.backbone = backbone
        self.align_corners = align_corners
        bias_attr = None if conv_bias else False
        self.head = FCNHead(backbone.feat_channels[-1], channels, num_classes, dropout, spatial_dropout,
                            bias_attr)
        self.fcn_head = AuxLayer(backbone.feat_channels[2], aux_channels or channels, num_classes,
                                 aux_dropout, spatial_dropout, bias_attr)
        if unbiased_variance:
            use_unbiased_variance(self)
        load_pretrained(self, pretrained)

    def forward(self, x: paddle.Tensor) -> List[paddle.Tensor]:
        feats = self.backbone(x)
        logits = [self.head(feats[-1])]
        if self.training:
            logits.append(self.fcn_head(feats[2]))
        return [resize(logit, x, self.align_corners) for logit in logits]
