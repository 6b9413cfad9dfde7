"""Reads a run folder into the values a report is made of: whatever is known by now."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from checkpoints.formats.hugging_face import TeacherError
from checkpoints.run_folder import HISTORY, RunFolder
from checkpoints.teachers import load_teacher
from checkpoints.versions import show_versions
from distillation.stages import Recipe
from nas.record import RecordFile, ScoreRow
from nestling.reports.model_card import ExportRecord
from nestling.reports.run_facts import (
    LARGEST,
    SEARCHED,
    UNIFORM,
    BudgetUse,
    CandidateRow,
    Chosen,
    Counted,
    CurvePoint,
    Facts,
    FinalistRow,
    Measure,
    Part,
    Report,
    Series,
    StageSummary,
    TeacherRow,
    Usage,
    find_front,
)
from nestling.workflows.search_result import RECORD, RESULT, SavedFinalist, SavedResult, load_result
from search_spaces.budget import Budget
from search_spaces.costs import breakdown, count_macs, count_params
from search_spaces.draws import describe_draws
from search_spaces.quoting import python_literal, shell_command
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config
from search_spaces.subnet import Subnet
from speech_data.synthesis import BY_NAME
from speech_tasks.curve import Point, describe_spread, load_curve
from supernet.model import shape_of

Row = dict[str, Any]
SMOOTHED_STEPS = 10
"""A loss "after" is the mean of so many last steps, since one batch is noisy."""
NAMES = {"largest": "largest", "random": "middle (random)", "smallest": "smallest"}
SYNTHETIC = "Synthesised speech: these are sanity figures, never SUPERB."
COUNTED = (
    "Parameters are those of the exported encoder, as transformers counts a HubertModel: weight-norm gains and mask "
    "embedding included, prediction heads not. MACs are those of convolutions, linear maps and attention for 1 s of "
    "audio; norms, activations and softmax are left out. FLOPs = 2 × MACs."
)


def collect_report(run: RunFolder) -> Report:
    """All that a run knows.

    Raises:
        NestlingError: The run's own files cannot be read.
    """
    config = run.config
    space = SearchSpace.from_dict(config["space"])
    points = load_curve(run.path)
    result = _load_result(run, space)
    record = RecordFile(run.search_path / RECORD)
    candidates = _candidates(record, space, result) if result else ()
    return Report(
        title=f"Nestling: {space.name} from {config['teacher'] or 'scratch'}",
        facts=_facts(run, config, result),
        container=space.container,
        chosen=_chosen(result, space, points) if result else None,
        budget=_budget_uses(result, space) if result else (),
        teacher=_teacher(config["teacher"], points),
        candidates=candidates,
        finalists=_finalists(result, space) if result else (),
        latency_note="PyTorch on this machine, one thread, batch 1; medians of interleaved rounds."
        if result and result.latency_seconds
        else "",
        curve=tuple(_curve_point(p, result.finalists[0].id if result else "") for p in points),
        stages=tuple(summarize_stages(run.metrics())),
        counted=_counted(result, space),
        usage=_usage(run) if result else (),
        notes=(*((SYNTHETIC,) if config["audio"] in BY_NAME else ()), *record.doubts),
        spread_note=describe_spread(points),
        loss_name=result.objective if result else Report.loss_name,
    )


def _load_result(run: RunFolder, space: SearchSpace) -> SavedResult | None:
    return load_result(run.search_path, space) if (run.search_path / RESULT).exists() else None


def summarize_stages(rows: Sequence[Row]) -> list[StageSummary]:
    """What each stage of a record did to the container; a stage without a step yet is left out."""
    names = list(dict.fromkeys(row["stage"] for row in rows if "stage" in row))
    phones = {row["before"]: row["phone_error"] for row in rows if "before" in row}
    stages = []
    for name, following in zip(names, [*names[1:], "done"], strict=False):
        steps = [row for row in rows if row.get("stage") == name]
        roles = [role for role in NAMES if all(role in row["losses"] for row in steps)]
        largest = [row["losses"]["largest"] for row in steps]
        last = largest[-SMOOTHED_STEPS:]
        stages.append(
            StageSummary(
                name,
                len(steps),
                tuple(
                    Series(
                        NAMES[role],
                        tuple(row["step"] for row in steps),
                        tuple(row["losses"][role] for row in steps),
                    )
                    for role in roles
                ),
                loss_before=largest[0],
                loss_after=sum(last) / len(last),
                phone_error_before=phones.get(name),
                phone_error_after=phones.get(following),
            )
        )
    return stages


def describe_training(run: RunFolder) -> Row:
    """A run and what each of its stages did, as plain values; the curves are in its metrics.jsonl."""
    stages = [asdict(replace(stage, series=())) for stage in summarize_stages(run.metrics())]
    return {"run": str(run.path), "stages": [{k: v for k, v in stage.items() if k != "series"} for stage in stages]}


def collect_record(run: RunFolder, subnet: Subnet, command: str) -> ExportRecord:
    """What a run knows of one of its subnets, for its model card.

    Args:
        run: It must have a supernet.
        subnet: One of the run's space.
        command: What was typed to export it.
    """
    config, origin = run.config, run.supernet_record
    space = SearchSpace.from_dict(config["space"])
    result = _load_result(run, space)
    commands = map(_without_folders, [*_commands(config, result), command])
    return ExportRecord(
        teacher=origin.teacher,
        license=origin.license,
        revision=origin.revision,
        datasets=(str(config.get("trained_on", Path(config["audio"]).name)),),
        hours=config["hours"] or None,
        scores=_scores(subnet, result, load_curve(run.path)),
        commands=tuple(dict.fromkeys(filter(None, commands))),
    )


def _commands(config: Row, result: SavedResult | None) -> list[str]:
    """What was typed to train, to change the training on the way, and to search."""
    resumed = [change["command"] for change in config.get(HISTORY, ())]
    typed = [f"nestling {config['command']}", *resumed, *([result.command] if result else [])]
    return [command for command in typed if command]  # what Python called has none


def _without_folders(command: str) -> str:
    """A command whose absolute paths are their last names: where files lie on a machine is nobody else's business."""
    return re.sub(r"(?<=[ =]')~?/[^']*(?=')|(?<=[ =])~?/[^\s']*", lambda path: Path(path[0]).name, command)


