"""Sources turn a batch into targets: a file for each kind.

A source says what it may read, so that leakage can be tested: `audio` alone, or `labels` as well.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from distillation.sources.codes import CodesSpec
from distillation.sources.labels import LabelsSpec
from distillation.sources.signal import SignalSpec
from distillation.sources.teacher import TeacherSpec

SourceSpec = Annotated[TeacherSpec | SignalSpec | CodesSpec | LabelsSpec, Field(discriminator="kind")]
"""How to make one source, as a recipe says it; each opens itself."""
