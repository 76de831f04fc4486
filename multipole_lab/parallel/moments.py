"""The messages of a dipole: its directions go out, the first moments along them come back."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from multipole_lab.clustering.clusters import statistics_dtype
from multipole_lab.parallel.fetching import Fetched
from multipole_lab.parallel.stages.by_torch import TorchStages
from multipole_lab.parallel.stages.gradients import gradients, leaves_of
from multipole_lab.parallel.talk import Talk


class Moments:
    """What a call with a dipole says and hears besides; see ``exchange.Exchange``."""

    def __init__(self, talk: Talk, stages: TorchStages) -> None:
        self.talk, self.stages = talk, stages
        stages.clusters = tuple(talk.clusters[t] for t in talk.parts.sources)

    def ask(self, q: Tensor, near: Fetched | None, asked: Mapping[int, Tensor], k: Tensor, v: Tensor) -> None:
        """Send every source the directions and which of its clusters are near; it says the moments of the others."""
        talk, stages = self.talk, self.stages
        sources, own = talk.parts.sources, talk.clusters[talk.channel.rank]
        self.like = q.new_empty(0, dtype=statistics_dtype(q.dtype))
        stages.basis = stages.directions(q)
        parts = {t: [stages.basis] for t in sources}
        heard = talk.to_keys("directions", parts, [stages.basis.shape[3:]], [self.like]).wait()
        self.bases = {s: tensors[0] for s, tensors in heard.items()}
        self.near_to = {
            s: torch.zeros(*x.shape[:3], own, dtype=torch.bool, device=x.device)
            for s, x in self.bases.items()
        }
        if stages.near:
            flags, masks = torch.empty(0, dtype=torch.uint8, device=q.device), {}
            if near is not None:
                chosen = torch.where(near.nearest < 0, near.far.shape[-1], near.nearest)
                mask = torch.zeros(
                    *near.far.shape[:3], near.far.shape[-1] + 1, dtype=torch.uint8, device=q.device
                )
                mask = mask.scatter_(-1, chosen, 1)[..., :-1].split(list(stages.clusters), -1)
                masks = {t: [x] for t, x in zip(sources, mask, strict=True)}
            heard = talk.to_keys("near masks", masks, [(own,)], [flags]).wait()
            self.near_to = {s: tensors[0].bool() for s, tensors in heard.items()}
        answers = {s: [stages.moments(asked[s], x, k, v, self.near_to[s])] for s, x in self.bases.items()}
        shape = *stages.basis.shape[:3], stages.rank, v.shape[-1]
        heard = talk.channel.start("moments", answers, {t: [shape] for t in sources}, [self.like]).wait()
        stages.moment = torch.stack([tensors[0] for tensors in heard.values()]) if heard else None

    def send_gradient(self, q: Tensor) -> None:
        """The gradients of the moments go back."""
        talk, stages = self.talk, self.stages
        parts = {}
        if talk.parts.sources:
            parts = {t: [x] for t, x in zip(talk.parts.sources, stages.d_moment, strict=True)}
        tail = stages.rank, talk.shape[4]
        self.message = talk.to_keys("moments gradient", parts, [tail], [self.like])

    def at_the_keys(
        self, asked: Mapping[int, Tensor], k: Tensor, v: Tensor
    ) -> dict[int, tuple[Tensor, Tensor, Tensor]]:
        """For every asker what its moments' gradients give for its centroids, and for k and v."""
        d_moments, found, self.d_bases = self.message.wait(), {}, {}
        for s, basis in self.bases.items():
            leaves = leaves_of(points=asked[s], basis=basis, k=k, v=v)
            with torch.enable_grad():
                moment = self.stages.moments(**leaves, near=self.near_to[s])
                d_points, self.d_bases[s], dk, dv = gradients((moment,), leaves, d_moments[s])
            found[s] = d_points, dk, dv
        return found

    def come_home(self, q: Tensor) -> Tensor | None:
        """The gradients of the directions, from all sources; None on a rank without any."""
        shapes = {t: [self.stages.basis.shape] for t in self.talk.parts.sources}
        parts = {s: [x] for s, x in self.d_bases.items()}
        heard = self.talk.channel.start("directions gradient", parts, shapes, [self.like]).wait()
        return sum(tensors[0] for tensors in heard.values()) if heard else None
