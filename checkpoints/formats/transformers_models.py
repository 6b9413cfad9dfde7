"""Any other network that `transformers` opens and that turns waveforms into hidden states, frozen."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from checkpoints.formats.hugging_face import TeacherError, refuse_weights
from checkpoints.formats.limits import explain_params, find_excess
from distillation.sources.teacher import FrozenNetwork
from search_spaces.errors import NestlingError
from supernet.encoder_config import SAMPLE_RATE_HZ, EncoderConfig
from supernet.front_end import normalize_waveform

HUBERT = EncoderConfig((512,) * 7, 768, (12,) * 12, (3072,) * 12)
"""Whose front-end makes the frames that are wanted."""
_BOOKKEEPING = ("_name_or_path", "architectures", "dtype", "torch_dtype", "transformers_version")
"""Keys of config.json that change no output."""
_UNUSED = "masked_spec_embed"
"""The mask embedding: transformers makes one where a file has none, and only training reads it."""


def open_network(
    folder: Path, values: Mapping[str, Any], normalize: bool, accepted: str, trained: bool = True
) -> tuple[FrozenNetwork, int | None]:
    """The model under any head, in fp32, frozen; never with code from the folder.

    Args:
        folder: In Hugging Face format.
        values: Of its config.json.
        normalize: The waveform is brought to zero mean and unit variance first.
        accepted: What would have been taken, for errors.
        trained: With the folder's weights rather than with fresh ones.

    Returns:
        The network, and its multiply-accumulates for 1 s of audio; None if nothing was counted.

    Raises:
        TeacherError: `transformers` cannot open it, the weights do not fit, or it does not turn a waveform into finite
            hidden states of one width, one every 20 ms.
    """
    if excess := find_excess(values):
        raise TeacherError(f"{folder}: {excess}")
    model = load_model(folder, values, accepted, trained)

    def states_of(wave: Tensor) -> Sequence[Tensor]:
        wave = normalize_waveform(wave) if normalize else wave
        return model(input_values=wave, output_hidden_states=True, return_dict=True).hidden_states  # type: ignore[no-any-return]

    kind = f"{folder}: {type(model).__name__}"
    model.eval().requires_grad_(False)
    try:
        states, macs = hear_a_second(states_of)
        shapes = {tuple(x.shape) for x in states}
        found, wanted = min(shape[1] for shape in shapes), int(HUBERT.count_frames(torch.tensor(SAMPLE_RATE_HZ)))
        if found != wanted:
            raise NestlingError(f"it makes {found} frames of 1 s; one every 20 ms is wanted, {wanted}")
    except Exception as error:
        reason = " ".join(str(error).split())[:200]
        raise TeacherError(
            f"{kind} does not turn a waveform into frames ({type(error).__name__}: {reason}); {accepted}"
        ) from error
    if len(shapes) != 1:
        raise TeacherError(f"{kind} gives hidden states of {len(shapes)} shapes; one is wanted")
    if not all(x.isfinite().all() for x in states):
        raise TeacherError(f"{kind} gives numbers that are not finite; its weights are damaged")
    description = {
        "config": {key: value for key, value in values.items() if key not in _BOOKKEEPING},
        "normalize": normalize,
    }
    network = FrozenNetwork(model, states_of, states[0].shape[2], HUBERT, description)
    return network, macs


@torch.no_grad()
def hear_a_second(states_of: Callable[[Tensor], Sequence[Tensor]]) -> tuple[Sequence[Tensor], int | None]:
    """What a network makes of 1 s of noise, and the multiply-accumulates for it; None if nothing was counted."""
    wave = 0.1 * torch.randn(1, SAMPLE_RATE_HZ, generator=torch.Generator().manual_seed(0))
    counter = FlopCounterMode(display=False)
    with sdpa_kernel(SDPBackend.MATH), counter:  # the counter does not see fused attention
        states = states_of(wave)
    return states, counter.get_total_flops() // 2 or None


def load_model(folder: Path, values: Mapping[str, Any], accepted: str, trained: bool = True) -> Any:
    """The model under any head, in fp32, as `transformers` has it; arguments and errors are those of `open_network`."""
    import transformers  # noqa: PLC0415 - slow to import

    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in transformers.CONFIG_MAPPING:
        raise TeacherError(
            f"{folder}: model_type is {model_type!r}, which transformers {transformers.__version__} does not have; "
            f"{accepted}"
        )
    options = {"trust_remote_code": False, "dtype": torch.float32}
    faults: dict[str, Any] = {}
    with silence(transformers):
        try:
            config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False)
            with torch.device("meta"):
                shell = transformers.AutoModel.from_config(config, **options)  # type: ignore[no-untyped-call]
            if excess := explain_params(sum(x.numel() for x in (*shell.parameters(), *shell.buffers()))):
                raise TeacherError(f"{folder}: {excess}")
            if trained:
                model, faults = transformers.AutoModel.from_pretrained(
                    folder,
                    local_files_only=True,
                    output_loading_info=True,
                    ignore_mismatched_sizes=True,  # it names them, and we refuse them below
                    **options,
                )
            else:
                model = transformers.AutoModel.from_config(config, **options)  # type: ignore[no-untyped-call]
        except TeacherError:
            raise
        except Exception as error:  # a damaged folder fails in a dozen ways
            reason = " ".join(str(error).split())[:300]
            raise TeacherError(f"{folder}: transformers cannot open it ({type(error).__name__}): {reason}") from error
    _check_weights(folder, model, faults)
    return model


def _check_weights(folder: Path, model: Any, faults: Mapping[str, Any]) -> None:
    """Refuses weights that `transformers` would make up, or leave out though the network has a place for their kind."""
    prefix = f"{model.base_model_prefix}."
    missing, unexpected = (
        sorted(str(name).removeprefix(prefix) for name in faults.get(kind, ()))
        for kind in ("missing_keys", "unexpected_keys")
    )
    parts = tuple(f"{name}.{inner}." for name, part in model.named_children() for inner, _ in part.named_children())
    problems = [f"missing {name}" for name in missing if name != _UNUSED]
    problems += [f"unexpected {name}" for name in unexpected if name.startswith(parts)]  # the others are of a head
    for name, found, wanted in sorted(faults.get("mismatched_keys", ())):
        problems.append(f"{name.removeprefix(prefix)} has shape {list(found)}, not {list(wanted)}")
    if problems:
        held = faults.get("unexpected_keys", ())
        before = sorted(
            {str(name).removesuffix(end) for name in held for end in missing if str(name).endswith(f".{end}")}
        )
        if before:
            problems = [
                f"its names begin with {before[0]!r}, which transformers does not expect: take it off",
                *problems,
            ]
        raise refuse_weights(str(folder), problems)


@contextmanager
def silence(transformers: ModuleType) -> Iterator[None]:
    """Keeps `transformers` off the screen."""
    logging = transformers.utils.logging
    verbosity, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings(action="ignore"):
            yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            logging.enable_progress_bar()
