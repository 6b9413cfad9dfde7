import numpy as np
import pytest
import torch

from speech_tasks import proxy as proxy_module
from speech_tasks.distance_probes import average_precision, fit_voices, share_trial_errors
from speech_tasks.feature_store import FeatureStore
from speech_tasks.label_probes import fit_reader
from speech_tasks.metrics import equal_error_rate
from speech_tasks.phone_probe import fit_linear
from speech_tasks.proxy import PROBES, Proxy, ProxyScore, share_audio
from speech_tasks.task import Material
from tests.probe_cases import knowing, materials, say, talk
from tests.speech_cases import FakeCorpus, seeded


@pytest.fixture(scope="module")
def given():
    return materials()


@pytest.fixture(scope="module")
def proxy(given):
    return Proxy(given, tuple(PROBES))


@pytest.fixture(scope="module")
def scores(given, proxy):
    return {known: proxy.score(knowing(given, known)) for known in (0.0, 0.6, 0.8, 1.0)}


# What the probes find


@pytest.mark.parametrize("probe", PROBES)
def test_encoders_that_know_more_have_more_points(scores, probe):
    points = [score.by_probe[probe] for score in scores.values()]
    assert points == sorted(points)
    assert points[0] + 15 < points[-1]


def test_the_mean_ranks_them_too(scores):
    points = [score.points for score in scores.values()]
    assert points == sorted(points)
    assert len(set(points)) == len(points)


def test_an_encoder_that_knows_all_is_perfect_and_one_that_knows_nothing_is_at_chance(scores):
    perfect = dict(scores[1.0].by_probe)
    assert perfect.pop("words") > 80  # the words of one utterance share what is said of its speaker
    assert min(perfect.values()) > 97
    chance = {"phones": 1 / 9, "intent": 1 / 3, "keywords": 1 / 3, "speakers": 1 / 8, "verification": 1 / 2}
    for probe, share in chance.items():
        assert scores[0.0].by_probe[probe] == pytest.approx(100 * share, abs=22)


def test_one_good_hidden_state_among_many_is_found(given):
    proxy = Proxy(given, tuple(PROBES))
    points = proxy.score(knowing(given, 1.0, num_layers=5)).by_probe
    assert min(points.values()) > 80, points


def test_scores_are_the_same_every_time(given, scores):
    again = Proxy(materials(), tuple(PROBES)).score(knowing(given, 0.6))
    for name, errors in scores[0.6].errors.items():
        assert (again.errors[name] == errors).all()


# What a score is made of


def test_errors_of_every_clip_have_the_points_as_their_mean(proxy, scores):
    for score in scores.values():
        assert len(score.per_utterance) == proxy.num_scores
        assert 100 - 100 * score.per_utterance.mean() == pytest.approx(score.points)
        assert score.seconds > 0


def test_shared_hidden_states_are_paid_for_once():
    spent = {"a": {"hidden states of x": 5.0, "a": 1.0}, "b": {"hidden states of x": 5.0, "b": 2.0}}
    assert ProxyScore({}, spent).seconds == 8.0


def test_the_cost_of_hidden_states_is_divided_by_who_asks_for_them(given, scores):
    spent = scores[1.0].spent
    assert set(spent["speakers"]) >= {"speakers", "voices for speakers and verification", "voices for speakers"}
    assert "voices for speakers" not in spent["verification"]
    alone = Proxy(given, ("verification",)).score(knowing(given, 1.0)).spent
    assert set(alone["verification"]) == {"verification", "voices for verification"}
    make = PROBES["verification"][0], PROBES["speakers"][0]
    shares = share_audio([one(given["voices"], 1.0) for one in make])
    assert sum(shares.values()) == pytest.approx(1)
    assert set(shares) == {("verification",), ("speakers",), ("verification", "speakers")}


def test_the_fingerprint_names_probes_and_clips(given):
    def fingerprint(share=1, probes=("phones",), scale=1.0):
        return Proxy(materials(share), probes, scale=scale).fingerprint

    assert fingerprint() == Proxy(given, ("phones",)).fingerprint
    assert len({fingerprint(), fingerprint(share=2), fingerprint(probes=("words",)), fingerprint(scale=0.1)}) == 4


def test_scale_takes_fewer_clips(given):
    whole, part = (Proxy(given, tuple(PROBES), scale=scale) for scale in (1.0, 0.1))
    assert part.num_scores < whole.num_scores / 2
    assert part.seconds_heard < whole.seconds_heard


# What it may read


class Closed(FakeCorpus):
    """A corpus that only knows the splits a proxy may read."""

    def utterances(self, split):
        assert split in ("train", "search"), split
        return super().utterances(split)


def test_only_train_and_search_are_read(given):
    closed = {name: Material(Closed(m.corpus.splits, name, name), "clean") for name, m in given.items()}
    Proxy(closed, tuple(PROBES)).score(knowing(given, 0.5))


@pytest.mark.parametrize("split", ["dev", "test"])
def test_a_probe_that_asked_for_another_split_would_be_refused(monkeypatch, given, split):
    monkeypatch.setitem(PROBES, "words", (lambda material, _: material.clips(split), "sentences"))
    with pytest.raises(ValueError, match=f"must not read '{split}'"):
        Proxy(given, ("words",))


