"""A feature map rebuilt from few non-negative bases.

Letters: N images, S groups of channels, D length of a base, R bases, P vectors, each a sum of bases.
"""

from typing import Optional, Tuple

import paddle
import paddle.nn as nn
import paddle.nn.functional as F

from paddleseg.cvlibs.errors import ConfigError
from paddleseg.models.layers.resize import shape_of

_DEFAULTS = {"SPATIAL": True, "MD_S": 1, "MD_D": 512, "MD_R": 64, "TRAIN_STEPS": 6, "EVAL_STEPS": 7, "INV_T": 100,
             "ETA": 0.9, "RAND_INIT": True}


class NMF2D(nn.Layer):
    """x ~ bases coef^T with bases, coef >= 0, by a few multiplicative updates; returns the product.

    coef  = coef  * (x^T bases) / (coef bases^T bases)
    bases = bases * (x coef)    / (bases coef^T coef)

    Lee and Seung, "Algorithms for Non-negative Matrix Factorization", NIPS 2000; as a layer Geng et al., "Is
    Attention Better Than Matrix Decomposition?", ICLR 2021.

    Args:
        args: SPATIAL (True): a vector for each pixel, else for each channel; MD_S (1) groups of channels; MD_R (64)
            bases; TRAIN_STEPS (6), EVAL_STEPS (7) updates; RAND_INIT (True): other random bases in each forward pass.
            MD_D, INV_T and ETA are PaddleSeg's too, and change nothing for this decomposition.

    Shapes:
        input (N, C, H, W) at least 0, C divisible by MD_S; output as the input.

    Raises:
        ConfigError: `args` has a key that isn't one of these.
    """

    def __init__(self, args: Optional[dict] = None):
        super().__init__()
        unknown = sorted(set(args or ()) - set(_DEFAULTS))
        if unknown:
            raise ConfigError(f"NMF2D: {', '.join(unknown)} in args is unknown; known are {', '.join(_DEFAULTS)}")
        settings = {**_DEFAULTS, **(args or {})}
        self.spatial, self.S, self.R = settings["SPATIAL"], settings["MD_S"], settings["MD_R"]
        self.train_steps, self.eval_steps = settings["TRAIN_STEPS"], settings["EVAL_STEPS"]
        self.rand_init = settings["RAND_INIT"]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        images, channels, height, width = shape_of(x)
        vectors = x.reshape([images * self.S, channels // self.S, height * width])  # (N S, D, P)
        if not self.spatial:
            vectors = vectors.transpose([0, 2, 1])
        bases, coef = self.local_inference(vectors, self.first_bases(images, shape_of(vectors)[1]))
        rebuilt = paddle.bmm(bases, self.compute_coef(vectors, bases, coef).transpose([0, 2, 1]))
        if not self.spatial:
            rebuilt = rebuilt.transpose([0, 2, 1])
        return rebuilt.reshape([images, channels, height, width])

    def first_bases(self, images: int, length: int) -> paddle.Tensor:
        """Random bases of length 1, (N S, D, R); kept as the buffer `bases` without RAND_INIT."""
        if self.rand_init:
            return F.normalize(paddle.rand([images * self.S, length, self.R]), axis=1)
        if not hasattr(self, "bases"):
            self.register_buffer("bases", F.normalize(paddle.rand([self.S, length, self.R]), axis=1))
        return self.bases.tile([images, 1, 1])

    def local_inference(self, x: paddle.Tensor, bases: paddle.Tensor) -> Tuple[paddle.Tensor, paddle.Tensor]:
        """Bases and their coefficients (N S, P, R) after the updates."""
        coef = F.softmax(paddle.bmm(x.transpose([0, 2, 1]), bases), axis=-1)
        for _ in range(self.train_steps if self.training else self.eval_steps):
            coef = self.compute_coef(x, bases, coef)
            share = paddle.bmm(bases, paddle.bmm(coef.transpose([0, 2, 1]), coef))
            bases = bases * paddle.bmm(x, coef) / (share + 1e-6)
        return bases, coef

    def compute_coef(self, x: paddle.Tensor, bases: paddle.Tensor, coef: paddle.Tensor) -> paddle.Tensor:
        """One update of the coefficients."""
        share = paddle.bmm(coef, paddle.bmm(bases.transpose([0, 2, 1]), bases))
        return coef * paddle.bmm(x.transpose([0, 2, 1]), bases) / (share + 1e-6)