def _scores(subnet: Subnet, result: SavedResult | None, points: Sequence[Point]) -> dict[str, str]:
    """What was measured of a subnet -> the figure with its interval, beside what it is to be held against."""
    scores = {}
    row = next((f for f in result.finalists if f.id == subnet.id), None) if result else None
    if result and row:
        loss = result.objective
        scores[loss] = f"{row.loss:.4f}; {result.scored} subnets were scored, {result.tied - 1} are tied"
        if (uniform := result.uniform) and uniform.id != subnet.id:
            low, high = uniform.excess_loss
            scores[f"{loss}, best uniform shape"] = f"{uniform.loss:.4f}; {low:+.4f} … {high:+.4f} above the best"
    own = f"chosen {subnet.id}"
    for point in sorted(points, key=lambda point: point.label != own):
        if point.label == own or point.kind != "subnet":
            name = "phone errors, test" + ("" if point.label == own else f": {point.label}")
            scores[name] = f"{100 * point.error:.1f} ± {100 * point.half_interval:.1f} %"
    return scores


def _facts(run: RunFolder, config: Row, result: SavedResult | None) -> Facts:
    return Facts(
        teacher=config["teacher"] or "none",
        data=str(config.get("trained_on", config["audio"])),  # an imported supernet was trained elsewhere
        data_hash=config["data"],
        hours=config["hours"],
        seeds=(config["seed"],),
        commands=tuple(dict.fromkeys(_commands(config, result))),
        versions=show_versions(run.made_with),
        date=datetime.now(UTC).strftime("%Y-%m-%d"),
        draws=tuple(
            f"{stage.name}: {stage.num_random} a step {describe_draws(stage.draws)}"
            for stage in parse_config(Recipe, config["recipe"], str(run.config_path)).stages
            if stage.subnets == "sandwich"
        ),
    )


def _chosen(result: SavedResult, space: SearchSpace, points: Sequence[Point]) -> Chosen:
    row = result.finalists[0]
    subnet = row.subnet
    point = next((p for p in points if p.label == f"chosen {subnet.id}"), None)
    return Chosen(
        subnet,
        count_params(space.backbone, subnet),
        count_macs(space.backbone, subnet, 1.0),
        loss=Measure(row.loss),
        phone_error=Measure.around(point.error, point.half_interval) if point else None,
        latency_ms=_latency(row),
    )


def _latency(row: SavedFinalist) -> Measure | None:
    if not row.latency_ms:
        return None
    first = row.latency_ms[0]
    return Measure(first.median, first.low, first.high)


