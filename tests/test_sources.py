"""Targets are what they say, whatever the padding, and read nothing but audio."""

from dataclasses import replace
from functools import partial
from itertools import chain

import numpy as np
import pytest
import torch

from distillation.factory import SourceFactory, check_sources
from distillation.matchings import mean_of_last_two_thirds
from distillation.sources.codes import CodeSource, cluster, code_corpus, describe_mfcc, nearest
from distillation.sources.labels import LabelSource
from distillation.sources.signal import SIGNAL_DIM, SignalSource, describe_signal
from distillation.sources.statistics import ChannelStatistics
from distillation.sources.teacher import FrozenNetwork, TeacherSource
from distillation.stages import Recipe, Stage
from distillation.views import Seen
from search_spaces.errors import NestlingError
from search_spaces.subnet import FrameGrid
from speech_data.batching import Batch, batch_at, evaluation_batches
from speech_data.corpus import Utterance
from speech_data.features import log_mel
from supernet.encoder import Encoder
from supernet.model import Supernet
from tests.training_cases import SPACE, Tones, make_teacher, make_wave

LENGTHS = (4000, 6400, 2500)
TOLERANCE = 1e-4  # of a deviation: fp32 sums in another order
NUM_CODES = 3
GRID = FrameGrid()
HOP = GRID.hop


def count_frames(lengths):
    return make_teacher().config.count_frames(lengths)


def make_batch(lengths=LENGTHS, offsets=None):
    """Tones of these lengths."""
    wave = np.zeros((len(lengths), max(lengths)), np.float32)
    for i, length in enumerate(lengths):
        wave[i, :length] = make_wave(length, i)
    utterances = tuple(Utterance(f"{i}", None, length) for i, length in enumerate(lengths))
    return Batch(wave, wave, np.array(lengths), utterances, np.array(offsets or [0] * len(lengths)))


def seen(batch, *, padded=True):
    wave = torch.from_numpy(batch.wave)
    return Seen(wave, wave, torch.from_numpy(batch.lengths) if padded else None)


def alone(batch, i):
    """One utterance of a batch by itself, without its padding."""
    wave = torch.from_numpy(batch.wave[i : i + 1, : batch.lengths[i]])
    return Seen(wave, wave, None)


def layers(source, batch, what=None):
    """The layers of a source's only tap."""
    ((_, found),) = source(batch, what or seen(batch)).taps.items()
    return found


def group_norm_teacher():
    encoder = Encoder(replace(make_teacher().config, conv_norm="group"))
    same = {name: weight for name, weight in make_teacher().state_dict().items() if name in encoder.state_dict()}
    encoder.load_state_dict(same)
    return encoder


def make_source(kind, normalization="channel"):
    if kind == "signal":
        return SignalSource(describe_signal, SIGNAL_DIM, GRID)
    teacher = group_norm_teacher() if kind == "group" else make_teacher()
    return TeacherSource(teacher, ["ffn" if kind == "ffn" else "hidden"], normalization)


def valid_frames(targets, lengths):
    """The valid frames of every utterance, one after the other, layer by layer."""
    counts = count_frames(torch.tensor(lengths)).tolist()
    return [torch.cat([x[i, :count] for i, count in enumerate(counts)]) for x in targets]


# What they are known by


def test_a_signal_is_what_describes_it_and_what_was_measured():
    measured = make_source("signal")
    measured.calibrate(make_batch(), seen(make_batch()))
    sources = [make_source("signal"), measured, SignalSource(log_mel, SIGNAL_DIM, GRID)]
    sources.append(SignalSource(describe_signal, 13, GRID))
    sources.append(SignalSource(describe_signal, SIGNAL_DIM, FrameGrid(160)))
    assert len({source.fingerprint for source in sources}) == 5
    assert SignalSource(describe_signal, SIGNAL_DIM, GRID, measured.state).fingerprint == measured.fingerprint
    assert make_source("signal").state == {}


# Statistics


