"""The audio that has a name; `--audio NAME` is exactly this and no folder."""

from __future__ import annotations

from speech_data.recorded.table import CORPORA
from speech_data.synthesis import BY_NAME

NAMES = (*BY_NAME, *CORPORA)
