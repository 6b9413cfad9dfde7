from dataclasses import replace

import numpy as np
import pytest
import torch

from distillation.objective import Objective
from distillation.sources.codes import CodeSource
from distillation.sources.teacher import TeacherSource
from distillation.terms import Term
from distillation.views import View
from nas.objective import DistillationObjective
from speech_data.batching import Batch
from speech_data.corpus import Utterance
from supernet.encoder import Encoder
from supernet.initialization import initialize
from supernet.model import Supernet, encoder_config
from tests.code_cases import changed, installed_elsewhere
from tests.nas_cases import SPACE

LENGTHS = (4000, 2700, 1500)
TERMS = (
    Term(source="teacher", matching="mean", distance="l1"),
    Term(source="teacher", matching="layers", distance="cosine", weight=0.5),
)
VIEW = View()
HALF = 1e-3  # targets are kept in half precision


def generator(seed):
    return torch.Generator().manual_seed(seed)


def encoder(seed):
    """A random encoder that tells frames apart."""
    made = Encoder(encoder_config(SPACE.backbone, SPACE.container))
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


def setting(terms=TERMS):
    """(supernet, objective with heads, sources)."""
    supernet = Supernet(SPACE, generator(0))
    supernet.load_encoder(dict(encoder(1).named_parameters()))
    source = TeacherSource(encoder(2), ["hidden"], "channel")
    source.calibrate(VIEW.draw(batch(seed=9), SPACE.backbone.grid, torch.device("cpu")))
    sources = {"teacher": source}
    return (
        supernet,
        Objective(terms, sources, SPACE.container, SPACE.backbone.pos_conv_groups, generator(3)),
        sources,
    )


@pytest.mark.parametrize("subnet", [SPACE.container, SPACE.smallest()])
def test_equals_the_training_loss_on_each_utterance(subnet):
    supernet, objective, sources = setting()
    score = DistillationObjective(supernet, objective, sources, [batch()], VIEW)(subnet)
    assert score.per_utterance.dtype == np.float32
    for loss, alone in zip(score.per_utterance, split(batch()), strict=True):
        wave = torch.from_numpy(alone.wave)
        with torch.no_grad():
            trace = supernet(wave, None, subnet, objective.taps)
            targets = sources["teacher"](alone, VIEW.draw(alone, SPACE.backbone.grid, torch.device("cpu")))
            expected = objective.weigh(objective(trace, {"teacher": targets}, subnet, None))
        assert loss == pytest.approx(expected.item(), rel=HALF)
    assert score.mean == pytest.approx(score.per_utterance.mean())


def test_does_not_depend_on_how_utterances_are_batched():
    setup = setting()
    together = DistillationObjective(*setup, [batch(), batch((2000,), seed=1)], VIEW)(SPACE.smallest())
    apart = DistillationObjective(*setup, [*split(batch()), batch((2000,), seed=1)], VIEW)(SPACE.smallest())
    np.testing.assert_allclose(together.per_utterance, apart.per_utterance, rtol=HALF)
    assert len(together.per_utterance) == 4


def test_same_subnet_same_score():
    objective = DistillationObjective(*setting(), [batch()], VIEW)
    first = objective(SPACE.container).per_utterance
    objective(SPACE.smallest())
    assert (objective(SPACE.container).per_utterance == first).all()


def test_terms_on_masked_frames_count_all_frames():
    all_frames, masked = (
        DistillationObjective(
            *setting((Term(source="teacher", matching="mean", distance="l1", frames=frames),)),
            [batch()],
            View(),
        )(SPACE.container)
        for frames in ("all", "masked")
    )
    assert (masked.per_utterance == all_frames.per_utterance).all()
    assert (all_frames.per_utterance > 0).all()


def test_training_objective_is_left_alone():
    supernet, objective, sources = setting((Term(source="teacher", matching="mean", distance="l1", frames="masked"),))
    DistillationObjective(supernet, objective, sources, [batch()], VIEW)
    assert objective.terms[0].frames == "masked"


def test_codes_are_kept_whole():
    supernet = setting()[0]
    codes = {u.id: torch.arange(20, dtype=torch.int16) for u in batch().utterances}
    sources = {"codes": CodeSource(codes, 20, SPACE.backbone.grid)}
    terms = (Term(source="codes", matching="codes", distance="cross_entropy"),)
    objective = Objective(terms, sources, SPACE.container, 16, generator(0))
    score = DistillationObjective(supernet, objective, sources, [batch()], VIEW)(SPACE.container)
    assert score.per_utterance.shape == (3,)
    assert np.isfinite(score.per_utterance).all()


