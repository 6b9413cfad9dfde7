"""What a run is made of: its job, what may change when it goes on, its teacher, its trainer, and its scorer."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from checkpoints.formats.hugging_face import TeacherError
from checkpoints.run_config import RunError
from checkpoints.run_folder import RunFolder
from checkpoints.saving import save_encoder
from checkpoints.supernet_files import SupernetRecord
from distillation.stages import CHANGEABLE
from nestling.workflows import jobs, training
from nestling.workflows.jobs import Job, describe_job, resume_job
from nestling.workflows.scoring import OBJECTIVES, check_objective, open_scorer
from nestling.workflows.training import build_trainer, resume_trainer
from search_spaces.errors import NestlingError
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from supernet.encoder import Encoder
from supernet.encoder_config import EncoderConfig
from supernet.initialization import initialize
from supernet.model import Supernet
from tests.training_cases import RECIPE, SPACE, Tones, make_teacher


class Recorded(Tones):
    synthesised = False


class Silent(Recorded):
    def utterances(self, split: str) -> Any:
        if split == "search":
            raise NestlingError("no such split")
        return super().utterances(split)


def ignore(_: str) -> None:
    pass


def refuse(text: str) -> None:
    pytest.fail(f"said {text!r}")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A space, recipes and a teacher."""
    root = tmp_path_factory.mktemp("jobs")
    (root / "handful.yaml").write_text(json.dumps(SPACE.to_dict()))
    (root / "recipe.yaml").write_text(RECIPE)
    (root / "alone.yaml").write_text("""
stages:
  - name: warm-up
    steps: 1
    batch_size: 2
    crop_seconds: 0.4
    sources:
      signal: {kind: signal}
    objective:
      - {source: signal, matching: front_end, distance: mse}
""")
    save_encoder(make_teacher(), root / "teacher")
    return root


def describe(folder: Path, recipe: str = "recipe", teacher: str | None = "teacher", **changes: Any) -> Job:
    options = {
        "command": "train supernet",
        "space": str(folder / "handful.yaml"),
        "teacher": teacher and str(folder / teacher),
        "audio": "demo",
        "config": str(folder / f"{recipe}.yaml"),
        "changes": None,
        "device": "cpu",
        "precision": "fp32",
        "seed": None,
    }
    return describe_job(**(options | changes))


def refusal(call: Callable[[], Any]) -> str:
    with pytest.raises(NestlingError) as caught:
        call()
    return str(caught.value)


# Jobs


