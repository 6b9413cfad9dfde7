"""Exports a subnet of a run, with all that the run knows of it on its card; writes the run's report."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from checkpoints.export import INT8, ExportReport, export_subnet
from checkpoints.run_folder import RunFolder
from nestling.reports.model_card import model_card
from nestling.reports.run_page import write_report as write_page
from nestling.reports.still_picture import save_picture
from nestling.workflows.audio import open_audio_of, sample_speech
from nestling.workflows.listening import SILENT, Listener, by_product
from nestling.workflows.run_report import collect_record, collect_report
from nestling.workflows.search_result import find_subnet, load_result
from search_spaces.budget import Budget
from search_spaces.errors import NestlingError


def export(
    run: RunFolder,
    name: str,
    folder: str | Path,
    targets: Sequence[str] = ("hf",),
    command: str = "",
    listener: Listener = SILENT,
) -> ExportReport:
    """Writes a subnet of a run as a folder that stands alone.

    Args:
        run: It must have a supernet.
        name: As `find_subnet` takes it.
        folder: As `export_subnet` takes it.
        targets: What to serve beside `transformers`; some of `checkpoints.export.TARGETS`.
        command: That asked for it, for the card.
        listener: Told what is going on.

    Raises:
        NestlingError: There is no such subnet, or as `export_subnet`.
    """
    supernet = run.load_supernet()
    subnet = find_subnet(run.search_path, name, supernet.space)
    text = load_result(run.search_path, supernet.space).budget if name == "best" else ""
    listener.note(f"exporting {subnet.id} of {run.path}; what is written is opened again and compared")
    report = export_subnet(
        supernet,
        subnet,
        folder,
        budget=Budget.parse(text, supernet.space),
        card=model_card(collect_record(run, subnet, command)),
        to=targets,
        audio=_sample_speech(run, listener) if INT8 in targets else (),
    )
    if report.kept_card:
        listener.warn(f"the model card in {folder} was not as an export had left it; it is kept as {report.kept_card}")
    return report


def describe_export(report: ExportReport) -> dict[str, Any]:
    """What was written and proven, as plain values."""
    return {
        "id": report.subnet.id,
        "params": report.params,
        "macs_1s": report.macs,
        "size_bytes": report.size_bytes,
        "plain": report.plain,
        "error": max(report.errors.values()),
        "proven_in": list(report.errors),
        "int8_bytes": report.int8_bytes,
        "int8_error": report.int8_error,
        "folder": str(report.folder),
    }


def _sample_speech(run: RunFolder, listener: Listener) -> list[Tensor]:
    """A little of the run's audio, to measure the error of int8 on; nothing where it is gone."""
    try:
        return sample_speech(open_audio_of(run, listener), 8)
    except NestlingError as error:
        listener.warn(f"the error of int8 is measured on noise: {error}")
        return []


def write_report(folder: RunFolder, listener: Listener = SILENT) -> Path:
    """Writes report.html of a run, whatever is known by now, and a still picture beside it; returns its place."""
    report = collect_report(folder)
    write_page(report, folder.report_path)
    if report.chosen:
        with by_product(listener):
            save_picture(report, folder.report_path.with_suffix(".svg"))
    return folder.report_path
