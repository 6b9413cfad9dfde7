"""The recorded corpora as they are packaged: fetched by apt-get, half a gigabyte in all. Off by default."""

import shutil
from collections import defaultdict

import numpy as np
import pytest

from search_spaces.errors import FailedError
from speech_data.corpus import SPLITS
from speech_data.recorded.corpus import folder_of, open_recorded
from speech_data.recorded.fetching import fetch_recorded
from speech_data.recorded.table import CORPORA
from speech_data.splits import normalise


@pytest.mark.slow
def test_the_packages_are_what_the_table_says_and_divided_once(tmp_path, monkeypatch):
    pytest.importorskip("av")
    if shutil.which("apt-get") is None:
        pytest.skip("apt-get is not here")
    monkeypatch.setenv("NESTLING_CACHE", str(tmp_path))
    places, num_heard = defaultdict(set), 0
    for name, corpus in CORPORA.items():
        try:
            facts = fetch_recorded(name)
        except FailedError as error:
            pytest.skip(str(error))
        assert all(origin.known for origin in facts.origins)
        assert (facts.num_recordings, facts.num_phones) == (corpus.num_recordings, corpus.num_phones)
        assert facts.num_speakers == corpus.num_speakers
        assert tuple(sorted(facts.languages)) == tuple(sorted(corpus.languages))
        assert facts.seconds / 3600 == pytest.approx(corpus.hours, abs=0.006)
        opened = open_recorded(name, allow_test=True, for_heads=True)
        assert opened.skipped == ()
        for split in SPLITS:
            utterances = opened.utterances(split)
            assert len(utterances) > 0.07 * facts.num_recordings
            for utterance in utterances:
                samples = opened.read(utterance)
                places[np.round(32767 * samples).astype("<i2").tobytes()].add(split)
                if utterance.text and (sentence := normalise(utterance.text)):
                    places[sentence].add(split)
        num_heard += facts.num_recordings
        print(name, facts.num_recordings, f"{facts.seconds / 3600:.3f} h", facts.num_bytes, facts.languages)  # noqa: T201
        shutil.rmtree(folder_of(name))
    assert [found for found in places.values() if len(found) > 1] == []
    assert sum(isinstance(key, bytes) for key in places) == num_heard