def test_a_job_is_resolved_to_plain_values(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    job = describe(folder, seed=4, changes=["stage-1.steps=7"], teacher=None)
    assert json.loads(json.dumps(job)) == job
    assert job["teacher"] is None
    assert (job["recipe"]["seed"], job["recipe"]["stages"][0]["steps"]) == (4, 7)
    assert SearchSpace.from_dict(job["space"]) == SPACE
    assert describe(folder, teacher="teacher")["teacher"] == str(folder / "teacher")
    job = describe_job("x", "tiny", "teacher", "teacher", "demo", None, "cpu", "fp32", None)
    assert (job["teacher"], job["audio"]) == (str(folder / "teacher"), str(folder / "teacher"))


def test_a_job_for_what_is_not_there_is_refused(folder: Path) -> None:
    assert refusal(lambda: describe(folder, device="gpu")).startswith("cannot compute on 'gpu': ")
    assert refusal(lambda: describe(folder, precision="fp16")) == "--precision is fp32, bf16 or auto; got fp16"


def test_a_gpu_is_fast_in_bf16_where_it_does_not_emulate_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation=True: including_emulation)
    for present in (True, False):
        monkeypatch.setattr(torch.cuda, "is_available", lambda present=present: present)
        assert not jobs.is_bf16_fast("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda *_: True)
    assert not jobs.is_bf16_fast("cuda:1")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert jobs.is_bf16_fast("cuda:1")
    assert not jobs.is_bf16_fast("mps")


def test_a_run_that_goes_on_as_it_was_is_the_same_job(folder: Path) -> None:
    kept = describe(folder)
    assert resume_job(kept, {}, 5) == (kept, {})
    asked = {
        "space": str(folder / "handful.yaml"),
        "config": str(folder / "recipe.yaml"),
        "teacher": str(folder / "teacher"),
        "init": str(folder / "teacher"),
        "audio": "demo",
        "device": "cpu",
        "precision": "fp32",
        "seed": 0,
        "changes": [],
    }
    assert resume_job(kept, asked, 5) == (kept, {})


@pytest.mark.parametrize(
    ("asked", "step", "changed"),
    [
        ({"changes": ["stage-2.learning_rate=0.1"]}, 9, {"stage-2.learning_rate": [0.0005, 0.1]}),
        ({"changes": ["stage-1.batch_size=9"]}, 4, {"stage-1.batch_size": [3, 9]}),
        ({"changes": ["stage-2.batch_size=9"]}, 5, {"stage-2.batch_size": [3, 9]}),
        ({"changes": ["save_every=9"]}, 10, {"save_every": [2, 9]}),
        ({"precision": "bf16"}, 5, {"precision": ["fp32", "bf16"]}),
    ],
)
def test_what_may_change_is_told(folder: Path, asked: dict[str, Any], step: int, changed: dict[str, Any]) -> None:
    kept = describe(folder)
    kept["recipe"]["stages"][1]["learning_rate"] = 0.0005
    job, changes = resume_job(kept, asked, step)
    assert changes == changed
    assert json.loads(json.dumps(job)) == job
    assert job["precision"] == asked.get("precision", "fp32")
    assert resume_job(job, {}, step) == (job, {})


def test_audio_and_device_may_be_elsewhere(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    kept = describe(folder, audio="elsewhere") | {"device": "cuda:3"}
    job, changes = resume_job(kept, {"audio": "teacher", "device": "cpu"}, 5)
    assert (job["audio"], job["device"]) == (str(folder / "teacher"), "cpu")
    assert changes == {"audio": ["elsewhere", str(folder / "teacher")], "device": ["cuda:3", "cpu"]}


REST = "; leave them out or start another run. What may change: --device, --precision, and by --set " + ", ".join(
    CHANGEABLE
)


@pytest.mark.parametrize(
    ("asked", "step", "refused"),
    [
        ({"seed": 3}, 0, "--seed 3 (the run has 0)"),
        ({"space": "tiny"}, 0, "--space tiny (the run has handful)"),
        ({"teacher": "x"}, 0, "--teacher x (the run has TEACHER)"),
        ({"init": "x"}, 0, "--init x (the run has TEACHER)"),
        ({"changes": ["stage-2.steps=7"]}, 0, "--set stage-2.steps=7 (the run has 5)"),
        ({"changes": ["stage-1.batch_size=9"]}, 5, "--set stage-1.batch_size=9 (stage-1 is done)"),
        ({"changes": ["stage-2.batch_size=9"]}, 10, "--set stage-2.batch_size=9 (stage-2 is done)"),
        (
            {"seed": 3, "changes": ["stage-1.batch_size=9", "stage-2.batch_size=8"], "teacher": "x"},
            6,
            "--teacher x (the run has TEACHER), --seed 3 (the run has 0), --set stage-1.batch_size=9 (stage-1 is done)",
        ),
    ],
)
def test_what_may_not_change_is_listed(folder: Path, asked: dict[str, Any], step: int, refused: str) -> None:
    kept = describe(folder) | {"teacher": "TEACHER"}
    said = refusal(lambda: resume_job(kept, asked, step))
    assert said == f"a resumed run goes on as it began, which rules out {refused}{REST}"


def test_another_recipe_is_refused_and_the_same_with_changes_is_not(folder: Path) -> None:
    kept = describe(folder)
    said = refusal(lambda: resume_job(kept, {"config": "demo"}, 0))
    assert said.startswith("a resumed run goes on as it began, which rules out --config demo (the run differs in ")
    asked = {"config": str(folder / "recipe.yaml"), "changes": ["save_every=9"]}
    assert resume_job(kept, asked, 0)[1] == {"save_every": [2, 9]}


def test_a_device_that_is_none_is_refused_before_a_run_goes_on(folder: Path) -> None:
    assert refusal(lambda: resume_job(describe(folder), {"device": "gpu"}, 0)).startswith("cannot compute on 'gpu': ")


# Teachers


def find(monkeypatch: pytest.MonkeyPatch, name: str, kept: Job, **teacher: Any) -> str | None:
    """What `--teacher NAME` leads to."""
    loaded = SimpleNamespace(hash="abc", name="org/teacher", revision=None) if teacher else None
    monkeypatch.setattr(jobs, "load_teacher", lambda _: SimpleNamespace(**(vars(loaded) | teacher)))
    return jobs._find_same(name, kept)


@pytest.mark.parametrize("name", ["org/x@1a", "org/x"])
def test_a_teacher_is_the_same_by_its_name(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, name, {"teacher": "org/x@1a", "teacher_hash": "abc"}) == "org/x@1a"


def test_a_teacher_is_the_same_by_where_it_lies(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    kept = {"teacher": str(folder / "teacher"), "teacher_hash": "abc"}
    assert find(monkeypatch, "teacher", kept) == str(folder / "teacher")


def test_a_teacher_is_the_same_by_its_weights(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    kept = {"teacher": "gone", "teacher_hash": "abc"}
    assert find(monkeypatch, "teacher", kept, revision="1a") == "org/teacher@1a"
    assert find(monkeypatch, "teacher", kept, revision=None) == str(folder / "teacher")
    assert find(monkeypatch, "teacher", kept, hash="def") is None


def test_no_teacher_is_the_same_as_none_or_one_that_is_not_known(monkeypatch: pytest.MonkeyPatch) -> None:
    assert find(monkeypatch, "x", {"teacher": None, "teacher_hash": "abc"}) is None
    assert find(monkeypatch, "x", {"teacher": "y"}) is None
    assert find(monkeypatch, "x", {"teacher": "y", "teacher_hash": ""}) is None


@pytest.mark.parametrize("data", [{}, {"data": "d"}])
def test_a_teacher_that_is_recognised_is_silent(tmp_path: Path, data: Job) -> None:
    teacher: Any = SimpleNamespace(hash="abc")
    training._recognize(teacher, RunFolder(tmp_path), {"teacher": "x", "teacher_hash": "abc", **data}, refuse)
    with pytest.raises(RunError) as caught:
        training._recognize(teacher, RunFolder(tmp_path), {"teacher": "x", "teacher_hash": "def", **data}, refuse)
    assert str(caught.value) == (
        f"x is not the teacher that {tmp_path} was begun with: its shape and weights hash to abc, not def; "
        "put that one back, or start a new run"
    )


def test_an_older_run_did_not_keep_what_its_teacher_was(tmp_path: Path) -> None:
    teacher: Any = SimpleNamespace(hash="abc")
    training._recognize(teacher, RunFolder(tmp_path), {"teacher": "x"}, refuse)  # a run that begins
    said: list[str] = []
    training._recognize(teacher, RunFolder(tmp_path), {"teacher": "x", "data": "d"}, said.append)
    assert said == [f"{tmp_path} did not keep what its teacher was; whether x is still the same is not known"]


def test_a_teacher_that_has_moved_is_told_with_where_it_is_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    said = refusal(lambda: training._load_teacher(run, str(tmp_path / "gone")))
    assert "`teacher` in" not in said
    run.config_path.touch()
    with pytest.raises(TeacherError) as caught:
        training._load_teacher(run, str(tmp_path / "gone"))
    assert str(caught.value) == f"{said}; `teacher` in {run.config_path} names it: correct that if it has moved"


# Trainers


def test_a_trainer_comes_with_where_its_supernet_is_from(folder: Path, tmp_path: Path) -> None:
    trainer, record = build_trainer(RunFolder(tmp_path), describe(folder), Recorded(), ignore, refuse)
    teacher = training.load_teacher(str(folder / "teacher"))
    assert record == SupernetRecord("teacher", None, "0", None, teacher.hash)
    assert trainer.supernet.space == SPACE
    job = describe(folder) | {"teacher_hash": "0"}
    assert "is not the teacher that" in refusal(
        lambda: build_trainer(RunFolder(tmp_path), job, Recorded(), ignore, refuse)
    )


def test_a_trainer_needs_a_teacher_where_its_recipe_wants_one(folder: Path, tmp_path: Path) -> None:
    job = describe(folder, recipe="alone", teacher=None)
    _, record = build_trainer(RunFolder(tmp_path), job, Recorded(), ignore, refuse)
    assert record == SupernetRecord(data="0")
    job = describe(folder, teacher=None)
    said = refusal(lambda: build_trainer(RunFolder(tmp_path), job, Recorded(), ignore, refuse))
    assert "is a teacher, and none was given" in said


@pytest.mark.parametrize(
    ("source", "term", "problem"),
    [
        (
            {"kind": "labels"},
            {"matching": "labels", "distance": "ctc"},
            " reads labels, and tones has no timed phones; take audio that has",
        ),
        (
            {"kind": "codes", "num_codes": 73},
            {"matching": "codes", "distance": "cross_entropy"},
            ".num_codes is 73, and the audio that is trained on has 72 frames; give more audio, or take fewer codes",
        ),
        ({"kind": "codes", "num_codes": 72}, {"matching": "codes", "distance": "cross_entropy"}, None),
    ],
)
def test_what_the_audio_does_not_give_is_refused_before_any_stage(
    folder: Path, tmp_path: Path, source: dict[str, Any], term: dict[str, Any], problem: str | None
) -> None:
    """The last stage would only find out when it starts, hours into a run."""
    job = describe(folder, recipe="alone", teacher=None)
    first = job["recipe"]["stages"][0]
    last = first | {"name": "last", "sources": {"x": source}, "objective": [{"source": "x", **term}]}
    job = job | {"recipe": {"stages": [first, last]}}
    try:
        build_trainer(RunFolder(tmp_path), job, Recorded(), ignore)
    except NestlingError as error:
        said = str(error)
    else:
        said = None
    assert said == (problem and f"last.sources.x{problem}")


def test_an_utterance_without_labels_among_others_is_named(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = describe(folder, recipe="alone", teacher=None)
    term = {"source": "x", "matching": "labels", "distance": "ctc"}
    stage = job["recipe"]["stages"][0] | {"sources": {"x": {"kind": "labels"}}, "objective": [term]}
    job |= {"recipe": {"stages": [stage]}}
    build_trainer(RunFolder(tmp_path), job, Spoken(), ignore)
    monkeypatch.setattr(
        Spoken,
        "utterances",
        lambda self, split: [
            replace(utterance, phones=(("a", 0.0, 9.0),) if utterance.id != "2" else ())
            for utterance in Recorded.utterances(self, split)
        ],
    )
    try:
        build_trainer(RunFolder(tmp_path), job, Spoken(), ignore)
    except NestlingError as error:
        said = str(error)
    else:
        said = "nothing"
    assert said == "warm-up.sources.x reads labels, and 2 has none; leave it out"


def test_a_checkpoint_that_does_not_fit_is_blamed_on_its_folder(tmp_path: Path) -> None:
    def resume(state: Any) -> None:
        if state:
            raise NestlingError("of another space")

    trainer: Any = SimpleNamespace(resume=resume)
    resume_trainer(trainer, RunFolder(tmp_path), {})
    with pytest.raises(RunError) as caught:
        resume_trainer(trainer, RunFolder(tmp_path), {"step": 1})
    assert str(caught.value) == f"{tmp_path / 'state'}: of another space"


# Scorers


@pytest.mark.parametrize("name", OBJECTIVES)
def test_an_objective_is_known(name: str) -> None:
    check_objective(name)


@pytest.mark.parametrize(("name", "hint"), [("prox", "did you mean `proxy`? "), ("xyzzy", "")])
def test_an_objective_that_is_not_known_is_told_with_the_nearest(name: str, hint: str) -> None:
    assert refusal(lambda: check_objective(name)) == f"no objective `{name}`; {hint}there are {', '.join(OBJECTIVES)}"


def test_what_a_teacher_cannot_lend_is_said(folder: Path, tmp_path: Path) -> None:
    halved = replace(SPACE, backbone=replace(SPACE.backbone, head_dim=8, norm_first=True))
    (tmp_path / "halved.yaml").write_text(json.dumps(halved.to_dict()))
    said: list[str] = []
    build_trainer(
        RunFolder(tmp_path), describe(folder, space=str(tmp_path / "halved.yaml")), Recorded(), ignore, said.append
    )
    assert said == [
        "the teacher's head_dim is 16, and that of the space handful 8: attention starts from noise",
        "the teacher's norm_first is False, and that of the space handful True: every layer starts from noise",
    ]
    said.clear()
    shorter = replace(SPACE, backbone=replace(SPACE.backbone, pos_conv_kernel=8))
    (tmp_path / "shorter.yaml").write_text(json.dumps(shorter.to_dict()))
    build_trainer(
        RunFolder(tmp_path), describe(folder, space=str(tmp_path / "shorter.yaml")), Recorded(), ignore, said.append
    )
    kernel = "encoder.pos_conv_embed.conv.parametrizations.weight.original0"
    assert said == [f"nothing of the teacher fits {kernel} and 1 more: it starts from noise"]


@pytest.fixture
def trained(folder: Path, tmp_path: Path) -> RunFolder:
    """A run after a step; its supernet has other weights than its checkpoint."""
    job = describe(folder, recipe="alone", teacher=None)
    run = RunFolder.create(tmp_path / "run", {**job, "data": "0", "hours": 0.1}, seed=0)
    trainer, record = build_trainer(run, job, Recorded(), ignore)
    trainer.run()
    run.save_supernet(Supernet(SPACE, torch.Generator().manual_seed(7)), record)
    return run


def test_a_scorer_scores_the_runs_supernet(trained: RunFolder) -> None:
    scorer = open_scorer(trained, Recorded(), 2, "cpu", refuse)
    wanted = trained.load_supernet().state_dict()
    assert all(torch.equal(wanted[name], weight) for name, weight in scorer.supernet.state_dict().items())
    assert len(scorer(SPACE.container).per_utterance) == 2


def test_a_scorer_that_cannot_be_opened_says_why(trained: RunFolder) -> None:
    for objective in ("readout", "proxy"):
        said = refusal(lambda objective=objective: open_scorer(trained, Recorded(), 2, "gpu", ignore, objective))
        assert said.startswith("cannot compute on 'gpu': ")
    assert refusal(lambda: open_scorer(trained, Silent(), 2, "cpu", ignore)) == (
        "tones has no audio to compare subnets on; three files or more have some"
    )
    states = trained.state_path.rename(trained.path / "elsewhere")
    trained.state_path.mkdir()
    assert refusal(lambda: open_scorer(trained, Recorded(), 2, "cpu", ignore)) == (
        f"{trained.path} names no teacher, and has no checkpoint of warm-up that keeps what it learnt instead; "
        "train it first, or name a --teacher"
    )
    trained.state_path.rmdir()
    states.rename(trained.state_path)
    trained.amend({"space": SearchSpace.load("tiny").to_dict()}, {"step": 0, "command": "", "changes": {}})
    assert refusal(lambda: open_scorer(trained, Recorded(), 2, "cpu", ignore)) == (
        f"{trained.config_path}: `space` is not that of {trained.supernet_record_path}, which was trained"
    )


class Spoken(Recorded):
    phones = ("a", "sil")

    def utterances(self, split: str) -> Any:
        return [replace(utterance, phones=(("a", 0.0, 9.0),)) for utterance in super().utterances(split)]


def test_labels_rank_nothing(folder: Path, trained: RunFolder) -> None:
    stage = {**trained.config["recipe"]["stages"][0], "name": "spoken", "sources": {"said": {"kind": "labels"}}}
    stage["objective"] = [{"source": "said", "matching": "labels", "distance": "ctc"}]
    job = describe(folder, recipe="alone", teacher=None) | {"recipe": {"stages": [stage]}}
    run = RunFolder.create(trained.path / "spoken", {**job, "data": "0", "hours": 0.1}, seed=0)
    trainer, record = build_trainer(run, job, Spoken(), ignore)
    trainer.run()
    run.save_supernet(trainer.supernet, record)
    assert refusal(lambda: open_scorer(run, Spoken(), 2, "cpu", ignore)) == (
        f"{run.path} learnt from labels alone, which rank no subnets; name a --teacher"
    )
    assert len(
        open_scorer(run, Spoken(), 2, "cpu", ignore, teacher=str(folder / "teacher"))(SPACE.container).per_utterance
    )


@pytest.fixture
def taught(folder: Path, tmp_path: Path) -> RunFolder:
    """A run that learnt from a teacher in two steps."""
    job = describe(folder, changes=["stage-1.steps=1", "stage-2.steps=1"])
    run = RunFolder.create(tmp_path / "run", {**job, "data": "", "hours": 0.1}, seed=0)
    trainer, record = build_trainer(run, job, Recorded(), ignore)
    trainer.run()
    run.save_supernet(trainer.supernet, record)
    return run


def score(run: RunFolder, subnet: Subnet = SPACE.container, **options: Any) -> Any:
    return open_scorer(run, Recorded(), 4, "cpu", refuse, **options)(subnet).mean


def test_the_same_network_scores_the_same_whichever_layers_it_keeps(taught: RunFolder) -> None:
    """A top layer that changes nothing is kept or dropped: asked is the same."""
    supernet = taught.load_supernet()
    first, top = supernet.container.encoder.layers
    with torch.no_grad():
        for linear in (top.attention.out_proj, top.feed_forward.output_dense):
            linear.weight.zero_()
            linear.bias.zero_()
        for norm in (first.final_layer_norm, top.layer_norm, top.final_layer_norm):
            norm.weight.fill_(1)
            norm.bias.zero_()
    taught.save_supernet(supernet, SupernetRecord())
    kept, dropped = SPACE.container, replace(SPACE.container, layers=SPACE.container.layers[:1], kept=(0,))
    assert score(taught, dropped) == pytest.approx(score(taught, kept), rel=1e-3)


def test_a_run_is_scored_beside_a_teacher_that_it_never_met(taught: RunFolder, tmp_path: Path) -> None:
    """Heads that predict another teacher, of another width, are not asked."""
    own = score(taught)
    config = EncoderConfig((8,) * 7, 48, (3,), (48,), head_dim=16, pos_conv_kernel=16)
    wider = Encoder(config)
    initialize(wider, torch.Generator().manual_seed(3))
    save_encoder(wider, tmp_path / "wider")
    taught.amend({"teacher": str(tmp_path / "wider")}, {"step": 2, "command": "", "changes": {}})
    other = score(taught)
    scorers = [
        open_scorer(taught, Recorded(), 4, "cpu", refuse, teacher=given) for given in (None, str(tmp_path / "wider"))
    ]
    whose = ["the teacher's variance", "the variance of wider"]
    assert [scorer.name for scorer in scorers] == [f"unexplained share of {of} on search" for of in whose]
    assert scorers[0].fingerprint == scorers[1].fingerprint
    taught.amend({"teacher": None}, {"step": 2, "command": "", "changes": {}})
    assert own != other == score(taught, teacher=str(tmp_path / "wider"))


def test_no_checkpoint_is_needed_beside_a_teacher(taught: RunFolder) -> None:
    """An imported supernet has none."""
    wanted = score(taught)
    shutil.rmtree(taught.state_path)
    taught.state_path.mkdir()
    assert score(taught) == wanted


def test_terms_of_training_have_no_say(taught: RunFolder) -> None:
    wanted = score(taught)
    recipe = taught.config["recipe"]
    for term in recipe["stages"][-1]["objective"]:
        term["weight"] = 3.0
    recipe["stages"][-1]["sources"]["teacher"]["tap"] = "ffn"
    taught.amend({"recipe": recipe}, {"step": 2, "command": "", "changes": {}})
    assert score(taught) == wanted


def test_a_checkpoint_of_an_earlier_stage_has_not_what_the_last_learnt(trained: RunFolder) -> None:
    recipe = trained.config["recipe"]
    recipe["stages"].append({**recipe["stages"][0], "name": "more"})
    trained.amend({"recipe": recipe}, {"step": 1, "command": "", "changes": {}})
    assert "has no checkpoint of more that keeps" in refusal(lambda: score(trained))


@pytest.mark.parametrize(("objective", "teacher"), [("loss", None), ("phones", "demo")])
def test_an_objective_that_is_gone_or_reads_no_teacher_is_refused(objective: str, teacher: str | None) -> None:
    wanted = {
        "loss": "the objective `loss`, of trained heads, asked less of subnets that drop layers and is gone; take "
        "readout, the default",
        "phones": "--teacher is what readout predicts, and phones reads labels; leave out one of them",
    }
    assert refusal(lambda: check_objective(objective, teacher)) == wanted[objective]


def test_stages_hear_crops_of_their_own() -> None:
    """Each counts its steps from 0, and heard what the one before began with."""
    heard = {}
    for name in ("stage-1", "stage-2", "stage-1 again"):
        stage: Any = SimpleNamespace(name=name.removesuffix(" again"), batch_size=4, crop_seconds=0.2)
        batches = list(training.training_batches(Recorded(), seed=0)(stage, 0, 3))
        heard[name] = [(u.id, o) for b in batches for u, o in zip(b.utterances, b.offsets.tolist(), strict=True)]
    assert heard["stage-1"] == heard["stage-1 again"] != heard["stage-2"]


def test_crops_start_at_the_frames_of_the_space(folder: Path, tmp_path: Path) -> None:
    """So that codes of whole utterances fit them."""
    fine = replace(SPACE, backbone=replace(SPACE.backbone, conv_strides=(5, 2, 2, 2, 2, 2, 1)))
    (tmp_path / "fine.yaml").write_text(json.dumps(fine.to_dict()))
    job = describe(folder, recipe="alone", teacher=None, space=str(tmp_path / "fine.yaml"))
    trainer, _ = build_trainer(RunFolder(tmp_path), job, Recorded(), ignore)
    stage: Any = SimpleNamespace(name="any", batch_size=4, crop_seconds=0.2)
    offsets = {int(offset) for batch in trainer.batches(stage, 0, 3) for offset in batch.offsets}
    assert {offset % 160 for offset in offsets} == {0}
    assert {offset % 320 for offset in offsets} == {0, 160}
