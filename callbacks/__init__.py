"""Lightning callbacks: test-time methods, hyperparameter searches, and the writers of results and predictions."""

from callbacks.adabn import AdaBN
from callbacks.ensemble import Ensemble
from callbacks.iabn import IaBN
from callbacks.mc_dropout import MCDropout
from callbacks.method import Method
from callbacks.seg_ttt import SegTTT
from callbacks.tent import Tent
from callbacks.tta import TTA

__all__ = ["TTA", "AdaBN", "Ensemble", "IaBN", "MCDropout", "Method", "SegTTT", "Tent"]
