"""Layers that only PaddleSeg's model files use, by their names and parameter names there.

Convolution blocks hand what they don't name themselves on to nn.Conv2D.
"""