def _budget_uses(result: SavedResult, space: SearchSpace) -> tuple[BudgetUse, ...]:
    budget = Budget.parse(result.budget, space)
    row = result.finalists[0]
    subnet = row.subnet
    uses = []
    for bound in budget.bounds:
        kind: Literal["params", "macs", "size"] = bound.cost.kind
        used = bound.cost.count(space.backbone, subnet)
        uses.append(BudgetUse(str(bound), kind, bound.high, used, bound.cost.seconds or 1.0))
    for latency, time in zip(budget.latency, row.latency_ms, strict=True):
        uses.append(BudgetUse(str(latency), "latency", latency.high_ms, time.median, latency.seconds))
    return tuple(uses)


def _teacher(name: str | None, points: Sequence[Point]) -> TeacherRow | None:
    if not name:
        return None
    try:
        encoder = load_teacher(name).encoder
    except TeacherError:
        return None  # it may have moved since, or be no encoder of ours; the report can do without
    backbone, shape = shape_of(encoder.config)
    point = next((p for p in points if p.kind == "teacher"), None)
    return TeacherRow(
        name,
        count_params(backbone, shape),
        count_macs(backbone, shape, 1.0),
        phone_error=Measure.around(point.error, point.half_interval) if point else None,
    )


def _candidates(record: RecordFile, space: SearchSpace, result: SavedResult) -> tuple[CandidateRow, ...]:
    rows = [row for row in record.read() if isinstance(row, ScoreRow) and row.loss is not None]
    measure = result.fingerprint or (rows[-1].fingerprint if rows else "")
    budget = Budget.parse(result.budget, space)
    largest = space.largest(budget)
    found = {row.subnet: row.score.mean for row in rows if row.fingerprint == measure and row.subnet in space}
    costs = [(*_count(space, subnet), loss) for subnet, loss in found.items()]
    return tuple(
        CandidateRow(
            subnet,
            params,
            macs,
            loss,
            origin=LARGEST if subnet == largest else UNIFORM if space.is_uniform(subnet) else SEARCHED,
            feasible=budget.holds(space.backbone, subnet),
            is_front=on_front,
        )
        for subnet, (params, macs, loss), on_front in zip(found, costs, find_front(costs), strict=True)
    )


def _count(space: SearchSpace, subnet: Subnet) -> tuple[int, int]:
    """Parameters, and MACs for 1 s."""
    return count_params(space.backbone, subnet), count_macs(space.backbone, subnet, 1.0)


def _finalists(result: SavedResult, space: SearchSpace) -> tuple[FinalistRow, ...]:
    rows = list(result.finalists)
    known = {row.id for row in rows}
    rows += [row for row in (result.uniform, result.largest) if row and row.id not in known]
    unique = {row.id: row for row in rows}
    return tuple(
        FinalistRow(
            row.subnet,
            *_count(space, row.subnet),
            Measure(row.loss),
            origin=row.origin,
            tied=row.tied,
            excess=row.excess_loss,
            latency_ms=_latency(row),
        )
        for row in unique.values()
    )


def _curve_point(point: Point, chosen: str) -> CurvePoint:
    """Of a size that was probed; what was chosen then may have been replaced by a later search."""
    own = point.label.removeprefix("chosen ")
    return CurvePoint(
        point.label if own in (point.label, chosen) else f"chosen before, {own}",
        Measure.around(point.error, point.half_interval),
        point.kind,
        point.params,
        point.compute_share,
    )


def _counted(result: SavedResult | None, space: SearchSpace) -> Counted:
    if not result:
        return Counted(COUNTED)
    subnet = result.finalists[0].subnet
    parts = breakdown(space.backbone, subnet, 1.0)
    return Counted(COUNTED, tuple(Part(name, params, macs) for name, (params, macs) in parts.items()))


def _usage(run: RunFolder) -> tuple[Usage, ...]:
    folder = run.path / "encoder"
    if not folder.is_dir():
        return (
            Usage(
                "write it", shell_command(["nestling", "export", "subnet", "--run", run.path, "--out", "my-encoder"])
            ),
        )
    trust = ", trust_remote_code=True" if (folder / "modeling_nestling.py").is_file() else ""
    return (
        Usage(
            "transformers",
            "from transformers import AutoModel\n\n"
            f"model = AutoModel.from_pretrained({python_literal(str(folder))}{trust})\n"
            "output = model(input_values, attention_mask=attention_mask, output_hidden_states=True)",
        ),
        Usage(
            "plain PyTorch",
            "from checkpoints.teachers import load_encoder\n"
            "from pathlib import Path\n\n"
            f"encoder = load_encoder(Path({python_literal(str(folder))}))\n"
            "trace = encoder(wave, lengths)  # wave (B, samples) at 16 kHz; trace.hidden, trace.last",
        ),
    )
