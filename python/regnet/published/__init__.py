"""The published results of RegNet, ResNe(X)t, EfficientNet and the mobile models, and their comparison on this machine.

models.py (results.json as objects), comparison.py (which model stands beside which), measure.py (complexity and latency here),
run.py (all models, resumable).
"""

from regnet.published.comparison import Pair, equal_cost_pairs
from regnet.published.models import PublishedModel, find_published, published_models

__all__ = ["Pair", "PublishedModel", "equal_cost_pairs", "find_published", "published_models"]