def test_renditions_are_made_once(given):
    corpus = given["keywords"].corpus
    proxy = Proxy({"keywords": Material(corpus, "noisy")}, ("keywords",))
    corpus.reads.clear()
    for _ in range(2):
        proxy.score(lambda wave, _: [wave[:, 80:].unfold(1, 320, 320)])
    assert len(corpus.reads) == len(set(corpus.reads)) > 0


# Messages


@pytest.mark.parametrize(
    ("probes", "message"),
    [
        (("phnoes",), "no probe `phnoes`; did you mean `phones`"),
        ((), "one probe or more of phones, words"),
        (("speakers",), "read voices too; give that material"),
    ],
)
def test_wrong_names_are_explained(given, probes, message):
    with pytest.raises(ValueError, match=message):
        Proxy({"sentences": given["sentences"]}, probes)


def corpus_of(train, search):
    return {
        name: Material(FakeCorpus({"train": train, "search": search}), "clean")
        for name in ("sentences", "commands", "voices")
    }


@pytest.mark.parametrize(
    ("probe", "train", "search", "message"),
    [
        ("intent", [say("a", ["window"], "s", None)], [], "a has no label for the probe `intent`"),
        ("intent", [say("a", ["window"], "s", "x")], [], "two labels in `train` and a clip of `search`; got 1 and 0"),
        ("phones", [say("a", [], "s", None)], [], "a is all silence"),
        ("words", [say("a", ["window"], "s", None)], [], "timed words that two speakers say; 1 clips have none"),
        ("verification", talk("t", ["a", "b"], 4, 1, 0), talk("s", ["c"], 4, 1, 1), "4 voices and two clips of each"),
    ],
)
def test_a_corpus_without_what_a_probe_wants_is_refused(probe, train, search, message):
    with pytest.raises(ValueError, match=message):
        Proxy(corpus_of(train, search), (probe,))


# The pieces, against other ways to compute them


def test_a_reader_of_one_layer_is_a_linear_probe():
    x, labels = torch.randn(200, 1, 6, generator=seeded(0)), torch.arange(200) % 3
    x[:, 0, 0] += labels
    ours, theirs = fit_reader(x, labels, 3, 1e-4), fit_linear(x[:, 0], labels, 3)
    torch.testing.assert_close(ours(x).softmax(1), theirs(x[:, 0]).softmax(1), atol=0.02, rtol=0)


def test_a_reader_gives_its_weight_to_the_layer_that_knows():
    labels = torch.arange(300) % 3
    x = torch.randn(300, 4, 8, generator=seeded(1))
    x[:, 2] += 2 * torch.nn.functional.one_hot(labels, 8)
    read = fit_reader(x, labels, 3, 1e-3)
    share = read.scale.norm(dim=1) / read.scale.norm(dim=1).sum()
    assert int(share.argmax()) == 2
    assert share[2] > 0.6


def test_voices_are_compared_after_whitening():
    voices = torch.arange(60) % 6
    x = torch.randn(60, 5, generator=seeded(2)) @ torch.diag(torch.tensor([4.0, 1, 1, 1, 0.2])) + voices[:, None]
    z = (x - x.mean(0)) / x.std(0)
    residuals = torch.cat([z[voices == v] - z[voices == v].mean(0) for v in range(6)])
    within = residuals.T @ residuals / 60
    shrunk = 0.7 * within + 0.3 * within.trace() / 5 * torch.eye(5)
    values, vectors = torch.linalg.eigh(shrunk)
    white = torch.nn.functional.normalize(z @ vectors @ torch.diag(values.rsqrt()), dim=1)
    torch.testing.assert_close(fit_voices(x, voices)(x, 0.3), white @ white.T, atol=1e-4, rtol=0)


def test_errors_of_clips_add_up_to_the_equal_error_rate():
    rng = np.random.default_rng(3)
    voices = np.arange(60) % 12
    noise = rng.normal(size=(60, 60))
    scores = (voices[:, None] == voices) + (noise + noise.T) / 2
    errors = share_trial_errors(scores, voices)
    rows, columns = np.triu_indices(60, 1)
    expected = equal_error_rate(scores[rows, columns], (voices[:, None] == voices)[rows, columns])
    assert errors.mean() == pytest.approx(expected, abs=0.01)
    assert (errors >= 0).all()


def test_average_precision_by_hand():
    scores = np.array([[9.0, 3.0, 2.0, 1.0]])
    relevant, others = np.array([[False, True, False, True]]), np.array([[False, True, True, True]])
    assert average_precision(scores, relevant, others)[0] == pytest.approx((1 / 1 + 2 / 3) / 2)


def test_every_probe_asks_only_for_its_clips(given):
    encode = knowing(given, 0.5)
    for name, (make, material) in PROBES.items():
        probe = make(given[material], 0.5)
        with FeatureStore(encode, probe.clips) as store:
            errors = probe.errors(store)
        assert errors.shape == (len(probe.scored),), name
        assert {clip.utterance.id.partition("-")[0] for clip in probe.scored} == {"search"}


def test_the_default_mix_is_of_probes():
    assert proxy_module.find_probes(proxy_module.DEFAULT_MIX) == proxy_module.DEFAULT_MIX
