"""The stored corpus: what is read back, and what is refused."""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from search_spaces.strict_json import parse_json
from speech_data.corpus import Corpus, Utterance, cache_folder
from speech_data.shards import new_corpus, write_shard


@pytest.fixture
def folder(tmp_path):
    """A corpus of two train utterances and one test utterance."""
    shards = {"train": ["train-000"], "search": [], "dev": [], "test": ["test-000"]}
    manifest = {"name": "handmade", "hash": "abc", "phones": ["ah", "sil"], "shards": shards}
    (tmp_path / "corpus.json").write_text(json.dumps(manifest))
    for split, lengths in (("train", (5, 3)), ("test", (4,))):
        np.save(tmp_path / f"{split}-000.npy", np.arange(sum(lengths), dtype=np.int16) * 1000)
        lines = [json.dumps(Utterance(f"{split}-{i}", "voice", length).to_dict()) for i, length in enumerate(lengths)]
        (tmp_path / f"{split}-000.jsonl").write_text("\n".join(lines))
    return tmp_path


def test_each_utterance_reads_its_own_samples(folder):
    corpus = Corpus(folder)
    first, second = corpus.utterances("train")
    assert (corpus.name, corpus.hash, corpus.phones) == ("handmade", "abc", ("ah", "sil"))
    np.testing.assert_array_equal(corpus.read(first), np.float32([0, 1000, 2000, 3000, 4000]) / 32768)
    np.testing.assert_array_equal(corpus.read(second), np.float32([5000, 6000, 7000]) / 32768)
    assert corpus.read(first).dtype == np.float32


def test_test_split_is_refused_unless_the_corpus_is_opened_for_it(folder):
    with pytest.raises(ValueError, match="test split is read once, by evaluate"):
        Corpus(folder).utterances("test")
    assert [u.id for u in Corpus(folder, allow_test=True).utterances("test")] == ["test-0"]


def test_corpus_of_a_test_split_alone_can_neither_train_nor_choose(folder):
    manifest = json.loads((folder / "corpus.json").read_text())
    manifest["shards"] = {"test": ["test-000"]}
    (folder / "corpus.json").write_text(json.dumps(manifest))
    for split in ("train", "search", "dev"):
        with pytest.raises(ValueError, match=f"no split '{split}' in this corpus; it has test"):
            Corpus(folder, allow_test=True).utterances(split)
    with pytest.raises(ValueError, match="test split is read once, by evaluate"):
        Corpus(folder).utterances("test")


def test_audio_of_the_test_split_is_out_of_reach(folder):
    (held_out,) = Corpus(folder, allow_test=True).utterances("test")
    with pytest.raises(ValueError, match="'test-0' is not among the utterances read from handmade"):
        Corpus(folder).read(held_out)


def test_unknown_split_names_the_known_ones(folder):
    with pytest.raises(ValueError, match="no split 'valid' in this corpus; it has train, search, dev, test"):
        Corpus(folder).utterances("valid")


def test_folder_without_a_corpus_says_so(tmp_path):
    with pytest.raises(ValueError, match=r"corpus\.json: no such file or directory; delete the folder and synth"):
        Corpus(tmp_path / "nothing")


def test_missing_shard_is_named(folder):
    (folder / "train-000.npy").unlink()
    with pytest.raises(ValueError, match=r"train-000\.npy is missing"):
        Corpus(folder)


def test_utterance_survives_json():
    utterance = Utterance(
        id="a",
        speaker="b",
        num_samples=16_000,
        text="go on",
        phones=(("g", 0.0, 0.5), ("sil", 0.5, 1.0)),
        words=(("go", 0.0, 0.5),),
        intent="play_music",
        slots=(("room", "attic"),),
        style="slow",
    )
    assert parse_json(json.dumps(utterance.to_dict()), Utterance, "a line") == utterance
    assert utterance.seconds == 1.0


def test_cache_can_be_moved(monkeypatch, tmp_path):
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path
    monkeypatch.delenv("NESTLING_CACHE")
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    if sys.platform == "linux":
        assert cache_folder() == Path.home() / ".cache" / "nestling"
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "elsewhere"))
        assert cache_folder() == tmp_path / "elsewhere" / "nestling"


