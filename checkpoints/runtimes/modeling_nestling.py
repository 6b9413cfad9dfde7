"""An encoder found by Nestling, as a `transformers` model.

Load it with `AutoModel.from_pretrained(folder, trust_remote_code=True)`. The network is in encoder.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from supernet.encoder import Encoder, EncoderConfig


class NestlingConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """The shape of the encoder: the fields of `EncoderConfig`."""

    model_type = "nestling"

    def __init__(self, **values: object) -> None:
        shape = EncoderConfig.from_dict(values).to_dict() if "conv_dims" in values else {}
        super().__init__(**{**values, **shape})


class NestlingModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Waveforms in, hidden states out, with the arguments and outputs of `HubertModel`."""

    config_class = NestlingConfig
    main_input_name = "input_values"

    def __init__(self, config: NestlingConfig) -> None:
        super().__init__(config)
        self.nestling = Encoder(EncoderConfig.from_dict(config.to_dict()))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Gives fresh weights to what the file does not hold; `transformers` calls it."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, Encoder):
            nn.init.uniform_(module.masked_spec_embed)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[Tensor | tuple[Tensor, ...], ...]:
        """Encodes a batch of waveforms.

        Args:
            input_values: (B, S), float, 16 kHz, zero where padded (on the right).
            attention_mask: 1 for audio and 0 for padding, (B, S); None when every sample is audio.
            output_hidden_states: Also return the input of the first layer and the output of each.
            return_dict: False for a tuple.

        Returns:
            `last_hidden_state`, (B, T, d), and `hidden_states`, L + 1 of them.
        """
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        if return_dict is None:
            return_dict = self.config.return_dict
        lengths = None if attention_mask is None else attention_mask.to(torch.int64).sum(-1)
        trace = self.nestling(input_values, lengths, ("hidden",) if output_hidden_states else ())
        hidden = tuple(trace.hidden) if output_hidden_states else None
        if not return_dict:
            return (trace.last,) if hidden is None else (trace.last, hidden)
        return BaseModelOutput(last_hidden_state=trace.last, hidden_states=hidden)
