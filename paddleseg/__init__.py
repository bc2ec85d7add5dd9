"""EncNet-Paddle: semantic segmentation with context encoding on PaddlePaddle."""

import zlib  # noqa: F401  (before Paddle 2.6, whose own zlib would otherwise serve OpenCV, and fail)

__version__ = "0.1.0"
