"""Nestling: train one speech supernet, hatch encoders of any size from it.

What people import; each name brings in its module when it is first used, so that `import nestling` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from checkpoints import load_supernet as load_supernet
    from checkpoints import register_auto_model as register_auto_model
    from checkpoints.export import ExportReport as ExportReport
    from checkpoints.export import export_subnet as export_subnet
    from checkpoints.representations import open_representation as open_representation
    from checkpoints.run_folder import RunFolder as RunFolder
    from checkpoints.teachers import load_encoder as load_encoder
    from checkpoints.teachers import load_teacher as load_teacher
    from nestling.reports.model_card import ExportRecord as ExportRecord
    from nestling.reports.model_card import model_card as model_card
    from nestling.workflows.audio import open_audio as open_audio
    from nestling.workflows.evaluation import evaluate_sources as evaluate_sources
    from nestling.workflows.export import export as export
    from nestling.workflows.export import write_report as write_report
    from nestling.workflows.jobs import describe_job as describe_job
    from nestling.workflows.measure import measure as measure
    from nestling.workflows.scoring import open_scorer as open_scorer
    from nestling.workflows.search import parse_budget as parse_budget
    from nestling.workflows.search import search as search
    from nestling.workflows.search_result import find_subnet as find_subnet
    from nestling.workflows.train import resume as resume
    from nestling.workflows.train import train as train
    from search_spaces.amounts import format_bytes as format_bytes
    from search_spaces.amounts import format_count as format_count
    from search_spaces.budget import Bound as Bound
    from search_spaces.budget import Budget as Budget
    from search_spaces.budget import InfeasibleBudget as InfeasibleBudget
    from search_spaces.budget import LatencyBound as LatencyBound
    from search_spaces.costs import PARAMS as PARAMS
    from search_spaces.costs import Cost as Cost
    from search_spaces.costs import breakdown as breakdown
    from search_spaces.costs import count_bytes as count_bytes
    from search_spaces.costs import count_frames as count_frames
    from search_spaces.costs import count_macs as count_macs
    from search_spaces.costs import count_params as count_params
    from search_spaces.errors import FailedError as FailedError
    from search_spaces.errors import NestlingError as NestlingError
    from search_spaces.errors import OutOfMemoryError as OutOfMemoryError
    from search_spaces.space import SearchSpace as SearchSpace
    from search_spaces.subnet import SAMPLE_RATE_HZ as SAMPLE_RATE_HZ
    from search_spaces.subnet import Backbone as Backbone
    from search_spaces.subnet import Layer as Layer
    from search_spaces.subnet import Subnet as Subnet
    from supernet.encoder import Encoder as Encoder
    from supernet.encoder_config import EncoderConfig as EncoderConfig
    from supernet.model import Supernet as Supernet

_PLACES = {
    "Bound": "search_spaces.budget",
    "Budget": "search_spaces.budget",
    "InfeasibleBudget": "search_spaces.budget",
    "LatencyBound": "search_spaces.budget",
    "format_bytes": "search_spaces.amounts",
    "format_count": "search_spaces.amounts",
    "PARAMS": "search_spaces.costs",
    "Cost": "search_spaces.costs",
    "breakdown": "search_spaces.costs",
    "count_bytes": "search_spaces.costs",
    "count_frames": "search_spaces.costs",
    "count_macs": "search_spaces.costs",
    "count_params": "search_spaces.costs",
    "FailedError": "search_spaces.errors",
    "NestlingError": "search_spaces.errors",
    "OutOfMemoryError": "search_spaces.errors",
    "SearchSpace": "search_spaces.space",
    "SAMPLE_RATE_HZ": "search_spaces.subnet",
    "Backbone": "search_spaces.subnet",
    "Layer": "search_spaces.subnet",
    "Subnet": "search_spaces.subnet",
    "Encoder": "supernet.encoder",
    "EncoderConfig": "supernet.encoder_config",
    "Supernet": "supernet.model",
    "load_supernet": "checkpoints",
    "register_auto_model": "checkpoints",
    "ExportReport": "checkpoints.export",
    "export_subnet": "checkpoints.export",
    "open_representation": "checkpoints.representations",
    "RunFolder": "checkpoints.run_folder",
    "load_encoder": "checkpoints.teachers",
    "load_teacher": "checkpoints.teachers",
    "ExportRecord": "nestling.reports.model_card",
    "model_card": "nestling.reports.model_card",
    "open_audio": "nestling.workflows.audio",
    "export": "nestling.workflows.export",
    "write_report": "nestling.workflows.export",
    "describe_job": "nestling.workflows.jobs",
    "open_scorer": "nestling.workflows.scoring",
    "measure": "nestling.workflows.measure",
    "parse_budget": "nestling.workflows.search",
    "search": "nestling.workflows.search",
    "find_subnet": "nestling.workflows.search_result",
    "evaluate_sources": "nestling.workflows.evaluation",
    "resume": "nestling.workflows.train",
    "train": "nestling.workflows.train",
}
"""Public name -> the module that has it."""

__all__ = sorted(_PLACES)  # noqa: PLE0605 - one list is enough


def __getattr__(name: str) -> Any:
    if name not in _PLACES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_PLACES[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return [*__all__, *globals()]
