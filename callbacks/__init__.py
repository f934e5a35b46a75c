"""Test-time methods as prediction-step callbacks, and what is made of predictions."""

from callbacks.iabn import IaBN
from callbacks.method import Method
from callbacks.seg_ttt import SegTTT
from callbacks.tta import TTA

__all__ = ["TTA", "IaBN", "Method", "SegTTT"]
