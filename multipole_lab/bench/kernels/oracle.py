"""`docs/design.md#the-mathematics` for one head in float64: what the kernels' numbers are compared with."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


def error(got: Tensor, exact: Tensor) -> float:
    """Relative squared error over all numbers; where both are minus infinity they agree."""
    got, exact = got.detach().double(), exact.detach().double()
    same = got == exact
    wrong = torch.where(same, 0.0, got - exact).square().sum()
    return (wrong / torch.where(exact.isfinite(), exact, 0.0).square().sum().clamp(min=1e-300)).item()


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
        return member_means(self.q, self.q_label, self.clusters)

    def summaries(self) -> tuple[Tensor, Tensor, Tensor]:
        """a_ij [C, C], k~_ij [C, C, D] and v~_ij [C, C, Dv]."""
        s = self.scale * self.points() @ self.k.T  # [C, Nk]
        mass, mean_k, mean_v = [], [], []
        for j in range(self.clusters):
            inside = (self.k_label == j).nonzero().flatten()
            part = s[:, inside]
            mass.append(part.logsumexp(-1))
            weights = part.softmax(-1)
            mean_k.append(weights @ self.k[inside])
            mean_v.append(weights @ self.v[inside])
        return torch.stack(mass, 1), torch.stack(mean_k, 1), torch.stack(mean_v, 1)

    def moment(self, is_near: Bool[Tensor, "C C"]) -> Float[Tensor, "C D Dv"]:
        """M_i^T of the far clusters: row d is what M_i does to the unit vector d."""
        mass, mean_k, mean_v = self.summaries()
        share = mass.masked_fill(is_near, -torch.inf).softmax(-1).nan_to_num(nan=0.0)  # [C, C]
        s = (self.scale * self.points() @ self.k.T).masked_fill(is_near[:, self.k_label], -torch.inf)
        first = torch.einsum("in,nd,ne->ide", s.softmax(-1).nan_to_num(nan=0.0), self.k, self.v)
        return first - torch.einsum("ij,ijd,ije->ide", share, mean_k, mean_v)

    def muse(
        self, is_near: Bool[Tensor, "C C"], basis: Float[Tensor, "C D r"] | None = None
    ) -> tuple[Tensor, Tensor]:
        """out [Nq, Dv] and lse [Nq]; with a basis the dipole along it is added."""
        mass, mean_k, mean_v = self.summaries()
        far = mass.masked_fill(is_near, -torch.inf)
        d = self.q - self.points()[self.q_label]
        far_logits = far[self.q_label] + self.scale * torch.einsum("nd,njd->nj", d, mean_k[self.q_label])
        key_is_near = is_near[:, self.k_label][self.q_label]
        near_logits = (self.scale * self.q @ self.k.T).masked_fill(~key_is_near, -torch.inf)
        lse = torch.logaddexp(far_logits.logsumexp(-1), near_logits.logsumexp(-1))
        far_weights, near_weights = (far_logits - lse[:, None]).exp(), (near_logits - lse[:, None]).exp()
        out = torch.einsum("nj,nje->ne", far_weights, mean_v[self.q_label]) + near_weights @ self.v
        if basis is not None:
            turned = basis.mT @ self.moment(is_near)  # [C, r, Dv]
            along = torch.einsum("nd,ndr->nr", d, basis[self.q_label])
            turn = torch.einsum("nr,nre->ne", along, turned[self.q_label])
            out = out + self.scale * far_weights.sum(-1, keepdim=True) * turn
        return out, lse


def member_means(x: Float[Tensor, "N D"], label: Int[Tensor, " N"], clusters: int) -> Float[Tensor, "C D"]:
    """The mean of every cluster; zero for an empty one."""
    member = torch.nn.functional.one_hot(label, clusters).to(x.dtype)  # [N, C]
    return member.T @ x / member.sum(0).clamp(min=1)[:, None]


def dense(q: Tensor, k: Tensor, v: Tensor, scale: float, causal: bool) -> tuple[Tensor, Tensor]:
    """Exact attention of [.., N, D], and its log-sum-exp."""
    s = scale * q @ k.mT
    if causal:
        s = s.masked_fill(~torch.ones(s.shape[-2:], dtype=torch.bool, device=s.device).tril(), -torch.inf)
    return s.softmax(-1) @ v, s.logsumexp(-1)
