"""An encoder found by Nestling, as a `transformers` model.

Load it with `AutoModel.from_pretrained(folder, trust_remote_code=True)`. The network begins in encoder.py.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from supernet.blocks import NO_DROPOUT, Dropout, PositionalConv, TransformerLayer
from supernet.encoder import Encoder, Transformer
from supernet.encoder_config import EncoderConfig, Lengths
from supernet.front_end import FeatureProjection, FrontEnd

DROPOUT = {
    "hidden_dropout": 0.1,
    "attention_dropout": 0.1,
    "activation_dropout": 0.1,
    "feat_proj_dropout": 0.0,
    "layerdrop": 0.1,
}
"""HubertConfig's, which a config.json need not hold."""


class NestlingConfig(PretrainedConfig):  # type: ignore[no-untyped-call]
    """The shape of the encoder, as `EncoderConfig` has it, and dropout in training, named and valued as HuBERT's."""

    model_type = "nestling"
    attribute_map = {"conv_dim": "conv_dims", "conv_kernel": "conv_kernels", "conv_stride": "conv_strides"}  # noqa: RUF012 - so in transformers

    def __init__(self, **values: object) -> None:
        shape = EncoderConfig.from_dict(values).to_dict() if "conv_dims" in values else {}
        super().__init__(**{**DROPOUT, **values, **shape})

    @property
    def inputs_to_logits_ratio(self) -> int:
        """Samples from frame to frame."""
        return math.prod(self.conv_strides)


class NestlingModel(PreTrainedModel):  # type: ignore[no-untyped-call]
    """Waveforms in, hidden states out, with the arguments and outputs of `HubertModel`."""

    config_class = NestlingConfig
    main_input_name = "input_values"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _no_split_modules = [TransformerLayer.__name__, PositionalConv.__name__]  # noqa: RUF012 - so in transformers

    def __init__(self, config: NestlingConfig) -> None:
        super().__init__(config)
        self.nestling = Encoder(EncoderConfig.from_dict(config.to_dict()))
        self.post_init()  # type: ignore[no-untyped-call]

    def _init_weights(self, module: nn.Module) -> None:
        """Gives fresh weights to what the file does not hold; `transformers` calls it."""
        super()._init_weights(module)  # type: ignore[no-untyped-call]
        if isinstance(module, Encoder):
            nn.init.uniform_(module.masked_spec_embed)

    @property
    def feature_extractor(self) -> FrontEnd:
        """By the name that a HubertModel has for it, as the next two."""
        return self.nestling.feature_extractor

    @property
    def feature_projection(self) -> FeatureProjection:
        """From channels of the front-end to the width of the network."""
        return self.nestling.feature_projection

    @property
    def encoder(self) -> Transformer:
        """What comes after it."""
        return self.nestling.encoder

    def freeze_feature_encoder(self) -> None:
        """Keeps the front-end as it is in training."""
        self.nestling.feature_extractor.requires_grad_(False)

    def forward(
        self,
        input_values: Tensor,
        attention_mask: Tensor | None = None,
        mask_time_indices: Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        **options: object,
    ) -> BaseModelOutput | tuple[Tensor | tuple[Tensor | None, ...], ...]:
        """Encodes a batch of waveforms.

        In training, layers, channels and attention are left out as the configuration says. Frames are masked where
        `mask_time_indices` says, and nowhere else: the configuration's masking, SpecAugment, is not drawn here.

        Args:
            input_values: (B, S), float, 16 kHz, zero where padded (on the right).
            attention_mask: 1 for audio and 0 for padding, (B, S); None when every sample is audio.
            mask_time_indices: Frames that are replaced by the mask embedding, (B, T), bool.
            output_attentions: Also return what each frame attends to in each layer.
            output_hidden_states: Also return the input of the first layer and the output of each.
            return_dict: False for a tuple.
            options: What else heads hand to every model; of no use here.

        Returns:
            `last_hidden_state`, (B, T, d); `hidden_states`, L + 1 of them; `attentions`, L of them, (B, n, T, T),
            whatever the implementation of attention. They are those of all frames before dropout; None for a layer that
            is left out.

        Raises:
            ValueError: A row has too little audio for a frame, or padding that is not on the right.
        """
        del options
        config = self.config
        output_attentions = config.output_attentions if output_attentions is None else output_attentions
        output_hidden_states = config.output_hidden_states if output_hidden_states is None else output_hidden_states
        return_dict = config.return_dict if return_dict is None else return_dict
        lengths = None if attention_mask is None else _count_samples(attention_mask)
        taps = {"hidden": output_hidden_states, "probabilities": output_attentions}
        dropout = NO_DROPOUT
        if self.training:
            dropout = Dropout(
                hidden=config.hidden_dropout,
                attention=config.attention_dropout,
                activation=config.activation_dropout,
                features=config.feat_proj_dropout,
                layer=config.layerdrop,
            )
        trace = self.nestling(
            input_values, lengths, [tap for tap, wanted in taps.items() if wanted], mask_time_indices, dropout
        )
        hidden = tuple(trace.hidden) if output_hidden_states else None
        attentions = tuple(trace.probabilities) if output_attentions else None
        if not return_dict:
            return (trace.last, *(states for states in (hidden, attentions) if states is not None))
        return BaseModelOutput(last_hidden_state=trace.last, hidden_states=hidden, attentions=attentions)

    def _get_feat_extract_output_lengths(self, input_lengths: Lengths) -> Lengths:
        """Frames that come out of so many samples; heads of `transformers` and recipes for CTC call it."""
        return self.nestling.config.count_frames(input_lengths)

    def _get_feature_vector_attention_mask(self, feature_vector_length: int, attention_mask: Tensor) -> Tensor:
        """True where a frame comes from audio, (B, T), of a mask of samples, (B, S); called as the one before."""
        frames = self.nestling.config.count_frames(attention_mask.to(torch.int64).sum(-1, keepdim=True))
        return torch.arange(feature_vector_length, device=frames.device) < frames


def _count_samples(mask: Tensor) -> Tensor | None:
    """Samples of audio in each row of an attention mask, (B,); None if nothing is padded."""
    mask = mask.to(torch.bool)
    if not torch.compiler.is_compiling():  # a compiled graph cannot ask
        if mask.all():
            return None
        if (mask[:, 1:] & ~mask[:, :-1]).any():
            raise ValueError(
                "attention_mask must be ones and then zeros in each row: audio is padded on the right "
                '(padding_side="right"), got zeros before ones'
            )
    return mask.sum(-1)
