"""`nestling data`, and `--audio NAME`: what is said, what is refused, what is completed."""

import pytest
import typer

import cli
from checkpoints.run_folder import RunFolder
from nestling.workflows.audio import check_audio, check_teaching, open_audio
from nestling.workflows.doctor import examine
from nestling.workflows.train import estimate, train
from search_spaces.errors import NestlingError
from speech_data.names import NAMES
from speech_data.recorded.corpus import folder_of
from speech_data.recorded.table import CORPORA
from tests.package_cases import know
from tests.shell import Shell
from tests.test_workflows import JOB, Told


@pytest.fixture
def nestling(tmp_path, monkeypatch):
    """A shell with an empty cache, on a machine without a package manager; the small packages are the known ones."""
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PATH", str(tmp_path))
    know(monkeypatch, tmp_path, "klettres", 3)
    know(monkeypatch, tmp_path, "tuxpaint", 42)
    return Shell(tmp_path)


def test_all_that_has_a_name_is_listed(nestling):
    rows = nestling.done("data list --format json").json
    assert [row["name"] for row in rows] == list(CORPORA)
    prompts = rows[1]
    assert prompts["licences"] == {"CC BY-SA 3.0": ["en", "fr", "es"], "CC BY 3.0": ["it", "ru"]}
    assert (prompts["fetched"], prompts["bytes"], prompts["evaluation_alone"]) == (False, None, ["en", "fr", "es"])
    assert prompts["hours"] == CORPORA["asterisk"].hours
    said = nestling.done("data list").out
    for words in (*CORPORA, "CC BY-SA 3.0", "en* fr* es* it ru", "GPL-2+", "BSD-like", "2.08"):
        assert words in " ".join(said.split()), words


def test_a_corpus_comes_and_goes(nestling):
    said = nestling.done("data get klettres --from known")
    assert said.out.startswith("klettres: 3 recordings, 0.00 hours, 1 language, 0 MB; licence: GPL-2+.\n")
    assert "Next: nestling train supernet --audio klettres" in said.out
    assert "was in the cache already" in nestling.done("data get klettres").err
    row = nestling.done("data get klettres --format json").json
    assert (row["fetched"], row["recordings"], row["languages"]) == (True, 3, ["es"])
    assert row["folder"] == str(folder_of("klettres"))
    assert next(r for r in nestling.done("data list --format json").json if r["name"] == "klettres") == row
    removed = nestling.done("data remove klettres --format json").json
    assert removed["freed_bytes"] >= row["bytes"]
    assert not folder_of("klettres").exists()
    refused = nestling("data remove klettres")
    assert (refused.code, refused.err) == (
        2,
        "error: klettres is not in the cache; `nestling data list` tells what is\n",
    )


def test_what_is_for_evaluation_alone_is_not_recommended_for_training(nestling):
    said = nestling.done("data get tuxpaint --from known")
    assert "Next" not in said.out
    assert "files left out: 1, such as animals/dog_desc_es.ogg: holds the same audio as animals/cat0" in said.err


def test_what_cannot_be_got_says_what_to_do(nestling):
    refused = nestling("data get klettres")
    assert refused.code == 2
    assert "klettres is downloaded by apt-get, which is not here; name a .deb with --from" in refused.err
    assert "did you mean `tuxpaint`?" in nestling("data get tuxpain").err


def test_a_damaged_corpus_is_told_of_beside_the_others(nestling):
    nestling.done("data get klettres --from known")
    (folder_of("klettres") / "corpus.json").write_text("{}")
    said = nestling.done("data list --format json")
    assert [row["name"] for row in said.json] == [name for name in CORPORA if name != "klettres"]
    assert "`nestling data remove klettres`, and get it again" in said.err


def test_names_are_completed():
    command = typer.main.get_command(cli.app)
    context = typer.Context(command)
    for words in (("data", "get"), ("data", "remove")):
        (name, *_) = command.commands[words[0]].commands[words[1]].params
        assert [item.value for item in name.shell_complete(context, "k")] == ["ktuberling", "klettres"]
    audio = next(p for p in command.commands["train"].commands["supernet"].params if p.name == "audio")
    assert [item.value for item in audio.shell_complete(context, "f")] == ["festvox-ru"]


def test_a_name_is_audio_for_whoever_takes_audio(nestling):
    with pytest.raises(NestlingError, match="klettres is not in the cache; `nestling data get klettres` fetches it"):
        open_audio("klettres")
    with pytest.raises(NestlingError, match="klettres is not in the cache"):
        check_audio("klettres")
    nestling.done("data get klettres --from known")
    (nestling.folder / "klettres").mkdir()  # a folder of that name is not it
    told = Told()
    corpus = open_audio("klettres", told)
    assert (corpus.name, corpus.synthesised) == ("klettres", False)
    assert told.notes == ["klettres: 0.00 hours kept, 0 files skipped"]
    check_audio("klettres")
    assert set(CORPORA) < set(NAMES)


def test_a_corpus_is_not_opened_as_a_mere_folder(nestling):
    """It would be divided anew, and what is for evaluation alone would teach."""
    nestling.done("data get tuxpaint --from known")
    for path in (folder_of("tuxpaint"), folder_of("tuxpaint") / "animals", folder_of("tuxpaint") / "manifest.jsonl"):
        for opening in (open_audio, check_audio):
            with pytest.raises(NestlingError, match="is where recorded corpora are kept: take --audio tuxpaint, which"):
                opening(str(path))


def test_nothing_is_trained_on_what_is_for_evaluation_alone(nestling):
    nestling.done("data get tuxpaint --from known")
    told = Told()
    assert open_audio("tuxpaint", told).utterances("search")
    assert told.notes[-1].startswith("tuxpaint: nothing is trained on ")
    job = {**JOB, "audio": "tuxpaint"}
    for begin in (
        lambda: train(nestling.folder / "run", job),
        lambda: estimate(job),
        lambda: check_teaching("tuxpaint"),
    ):
        with pytest.raises(
            NestlingError, match="nothing is trained on tuxpaint, so that what is scored on it is heard"
        ):
            begin()
    assert not RunFolder(nestling.folder / "run").path.exists()
    refused = nestling("train supernet --space tiny --audio tuxpaint --run runs/a --dry-run")
    assert (refused.code, refused.out) == (2, "")
    assert "nothing is trained on tuxpaint" in refused.err


def test_the_doctor_tells_what_is_there(nestling):
    def told():
        return next(finding for finding in examine(nestling.folder) if finding.name == "recorded")

    assert (told().value, told().remedy) == ([], "")
    nestling.done("data get klettres --from known")
    assert (told().value, told().said) == (["klettres"], "klettres")
