"""Teachers and foreign formats in, run state, exports out."""


def register_auto_model() -> None:
    """Lets `transformers`' `AutoModel` open exports of any shape by the code installed here, without remote code."""
    from transformers import AutoConfig, AutoModel  # noqa: PLC0415 - slow to import

    from checkpoints.runtimes.modeling_nestling import NestlingConfig, NestlingModel  # noqa: PLC0415

    AutoConfig.register(NestlingConfig.model_type, NestlingConfig, exist_ok=True)
    AutoModel.register(NestlingConfig, NestlingModel, exist_ok=True)
