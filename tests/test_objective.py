from dataclasses import replace

import numpy as np
import pytest
import torch

from distillation.sources.codes import CodeSource
from distillation.sources.source import Targets
from distillation.sources.teacher import TeacherSource
from distillation.views import View
from nas.objective import ReadOutObjective
from nas.ridge import PENALTY, fit_ridge
from search_spaces.subnet import FrameGrid
from speech_data.batching import Batch
from speech_data.corpus import Utterance
from supernet.encoder import Encoder
from supernet.initialization import initialize
from supernet.model import Supernet, encoder_config
from tests.code_cases import changed, installed_elsewhere
from tests.nas_cases import SPACE

LENGTHS = (4000, 2700, 1500)
VIEW = View()
ROUNDING = 1e-4


def generator(seed):
    return torch.Generator().manual_seed(seed)


def encoder(seed, subnet=SPACE.container):
    """A random encoder that tells frames apart."""
    made = Encoder(encoder_config(SPACE.backbone, subnet))
    initialize(made, generator(seed))
    with torch.no_grad():
        for name, weight in made.named_parameters():
            if weight.dim() == 2:
                weight.normal_(0.0, weight.shape[1] ** -0.5, generator=generator(len(name)))
    return made


def batch(lengths=LENGTHS, seed=0, noise=0.0):
    wave = np.random.default_rng(seed).normal(size=(len(lengths), max(lengths))).astype(np.float32)
    for row, length in zip(wave, lengths, strict=True):
        row[length:] = 0
    noisy = wave + noise * wave**2
    utterances = tuple(Utterance(id=f"{seed}-{i}", speaker=None, num_samples=n) for i, n in enumerate(lengths))
    return Batch(noisy, wave, np.array(lengths), utterances, np.zeros(len(lengths), np.int64))


def split(whole):
    """The same utterances, each a batch of its own without padding."""
    return [
        Batch(
            whole.wave[i : i + 1, :n],
            whole.clean[i : i + 1, :n],
            np.array([n]),
            (whole.utterances[i],),
            np.zeros(1, np.int64),
        )
        for i, n in enumerate(whole.lengths)
    ]


def setting(normalization="none", space=SPACE):
    """(supernet, sources)."""
    supernet = Supernet(space, generator(0))
    supernet.load_encoder(dict(encoder(1).named_parameters()))
    return supernet, {"teacher": TeacherSource(encoder(2), ["hidden"], normalization)}


class Made:
    """A source of targets made of a batch's utterances: `make(utterance, frames)` gives (T, K), or codes (T,)."""

    reads = frozenset({"audio"})
    fingerprint = "made"

    def __init__(self, make, dim, grid=SPACE.backbone.grid):
        self.make, self.dims, self.grid, self.state = make, {"made": dim}, grid, {}

    def calibrate(self, batch, seen):
        pass

    def __call__(self, batch, seen):
        frames = self.grid.count(seen.target.shape[1])
        made = torch.stack([self.make(utterance, frames) for utterance in batch.utterances])
        return Targets({"made": [made]}, self.grid.rate_hz, None)


