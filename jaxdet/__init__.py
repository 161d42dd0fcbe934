"""The benchmark of detection transfer for Vision Transformers."""

__version__ = "0.1.0"
