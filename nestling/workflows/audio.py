"""The audio of a run: by its name, a folder or a manifest; where it is now, and samples of it."""

from __future__ import annotations

import torch

from checkpoints.run_folder import RunFolder
from nestling.workflows.listening import SILENT, Listener, reporter
from search_spaces.errors import NestlingError
from speech_data.batching import evaluation_batches
from speech_data.corpus import SpeechCorpus
from speech_data.folder import check_source, open_folder
from speech_data.recorded.corpus import check_fetched, check_teaches, open_recorded, refuse_folder
from speech_data.recorded.table import CORPORA
from speech_data.synthesis import BY_NAME, synthesised_corpus

MOST_SKIPPED = 20
"""Files that were left out and are named."""


def open_audio(audio: str, listener: Listener = SILENT) -> SpeechCorpus:
    """A corpus by its name, synthesised or recorded, or a folder's or manifest's recordings; what was left out is said.

    Raises:
        NestlingError: There is no such audio, or none of it can be read.
    """
    if audio in BY_NAME:
        return synthesised_corpus(BY_NAME[audio], on_progress=reporter(listener, "synthesise speech"))
    refuse_folder(audio)
    opening = open_recorded if audio in CORPORA else open_folder
    corpus = opening(audio, on_progress=reporter(listener, "check audio"))
    for skipped in corpus.skipped[:MOST_SKIPPED]:
        listener.warn(f"skipped {skipped.path}: {skipped.reason}")
    if len(corpus.skipped) > MOST_SKIPPED:
        listener.warn(f"… and {len(corpus.skipped) - MOST_SKIPPED} more")
    files = "1 file" if len(corpus.skipped) == 1 else f"{len(corpus.skipped)} files"
    listener.note(f"{audio}: {corpus.hours_kept:.2f} hours kept, {files} skipped")
    if audio in CORPORA and (held_out := CORPORA[audio].held_out):
        listener.note(f"{audio}: nothing is trained on {', '.join(held_out)}, which are for evaluation alone")
    return corpus


def check_teaching(audio: str) -> None:
    """Raises NestlingError for audio that is for evaluation alone."""
    if audio in CORPORA:
        check_teaches(audio)


def check_audio(audio: str) -> None:
    """Raises NestlingError where `open_audio` would, as far as can be told without a look at any recording."""
    if audio in CORPORA:
        check_fetched(audio)
    elif audio not in BY_NAME:
        refuse_folder(audio)
        check_source(audio)


def open_audio_of(run: RunFolder, listener: Listener = SILENT, moved_to: str | None = None) -> SpeechCorpus:
    """What a run was trained on, where its config.yaml says or where it is now.

    Raises:
        NestlingError: It is not there, or not what it was.
    """
    config = run.config
    if moved_to is None:
        try:
            return open_audio(config["audio"], listener)
        except NestlingError as error:
            raise NestlingError(
                f"{error}; `audio` in {run.config_path} names it: give --audio if it has moved"
            ) from error
    corpus = open_audio(moved_to, listener)
    if config["data"] and corpus.hash != config["data"]:
        raise NestlingError(f"--audio {moved_to} is not the audio of {run.path}, {config['audio']}, moved: it differs")
    return corpus


def sample_speech(corpus: SpeechCorpus, count: int) -> list[torch.Tensor]:
    """Waveforms of the search split, each (S,), as they are in training."""
    augment = corpus.synthesised
    batches = evaluation_batches(corpus, "search", batch_size=1, augment=augment, max_utterances=count)
    return [torch.from_numpy(batch.wave[0]) for batch in batches]
