"""Training, searching, exporting and measuring: what is asked of whom, what is kept, and what a listener is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from checkpoints.export import ExportReport
from checkpoints.run_config import RunError
from checkpoints.run_folder import RunFolder
from checkpoints.runtimes.onnx_session import runtime_version
from checkpoints.runtimes.opening import Subject
from checkpoints.runtimes.peak_memory import PeakMemory
from checkpoints.supernet_files import SupernetRecord
from checkpoints.versions import made_with
from distillation.dry_run import Estimate
from distillation.stages import Recipe
from nas.cross_check import Check
from nas.latency import Latency
from nas.measurement import PAUSE_S, QUICK_S, TOTAL_S, Timing, count_cores, name_processor
from nas.record import Record
from nestling.workflows import audio, cost, demo, export, measure, search, train
from nestling.workflows.audio import open_audio, open_audio_of, sample_speech
from nestling.workflows.jobs import Job
from nestling.workflows.search_result import RECORD, RESULT, describe_space, load_result
from search_spaces.budget import Budget
from search_spaces.costs import breakdown
from search_spaces.errors import FailedError, NestlingError, OutOfMemoryError
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config, parse_yaml
from search_spaces.subnet import Subnet
from speech_data.listing import SkippedFile
from speech_data.synthesis import BY_NAME
from speech_tasks.phone_probe import ProbeScore
from supernet.model import Supernet
from tests.nas_cases import SPACE, MadeUpObjective, candidate, params
from tests.training_cases import RECIPE, Tones

JOB: Job = {
    "command": "train supernet",
    "teacher": "org/teacher",
    "audio": "tones",
    "device": "cpu",
    "precision": "fp32",
    "space": SPACE.to_dict(),
    "recipe": parse_config(Recipe, parse_yaml(RECIPE + "seed: 7\n")).model_dump(mode="json"),
}
TONES: Any = Tones()
HOURS = (4000 + 5300 + 6600 + 7900) / 16_000 / 3600


class Told:
    """A listener that remembers what it was told, in order."""

    def __init__(self) -> None:
        self.notes: list[str] = []
        self.warnings: list[str] = []
        self.progress: list[tuple[Any, ...]] = []

    def note(self, *lines: str) -> None:
        self.notes += lines

    def warn(self, *lines: str | None) -> None:
        self.warnings += [line for line in lines if line]

    def start(self, name: str, total: int | None, done: int = 0) -> None:
        self.progress.append(("start", name, total, done))

    def advance(self, note: str = "") -> None:
        self.progress.append(("advance", note))

    def show(self, name: str, done: int, total: int | None) -> None:
        self.progress.append(("show", name, done, total))


@pytest.fixture
def told() -> Told:
    return Told()


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(NestlingError) as caught:
        call()
    return str(caught.value)


def never(*_: Any, **__: Any) -> Any:
    pytest.fail("is not to be called")


def make_run(path: Path, **changes: Any) -> RunFolder:
    return RunFolder.create(path, {**JOB, "data": "0", "hours": HOURS, "teacher_hash": "abc", **changes}, seed=7)


# Audio


def test_synthesised_speech_is_opened_by_its_name(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def synthesise(recipe: Any, on_progress: Any) -> Any:
        assert recipe is BY_NAME["demo-small"]
        on_progress(3, 9)
        return TONES

    monkeypatch.setattr(audio, "synthesised_corpus", synthesise)
    assert open_audio("demo-small", told) is TONES
    assert (told.progress, told.notes) == ([("show", "synthesise speech", 3, 9)], [])


@pytest.mark.parametrize(
    ("count", "shown", "more", "files"),
    [
        (0, 0, [], "0 files"),
        (1, 1, [], "1 file"),
        (20, 20, [], "20 files"),
        (21, 20, ["… and 1 more"], "21 files"),
        (25, 20, ["… and 5 more"], "25 files"),
    ],
)
def test_what_is_left_out_of_a_folder_is_told(
    count: int, shown: int, more: list[str], files: str, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    skipped = [SkippedFile(f"{i}.wav", "silent") for i in range(count)]
    found = SimpleNamespace(skipped=skipped, hours_kept=1.234)

    def open_folder(path: str, on_progress: Any) -> Any:
        assert path == "my-audio"
        on_progress(3, 9)
        return found

    monkeypatch.setattr(audio, "open_folder", open_folder)
    assert open_audio("my-audio", told) is found
    assert told.progress == [("show", "check audio", 3, 9)]
    assert told.warnings == [*(f"skipped {i}.wav: silent" for i in range(shown)), *more]
    assert told.notes == [f"my-audio: 1.23 hours kept, {files} skipped"]


def open_only(place: str, corpus_hash: str) -> Callable[..., Any]:
    """What opens audio at one place."""

    def opening(name: str, listener: Told) -> Any:
        if name != place:
            raise NestlingError(f"there is no {name}")
        listener.note(f"opened {name}")
        return SimpleNamespace(hash=corpus_hash)

    return opening


def test_the_audio_of_a_run_is_where_its_configuration_says(
    tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make_run(tmp_path / "run")
    monkeypatch.setattr(audio, "open_audio", open_only("tones", "other"))
    assert open_audio_of(run, told).hash == "other"  # whoever trains on it looks
    monkeypatch.setattr(audio, "open_audio", open_only("elsewhere", "0"))
    assert refusal(lambda: open_audio_of(run, told)) == (
        f"there is no tones; `audio` in {run.config_path} names it: give --audio if it has moved"
    )
    assert open_audio_of(run, told, "elsewhere").hash == "0"
    assert told.notes == ["opened tones", "opened elsewhere"]
    assert refusal(lambda: open_audio_of(run, told, "nowhere")) == "there is no nowhere"


def test_audio_that_has_moved_is_the_same(tmp_path: Path, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audio, "open_audio", open_only("elsewhere", "other"))
    run = make_run(tmp_path / "run")
    assert refusal(lambda: open_audio_of(run, told, "elsewhere")) == (
        f"--audio elsewhere is not the audio of {run.path}, tones, moved: it differs"
    )
    imported = make_run(tmp_path / "imported", data="")  # not known
    assert open_audio_of(imported, told, "elsewhere").hash == "other"


@pytest.mark.parametrize("synthesised", [False, True])
def test_samples_are_whole_recordings_as_they_are_in_training(synthesised: bool) -> None:
    corpus: Any = Tones()
    corpus.synthesised = synthesised  # and so clean: in training it gets noise
    waves = sample_speech(corpus, 3)
    said = [next(u for u in corpus.utterances("search") if wave.shape == (u.num_samples,)) for wave in waves]
    assert len(said) == 3
    clean = [torch.from_numpy(corpus.read(u)) for u in said]
    assert [wave.equal(sound) for wave, sound in zip(waves, clean, strict=True)] == [not synthesised] * 3


# Training


class Training:
    """In place of a trainer: `run` does what it is told to, while the run is locked."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, revision: str | None = "1a2b") -> None:
        self.supernet = Supernet(SPACE, torch.Generator())
        self.recipe = SimpleNamespace(num_steps=10)
        self.record = SupernetRecord("org/teacher", "mit", "0", revision, "def")
        self.built: list[tuple[Path, Job, Any]] = []
        self.resumed: list[Any] = []
        self.do: Callable[[], None] = lambda: None
        monkeypatch.setattr(train, "build_trainer", self.build)
        monkeypatch.setattr(train, "resume_trainer", lambda _, run, state: self.resumed.append((run.path, state)))
        monkeypatch.setattr(train, "open_audio", self.open)

    def open(self, name: str, listener: Told) -> Any:
        listener.note(f"opened {name}")
        return TONES

    def build(self, run: RunFolder, job: Job, corpus: Any, on_progress: Any, say: Any) -> Any:
        self.built.append((run.path, job, corpus))
        self.path = run.path
        on_progress("a step")
        say("of the teacher")
        return self, self.record

    def run(self) -> None:
        with pytest.raises(RunError, match="is being written by"), RunFolder(self.path).lock():
            pass
        self.do()


