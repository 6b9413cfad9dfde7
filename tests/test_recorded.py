"""Recorded corpora by name, on small packages that are laid out as the real ones: fetched, divided, opened, removed."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import defaultdict
from dataclasses import replace

import numpy as np
import pytest

from search_spaces.errors import FailedError, NestlingError
from search_spaces.files import is_unfinished
from speech_data.corpus import SPLITS
from speech_data.folder import open_folder
from speech_data.recorded import fetching
from speech_data.recorded.corpus import (
    RECORDINGS,
    SEAL,
    SOUNDS,
    check_fetched,
    check_teaches,
    folder_of,
    open_recorded,
    read_facts,
    remove_recorded,
)
from speech_data.recorded.fetching import fetch_recorded
from speech_data.recorded.layouts import LAYOUTS
from speech_data.recorded.table import CORPORA
from speech_data.splits import RECORDED_SHARES, normalise, place_of_name, split_at, split_of_recording
from tests.package_cases import NUM_SENTENCES, VOICES, know, look_alikes, make_deb, make_debs, ogg, sound

COUNTS = {"festvox-ru": NUM_SENTENCES, "asterisk": 65, "tuxpaint": 42, "ktuberling": 3, "klettres": 3}


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """A cache of its own, on a machine whose package manager knows nothing."""
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path / "cache"))
    tools = tmp_path / "bin"
    tools.mkdir()
    monkeypatch.setenv("PATH", f"{tools}{os.pathsep}{os.defpath}")
    say(tools, "E: Unable to locate package")
    return tmp_path / "cache"


def say(tools, complaint, code=100):
    """An apt-get that complains."""
    (tools / "apt-get").write_text(f"#!/bin/sh\necho 'W: a warning' >&2\necho \"{complaint}\" >&2\nexit {code}\n")
    (tools / "apt-get").chmod(0o755)


def fetch(monkeypatch, tmp_path, name, **rest):
    """A small corpus in the cache, and what was said."""
    if name == "asterisk":
        pytest.importorskip("av")
    know(monkeypatch, tmp_path, name, COUNTS[name])
    said = []
    return fetch_recorded(name, tmp_path / "known", say=said.append, **rest), said


def read_all(name):
    """Every utterance of a corpus by split, as an evaluation sees them."""
    corpus = open_recorded(name, allow_test=True, for_heads=True)
    return corpus, {split: corpus.utterances(split) for split in SPLITS if split in corpus._splits}


def test_every_corpus_has_a_layout_and_a_look_alike():
    assert set(LAYOUTS) == set(CORPORA) == set(COUNTS)
    assert set(look_alikes()) == {package.name for corpus in CORPORA.values() for package in corpus.packages}
    for name, corpus in CORPORA.items():
        assert name == corpus.name
        assert set(" ".join(corpus.licences.values()).split()) in (set(), set(corpus.languages))
        assert set(corpus.teaches or ()) <= set(corpus.languages)


# What is in it


def test_read_sentences_with_timed_phones(tmp_path, monkeypatch):
    facts, said = fetch(monkeypatch, tmp_path, "festvox-ru")
    assert (facts.num_recordings, facts.num_speakers, facts.skipped, said) == (NUM_SENTENCES, 1, (), [])
    assert facts.seconds == pytest.approx(0.3 * NUM_SENTENCES)
    corpus, splits = read_all("festvox-ru")
    assert (corpus.name, corpus.synthesised, corpus.skipped) == ("festvox-ru", False, ())
    assert corpus.phones == ("aa", "d", "sil")
    first = next(u for us in splits.values() for u in us if u.id == "wav/ru_0007.wav")
    assert (first.text, first.speaker, first.language) == ("Предложение номер 7, и точка.", "festvox-ru", "ru")
    assert first.phones == (("sil", 0.0, 0.05), ("d", 0.05, 0.15), ("aa", 0.15, 0.2), ("sil", 0.2, 0.3))
    assert facts.num_phones == 4 * NUM_SENTENCES
    np.testing.assert_allclose(corpus.read(first), 0.1 * np.random.default_rng(7).standard_normal(4800), atol=5e-5)


def test_prompts_are_decoded_and_tones_left_out(tmp_path, monkeypatch):
    facts, _ = fetch(monkeypatch, tmp_path, "asterisk")
    assert facts.num_recordings == 5 * 13
    corpus, splits = read_all("asterisk")
    said = {u.id: u for us in splits.values() for u in us}
    voice = VOICES["it"]
    prompt = said[f"{voice}/digits/3.flac"]
    assert (prompt.text, prompt.language, prompt.speaker, prompt.num_samples) == ("it 3.", "it", voice, 4800)
    assert said[f"{voice}/letters/a.flac"].text == "a"  # the list has it as A, with a note
    assert not [name for name in said if "beep" in name]
    assert np.abs(corpus.read(prompt)).max() > 0
    assert sorted(p.name for p in (folder_of("asterisk") / "licences").iterdir()) == sorted(
        package.name for package in CORPORA["asterisk"].packages
    )


def test_descriptions_in_several_languages(tmp_path, monkeypatch):
    facts, _ = fetch(monkeypatch, tmp_path, "tuxpaint")
    assert list(facts.languages) == ["en", "es", "fr", "pt_BR"]
    assert facts.skipped == (("animals/dog_desc_es.ogg", "holds the same audio as animals/cat0_desc_es.ogg"),)
    _, splits = read_all("tuxpaint")
    texts = {u.id: u.text for us in splits.values() for u in us}
    assert texts["animals/cat3_desc_es.ogg"] == "Un gato, 3."
    assert texts["animals/cat3_desc_fr.ogg"] == "Un chat, 3."
    assert texts["animals/cat0_desc.ogg"] == "A cat, 0."
    assert texts["animals/cat1_desc_pt_BR.wav"] is None
    kept = {path.name for path in folder_of("tuxpaint").rglob("*") if path.is_file()}
    assert kept == {*(name.rpartition("/")[2] for name in texts), SEAL, RECORDINGS, SOUNDS, "copyright"}


def test_things_and_letters(tmp_path, monkeypatch):
    fetch(monkeypatch, tmp_path, "ktuberling")
    _, splits = read_all("ktuberling")
    said = {u.id: (u.intent, u.text, u.language, u.speaker) for us in splits.values() for u in us}
    assert said == {
        "pt/bola.wav": ("ball", None, "pt", "ktuberling-pt"),
        "pt/x.opus": (None, None, "pt", "ktuberling-pt"),
        "sr@latin/lopta.ogg": ("ball", None, "sr", "ktuberling-sr"),
    }
    fetch(monkeypatch, tmp_path, "klettres")
    _, splits = read_all("klettres")
    texts = {u.id: u.text for us in splits.values() for u in us}
    assert texts == {"es/alpha/et.ogg": "&", "es/alpha/n.ogg": "Ñ", "es/alpha/other.ogg": None}


def test_copies_that_were_encoded_apart_count_once(tmp_path, monkeypatch):
    """Each Ogg file has a random number of its own; in real packages such copies would come into several splits."""
    know(monkeypatch, tmp_path, "klettres", 3)
    files = look_alikes()["klettres-data"]
    again = sound.__wrapped__(501, rate=44_100, kind="OGG")
    assert again != files["usr/share/klettres/es/alpha/n.ogg"]
    deb = make_deb(tmp_path / "a.deb", "klettres-data", "9", {**files, "usr/share/klettres/es/alpha/z.ogg": again})
    facts = fetch_recorded("klettres", deb)
    assert facts.skipped == (("es/alpha/z.ogg", "holds the same audio as es/alpha/n.ogg"),)


# One division for all


def test_no_sentence_and_no_audio_lies_in_two_splits(tmp_path, monkeypatch):
    """By hashes of what is heard and of what is said, over all corpora together."""
    pytest.importorskip("av")
    heard, said, sizes = defaultdict(set), defaultdict(set), defaultdict(int)
    for name in CORPORA:
        fetch(monkeypatch, tmp_path / name, name)
        corpus, splits = read_all(name)
        for split, utterances in splits.items():
            sizes[split] += len(utterances)
            for utterance in utterances:
                heard[corpus.read(utterance).tobytes()].add(split)
                if utterance.text:
                    said[normalise(utterance.text)].add(split)
        assert sum(map(len, splits.values())) == read_facts(name).num_recordings
    assert min(sizes[split] for split in SPLITS) > 0
    assert len(heard) == sum(sizes.values()) == sum(COUNTS.values())
    assert [places for places in (*heard.values(), *said.values()) if len(places) > 1] == []
    assert len(said) < sum(sizes.values())  # some sentences are said more than once


@pytest.mark.parametrize("same", ["Un gato, 3.", "un  GATO 3", "¡Un gato! (3)", "ＵＮ gato ３"])
def test_however_a_sentence_is_written_it_is_in_one_split(same):
    assert normalise(same) == "un gato 3"
    assert {split_of_recording(same, f"{i:064x}") for i in range(50)} == {split_of_recording("Un gato, 3.", "")}


def test_marks_belong_to_letters():
    assert normalise("കി കു") == "കി കു"
    assert normalise("- ?!") == ""


def test_what_is_not_written_down_goes_by_its_samples():
    contents = [f"{i * 0x10000000:064x}"[-64:] for i in range(16)] + [f"{i:08x}" + "0" * 56 for i in range(200)]
    assert len({split_of_recording(None, content) for content in contents}) == 4
    assert [split_of_recording("?!", c) for c in contents] == [split_of_recording(None, c) for c in contents]


def test_the_shares_are_those_that_were_said():
    counts = defaultdict(int)
    for i in range(4000):
        counts[split_of_recording(f"sentence {i}", "")] += 1
    for split, share in RECORDED_SHARES.items():
        assert counts[split] / 40 == pytest.approx(share, abs=2)
    assert split_of_recording("sentence 0", "") == split_at(place_of_name("sentence 0"), RECORDED_SHARES)


def test_the_test_split_is_for_evaluation(tmp_path, monkeypatch):
    fetch(monkeypatch, tmp_path, "festvox-ru")
    with pytest.raises(ValueError, match="the test split is read once"):
        open_recorded("festvox-ru").utterances("test")


def test_nothing_is_trained_on_what_is_for_evaluation_alone(tmp_path, monkeypatch):
    fetch(monkeypatch, tmp_path, "tuxpaint")
    corpus = open_recorded("tuxpaint")
    assert "train" not in corpus._splits
    assert corpus.utterances("search")
    assert len(open_recorded("tuxpaint", for_heads=True).utterances("train")) > 20
    with pytest.raises(
        NestlingError,
        match=r"nothing is trained on tuxpaint, .*; evaluate on it, and train on festvox-ru, asterisk",
    ):
        check_teaches("tuxpaint")
    for name in set(CORPORA) - {"tuxpaint"}:
        check_teaches(name)


def test_only_prompts_under_the_freer_licence_teach(tmp_path, monkeypatch):
    fetch(monkeypatch, tmp_path, "asterisk")
    own, heads = (open_recorded("asterisk", for_heads=both) for both in (False, True))
    assert {u.language for u in own.utterances("train")} == {"it", "ru"}
    assert {u.language for u in heads.utterances("train")} == set(VOICES)
    assert own.utterances("dev") == heads.utterances("dev")
    assert CORPORA["asterisk"].held_out == ("en", "fr", "es")


# Where it comes from


def test_what_is_in_the_cache_is_not_fetched_again(tmp_path, monkeypatch):
    facts, _ = fetch(monkeypatch, tmp_path, "klettres")
    monkeypatch.setattr(fetching, "_download", None)
    assert fetch_recorded("klettres") == facts == fetch_recorded("klettres", tmp_path / "nowhere")


def test_a_file_a_folder_and_what_they_unpack_to_are_the_same(tmp_path, monkeypatch):
    know(monkeypatch, tmp_path, "klettres", 3)
    (deb,) = (tmp_path / "known").glob("*.deb")
    root = tmp_path / "root"
    for name, content in look_alikes()["klettres-data"].items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    hashes, said = set(), []
    for source in (deb, tmp_path / "known", root):
        facts = fetch_recorded("klettres", source, say=said.append)
        hashes.add(
            (facts.files[RECORDINGS], facts.files[SOUNDS], open_recorded("klettres").hash, facts.origins[0].known)
        )
        remove_recorded("klettres")
    assert len(hashes) == 1
    assert said == []


def test_a_build_of_another_distribution_is_the_known_one(tmp_path, monkeypatch):
    know(monkeypatch, tmp_path, "klettres", 3)
    (deb,) = make_debs(tmp_path / "ubuntu", "klettres", version="4:23.08.5-0ubuntu1", suffix=".gz")
    said = []
    (origin,) = fetch_recorded("klettres", deb, say=said.append).origins
    assert (origin.version, origin.known, said) == ("4:23.08.5-0ubuntu1", True, [])


def test_another_version_is_taken_with_a_word_and_one_that_lacks_much_is_refused(tmp_path, monkeypatch):
    know(monkeypatch, tmp_path, "klettres", 3)
    files = look_alikes()["klettres-data"]
    more = {
        **files,
        "usr/share/klettres/es/alpha/z.ogg": look_alikes()["ktuberling-data"][
            "usr/share/ktuberling/sounds/sr@latin/lopta.ogg"
        ],
    }
    deb, said = make_deb(tmp_path / "new.deb", "klettres-data", "9", more), []
    assert fetch_recorded("klettres", deb, say=said.append).num_recordings == 4
    known = CORPORA["klettres"].packages[0].version
    assert said == [
        f"klettres-data 9 is not klettres-data {known}: 4 recordings where 3 are known; "
        "scores on the one say nothing of the other"
    ]
    remove_recorded("klettres")
    fewer = dict(list(files.items())[:-1])
    with pytest.raises(
        NestlingError, match=r"klettres-data 9: 2 recordings where 3 are known; it is damaged or not la"
    ):
        fetch_recorded("klettres", make_deb(tmp_path / "new.deb", "klettres-data", "9", fewer))
    assert read_facts("klettres") is None


def test_a_wrong_source_is_told(tmp_path, monkeypatch):
    know(monkeypatch, tmp_path, "klettres", 3)
    (other,) = make_debs(tmp_path / "other", "ktuberling")
    with pytest.raises(NestlingError, match=r"_all\.deb is ktuberling-data, not klettres-data"):
        fetch_recorded("klettres", other)
    with pytest.raises(
        NestlingError, match=r"--from .*nowhere does not exist; name a .deb with --from; known is klettre"
    ):
        fetch_recorded("klettres", tmp_path / "nowhere")
    with pytest.raises(
        NestlingError, match=r"other holds neither \.deb files of klettres nor what they unpack to \(usr/"
    ):
        fetch_recorded("klettres", tmp_path / "other")
    with pytest.raises(NestlingError, match="no recorded corpus is called kletres: did you mean `klettres`"):
        fetch_recorded("kletres")


def test_all_packages_of_a_corpus_are_wanted(tmp_path, monkeypatch):
    pytest.importorskip("av")
    know(monkeypatch, tmp_path, "asterisk", 65)
    debs = sorted((tmp_path / "known").glob("*.deb"))
    with pytest.raises(NestlingError, match="asterisk is in 10 packages: name the folder they are in"):
        fetch_recorded("asterisk", debs[0])
    debs[0].unlink()
    with pytest.raises(NestlingError, match=r"and lacks asterisk-core-sounds-en-g722 1\.6\.1-1; put those"):
        fetch_recorded("asterisk", tmp_path / "known")


def test_prompts_want_their_decoder(tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "find_spec", lambda _: None)
    with pytest.raises(NestlingError, match=r"asterisk takes PyAV to decode: pip install 'nestling\[recorded\]'"):
        fetch_recorded("asterisk", tmp_path)


# The machine's package manager

APT = """#!/bin/sh
[ "$1 $2" = "-qq download" ] || exit 9
echo "$3 $LC_ALL" >> {log}
case $3 in
{cases}
esac
"""


def serve(tmp_path, *cases):
    """An apt-get that does what it is told to for what it is asked."""
    tool = tmp_path / "bin" / "apt-get"
    tool.write_text(APT.format(log=tmp_path / "log", cases="\n".join(f"{asked}) {does};;" for asked, does in cases)))
    tool.chmod(0o755)


def test_apt_is_asked_for_the_known_version(tmp_path, monkeypatch, cache):
    know(monkeypatch, tmp_path, "klettres", 3)
    (deb,) = (tmp_path / "known").glob("*.deb")
    version, steps = CORPORA["klettres"].packages[0].version, []
    serve(tmp_path, (f"klettres-data={version}", f"cp {deb} ."))
    facts = fetch_recorded("klettres", on_progress=lambda *step: steps.append(step))
    assert facts.origins[0].known
    assert (tmp_path / "log").read_text() == f"klettres-data={version} C\n"
    assert {name for name, *_ in steps} == {"download klettres (MB)", "unpack klettres-data (MB)", "check klettres"}
    assert sorted(path.name for path in folder_of("klettres").iterdir()) == [SEAL, "es", "licences", RECORDINGS, SOUNDS]
    assert [path.name for path in (cache / "recorded").iterdir()] == ["klettres"]


def test_where_apt_has_another_version_that_is_taken(tmp_path, monkeypatch):
    know(monkeypatch, tmp_path, "klettres", 3)
    (deb,) = make_debs(tmp_path / "ubuntu", "klettres", version="9")
    gone = "echo \"E: Version '4' for 'klettres-data' was not found\" >&2; exit 100"
    serve(tmp_path, ("klettres-data=*", gone), ("klettres-data", f"cp {deb} ."))
    assert fetch_recorded("klettres").origins[0].version == "9"


WAY_OUT = "run `apt-get update`, or name a .deb with --from; known is klettres-data"
NO_NETWORK = "E: Failed to fetch pool/x.deb  Could not resolve host"


@pytest.mark.parametrize(
    ("complaint", "kind", "told"),
    [
        ("E: Unable to locate package x", NestlingError, f"apt-get knows no package klettres-data; {WAY_OUT}"),
        (
            NO_NETWORK,
            FailedError,
            f"apt-get could not download klettres-data ({NO_NETWORK}); check the connection, {WAY_OUT}",
        ),
        ("dpkg was interrupted", FailedError, "apt-get could not download klettres-data (it does not say why)"),
    ],
)
def test_what_apt_cannot_do_is_told_with_a_way_out(tmp_path, cache, complaint, kind, told):
    say(tmp_path / "bin", complaint)
    with pytest.raises(kind, match=re.escape(told)) as refused:
        fetch_recorded("klettres")
    assert type(refused.value) is kind
    assert list((cache / "recorded").iterdir()) == []


def test_without_apt_a_package_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(NestlingError, match=r"klettres is downloaded by apt-get, which is not here; name a \.deb with"):
        fetch_recorded("klettres")


FETCH = "import sys; from speech_data.recorded.fetching import fetch_recorded; fetch_recorded('klettres')"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_a_fetch_that_was_broken_off_begins_anew(tmp_path, monkeypatch, cache, number):
    know(monkeypatch, tmp_path, "klettres", 3)
    serve(tmp_path, ("*", f"echo part > part.deb; touch {tmp_path}/begun; exec sleep 60"))
    with subprocess.Popen([sys.executable, "-c", FETCH], stderr=subprocess.DEVNULL) as process:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.02)
        process.send_signal(number)
    assert read_facts("klettres") is None
    left = list((cache / "recorded").iterdir())
    assert all(map(is_unfinished, left))
    assert bool(left) == (number == signal.SIGKILL)
    (deb,) = (tmp_path / "known").glob("*.deb")
    serve(tmp_path, ("*", f"cp {deb} ."))
    assert fetch_recorded("klettres").num_recordings == 3
    assert [path.name for path in (cache / "recorded").iterdir()] == ["klettres"]


def test_two_at_once_are_one(tmp_path, monkeypatch):
    know(monkeypatch, tmp_path, "klettres", 3)
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(fetch_recorded("klettres", tmp_path / "known"))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 3
    assert open_recorded("klettres").skipped == ()


# In the cache


def test_what_is_not_in_the_cache_says_how_to_get_it():
    with pytest.raises(
        NestlingError, match=r"klettres is not in the cache; `nestling data get klettres` fetches it: 40"
    ):
        open_recorded("klettres")
    with pytest.raises(NestlingError, match=r"MB, CC BY-SA 3\.0 \(en fr es\); CC BY 3\.0 \(it ru\)"):
        check_fetched("asterisk")


def test_removing_leaves_nothing(tmp_path, monkeypatch, cache):
    facts, _ = fetch(monkeypatch, tmp_path, "klettres")
    assert remove_recorded("klettres") > facts.num_bytes
    assert list((cache / "recorded").iterdir()) == []
    with pytest.raises(NestlingError, match="klettres is not in the cache; `nestling data list`"):
        remove_recorded("klettres")


def test_damage_in_the_cache_is_noticed(tmp_path, monkeypatch):
    fetch(monkeypatch, tmp_path, "klettres")
    folder = folder_of("klettres")
    (folder / "es/alpha/n.ogg").write_bytes(b"no sound")
    (skipped,) = open_recorded("klettres").skipped
    assert skipped.path == "es/alpha/n.ogg"
    lines = (folder / RECORDINGS).read_text()
    (folder / RECORDINGS).write_text(lines.replace("Ñ", "N"))
    with pytest.raises(
        NestlingError, match=r"manifest\.jsonl is not what was fetched; `nestling data remove klettres`"
    ):
        open_recorded("klettres")
    (folder / SEAL).write_text(json.dumps({"name": "klettres"}))
    with pytest.raises(NestlingError, match=r"(?s)corpus\.json.*`nestling data remove klettres`, and get it again"):
        check_fetched("klettres")
    remove_recorded("klettres")


def test_opening_decodes_what_has_changed_and_nothing_else(tmp_path, monkeypatch):
    fetch(monkeypatch, tmp_path, "klettres")
    seen = []
    first = open_recorded("klettres", on_progress=lambda *step: seen.append(step))
    assert seen == []
    changed = folder_of("klettres") / "es/alpha/n.ogg"
    changed.write_bytes(ogg(600))
    assert open_recorded("klettres", on_progress=lambda *step: seen.append(step)).hash != first.hash
    assert seen == [(1, 1)]
    changed.unlink()
    (skipped,) = open_recorded("klettres").skipped
    assert (skipped.path, skipped.reason) == ("es/alpha/n.ogg", "does not exist")


def test_a_corpus_is_a_manifest_like_any_other(tmp_path, monkeypatch):
    fetch(monkeypatch, tmp_path, "festvox-ru")
    corpus = open_folder(folder_of("festvox-ru") / RECORDINGS)
    assert corpus.skipped == ()
    assert corpus.phones == open_recorded("festvox-ru").phones


def test_the_hash_is_of_what_is_heard_and_said(tmp_path, monkeypatch):
    fetch(monkeypatch, tmp_path, "klettres")
    first = open_recorded("klettres").hash
    assert open_recorded("klettres").hash == first
    monkeypatch.setitem(CORPORA, "klettres", replace(CORPORA["klettres"], teaches=()))
    remove_recorded("klettres")
    fetch_recorded("klettres", tmp_path / "known")
    assert open_recorded("klettres", for_heads=True).hash == first
