"""EncNet: a context encoding module on a dilated ResNet.

Zhang et al., "Context Encoding for Semantic Segmentation", CVPR 2018.

Letters: N images, C classes, D channels, K codewords, H, W size of the image, h, w of a feature map.

Linear layers start from Xavier's uniform distribution, the framework's default; for the others see the
layers' modules. This is how PaddleSeg starts its ENCNet.
"""

from typing import List, Optional, Sequence, Tuple

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs import manager
from paddleseg.models.layers.conv_bn import AuxLayer, ConvBNReLU, SyncBatchNorm, make_dropout, use_unbiased_variance
from paddleseg.models.layers.encoding import Encoding
from paddleseg.models.layers.resize import resize
from paddleseg.weights.load import load_pretrained


class EncModule(nn.Layer):
    """Encode the context of a feature map and let it weigh the map's channels.

    e = mean_k relu(BN(Encoding(project(x)))),   y = relu(x + x * sigmoid(W e + b))

    Args:
        in_channels: D.
        num_codes: K.
        conv_bias: the projection has a bias.

    Shapes:
        input x (N, D, h, w), outputs e (N, D) and y (N, D, h, w).
    """

    def __init__(self, in_channels: int, num_codes: int, conv_bias: bool = True):
        super().__init__()
        self.encoding_project = ConvBNReLU(in_channels, in_channels, 1, padding=0,
                                           bias_attr=None if conv_bias else False)
        self.encoding = nn.Sequential(
            Encoding(in_channels, num_codes),
            SyncBatchNorm(num_codes, single_process=nn.BatchNorm1D),
            nn.ReLU())
        self.fc = nn.Sequential(nn.Linear(in_channels, in_channels), nn.Sigmoid())

    def forward(self, x: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        encoding_feat = self.encoding(self.encoding_project(x)).mean(axis=1)
        attention = self.fc(encoding_feat).unsqueeze([2, 3])
        return encoding_feat, F.relu(x + x * attention)


@manager.MODELS.add_component(aliases=("ENCNet",))
class EncNet(nn.Layer):
    """EncNet with an auxiliary head on stage 3 and, for the SE loss, one that names the classes present.

    Args:
        num_classes: C.
        backbone: gives four feature maps and their `feat_channels`.
        backbone_indices: the maps used, finest first; without `add_lateral` only the last one is.
        num_codes: K.
        mid_channels: D.
        use_se_loss: have an SE layer.
        add_lateral: fuse the other maps of `backbone_indices` into the last one.
        pretrained: weights for the whole model, a path or a URL.
        aux_channels: inner width of the auxiliary head; None for mid_channels, as PaddleSeg has it.
        dropout: before the classifier.
        aux_dropout: before the classifier of the auxiliary head.
        spatial_dropout: both drop whole channels, as in mmsegmentation; else single values, as in PaddleSeg.
        conv_bias: convolutions before a batch norm have a bias, as in PaddleSeg; else none, as in
            mmsegmentation and PyTorch-Encoding.
        align_corners: for all bilinear resizing.
        unbiased_variance: batch norms, the backbone's too, track the unbiased variance, as in PyTorch.

    Shapes:
        input (N, 3, H, W); training outputs seg (N, C, H, W), aux (N, C, H, W) and, with `use_se_loss`,
        se (N, C); evaluation outputs [seg]. All are logits.
    """

    loss_names = ("seg", "aux", "se")

    def __init__(self, num_classes: int, backbone: nn.Layer, backbone_indices: Sequence[int] = (1, 2, 3),
                 num_codes: int = 32, mid_channels: int = 512, use_se_loss: bool = True,
                 add_lateral: bool = False, pretrained: Optional[str] = None,
                 aux_channels: Optional[int] = None, dropout: float = 0.0, aux_dropout: float = 0.1,
                 spatial_dropout: bool = False, conv_bias: bool = True, align_corners: bool = False,
                 unbiased_variance: bool = False):
        super().__init__()
        self.backbone = backbone
        self.backbone_indices = list(backbone_indices)
        self.align_corners = align_corners
        bias_attr = None if conv_bias else False
        in_channels = [backbone.feat_channels[index] for index in backbone_indices]

        self.bottleneck = ConvBNReLU(in_channels[-1], mid_channels, 3, padding=1, bias_attr=bias_attr)
        self.lateral_convs = None
        if add_lateral:
            self.lateral_convs = nn.LayerList(
                [ConvBNReLU(channels, mid_channels, 1, padding=0, bias_attr=bias_attr)
                 for channels in in_channels[:-1]])
            self.fusion = ConvBNReLU(len(in_channels) * mid_channels, mid_channels, 3, padding=1,
                                     bias_attr=bias_attr)
        self.enc_module = EncModule(mid_channels, num_codes, conv_bias)
        self.dropout = make_dropout(dropout, spatial_dropout)
        self.head = nn.Conv2D(mid_channels, num_classes, 1)
        self.fcn_head = AuxLayer(backbone.feat_channels[2], aux_channels or mid_channels, num_classes,
                                 aux_dropout, spatial_dropout, bias_attr)
        self.se_layer = nn.Linear(mid_channels, num_classes) if use_se_loss else None
        if not use_se_loss:
            self.loss_names = ("seg", "aux")
        if unbiased_variance:
            use_unbiased_variance(self)
        load_pretrained(self, pretrained)

    def forward(self, x: paddle.Tensor) -> List[paddle.Tensor]:
        feats = self.backbone(x)
        encoding_feat, feat = self.enc_module(self._fuse([feats[i] for i in self.backbone_indices]))
        logits = [self.head(self.dropout(feat))]
        if self.training:
            logits.append(self.fcn_head(feats[2]))
        logits = [resize(logit, x, self.align_corners) for logit in logits]
        if self.training and self.se_layer is not None:
            logits.append(self.se_layer(encoding_feat))
        return logits

    def _fuse(self, feats: List[paddle.Tensor]) -> paddle.Tensor:
        """The bottleneck of the last map, with the finer ones added if there are lateral convolutions."""
        feat = self.bottleneck(feats[-1])
        if self.lateral_convs is None:
            return feat
        laterals = [resize(lateral_conv(feats[index]), feat, self.align_corners)
                    for index, lateral_conv in enumerate(self.lateral_convs)]
        return self.fusion(paddle.concat([feat, *laterals], axis=1))