@pytest.fixture
def training(monkeypatch: pytest.MonkeyPatch) -> Training:
    return Training(monkeypatch)


def state(step: int) -> dict[str, Any]:
    return {"recipe": {}, "step": step, "supernet": {}, "heads": {}, "optimizer": {}, "sources": {}}


def test_a_run_is_kept_with_all_that_it_was_made_of(tmp_path: Path, told: Told, training: Training) -> None:
    supernet, run = train.train(tmp_path / "run", JOB, "train supernet --audio tones", told)
    assert (supernet, run.path) == (training.supernet, tmp_path / "run")
    assert training.built == [(run.path, JOB, TONES)]
    wanted = {
        **JOB,
        "command": "train supernet --audio tones",
        "data": "0",
        "hours": pytest.approx(HOURS),
        "teacher": "org/teacher@1a2b",
        "teacher_hash": "def",
        "seed": 7,
    }
    assert {key: run.config[key] for key in wanted} == wanted
    assert run.supernet_record == training.record
    assert told.notes == ["opened tones"]
    assert told.warnings == ["of the teacher"]
    assert told.progress == [("advance", "a step"), ("start", "train", 10, 0)]


def test_a_run_that_nobody_typed_has_the_command_of_its_job(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Training(monkeypatch, revision=None)
    _, run = train.train(tmp_path / "run", JOB)
    assert (run.config["command"], run.config["teacher"]) == ("train supernet", "org/teacher")


def test_nothing_is_opened_where_no_run_can_begin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_run(tmp_path / "run")
    monkeypatch.setattr(train, "open_audio", never)
    assert "already holds a run" in refusal(lambda: train.train(tmp_path / "run", JOB))


def test_a_job_that_is_refused_leaves_no_run_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> Any:
        raise NestlingError("no such teacher")

    monkeypatch.setattr(train, "open_audio", lambda *_: TONES)
    monkeypatch.setattr(train, "build_trainer", refuse)
    assert refusal(lambda: train.train(tmp_path / "run", JOB)) == "no such teacher"
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize("kept", [False, True])
def test_what_was_trained_before_memory_ran_out_is_kept(
    tmp_path: Path, told: Told, training: Training, kept: bool
) -> None:
    path = tmp_path / "run"

    def fail() -> None:
        if kept:
            RunFolder(path).save_state(state(2))
        raise OutOfMemoryError("not enough memory")

    training.do = fail
    with pytest.raises(OutOfMemoryError) as caught:
        train.train(path, JOB, listener=told)
    rest = (f"{path} keeps what was trained so far; add --resume to go on",) if kept else ()
    assert caught.value.args == ("not enough memory", *rest)
    assert path.exists() == kept


def resume_run(run: RunFolder, asked: dict[str, Any], listener: Any = None, kind: str = "train supernet") -> Any:
    return train.resume(kind, run.path, asked, "nestling train supernet --resume", listener or Told())


@pytest.mark.parametrize(
    ("config", "asked", "message"),
    [
        ({"trained_on": "LibriSpeech"}, {}, "RUN was imported; it can be searched and exported, not trained"),
        (
            {"command": "train teacher --run x"},
            {},
            "RUN is no run of `train supernet`: it began with nestling train teacher --run x",
        ),
        ({"data": "1"}, {}, "the audio in tones changed since the run began; start a new run"),
    ],
)
def test_a_run_that_cannot_go_on_says_why(
    tmp_path: Path, config: Job, asked: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "build_trainer", never)
    monkeypatch.setattr(train, "open_audio_of", lambda *_: TONES)
    run = make_run(tmp_path / "run", **config)
    assert refusal(lambda: resume_run(run, asked)) == message.replace("RUN", str(run.path))


@pytest.mark.parametrize("command", ["train supernet", "demo --quick"])
def test_a_run_without_a_checkpoint_starts_over(
    tmp_path: Path, told: Told, training: Training, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        train, "open_audio_of", lambda run, listener: training.open(f"that of {run.path.name}", listener)
    )
    run = make_run(tmp_path / "run", command=command)
    run.append_metrics({"step": 0, "stage": "stage-1", "learning_rate": 0.1, "losses": {"largest": 1.0}})
    supernet, again = resume_run(run, {}, told)
    assert (supernet, again.path) == (training.supernet, run.path)
    assert (training.resumed, run.metrics()) == ([], [])
    assert run.supernet_record == training.record
    assert "history" not in run.config
    assert told.notes == ["opened that of run", f"resuming {run.path} after step 0, as its config.yaml says"]
    assert told.warnings == ["of the teacher"]
    assert told.progress == [("advance", "a step"), ("start", "train", 10, 0)]


def test_a_run_goes_on_after_its_last_checkpoint_with_what_was_asked(
    tmp_path: Path, told: Told, training: Training, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tones").mkdir()
    (tmp_path / "moved").mkdir()
    monkeypatch.setattr(train, "open_audio_of", never)
    run = make_run(tmp_path / "run", audio=str(tmp_path / "tones"))
    for step in (2, 4, 6):
        run.save_state(state(step))
    for step in range(8):
        run.append_metrics({"step": step, "stage": "stage-1", "learning_rate": 0.1, "losses": {"largest": 1.0}})
    (run.state_path / "step-00000006.pt").write_bytes(b"torn")
    run.lock_path.write_text("process 1 on earth")
    before = run.config
    resume_run(run, {"audio": "moved", "changes": ["save_every=9"]}, told)
    moved, changes = (
        str(tmp_path / "moved"),
        {"save_every": [2, 9], "audio": [str(tmp_path / "tones"), str(tmp_path / "moved")]},
    )
    assert training.resumed == [(run.path, state(4))]
    assert [row["step"] for row in run.metrics()] == [0, 1, 2, 3]
    ((_, job, _),) = training.built
    assert (job["audio"], job["recipe"]["save_every"]) == (moved, 9)
    history = [{"step": 4, "command": "nestling train supernet --resume", "changes": changes}]
    assert run.config == {**before, **job, "history": history}
    assert told.notes == [
        f"opened {moved}",
        f"resuming {run.path} after step 4, as its config.yaml says",
        "from here on, save_every is 9, not 2",
        f"from here on, audio is {moved}, not {tmp_path / 'tones'}",
    ]
    assert told.warnings == [
        f"{run.path} was last written by process 1 on earth, which was killed at it",
        "checkpoint step-00000006.pt is damaged (it fails its SHA-256); going back to step-00000004.pt",
        "of the teacher",
    ]
    assert told.progress == [("advance", "a step"), ("start", "train", 10, 4)]


# What a job would take


def test_an_estimate_is_of_the_job(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "load_teacher", lambda name: SimpleNamespace(network=f"network of {name}"))
    monkeypatch.setattr(train, "estimate_training", lambda *job: job)
    monkeypatch.setattr(audio, "check_source", never)
    recipe, found = train.estimate({**JOB, "audio": "demo"})
    assert recipe.model_dump(mode="json") == JOB["recipe"]
    assert found == (SPACE, recipe, "network of org/teacher", "fp32", "cpu")
    _, found = train.estimate({**JOB, "audio": "demo", "teacher": None})
    assert found[2] is None


def test_an_estimate_wants_audio_that_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(train, "load_teacher", never)
    assert "nowhere" in refusal(lambda: train.estimate({**JOB, "audio": str(tmp_path / "nowhere")}))


# Searching


LARGEST = params(SPACE.container)


def test_a_budget_that_does_not_bind_is_told(told: Told) -> None:
    assert search.parse_budget([f"params<={LARGEST - 1}"], SPACE, told) == Budget.parse(
        [f"params<={LARGEST - 1}"], SPACE
    )
    assert search.parse_budget([], SPACE, told) == Budget()
    assert search.parse_budget(["latency<=1ms@1s"], SPACE, told).latency
    assert told.warnings == []
    text = Budget.parse([f"params<={LARGEST}"], SPACE).text
    assert search.parse_budget([f"params<={LARGEST}"], SPACE, told).text == text
    assert told.warnings == [f"{text} does not bind: every subnet of `test` holds it"]


def test_a_budget_that_nothing_holds_is_refused(told: Told) -> None:
    assert "no subnet" in refusal(lambda: search.parse_budget(["params<=1"], SPACE, told))


@pytest.mark.parametrize(
    ("sampler", "name"),
    [
        ("auto", "evolution"),
        ("evolution", "evolution"),
        ("random", "random"),
        ("optuna:tpe", "optuna:tpe"),
        ("tpe", "optuna:tpe"),
        ("nsga2", "optuna:nsga2"),
    ],
)
def test_a_sampler_has_its_proposer(sampler: str, name: str) -> None:
    assert search.make_proposer(sampler, SPACE).name == name


@pytest.mark.parametrize("sampler", ["", "best", "random:tpe", "auto:x", "tpe:x", "nsga2:x"])
def test_a_sampler_that_is_none_is_refused(sampler: str) -> None:
    assert refusal(lambda: search.make_proposer(sampler, SPACE)) == (
        f"--sampler {sampler}: choices are auto, evolution, random, optuna:nsga2, optuna:tpe, optuna:random"
    )


class Scorer(MadeUpObjective):
    """Made-up losses of a supernet's subnets."""

    name, fingerprint = "made-up loss", "one"

    def __init__(self) -> None:
        super().__init__()
        self.supernet = Supernet(SPACE, torch.Generator())


class SmallIsBeautiful(Scorer):
    """The other way round: what is looked at first, the largest, is worst."""

    def losses(self, subnet: Subnet) -> Any:
        return 2 - super().losses(subnet)


def search_run(
    run: RunFolder, budget: str = "", listener: Any = None, scorer: Any = None, **options: Any
) -> dict[str, Any]:
    return search.search(
        run, scorer or Scorer(), Budget.parse(budget, SPACE), 6, listener=listener or Told(), **options
    )


@pytest.fixture
def searched(tmp_path: Path) -> RunFolder:
    """A run with two scores of a search that was killed."""
    run = make_run(tmp_path / "run")
    record = Record(run.search_path / RECORD, "one", SPACE.backbone)
    for subnet in (SPACE.smallest(), SPACE.container):
        record.add(candidate(subnet, *Scorer().losses(subnet)))
    return run


def patch_study(monkeypatch: pytest.MonkeyPatch, write: Callable[..., None]) -> None:
    monkeypatch.setattr("nas.optuna_bridge.write_study", write)


@pytest.fixture
def studies(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is written for Optuna's tools."""
    written: list[Any] = []
    patch_study(monkeypatch, lambda *study: written.append(study))
    return written


def test_a_search_keeps_what_it_found(searched: RunFolder, told: Told, studies: list[Any]) -> None:
    known = len(Record(searched.search_path / RECORD, "one", SPACE.backbone).candidates)
    described = search_run(searched, listener=told, command="nestling search subnet")
    assert json.loads((searched.search_path / RESULT).read_text()) == described
    assert (described["objective"], described["command"]) == ("made-up loss", "nestling search subnet")
    assert described["fingerprint"] == "one"
    candidates = Record(searched.search_path / RECORD, "one", SPACE.backbone).candidates
    assert described["scored"] == len(candidates) > known == 2
    best = min(candidates, key=lambda c: c.score.mean)
    assert search.find_best(searched, SPACE) == described["finalists"][0]["id"] == best.subnet.id
    ((study, *rest),) = studies
    assert [c.subnet for c in study] == [c.subnet for c in candidates]
    assert rest == [SPACE, searched.search_path / "study.db", "one"]
    assert told.warnings == []


@pytest.mark.usefixtures("studies")
def test_every_trial_is_told_with_the_best_so_far(tmp_path: Path, told: Told) -> None:
    budget = f"params<={LARGEST - 1}"
    run = make_run(tmp_path / "run")
    search_run(run, budget, told, SmallIsBeautiful())
    losses = [c.score.mean for c in Record(run.search_path / RECORD, "one", SPACE.backbone).candidates]
    assert min(losses) < losses[0]
    text = Budget.parse(budget, SPACE).text
    advances = [("advance", f"{text}  best loss {min(losses[: i + 1]):.4f}") for i in range(6)]
    assert told.progress == [("start", "search", 6, 0), *advances]
    told.progress.clear()
    search_run(run, listener=told)
    assert told.progress[1][1].startswith("no budget  best loss ")


@pytest.mark.usefixtures("studies")
def test_a_search_proposes_as_it_is_asked_to(searched: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, real = [], search.search_space

    def spy(space: Any, budget: Any, scorer: Any, proposer: Any, record: Any, **options: Any) -> Any:
        asked.append((proposer.name, options["seed"], options["time_subnets"]))
        return real(space, budget, scorer, proposer, record, **options)

    monkeypatch.setattr(search, "search_space", spy)
    monkeypatch.setattr(search, "describe_load", never)  # nothing is timed
    search_run(searched)
    search_run(searched, sampler="random", seed=5)
    assert asked == [("evolution", 0, None), ("random", 5, None)]


@pytest.mark.usefixtures("studies")
def test_a_search_under_a_latency_times_the_runs_subnets(
    searched: RunFolder, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    def timer(supernet: Supernet) -> Any:
        assert supernet.space == SPACE
        return lambda subnets, seconds: [Latency((seconds,) * 3, seconds, seconds)] * len(subnets)

    monkeypatch.setattr(search, "SubnetTimer", timer)
    monkeypatch.setattr(search, "describe_load", lambda: "the machine is busy")
    found = search_run(searched, "latency<=9ms@2s", told)
    assert found["finalists"][0]["latency_ms"] == [{"median": 2.0, "low": 2.0, "high": 2.0}]
    assert told.warnings == ["the machine is busy"]


@pytest.mark.usefixtures("studies")
def test_doubts_of_the_record_are_told(searched: RunFolder, told: Told) -> None:
    path = searched.search_path / RECORD
    path.write_text(path.read_text().splitlines(keepends=True)[1])
    search_run(searched, listener=told)
    assert told.warnings == [f"a row is missing before line 1 of {path}"]


def test_a_result_is_complete_without_a_study(searched: RunFolder, told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any) -> None:
        raise FailedError("study.db was not written")

    patch_study(monkeypatch, fail)
    found = search_run(searched, listener=told)
    assert search.find_best(searched, SPACE) == found["finalists"][0]["id"]
    assert told.warnings == ["study.db was not written"]


def test_there_is_no_best_before_a_search_or_in_a_damaged_result(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run")
    assert search.find_best(run, SPACE) is None
    (run.search_path / RESULT).write_text("{")
    assert search.find_best(run, SPACE) is None


# Exporting


@pytest.fixture
def trained(searched: RunFolder, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    """A run with a supernet and a result under a budget."""
    patch_study(monkeypatch, lambda *_: None)
    searched.save_supernet(Supernet(SPACE, torch.Generator().manual_seed(3)), SupernetRecord())
    search_run(searched, f"params<={LARGEST - 1}")
    return searched


@pytest.fixture
def exports(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What is asked of `export_subnet`; the model card is what it is made of."""
    asked: list[dict[str, Any]] = []

    def export_subnet(supernet: Supernet, subnet: Subnet, folder: Any, **options: Any) -> Any:
        asked.append({"supernet": supernet, "subnet": subnet, "folder": folder, **options})
        return SimpleNamespace(folder=folder, kept_card="README.edited.md" if folder == "edited" else None)

    monkeypatch.setattr(export, "export_subnet", export_subnet)
    monkeypatch.setattr(export, "collect_record", lambda run, *facts: (run.path, *facts))
    monkeypatch.setattr(export, "model_card", lambda record: record)
    return asked


def test_the_best_is_exported_under_its_budget(trained: RunFolder, told: Told, exports: list[Any]) -> None:
    result = load_result(trained.search_path, SPACE)
    subnet = result.finalists[0].subnet
    report = export.export(trained, "best", "out", ("hf", "onnx"), "nestling export subnet", told)
    (asked,) = exports
    assert report.folder == "out"
    weights = trained.load_supernet().state_dict()
    assert all(torch.equal(weights[name], weight) for name, weight in asked.pop("supernet").state_dict().items())
    assert asked == {
        "subnet": subnet,
        "folder": "out",
        "budget": Budget.parse(result.budget, SPACE),
        "card": (trained.path, subnet, "nestling export subnet"),
        "to": ("hf", "onnx"),
        "audio": (),
    }
    assert told.notes == [f"exporting {subnet.id} of {trained.path}; what is written is opened again and compared"]
    assert told.warnings == []


def test_another_subnet_is_exported_without_a_budget(trained: RunFolder, told: Told, exports: list[Any]) -> None:
    export.export(trained, SPACE.container.id, "edited", listener=told)
    ((_, subnet, _, budget, card, to, audio),) = (tuple(asked.values()) for asked in exports)
    assert (subnet, budget, to, audio) == (SPACE.container, Budget(), ("hf",), ())
    assert card == (trained.path, SPACE.container, "")
    assert told.warnings == [
        "the model card in edited was not as an export had left it; it is kept as README.edited.md"
    ]


def test_the_error_of_int8_is_measured_on_the_runs_audio_or_on_noise(
    trained: RunFolder, told: Told, exports: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(export, "open_audio_of", lambda run, listener: (run.path, listener))
    monkeypatch.setattr(export, "sample_speech", lambda corpus, count: [corpus, count])
    export.export(trained, "best", "out", ("hf", "int8"), listener=told)
    assert exports[-1]["audio"] == [(trained.path, told), 8]
    assert told.warnings == []

    def gone(*_: Any) -> Any:
        raise NestlingError("there is no folder tones")

    monkeypatch.setattr(export, "open_audio_of", gone)
    export.export(trained, "best", "out", ("hf", "int8"), listener=told)
    assert exports[-1]["audio"] == []
    assert told.warnings == ["the error of int8 is measured on noise: there is no folder tones"]


@pytest.mark.parametrize("chosen", [None, "a subnet"])
def test_a_report_has_a_picture_once_something_is_chosen(
    tmp_path: Path, told: Told, chosen: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, written = make_run(tmp_path / "run"), []
    report = SimpleNamespace(chosen=chosen)
    monkeypatch.setattr(export, "collect_report", lambda _: report)
    monkeypatch.setattr(export, "write_page", lambda *page: written.append(page))
    monkeypatch.setattr(export, "save_picture", lambda *page: written.append(page))
    assert export.write_report(run, told) == run.path / "report.html"
    pictures = [(report, run.path / "report.svg")] if chosen else []
    assert written == [(report, run.path / "report.html"), *pictures]

    def fail(*_: Any) -> None:
        raise FailedError("the disk is full")

    monkeypatch.setattr(export, "save_picture", fail)
    assert export.write_report(run, told) == run.path / "report.html"
    assert told.warnings == (["the disk is full"] if chosen else [])


# Measuring


def subject(name: str, *runtimes: str) -> Subject:
    """An encoder whose contestants are its runtimes' names."""
    fake: Any = SimpleNamespace(name=name, folder=Path(name), runtimes=runtimes, open=lambda: list(runtimes))
    return fake  # type: ignore[no-any-return]


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What is asked to be timed; memory is the length of what is asked, and the load what of it is ours."""
    asked: list[Any] = []

    def measure_encoders(*arguments: Any, **options: Any) -> Any:
        asked.append((*arguments, options))
        return ["timings"]

    monkeypatch.setattr(measure, "measure_encoders", measure_encoders)
    monkeypatch.setattr(measure, "measure_memory", lambda *_: PeakMemory(10, 30))
    monkeypatch.setattr(measure, "describe_load", lambda own=0: f"load besides {own}" if own != 9 else None)
    return asked


def test_encoders_are_timed_together_and_their_memory_is_taken_one_by_one(told: Told, clock: list[Any]) -> None:
    found = measure.measure([subject("a", "torch", "onnx"), subject("b", "torch")], (1, 5, 2), (2, 4, 1), listener=told)
    assert clock == [(["torch", "onnx", "torch"], (1, 5, 2), (2, 4, 1), None, TOTAL_S, told.show, {"pause_s": PAUSE_S})]
    common = {"seconds": 5, "threads": 4, "import_bytes": 10, "peak_bytes": 30, "encoder_bytes": 20}
    assert found.memory == [
        {"encoder": name, "runtime": runtime, **common}
        for name, runtime in (("a", "torch"), ("a", "onnx"), ("b", "torch"))
    ]
    assert found.timings == ["timings"]
    assert found.warnings == told.warnings == ["load besides 0", "load besides 4"]
    assert told.progress == [("show", "memory", done, 3) for done in range(3)]
    assert found.versions == {**made_with(), "onnxruntime": runtime_version()}


def test_rounds_and_memory_are_as_asked(told: Told, clock: list[Any]) -> None:
    found = measure.measure([subject("a", "torch")], (1,), (9,), 3, 15.0, memory=False, listener=told)
    assert clock[0][3:5] == (3, 15.0)
    assert (found.memory, told.progress) == ([], [])
    assert found.warnings == told.warnings == ["load besides 0"]


@pytest.mark.usefixtures("clock")
def test_memory_is_taken_of_a_folder_in_a_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(measure, "measure_memory", lambda *case: asked.append(case) or PeakMemory(1, 2))
    measure.measure([subject("a", "torch")], (0.5, 1), (1, 2))
    assert asked == [(Path("a"), "torch", 1, 2)]


def test_a_measurement_says_what_it_was_made_on() -> None:
    latency = Latency((10.0,) * 3, 9.0, 11.0)
    timing = Timing("a", "torch", 1, 2.0, latency, None, None, None)
    versions = {"nestling": "1.2", "torch": "2.9", "commit": "1a2b", "onnxruntime": None}
    found = measure.Measurement([timing], [{"encoder": "a"}], ["busy"], versions)
    assert found.made_on == f"{name_processor()}, {count_cores()} cores; nestling 1.2, torch 2.9."
    assert found.to_dict("nestling measure a") == {
        "command": "nestling measure a",
        "made_on": found.made_on,
        "made_with": versions,
        "warnings": ["busy"],
        "timings": [timing.to_dict()],
        "memory": [{"encoder": "a"}],
    }


# From names


def test_alternatives_are_searched_one_after_another(
    searched: RunFolder, told: Told, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [[f"params<={LARGEST - 1}"], [f"params<={LARGEST - 2}"]]
    budgets = [Budget.parse(text, SPACE) for text in texts]
    found: list[Any] = []

    def search_one(*words: Any) -> Any:
        with pytest.raises(RunError, match="is being written by"), searched.lock():
            pass
        found.append(words)
        return words[2].text

    monkeypatch.setattr(search, "open_audio_of", lambda run, listener, audio: (run.path, listener, audio))
    monkeypatch.setattr(search, "open_scorer", lambda *words: words)
    monkeypatch.setattr(search, "search", search_one)
    best = iter(["1a2b", budgets[1].text])
    monkeypatch.setattr(search, "find_best", lambda *_: next(best))
    searched.lock_path.write_text("process 1 on earth")
    results = search.search_run(
        searched,
        texts,
        trials=3,
        sampler="random",
        seed=5,
        utterances=7,
        audio="moved",
        objective="proxy",
        device="cuda",
        command="typed",
        listener=told,
    )
    scorer = (searched, (searched.path, told, "moved"), 7, "cuda", told.note, "proxy", None)
    assert found == [(searched, scorer, budget, 3, "random", 5, "typed", told) for budget in budgets]
    assert results == [budget.text for budget in budgets]
    assert told.notes == [f"`best` is {budgets[1].text} from now on; it was 1a2b: --subnet 1a2b still names that"]
    assert told.warnings == [f"{searched.path} was last written by process 1 on earth, which was killed at it"]


@pytest.mark.parametrize("before", [None, "1a2b"])
def test_a_search_that_changes_nothing_says_nothing(
    searched: RunFolder, told: Told, before: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "open_audio_of", lambda *_: None)
    opened: list[Any] = []
    monkeypatch.setattr(search, "open_scorer", lambda *words: opened.append(words))
    monkeypatch.setattr(search, "search", lambda *words: words[3:6])
    best = iter([before, "1a2b"])
    monkeypatch.setattr(search, "find_best", lambda *_: next(best))
    assert search.search_run(searched, [[]], listener=told) == [(64, "auto", 0)]  # type: ignore[comparison-overlap]
    assert told.notes == []
    assert opened == [(searched, None, 60, "cpu", told.note, "readout", None)]


@pytest.mark.parametrize(("texts", "sampler"), [([["1M"], ["params<=1"]], "auto"), ([["1M"]], "best")])
def test_nothing_is_opened_for_a_search_that_cannot_be(
    searched: RunFolder, texts: list[list[str]], sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(search, "open_audio_of", never)
    refusal(lambda: search.search_run(searched, texts, sampler=sampler))


def test_encoders_are_measured_by_their_names(told: Told, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    monkeypatch.setattr(measure, "find_subjects", lambda *words: asked.append(words) or ["subject"])
    monkeypatch.setattr(measure, "measure", lambda *words: words)
    monkeypatch.setattr(measure, "count_cores", lambda: 4)
    found = measure.measure_sources(["a", "b", "a"], "onnx", "all,1", "2,1", 3, memory=False, listener=told)
    assert asked == [(["a", "b"], ("onnx",), told.warn)]
    assert found == (["subject"], (1.0, 2.0), (4, 1), 3, TOTAL_S, False, told)
    found = measure.measure_sources(["a"], quick=True, listener=told)
    assert asked[1] == (["a"], None, told.warn)
    assert found == (["subject"], (1.0, 2.0, 5.0, 10.0, 20.0), (1, 4), None, QUICK_S, True, told)
    asked.clear()
    assert refusal(lambda: measure.measure_sources(["a"], repeats=2)) == "--repeats must be at least 3, got 2"
    said = refusal(lambda: measure.measure_sources(["a"], repeats=3, quick=True))
    assert said == "--quick and --repeats both say how many rounds; give one of them"
    assert asked == []


def test_a_measurement_is_kept_in_a_folder_that_is_made(tmp_path: Path) -> None:
    found = measure.Measurement([], [], [], {})
    for _ in range(2):
        found.save(tmp_path / "a/b/x.json", "typed")
    text = (tmp_path / "a/b/x.json").read_text()
    assert (json.loads(text), text[-2:]) == (found.to_dict("typed"), "}\n")


# Demo


def test_a_demo_goes_beside_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "demo"
    for name in ("demo", "demo-2", "demo-3"):
        assert demo.find_free(path).name == name
        (tmp_path / name).mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(NestlingError, match=r"notes\.txt is a file, and a folder is to be written"):
        demo.find_free(tmp_path / "notes.txt")


@pytest.mark.parametrize(("quick", "sizes", "points"), [(True, (60, 30, 40), 4), (False, (300, 100, 250), 6)])
def test_a_demo_probes_sizes_the_chosen_one_and_the_teacher(
    tmp_path: Path,
    told: Told,
    monkeypatch: pytest.MonkeyPatch,
    quick: bool,
    sizes: tuple[int, int, int],
    points: int,
) -> None:
    run, asked = make_run(tmp_path / "run"), []

    def make_probe(*arguments: Any, **options: Any) -> SimpleNamespace:
        asked.append((*arguments, options))
        return SimpleNamespace(score=lambda _: ProbeScore(0.5, 0.01, 1, ()))

    def find(*arguments: Any) -> Subnet:
        asked.append(arguments)
        return SPACE.container

    monkeypatch.setattr(demo, "PhoneProbe", make_probe)
    monkeypatch.setattr(demo, "open_test", lambda small: ("test audio", small))
    monkeypatch.setattr(demo, "load_teacher", lambda name: SimpleNamespace(encoder=torch.nn.Linear(1, len(name))))
    monkeypatch.setattr("speech_tasks.curve.hidden_states", lambda _: None)
    monkeypatch.setattr(RunFolder, "load_supernet", lambda _: Supernet(SPACE, torch.Generator()))
    monkeypatch.setattr(demo, "find_subnet", find)
    demo.measure_sizes(run, quick, told)
    options = dict(zip(("num_train", "num_tuning", "num_scored"), sizes, strict=True))
    assert asked == [
        (("test audio", quick), "test", {**options, "last_layers": 2}),
        (run.search_path, "best", SPACE),
    ]
    # MFCC, smallest, what lies between, the chosen one, which is the largest, and the teacher
    assert told.progress[0] == ("start", "phone error on test", points, 0)
    assert len(told.progress) == 1 + points
    assert len(json.loads((run.path / "curve.json").read_text())) == points


@pytest.mark.parametrize(
    ("quick", "audio", "utterances", "trials"), [(True, "demo-small", 16, 20), (False, "demo", 40, 64)]
)
def test_a_demo_does_the_whole_job(
    tmp_path: Path, told: Told, quick: bool, audio: str, utterances: int, trials: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, done = make_run(tmp_path / "run"), []

    def work(name: str, answer: Any = None, locked: bool = False) -> None:
        def do(*words: Any, **options: Any) -> Any:
            if locked:
                with pytest.raises(RunError, match="is being written by"), run.lock():
                    pass
            done.append((name, *words, *options.items()))
            return answer

        monkeypatch.setattr(demo, name, do)

    work("train", (None, run))
    work("open_audio", "audio")
    work("open_scorer", "scorer", locked=True)
    work("search", {"a": "result"}, locked=True)
    work("measure_sizes", locked=True)
    work("export")
    work("write_report", run.report_path)
    budget = Budget.parse("1M", SearchSpace.load("tiny"))
    options: dict[str, Any] = {"quick": True} if quick else {}
    found = demo.run_demo(run.path, **options, command="nestling demo", listener=told)
    assert done == [
        ("train", run.path, demo.describe_demo(quick), "demo", told),
        ("open_audio", audio, told),
        ("open_scorer", run, "audio", utterances, "cpu", told.note),
        ("search", run, "scorer", budget, trials, ("command", "nestling demo"), ("listener", told)),
        ("measure_sizes", run, quick, told),
        ("export", run, "best", run.path / "encoder", ("command", "nestling demo"), ("listener", told)),
        ("write_report", run, told),
    ]
    assert (found.run, found.result, found.encoder, found.report) == (
        run,
        {"a": "result"},
        run.path / "encoder",
        run.report_path,
    )
    assert 0 <= found.seconds < 60


@pytest.mark.parametrize(("audio", "quick"), [("demo-small", True), ("demo", False)])
def test_a_demo_goes_on_as_it_began(tmp_path: Path, audio: str, quick: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    run, listener = make_run(tmp_path / "run", audio=audio), Told()
    asked: list[Any] = []
    for name, answer in (("resume", (None, run)), ("measure_sizes", None), ("write_report", run.report_path)):
        monkeypatch.setattr(demo, name, lambda *words, answer=answer: asked.append(words) or answer)
    for name in ("open_audio", "open_scorer", "search", "export"):
        monkeypatch.setattr(demo, name, lambda *_, **__: None)
    monkeypatch.setattr(demo, "train", never)
    demo.run_demo(run.path, not quick, ["1M"], "nestling demo --resume", listener, go_on=True)
    assert asked[:2] == [
        ("demo", run.path, {}, "nestling demo --resume", listener),
        (run, quick, listener),
    ]


def test_a_demo_that_cannot_be_searched_is_not_trained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "train", never)
    refusal(lambda: demo.run_demo(tmp_path / "run", budget=["1k"]))


# Counting


def test_a_subnet_is_counted_by_its_name(tmp_path: Path) -> None:
    tiny = SearchSpace.load("tiny")
    for name, subnet in (("largest", tiny.container), ("smallest", tiny.smallest())):
        counted = cost.count_subnet("tiny", name, 2.0)
        assert (counted.name, counted.subnet, counted.checks) == (f"tiny/{subnet.id}", subnet, ())
        assert counted.parts == breakdown(tiny.backbone, subnet, 2.0)
        groups = {part: {"params": p, "macs": m} for part, (p, m) in counted.parts.items()}
        assert counted.to_dict() == {"id": subnet.id, "seconds": 2.0, "groups": groups, "checks": []}
    assert cost.count_subnet("tiny", "largest").seconds == 1.0
    run = make_run(tmp_path / "run")
    counted = cost.count_subnet(None, "largest", run=run.path)
    assert (counted.space, counted.subnet) == ("test", SPACE.container)
    assert refusal(lambda: cost.count_subnet(None, "best", run=run.path)).startswith(f"{run.path} was not searched yet")
    for space, folder in ((None, None), ("tiny", run.path)):
        said = refusal(lambda space=space, folder=folder: cost.count_subnet(space, "largest", run=folder))
        assert said == "give a space, as in `nestling cost base`, or the --run whose space it is; not both"


def test_other_counters_are_asked_on_demand(monkeypatch: pytest.MonkeyPatch) -> None:
    tiny = SearchSpace.load("tiny")
    check = Check("params", "thop", 5, 6, 6, "")
    asked: list[Any] = []
    monkeypatch.setattr("nas.cross_check.cross_check", lambda *words: asked.append(words) or [check])
    counted = cost.count_subnet("tiny", "largest", 2.0, cross_check=True)
    assert asked == [(tiny.backbone, tiny.container, 2.0)]
    assert counted.to_dict()["checks"] == [{**asdict(check), "exact": check.exact}]


def test_a_space_is_profiled_under_a_budget() -> None:
    tiny = SearchSpace.load("tiny")
    budget, profile, described = cost.profile_space("tiny", ["1M"])
    assert budget == Budget.parse(["1M"], tiny)
    assert profile == tiny.profile(budget)
    assert described == describe_space(tiny, budget, profile)
    assert cost.profile_space("tiny")[0] == Budget()
    assert "no subnet" in refusal(lambda: cost.profile_space("tiny", ["1k"]))


# As plain values


def test_what_an_export_and_an_estimate_came_to_as_plain_values() -> None:
    report = ExportReport(Path("out"), SPACE.container, True, 1, 2, 3, {"transformers": 1e-6, "onnx": 2e-6}, 18, 4, 0.5)
    assert export.describe_export(report) == {
        "id": SPACE.container.id,
        "params": 1,
        "macs_1s": 2,
        "size_bytes": 3,
        "plain": True,
        "error": 2e-6,
        "proven_in": ["transformers", "onnx"],
        "int8_bytes": 4,
        "int8_error": 0.5,
        "folder": "out",
    }
    recipe = parse_config(Recipe, JOB["recipe"])
    stages = [
        {"name": "stage-1", "steps": 5, "step_seconds": 3600.0, "hours": 5.0},
        {"name": "stage-2", "steps": 5, "step_seconds": 720.0, "hours": 1.0},
    ]
    assert train.describe_estimate(recipe, Estimate((3600.0, 720.0), 7)) == {"stages": stages, "memory_bytes": 7}


@pytest.mark.usefixtures("training")
def test_the_demos_teacher_is_told(tmp_path: Path, told: Told) -> None:
    train.train(tmp_path / "a", {**JOB, "teacher": "demo"}, listener=told)
    assert told.notes[1:] == ["the teacher is the demo's, a small HuBERT that learnt from synthesised speech"]
