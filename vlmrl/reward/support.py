"""Whether a row looks like those that a reward was trained on: Mahalanobis distance of features (Lee et al. 2018)."""

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn

from vlmrl.reward.network import Network

EDGE = 0.95
"""Share of the training rows that count as inside."""


class Support(nn.Module):
    """Centre and spread of the features of each trunk, and the distance at which the support ends."""

    mean: Tensor
    whitening: Tensor
    edge: Tensor

    def __init__(self, groups: int, features: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(groups, features))
        self.register_buffer("whitening", torch.zeros(groups, features, features))
        self.register_buffer("edge", torch.ones(()))

    @classmethod
    def fit(cls, features: Float[Tensor, "M groups F"]) -> "Support":
        """From the features of the training rows.

        The covariance is shrunk a tenth towards a multiple of the identity: features may be as many as rows.
        """
        made = cls(*features.shape[1:])
        made.mean = features.mean(0)
        centred = (features - made.mean).transpose(0, 1)
        covariance = centred.transpose(1, 2) @ centred / max(1, len(features) - 1)
        scale = covariance.diagonal(dim1=1, dim2=2).mean(1).clamp(min=1e-12)
        identity = torch.eye(features.shape[2])
        shrunk = 0.9 * covariance + 0.1 * scale[:, None, None] * identity
        factor = torch.linalg.cholesky(shrunk)
        made.whitening = torch.linalg.solve_triangular(factor, identity, upper=False)
        made.edge = made._distance(features).quantile(EDGE)
        return made

    def outside(self, features: Float[Tensor, "M groups F"]) -> Float32[np.ndarray, " M"]:
        """Distance from the centre, mean over trunks, in units of the edge: above 1 lie 5 % of the training rows."""
        return (self._distance(features) / self.edge).numpy()

    def _distance(self, features: Float[Tensor, "M groups F"]) -> Float[Tensor, " M"]:
        centred = (features - self.mean).transpose(0, 1)
        return (centred @ self.whitening.transpose(1, 2)).norm(dim=2).mean(0)


@torch.inference_mode()
def fitted(network: Network, stack: Tensor, *, batch: int = 512) -> Support:
    """The support of the rows that a network was trained on."""
    return Support.fit(torch.cat([network.features(stack[k : k + batch]) for k in range(0, len(stack), batch)]))
