"""The benchmark of detection transfer for Vision Transformers."""

__version__ = "0.2.0"
