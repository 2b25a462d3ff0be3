"""How likely a text is by a version: the loss of each passage in nats, weighed by its tokens."""

from __future__ import annotations

import numpy as np

from openmaas.core.metrics.metric import Statistic
from openmaas.core.metrics.outcomes import Array


def weighed(truth: Array, answers: Array) -> Array:
    return np.asarray(truth * answers)


def mean_loss(truth: Array, answers: Array) -> Statistic:
    return lambda weights: weights @ (truth * answers) / np.maximum(weights @ truth, 1e-300)


def perplexity(truth: Array, answers: Array) -> Statistic:
    mean = mean_loss(truth, answers)
    return lambda weights: np.exp(np.minimum(500.0, mean(weights)))
