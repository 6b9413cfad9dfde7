"""The errors of quick probes on a subnet: what a search minimises instead of what is not read of the teacher."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from nas.score import Score
from search_spaces.identity import fingerprint, hash_code
from search_spaces.subnet import Subnet
from speech_tasks.encoding import encode_with
from speech_tasks.proxy import Proxy
from supernet.model import Supernet
from supernet.weights import hash_weights


class TaskObjective:
    """Scores a subnet by what can be read off its hidden states: phones, say, or all probes of a proxy.

    The heads are fitted anew for each subnet, on `train`; errors are of `search`, clip by clip, so that candidates
    compare in pairs. Nothing here has seen the supernet's own heads or its teacher.

    Args:
        supernet: Trained; must not change any more.
        proxy: One probe or more.
    """

    def __init__(self, supernet: Supernet, proxy: Proxy) -> None:
        self.supernet = supernet
        self.proxy = proxy
        self._device = supernet.residual_order.device

    @property
    def name(self) -> str:
        """What candidates are ranked by; lower is better."""
        return f"error of {' + '.join(self.proxy.names)} on search"

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> Score:
        """The error of every clip that a probe scores; their mean is the mean of the probes, a share.

        All are NaN, which is a failed score, where a hidden state is not finite.

        Raises:
            NestlingError: The subnet is not in the space.
        """
        finite, states_of = True, encode_with(self.supernet.extract(subnet))

        def encode(wave: Tensor, lengths: Tensor | None) -> Sequence[Tensor]:
            nonlocal finite
            hidden = states_of(wave.to(self._device), None if lengths is None else lengths.to(self._device))
            finite = finite and all(bool(x.isfinite().all()) for x in hidden)
            return [x.nan_to_num(0.0, 0.0, 0.0).cpu() for x in hidden]

        errors = self.proxy.score(encode).per_utterance
        return Score((errors if finite else np.full_like(errors, np.nan)).astype(np.float32))

    @cached_property
    def fingerprint(self) -> str:
        """Names all that a score depends on: space, weights, probes, their audio, and the code."""
        weights = hash_weights(self.supernet.state_dict())
        return fingerprint(hash_code(__name__), self.supernet.space.hash, weights, self.proxy.fingerprint)