@pytest.mark.parametrize("name", ["train-000.npy", "train-000.jsonl"])
def test_a_corpus_that_is_not_what_was_synthesised_is_refused(tmp_path, name):
    samples = np.arange(-8000, 8000, dtype=np.int16)
    with new_corpus(tmp_path / "corpus", "x", {"train": ["train-000"]}, {}) as scratch:
        write_shard(scratch / "train-000", [(samples, Utterance("a", "voice", 16_000, text="go"))])
    intact = Corpus(tmp_path / "corpus")
    np.testing.assert_array_equal(intact.read(intact.utterances("train")[0]), samples / np.float32(32768))
    content = (tmp_path / "corpus" / name).read_bytes()
    changed = content.replace(b"go", b"no") if name.endswith("jsonl") else content[:9000] + b"?" + content[9001:]
    assert len(changed) == len(content)
    (tmp_path / "corpus" / name).write_bytes(changed)
    corpus = Corpus(tmp_path / "corpus")
    with pytest.raises(ValueError, match=rf"{name} is not what was synthesised; delete the folder"):
        corpus.read(corpus.utterances("train")[0])


def test_the_hash_of_a_corpus_is_that_of_its_files(tmp_path):
    def make(name, *samples):
        with new_corpus(tmp_path / name, "x", {"train": ["train-000"]}, {}) as scratch:
            write_shard(scratch / "train-000", [(np.int16(samples), Utterance("a", "voice", len(samples)))])
        return Corpus(tmp_path / name).hash

    assert make("one", 1, 2, 3) == make("two", 1, 2, 3) != make("three", 1, 2, 4)


@pytest.mark.parametrize(
    ("write", "message"),
    [
        (lambda path: np.save(path, np.zeros(8, np.float32)), "is not an array of 16-bit samples"),
        (lambda path: np.save(path, np.zeros((8, 1), np.int16)), "is not an array of 16-bit samples"),
        (lambda path: np.save(path, np.array([{}] * 8)), r"is damaged \(.*\)"),  # pickled
        (lambda path: write_zip(path, np.zeros(8, np.int16)), "is not an array of 16-bit samples"),
        (lambda path: path.write_bytes(b""), r"is damaged \(.*\)"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1]), r"is damaged \(.*\)"),
        (lambda path: np.save(path, np.zeros(7, np.int16)), "is shorter than its labels say"),
    ],
)
def test_a_shard_that_holds_no_samples_is_refused(folder, write, message):
    path = folder / "train-000.npy"
    write(path)
    corpus = Corpus(folder)
    last = corpus.utterances("train")[-1]
    again = "delete the folder and synthesise the corpus again"
    with pytest.raises(ValueError, match=rf"^{path} {message}; {again}$"):
        corpus.read(last)


def write_zip(path, samples):
    with path.open("wb") as file:
        np.savez(file, samples)


def test_shards_are_mapped_not_read(folder):
    corpus = Corpus(folder)
    corpus.read(corpus.utterances("train")[0])
    assert isinstance(corpus._audio["train-000"], np.memmap)


def test_a_damaged_label_is_named_by_its_line(folder):
    with (folder / "train-000.jsonl").open("a") as file:
        file.write("\n{")
    with pytest.raises(ValueError, match=r"train-000\.jsonl, line 3\b.*; delete the folder and synthesise the corpus"):
        Corpus(folder).utterances("train")


def test_another_format_is_refused(folder):
    path = folder / "corpus.json"
    manifest = json.loads(path.read_text())
    path.write_text(json.dumps(manifest | {"format": 1}))
    assert Corpus(folder).name == "handmade"
    path.write_text(json.dumps(manifest | {"format": 2}))
    with pytest.raises(ValueError, match=r"format is 2; this Nestling reads 1.*; delete the folder and synthesise"):
        Corpus(folder)


def test_synthesised_speech_is_said_to_be():
    assert Corpus.synthesised is True