def test_channel_statistics_begin_with_a_single_frame():
    statistics = ChannelStatistics()
    for value in (1.0, 3.0):
        statistics.add([torch.full((1, 1, 2), value)], None)
    assert torch.equal(statistics.standardize([torch.full((1, 1, 2), 3.0)])[0], torch.ones(1, 1, 2))


def test_channel_statistics_are_torchs_own_over_all_valid_frames():
    generator = torch.Generator().manual_seed(0)
    batches = [[3 + torch.randn(2, 5, 4, generator=generator) * (i + 1) for i in range(2)] for _ in range(3)]
    valid = torch.tensor([[True] * 5, [True, True, False, False, False]])
    statistics = ChannelStatistics()
    for number, layers in enumerate(batches):
        statistics.add(layers, valid if number else None)
    for layer, got in enumerate(statistics.standardize(batches[0])):
        frames = torch.cat([b[layer][valid] if number else b[layer].flatten(0, 1) for number, b in enumerate(batches)])
        torch.testing.assert_close(got, (batches[0][layer] - frames.mean(0)) / frames.std(0, correction=0))


def test_nothing_measured_is_an_error():
    with pytest.raises(ValueError, match="were not measured; call calibrate first"):
        ChannelStatistics().standardize([torch.zeros(1, 1, 1)])