def test_view_says_who_hears_what():
    setup = setting()

    def score(student, target):
        view = View(student=student, target=target)
        return DistillationObjective(*setup, [batch(noise=0.3)], view)(SPACE.container).per_utterance

    clean = DistillationObjective(*setup, [batch()], VIEW)(SPACE.container).per_utterance
    assert (score("clean", "clean") == clean).all()
    assert (score("noisy", "clean") != clean).all()
    assert (score("clean", "noisy") != clean).all()


def test_a_subnet_of_another_space_is_refused():
    objective = DistillationObjective(*setting(), [batch()], VIEW)
    with pytest.raises(ValueError, match="embed_dim=64 is not in the space"):
        objective(replace(SPACE.container, embed_dim=64))


def shift_weights(parts):
    parts[0].container.masked_spec_embed.add_(1)


def shift_heads(parts):
    next(parts[1].parameters()).add_(1)


def drop_a_term(parts):
    parts[1].terms = parts[1].terms[:1]


def shift_teacher(parts):
    parts[2]["teacher"].teacher.encoder.layers[0].final_layer_norm.bias.add_(0.1)


def hear_something_else(parts):
    parts[2]["teacher"].calibrate(VIEW.draw(batch(seed=8), SPACE.backbone.grid, torch.device("cpu")))


def take_other_hidden_states(parts):
    source = TeacherSource(encoder(2), ["ffn"], "channel")
    source.calibrate(VIEW.draw(batch(seed=9), SPACE.backbone.grid, torch.device("cpu")))
    parts[2]["teacher"] = source


def normalize_nothing(parts):
    parts[2]["teacher"].normalization = "none"


def normalize_waves_otherwise(parts):
    teacher = parts[2]["teacher"].teacher
    teacher.config = replace(teacher.config, normalize_waveform=not teacher.config.normalize_waveform)


def fingerprint(change=None, view=VIEW, batches=None):
    parts = setting()
    with torch.no_grad():
        if change:
            change(parts)
    return DistillationObjective(*parts, batches or [batch()], view).fingerprint


def test_fingerprint_names_all_a_score_depends_on():
    same = fingerprint()
    assert fingerprint() == same
    changes = (
        *(shift_weights, shift_heads, drop_a_term, shift_teacher, hear_something_else),
        *(take_other_hidden_states, normalize_nothing, normalize_waves_otherwise),
    )
    others = [fingerprint(change) for change in changes]
    others += [fingerprint(batches=[batch(seed=1)]), fingerprint(batches=split(batch()))]
    others += [
        fingerprint(view=View(target="clean"), batches=[batch(noise=0.3)]),
        fingerprint(batches=[batch(noise=1)]),
    ]
    assert len({same, *others}) == 1 + len(others)


def test_noise_counts_by_its_level():
    whole = batch(noise=0.3)

    def at(factor):
        return fingerprint(batches=[replace(whole, wave=whole.clean + np.float32(factor) * (whole.wave - whole.clean))])

    assert at(1 + 1e-5) == at(1)
    factors = (0, 1e-3, 5e-3, 1, 10 ** (1.5 / 20), 2)
    assert len(set(map(at, factors))) == len(factors)


def test_codes_count():
    supernet, _, _ = setting()
    terms = (Term(source="codes", matching="codes", distance="cross_entropy"),)

    def of_codes(first):
        codes = {u.id: torch.arange(first, first + 20, dtype=torch.int16) for u in batch().utterances}
        sources = {"codes": CodeSource(codes, 40, SPACE.backbone.grid)}
        objective = Objective(terms, sources, SPACE.container, 16, generator(3))
        return DistillationObjective(supernet, objective, sources, [batch()], VIEW).fingerprint

    assert of_codes(0) == of_codes(0) != of_codes(1)


def test_how_a_machine_rounds_does_not_count(monkeypatch):
    parts, same = setting(), fingerprint()  # what channels measured comes from a checkpoint
    pick = TeacherSource._pick
    louder = lambda self, trace: {tap: [x * (1 + 1e-3) for x in xs] for tap, xs in pick(self, trace).items()}  # noqa: E731
    monkeypatch.setattr(TeacherSource, "_pick", louder)
    assert DistillationObjective(*parts, [batch()], VIEW).fingerprint == same


@pytest.mark.parametrize(
    ("file", "counts"), [("supernet/model.py", True), ("distillation/objective.py", True), ("nas/record.py", False)]
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
