"""EncNet-Paddle: semantic segmentation with context encoding on PaddlePaddle."""

__version__ = "0.1.0"
