"""One head in float64, by the oracle: what the kernels' numbers are compared with beside their times."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor

from multipole_lab.testing import oracle, relative_error


def error(got: Tensor, exact: Tensor) -> float:
    """Relative squared error over all numbers; where both are minus infinity they agree."""
    return relative_error(got, exact) ** 2


def differing(got: Tensor, exact: Tensor) -> float:
    """The share of integers that differ."""
    return (got != exact).double().mean().item()


@dataclass(frozen=True)
class Head:
    """Queries, keys and values of one head, [N, D] in float64, with the label of every query and key."""

    q: Float[Tensor, "Nq D"]
    k: Float[Tensor, "Nk D"]
    v: Float[Tensor, "Nk Dv"]
    q_label: Int[Tensor, " Nq"]
    k_label: Int[Tensor, " Nk"]
    clusters: int
    scale: float

    def points(self) -> Float[Tensor, "C D"]:
        """The expansion points p_i, the means of the query clusters."""
        return oracle.means(self.q, self.q_label, self.clusters)

    def summaries(self) -> tuple[Tensor, Tensor, Tensor]:
        """a_ij [C, C], k~_ij [C, C, D] and v~_ij [C, C, Dv]."""
        at = oracle.summaries(self.points(), self.k, self.v, self.k_label, self.scale, self.clusters)
        return at.mass, at.key, at.value

    def moment(self, is_near: Bool[Tensor, "C C"]) -> Float[Tensor, "C D Dv"]:
        """M_i^T of the far clusters: row d is what M_i does to the unit vector d."""
        return oracle.far_dipoles(self.points(), self.k, self.v, self.k_label, ~is_near, self.scale).mT

    def muse(
        self, is_near: Bool[Tensor, "C C"], basis: Float[Tensor, "C D r"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """out [Nq, Dv] and lse [Nq]; with a basis the dipole along it is added."""
        order = "monopole" if basis is None else "dipole"
        given = self.q, self.k, self.v, self.q_label, self.k_label, basis, is_near
        return oracle.muse(*given, s=self.scale, order=order)