def many(count=12, length=4000):
    """Batches of four utterances."""
    return [batch((length,) * 4, seed=seed) for seed in range(count // 4)]


def states_of(supernet, subnet, batches):
    """The last state of each utterance, (T, d)."""
    with torch.no_grad():
        return [supernet(torch.from_numpy(x.wave), None, subnet).last[0] for b in batches for x in split(b)]


def test_equals_ridge_regression_by_the_book():
    """Of three layers the last two: least squares with a row for each weight, in numpy, on every second utterance."""
    supernet, _ = setting()
    teacher = encoder(2, replace(SPACE.container, layers=SPACE.container.layers[:1] * 3, kept=(0, 1, 2)))
    with torch.no_grad():
        teacher.encoder.layers[1].final_layer_norm.weight.mul_(3)  # that it is louder does not count
    sources = {"teacher": TeacherSource(teacher, ["hidden"], "none")}
    batches = [*many(8), batch((3000, 2000), seed=7)]
    score = ReadOutObjective(supernet, sources, batches, VIEW)(SPACE.smallest())
    states = [x.double().numpy() for x in states_of(supernet, SPACE.smallest(), batches)]
    layers = []
    for alone in [x for b in batches for x in split(b)]:
        made = sources["teacher"](alone, VIEW.draw(alone, SPACE.backbone.grid, torch.device("cpu"))).taps["hidden"]
        layers.append(torch.cat(made, 0).double().numpy())  # (L, T, K)
    every = np.concatenate(layers, 1)
    means = [((x - every.mean(1, keepdims=True)) / every.std(1, keepdims=True))[1:].mean(0) for x in layers]
    every = np.concatenate(means)
    targets = [(y - every.mean(0)) / every.std(0) for y in means]
    expected = np.zeros(len(states))
    for first in (0, 1):
        x, y = (np.concatenate(one[first::2]) for one in (states, targets))
        mean, std, centre = x.mean(0), x.std(0), y.mean(0)
        z = np.concatenate([(x - mean) / std, np.sqrt(PENALTY * len(x)) * np.eye(x.shape[1])])
        weight = np.linalg.lstsq(z, np.concatenate([y - centre, np.zeros((x.shape[1], y.shape[1]))]), rcond=None)[0]
        for i in range(1 - first, len(states), 2):
            expected[i] = np.square((states[i] - mean) / std @ weight + centre - targets[i]).mean()
    np.testing.assert_allclose(score.per_utterance, expected, rtol=ROUNDING)
    assert score.per_utterance.dtype == np.float32
    assert score.mean == pytest.approx(expected.mean(), rel=ROUNDING)


def test_what_a_state_says_outright_is_explained():
    """The score of a teacher that is a rotation of the subnet's own last state is 0; of noise, 1 or a little more."""
    supernet, _ = setting()
    batches = many(24)
    states = iter(states_of(supernet, SPACE.container, batches))
    turn = torch.linalg.qr(torch.randn(48, 48, generator=generator(4)))[0]
    said = {"own": Made(lambda *_: next(states) @ turn + 3, 48)}
    assert ReadOutObjective(supernet, said, batches, VIEW)(SPACE.container).mean < 0.02
    noise = generator(5)
    unsaid = {"noise": Made(lambda _, frames: torch.randn(frames, 48, generator=noise), 48)}
    assert 0.95 < ReadOutObjective(supernet, unsaid, batches, VIEW)(SPACE.smallest()).mean < 2


@pytest.mark.parametrize("conv_norm", ["layer", "group"])
def test_does_not_depend_on_how_utterances_are_batched(conv_norm):
    setup = setting(space=replace(SPACE, backbone=replace(SPACE.backbone, conv_norm=conv_norm)))
    together = ReadOutObjective(*setup, [batch(), batch((2000,), seed=1)], VIEW)(SPACE.smallest())
    apart = ReadOutObjective(*setup, [*split(batch()), batch((2000,), seed=1)], VIEW)(SPACE.smallest())
    np.testing.assert_allclose(together.per_utterance, apart.per_utterance, rtol=ROUNDING)
    assert len(together.per_utterance) == 4


def test_same_subnet_same_score():
    objective = ReadOutObjective(*setting(), [batch()], VIEW)
    first = objective(SPACE.container).per_utterance
    objective(SPACE.smallest())
    assert (objective(SPACE.container).per_utterance == first).all()


def test_a_lone_utterance_is_read_in_two_halves():
    score = ReadOutObjective(*setting(), [batch((8000,))], VIEW)(SPACE.smallest())
    assert score.per_utterance.shape == (1,)
    assert np.isfinite(score.per_utterance).all()
    assert not ReadOutObjective(*setting(), [batch((720,))], VIEW)(SPACE.smallest()).failed  # of a frame each
    with pytest.raises(ValueError, match="compared on two frames or more; the audio has 1"):
        ReadOutObjective(*setting(), [batch((400,))], VIEW)


def test_a_state_that_is_not_finite_is_a_failed_score():
    supernet, sources = setting()
    objective = ReadOutObjective(supernet, sources, [batch()], VIEW)
    with torch.no_grad():
        supernet.container.encoder.layer_norm.bias.fill_(float("inf"))
    assert objective(SPACE.container).failed


def test_a_channel_that_hardly_varies_says_nothing():
    """Neither of targets, where rounding would have a part in the score, nor of states, where it would be read."""
    supernet, _ = setting()

    def score(*deviations):
        noise = [generator(i) for i in range(len(deviations))]

        def make(_, frames):
            return torch.stack(
                [x * torch.randn(frames, generator=g) for x, g in zip(deviations, noise, strict=True)], 1
            )

        return ReadOutObjective(supernet, {"made": Made(make, len(deviations))}, many(8), VIEW)(SPACE.container).mean

    assert score(1.0, 5e-6) == score(1.0)
    assert score(1.0, 5e-5) != score(1.0)
    states = torch.randn(50, 3, generator=generator(0)) * torch.tensor([1.0, 1.0, 5e-6])
    read = fit_ridge(states, states.sum(1, keepdim=True))
    assert torch.equal(read(states), read(states + torch.tensor([0.0, 0.0, 1.0])))


def test_codes_are_read_class_by_class():
    """Classes that the state tells outright are explained, and the size of the code book does not matter."""
    supernet, _ = setting()
    batches = many(96)
    states = states_of(supernet, SPACE.container, batches)
    middle = torch.cat(states)[:, 0].median()
    signs = [(x[:, 0] > middle).long() for x in states]
    shares = []
    for dim in (2, 20):
        told = iter(signs)
        source = {"codes": Made(lambda *_, told=told: next(told), dim)}
        shares.append(ReadOutObjective(supernet, source, batches, VIEW)(SPACE.container).mean)
    assert shares[0] == pytest.approx(shares[1], rel=ROUNDING)
    assert shares[0] < 0.6


def test_says_whose_variance_it_is():
    supernet, sources = setting()
    made = {name: Made(lambda _, t: torch.arange(2.0 * t).view(t, 2), 2) for name in ("codes", "signal")}
    names = [ReadOutObjective(supernet, given, [batch()], VIEW).name for given in (sources, made)]
    assert names == [
        f"unexplained share of the {of} on search" for of in ("teacher's variance", "variance of codes + signal")
    ]


def test_sources_count_alike():
    """However many channels they have."""
    supernet, _ = setting()
    batches = many(8)

    def score(*names):
        noise = {name: generator(i) for i, name in enumerate(("few", "more"))}
        dims = {"few": 3, "more": 30}
        sources = {
            name: Made(lambda _, t, name=name: torch.randn(t, dims[name], generator=noise[name]), dims[name])
            for name in names
        }
        return ReadOutObjective(supernet, sources, batches, VIEW)(SPACE.container).per_utterance

    np.testing.assert_allclose(score("few", "more"), (score("few") + score("more")) / 2, rtol=ROUNDING)


def test_frames_of_another_rate_are_refused():
    supernet, _ = setting()
    slow = Made(lambda _, frames: torch.ones(frames, 2), 2, FrameGrid(640, 800))
    with pytest.raises(
        ValueError, match=r"`slow` makes 6 frames of 0\.25 s, and subnets of this supernet 12; they are"
    ):
        ReadOutObjective(supernet, {"slow": slow}, [batch()], VIEW)


def test_targets_that_never_vary_are_refused():
    supernet, _ = setting()
    dull = Made(lambda _, frames: torch.full((frames, 2), 3.0), 2)
    with pytest.raises(ValueError, match=r"`dull\.made` is the same in every frame"):
        ReadOutObjective(supernet, {"dull": dull}, [batch()], VIEW)


def test_view_says_who_hears_what():
    setup = setting()

    def score(student, target):
        view = View(student=student, target=target)
        return ReadOutObjective(*setup, [batch(noise=0.3)], view)(SPACE.container).per_utterance

    clean = ReadOutObjective(*setup, [batch()], VIEW)(SPACE.container).per_utterance
    assert (score("clean", "clean") == clean).all()
    assert (score("noisy", "clean") != clean).all()
    assert (score("clean", "noisy") != clean).all()


def test_a_subnet_of_another_space_is_refused():
    objective = ReadOutObjective(*setting(), [batch()], VIEW)
    with pytest.raises(ValueError, match="embed_dim=64 is not in the space"):
        objective(replace(SPACE.container, embed_dim=64))


def shift_weights(parts):
    parts[0].container.masked_spec_embed.add_(1)


def shift_teacher(parts):
    parts[1]["teacher"].teacher.encoder.layers[0].final_layer_norm.bias.add_(0.1)


def take_other_hidden_states(parts):
    parts[1]["teacher"].taps = ("ffn",)


def normalize_otherwise(parts):
    parts[1]["teacher"].normalization = "instance"


def normalize_waves_otherwise(parts):
    teacher = parts[1]["teacher"].teacher
    teacher.config = replace(teacher.config, normalize_waveform=not teacher.config.normalize_waveform)


def fingerprint(change=None, view=VIEW, batches=None):
    parts = setting()
    with torch.no_grad():
        if change:
            change(parts)
    return ReadOutObjective(*parts, batches or [batch()], view).fingerprint


def test_fingerprint_names_all_a_score_depends_on():
    same = fingerprint()
    assert fingerprint() == same
    changes = (shift_weights, shift_teacher, take_other_hidden_states, normalize_otherwise, normalize_waves_otherwise)
    others = [fingerprint(change) for change in changes]
    others += [fingerprint(batches=[batch(seed=1)]), fingerprint(batches=split(batch()))]
    views = [View(student=student, target=target) for student in ("noisy", "clean") for target in ("noisy", "clean")]
    others += [fingerprint(view=view, batches=[batch(noise=0.3)]) for view in views]
    others += [fingerprint(batches=[batch(noise=1)])]
    assert len({same, *others}) == 1 + len(others)


def test_noise_counts_by_its_level():
    whole = batch(noise=0.3)

    def at(factor):
        return fingerprint(batches=[replace(whole, wave=whole.clean + np.float32(factor) * (whole.wave - whole.clean))])

    assert at(1 + 1e-5) == at(1)
    factors = (0, 1e-3, 5e-3, 1, 10 ** (1.5 / 20), 2)
    assert len(set(map(at, factors))) == len(factors)


def test_codes_count():
    supernet, _ = setting()

    def of_codes(first):
        codes = {u.id: torch.arange(first, first + 20, dtype=torch.int16) for u in batch().utterances}
        sources = {"codes": CodeSource(codes, 40, SPACE.backbone.grid)}
        return ReadOutObjective(supernet, sources, [batch()], VIEW).fingerprint

    assert of_codes(0) == of_codes(0) != of_codes(1)


def test_how_a_machine_rounds_does_not_count(monkeypatch):
    parts, same = setting(), fingerprint()
    pick = TeacherSource._pick
    louder = lambda self, trace: {tap: [x * (1 + 1e-3) for x in xs] for tap, xs in pick(self, trace).items()}  # noqa: E731
    monkeypatch.setattr(TeacherSource, "_pick", louder)
    assert ReadOutObjective(*parts, [batch()], VIEW).fingerprint == same


@pytest.mark.parametrize(
    ("file", "counts"), [("supernet/model.py", True), ("nas/ridge.py", True), ("nas/record.py", False)]
)
def test_code_counts(tmp_path, file, counts):
    with installed_elsewhere(tmp_path):
        same = fingerprint()
        with changed(tmp_path / file, "\nimport ", "\nSHIFT = 1\nimport "):
            assert (fingerprint() != same) == counts


def test_a_feature_release_counts(monkeypatch):
    same = fingerprint()
    monkeypatch.setattr(torch, "__version__", "99.1.0")
    assert fingerprint() != same
