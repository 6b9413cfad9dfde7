"""What can vary and what it costs. Needs no PyTorch."""

from search_spaces.budget import Bound, Budget, InfeasibleBudget, LatencyBound, format_bytes, format_count
from search_spaces.costs import (
    PARAMS,
    Cost,
    Totals,
    breakdown,
    count_bytes,
    count_frames,
    count_macs,
    count_params,
    totals_of,
    totals_of_arrays,
)
from search_spaces.profile import CostRange, SpaceProfile
from search_spaces.space import Genes, SearchSpace
from search_spaces.strict_yaml import load_yaml, parse_config, parse_yaml
from search_spaces.subnet import SAMPLE_RATE_HZ, Backbone, Layer, Subnet

__all__ = [
    "PARAMS",
    "SAMPLE_RATE_HZ",
    "Backbone",
    "Bound",
    "Budget",
    "Cost",
    "CostRange",
    "Genes",
    "InfeasibleBudget",
    "LatencyBound",
    "Layer",
    "SearchSpace",
    "SpaceProfile",
    "Subnet",
    "Totals",
    "breakdown",
    "count_bytes",
    "count_frames",
    "count_macs",
    "count_params",
    "format_bytes",
    "format_count",
    "load_yaml",
    "parse_config",
    "parse_yaml",
    "totals_of",
    "totals_of_arrays",
]