@pytest.mark.parametrize("kind", ["hidden", "ffn", "group", "signal"])
def test_calibrated_targets_have_zero_mean_and_unit_variance(kind):
    source, batch = make_source(kind), make_batch()
    source.calibrate(batch, seen(batch))
    targets = layers(source, batch)
    (dim,) = source.dims.values()
    assert len(targets) == (1 if kind == "signal" else 2)
    for x in valid_frames(targets, LENGTHS):
        assert x.shape[-1] == dim
        torch.testing.assert_close(x.mean(0), torch.zeros(dim), atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(x.std(0, correction=0), torch.ones(dim), atol=1e-3, rtol=0)


@pytest.mark.parametrize("normalization", ["channel", "instance", "none"])
@pytest.mark.parametrize("kind", ["hidden", "group"])
def test_padding_never_counts(kind, normalization):
    """An utterance has the same targets alone as in a batch, and so have statistics."""
    together, apart = make_source(kind, normalization), make_source(kind, normalization)
    batch = make_batch()
    together.calibrate(batch, seen(batch))
    for i in range(len(LENGTHS)):
        apart.calibrate(batch, alone(batch, i))
    targets = layers(together, batch)
    for i, length in enumerate(LENGTHS):
        count = int(count_frames(torch.tensor(length)))
        for x, y in zip(targets, layers(apart, batch, alone(batch, i)), strict=True):
            torch.testing.assert_close(x[i, :count], y[0], atol=TOLERANCE, rtol=TOLERANCE)


def test_padding_never_counts_in_signals():
    together, apart, batch = make_source("signal"), make_source("signal"), make_batch()
    together.calibrate(batch, seen(batch))
    for i in range(len(LENGTHS)):
        apart.calibrate(batch, alone(batch, i))
    (x,), (y,) = (layers(source, batch) for source in (together, apart))
    torch.testing.assert_close(x, y, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("padded", [True, False])
def test_instance_norm_is_over_the_valid_time_of_each_utterance(padded):
    batch = make_batch(LENGTHS if padded else (4000, 4000))
    plain, normed = (
        layers(make_source("hidden", normalization), batch, seen(batch, padded=padded))
        for normalization in ("none", "instance")
    )
    counts = count_frames(torch.from_numpy(batch.lengths)).tolist()
    for x, y in zip(plain, normed, strict=True):
        for i, count in enumerate(counts):
            frames = x[i, :count]
            expected = (frames - frames.mean(0)) / (frames.var(0, correction=0) + 1e-5).sqrt()
            torch.testing.assert_close(y[i, :count], expected, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("tap", ["hidden", "ffn"])
def test_unnormalised_targets_are_the_teachers_layers(tap):
    batch = make_batch()
    teacher = make_teacher()
    trace = teacher(seen(batch).target, seen(batch).lengths, (tap,))
    expected = trace.hidden[1:] if tap == "hidden" else trace.ffn
    for x, y in zip(layers(make_source(tap, "none"), batch), expected, strict=True):
        torch.testing.assert_close(x, y)


def test_teacher_is_frozen():
    source = make_source("hidden", "none")
    assert not any(p.requires_grad for p in source.teacher.parameters())
    batch = make_batch()
    assert not layers(source, batch)[0].requires_grad


@pytest.mark.parametrize("source", [TeacherSource, SignalSource, CodeSource])
def test_sources_declare_what_they_read(source):
    assert source.reads == {"audio"}


@pytest.mark.parametrize(("num_layers", "used"), [(1, 1), (2, 1), (3, 2), (6, 4), (12, 8), (24, 16)])
def test_last_two_thirds(num_layers, used):
    layers = [torch.full((1, 1, 1), float(2**i)) for i in range(num_layers)]
    expected = sum(2.0**i for i in range(num_layers - used, num_layers)) / used
    assert mean_of_last_two_thirds(layers).item() == pytest.approx(expected)


# Codes


def test_codes_follow_the_crop():
    codes = {f"{i}": torch.arange(50, dtype=torch.int16) + 100 * i for i in range(3)}
    batch = make_batch((3200, 3200, 1700), offsets=[0, 7 * HOP, 45 * HOP])
    (got,) = layers(CodeSource(codes, 400, GRID), batch)
    frames = int(count_frames(torch.tensor(3200)))
    assert got[0].tolist() == list(range(frames))
    assert got[1].tolist() == list(range(107, 107 + frames))
    assert got[2].tolist() == [245, 246, 247, 248, 249, *[0] * (frames - 5)]  # beyond the crop: padding


def test_an_utterance_without_codes_is_named():
    batch = make_batch((3200,))
    with pytest.raises(ValueError, match="utterance 0 has no codes; only those of the train and search splits have"):
        layers(CodeSource({}, 5, GRID), batch)


@pytest.mark.parametrize(("num_codes", "offset"), [(8, 0), (50, 160), (50, 43 * HOP)])
def test_codes_that_do_not_line_up_are_refused(num_codes, offset):
    """Those of another hop, say, which were padded with class 0."""
    batch = make_batch((3200,), offsets=[offset])
    with pytest.raises(NestlingError, match=r"^the codes of utterance 0 do not line up: \d+ for 9 frames from sample "):
        layers(CodeSource({"0": torch.zeros(num_codes, dtype=torch.int16)}, 5, GRID), batch)


def make_codes(seed=0, grid=GRID):
    sample, *every = (evaluation_batches(Tones(), s, batch_size=3, augment=False) for s in ("train", "train", "search"))
    describe = partial(describe_mfcc, grid=grid)
    return CodeSource(code_corpus(describe, sample, chain(*every), grid, NUM_CODES, seed), NUM_CODES, grid)


def test_codes_are_reproducible():
    first, again = make_codes(), make_codes()
    for utterance in (*Tones().utterances("train"), *Tones().utterances("search")):
        codes = first.codes[utterance.id]
        assert codes.shape == (int(count_frames(torch.tensor(utterance.num_samples))),)
        assert (codes == again.codes[utterance.id]).all()
    assert {int(code) for codes in first.codes.values() for code in codes} == set(range(NUM_CODES))
    assert first.dims == {"codes": NUM_CODES}


def test_codes_of_a_crop_are_those_of_the_whole():
    source = make_codes()
    corpus = Tones()
    batch = batch_at(corpus, "train", 1, seed=0, batch_size=4, crop_seconds=0.2, augment=False)
    assert batch.offsets.any()
    (got,) = layers(source, batch)
    for row, utterance, offset in zip(got, batch.utterances, batch.offsets, strict=True):
        assert row.tolist() == source.codes[utterance.id][offset // HOP :][: len(row)].tolist()


def test_what_subnets_are_compared_on_has_no_say_in_the_clusters(monkeypatch):
    whole = make_codes().codes
    monkeypatch.setattr(Tones, "read", lambda _, u: make_wave(u.num_samples, int(u.id) + (100 if int(u.id) > 3 else 0)))
    changed = make_codes().codes
    assert all((whole[f"{i}"] == changed[f"{i}"]).all() for i in range(4))
    assert any((whole[f"{i}"] != changed[f"{i}"]).any() for i in range(4, 8))


def test_mfcc_of_an_utterance_do_not_depend_on_its_padding():
    batch = make_batch()
    described = describe_mfcc(seen(batch).target, seen(batch).lengths, GRID)
    for i, length in enumerate(LENGTHS):
        by_itself = describe_mfcc(torch.from_numpy(batch.wave[i : i + 1, :length]), torch.tensor([length]), GRID)[0]
        torch.testing.assert_close(described[i, : len(by_itself)], by_itself, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(by_itself.mean(0), torch.zeros(13), atol=1e-4, rtol=0)


def test_clusters_and_nearest():
    points = np.repeat(np.array([[0, 0], [10, 0], [0, 10]], np.float32), 50, 0)
    centroids = torch.from_numpy(cluster(points, 3, seed=0))
    codes = nearest(torch.from_numpy(points), centroids)
    assert torch.equal(centroids[codes], torch.from_numpy(points))
    assert nearest(torch.tensor([[9.0, 1.0]]), centroids).item() == codes[50].item()


@pytest.mark.parametrize("kind", ["hidden", "group", "signal", "codes", "labels"])
@pytest.mark.parametrize("padded", [True, False])
def test_padding_is_told_from_audio(kind, padded):
    """And where there is none, nothing is told."""
    batch = make_batch(LENGTHS if padded else (4000, 4000))
    said = replace(batch, utterances=tuple(replace(u, phones=(("a", 0.0, 0.1),)) for u in batch.utterances))
    rows = {u.id: torch.zeros(50, dtype=torch.int16) for u in batch.utterances}
    made = {"codes": lambda: CodeSource(rows, 2, GRID), "labels": lambda: LabelSource(("a",), GRID)}
    source = made.get(kind, lambda: make_source(kind))()
    source.calibrate(batch, seen(batch))
    targets = source(said, seen(batch, padded=padded))
    assert targets.frame_rate_hz == 50.0
    if not padded:
        assert targets.valid is None
        return
    counts = count_frames(torch.tensor(LENGTHS)).unsqueeze(1)
    assert torch.equal(targets.valid, torch.arange(int(counts.max())) < counts)


# The factory


def factory(teacher=None):
    return SourceFactory(Tones(), teacher, seed=0)


MET = {"teacher": ("mean", "l1"), "signal": ("front_end", "mse"), "codes": ("codes", "cross_entropy")}


def stage(tap=None, **sources):
    terms = [
        {"source": name, **dict(zip(("matching", "distance"), MET[spec["kind"]], strict=True))}
        | ({"tap": tap} if tap and spec["kind"] == "teacher" else {})
        for name, spec in sources.items()
    ]
    return Stage(name="stage-1", steps=1, sources=sources, objective=terms)


def make_supernet(seed=0):
    supernet = Supernet(SPACE, torch.Generator().manual_seed(seed))
    supernet.load_encoder(make_teacher(seed).state_dict())
    return supernet


def test_factory_makes_what_a_stage_names():
    wanted = stage("ffn", t={"kind": "teacher"}, s={"kind": "signal"}, c={"kind": "codes", "num_codes": 3})
    sources = factory(make_teacher())(wanted, make_supernet(), {})
    assert {name: type(source) for name, source in sources.items()} == {
        "t": TeacherSource,
        "s": SignalSource,
        "c": CodeSource,
    }
    assert {name: source.dims for name, source in sources.items()} == {
        "t": {"ffn": 32},
        "s": {"signal": 53},
        "c": {"codes": 3},
    }


def test_codes_of_a_layer_depend_on_the_weights_and_saved_ones_do_not():
    wanted = stage(c={"kind": "codes", "num_codes": 3, "layer": 1})
    first, other = (factory()(wanted, make_supernet(seed), {})["c"] for seed in (0, 1))
    assert any((first.codes[name] != other.codes[name]).any() for name in first.codes)
    older = {"c": {"codes": first.codes}}  # a checkpoint held the codes themselves
    saved = factory()(wanted, make_supernet(1), older)["c"]
    assert all((first.codes[name] == saved.codes[name]).all() for name in first.codes)


def test_codes_are_kept_once_and_found_again():
    wanted, store = stage(c={"kind": "codes", "num_codes": 3}), {}
    first = SourceFactory(Tones(), None, 0, store)(wanted, make_supernet(), {})["c"]
    assert store == {"stage-1/c": first.codes}
    assert all(isinstance(value, str) for value in first.state.values())  # a checkpoint holds their hash alone
    again = SourceFactory(Tones(), None, 1, store)(wanted, make_supernet(), {"c": first.state})["c"]
    assert again.fingerprint == first.fingerprint
    for spoilt, what in (({}, "are gone"), ({"stage-1/c": {"0": torch.zeros(3, dtype=torch.int16)}}, "are others")):
        with pytest.raises(NestlingError, match=f"^the codes of stage-1/c that the checkpoint learned {what}; put the"):
            SourceFactory(Tones(), None, 0, spoilt)(wanted, make_supernet(), {"c": first.state})


def test_the_teacher_goes_where_the_supernet_is():
    source = factory(make_teacher())(stage(t={"kind": "teacher"}), make_supernet().to("meta"), {})["t"]
    assert next(source.teacher.parameters()).device.type == "meta"


def test_a_missing_teacher_is_an_error():
    with pytest.raises(ValueError, match="stage stage-1 learns from a teacher, and none was given; add --teacher"):
        factory()(stage(t={"kind": "teacher"}), make_supernet(), {})


def test_more_clusters_than_frames_is_an_error():
    with pytest.raises(ValueError, match="n_samples"):
        factory()(stage(c={"kind": "codes", "num_codes": 900}), make_supernet(), {})


# What is refused before anything is spent


def recipe_with(source, **term):
    """One stage with one source, `x`."""
    objective = [{"source": "x", "matching": "mean", "distance": "l1", **term}]
    return Recipe(stages=[Stage(name="one", steps=1, sources={"x": source}, objective=objective)])


@pytest.mark.parametrize("layer", [-1, 0, 2, 3, None])
def test_codes_are_of_a_layer_that_the_student_has(layer):
    codes = {"kind": "codes", "num_codes": 3, "layer": layer}
    recipe = recipe_with(codes, matching="codes", distance="cross_entropy")
    if layer in (0, 2, None):
        check_sources(recipe, None, make_teacher().config)
        return
    message = (
        f"one.sources.x.layer must be from 0, the input of the first layer, to 2, the output of the last; got {layer}"
    )
    with pytest.raises(NestlingError) as caught:
        check_sources(recipe, None, make_teacher().config)
    assert str(caught.value) == message


def test_a_teacher_must_be_there_with_its_taps_and_frames():
    student = make_teacher().config
    recipe = recipe_with({"kind": "teacher"}, tap="ffn")
    check_sources(recipe, make_teacher(), student)
    with pytest.raises(
        NestlingError, match=r"^one\.sources\.x is a teacher, and none was given; name one with --teacher "
    ):
        check_sources(recipe, None, student)
    others = FrozenNetwork(torch.nn.Identity(), lambda wave: [wave], 4, student)
    with pytest.raises(
        NestlingError, match=r"^this teacher gives hidden alone, and the recipe wants one\.objective\.0\.tap=ffn"
    ):
        check_sources(recipe, others, student)
    check_sources(recipe_with({"kind": "teacher"}), others, student)


@pytest.mark.parametrize(
    ("change", "frames"),
    [
        ({"conv_strides": (5, 2, 2, 2, 2, 2, 4)}, "400, 640 apart"),
        ({"conv_kernels": (10, 3, 3, 3, 3, 2, 3)}, "560, 320 apart"),  # as many of 1 s, and not of every utterance
    ],
)
def test_a_teachers_frames_lie_where_the_students_do(change, frames):
    recipe, student = recipe_with({"kind": "teacher"}), make_teacher().config
    check_sources(recipe, make_teacher(), student)
    message = (
        f"the teacher's frames are 400 samples, 320 apart, and those of this space {frames}; take a space whose "
        "conv_kernels and conv_strides are the teacher's"
    )
    with pytest.raises(ValueError, match=f"^{message}$"):
        check_sources(recipe, make_teacher(), replace(student, **change))


def test_another_network_gives_hidden_states_of_whole_waveforms_alone():
    network = FrozenNetwork(torch.nn.Identity(), lambda wave: [wave[:, ::320, None]], 1, make_teacher().config)
    wave = torch.ones(1, 640)
    for lengths, taps in ((torch.tensor([640]), ["hidden"]), (None, ["hidden", "ffn"])):
        with pytest.raises(
            NestlingError, match=rf"^this network gives hidden of whole waveforms, not {', '.join(taps)}$"
        ):
            network(wave, lengths, taps)
    with pytest.raises(NestlingError, match=r"^the teacher makes 2 frames of 640 samples, and 1 are wanted$"):
        network(wave, None, ["hidden"])


def test_a_fingerprint_is_of_all_that_decides_targets():
    def print_of(teacher=None, tap="hidden", normalization="none", state=None):
        return TeacherSource(teacher or make_teacher(), [tap], normalization, state).fingerprint

    config, weights = make_teacher().config, torch.nn.Linear(2, 2)
    networks = [FrozenNetwork(weights, make_wave, 1, config, {"release": n}) for n in (1, 2)]
    networks.append(FrozenNetwork(torch.nn.Linear(2, 2), make_wave, 1, config, {"release": 1}))
    networks.append(FrozenNetwork(weights, replace, 1, config, {"release": 1}))  # code of another module
    measured = TeacherSource(make_teacher(), ["hidden"], "channel")
    measured.calibrate(make_batch(), seen(make_batch()))
    others = [print_of(make_teacher(1)), print_of(tap="ffn"), print_of(normalization="instance")]
    kept = TeacherSource(make_teacher(), ["hidden"], "channel", measured.state)
    prints = [print_of(), *others, measured.fingerprint, *map(print_of, networks)]
    assert len(set(prints)) == len(prints)
    assert (print_of(), kept.fingerprint) == (prints[0], measured.fingerprint)


def test_a_fingerprint_of_codes_is_theirs():
    codes = make_codes().codes
    same, *others = (
        CodeSource(codes, NUM_CODES, GRID),
        CodeSource(codes, NUM_CODES + 1, GRID),
        CodeSource(codes, NUM_CODES, FrameGrid(160)),
        CodeSource({name: row + 1 for name, row in codes.items()}, NUM_CODES, GRID),
    )
    assert make_codes().fingerprint == same.fingerprint
    assert len({source.fingerprint for source in (same, *others)}) == 4


# Another hop


def loudness(wave, grid):
    """How loud what each frame hears is, in two classes, (B, S) -> (B, T)."""
    frames = torch.from_numpy(wave).unfold(1, grid.window, grid.hop)
    return (frames.square().mean(-1) > 0.015).to(torch.int16)


@pytest.mark.parametrize("grid", [GRID, FrameGrid(160)])
@pytest.mark.parametrize("shift", [0, 1, -1])
def test_codes_line_up_with_what_is_heard(grid, shift):
    """Those of a crop, found on the whole utterance, are what the crop itself says; a frame beside it they are not."""
    corpus = Tones()
    codes = {u.id: loudness(corpus.read(u)[None], grid)[0].roll(shift) for u in corpus.utterances("train")}
    crops = [
        batch_at(corpus, "train", i, seed=0, batch_size=4, crop_seconds=0.2, augment=False, hop=grid.hop)
        for i in range(3)
    ]
    assert any((crop.offsets % HOP).any() for crop in crops) == (grid != GRID)
    found = [layers(CodeSource(codes, 2, grid), crop)[0] for crop in crops]
    assert all(torch.equal(x, loudness(crop.wave, grid)) for x, crop in zip(found, crops, strict=True)) == (shift == 0)


@pytest.mark.parametrize("grid", [GRID, FrameGrid(160)])
def test_descriptions_line_up_with_what_is_heard(grid):
    """Silence, then a tone: the frames that hear some of the tone are those whose descriptors say so."""
    wave = np.zeros((1, 8000), np.float32)
    wave[0, 4000:] = make_wave(4000, 1)
    described = describe_signal(torch.from_numpy(wave), grid.count(8000), grid)[0]
    hears = grid.hop * torch.arange(grid.count(8000)) + grid.window > 4000 + 2  # the window ends in a zero
    assert torch.equal((described != described[0]).any(-1), hears)


# Labels


def test_transcripts_are_what_is_said_in_the_crop():
    spans = (("sil", 0.0, 0.05), ("a", 0.05, 0.1), ("b", 0.1, 0.2), ("a", 0.2, 0.3))
    utterances = [Utterance(f"{i}", None, 4800, phones=spans) for i in range(3)]
    batch = replace(make_batch((4800, 1600, 1600), offsets=[0, 1600, 320]), utterances=tuple(utterances))
    source = LabelSource(("a", "b", "sil"), GRID)
    assert source.reads == {"audio", "labels"}
    assert source.dims == {"labels": 3}  # and the blank
    assert layers(source, batch)[0].tolist() == [[1, 2, 1], [2, -1, -1], [1, -1, -1]]
    with pytest.raises(NestlingError, match="0 has no phone labels"):
        layers(source, make_batch((1600,)))


# Several taps


@pytest.mark.parametrize("kind", ["hidden", "group"])
def test_one_pass_gives_every_tap(kind):
    """And padding changes none of them."""
    teacher = group_norm_teacher() if kind == "group" else make_teacher()
    taps = ["hidden", "ffn", "front_end", "probabilities", "values"]
    calls = []
    teacher.register_forward_pre_hook(lambda *_: calls.append(1))
    source, batch = TeacherSource(teacher, taps, "none"), make_batch()
    together = source(batch, seen(batch))
    assert len(calls) == (len(LENGTHS) if kind == "group" else 1)
    assert {tap: len(found) for tap, found in together.taps.items()} == {
        **dict.fromkeys(("hidden", "ffn", "probabilities", "values"), 2),
        "front_end": 1,
    }
    for i, length in enumerate(LENGTHS):
        count = int(count_frames(torch.tensor(length)))
        assert together.valid[i].sum() == count
        for tap, found in source(batch, alone(batch, i)).taps.items():
            for x, y in zip(together.taps[tap], found, strict=True):
                ours = x[i, ..., :count, :count] if tap == "probabilities" else x[i, ..., :count, :]
                torch.testing.assert_close(ours, y[0], atol=TOLERANCE, rtol=TOLERANCE)


def test_statistics_of_an_older_checkpoint_are_read():
    source, batch = make_source("hidden"), make_batch()
    source.calibrate(batch, seen(batch))
    older = source.state["hidden"]
    assert older.keys() == {"count", "sums", "squares"}
    assert TeacherSource(make_teacher(), ["hidden"], "channel", older).fingerprint == source.fingerprint
