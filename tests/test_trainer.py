"""The loop: what a step draws, what it learns, and that stopping it changes nothing."""

import random
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from distillation.factory import SourceFactory
from distillation.stages import load_recipe
from distillation.trainer import DivergedError, Trainer, TrainingError, draw_subnets, generator
from distillation.views import Seen, draw_mask
from search_spaces.draws import draw_subnet
from search_spaces.errors import OutOfMemoryError
from search_spaces.randomness import seed_of
from speech_data.batching import batch_at
from supernet.encoder import Encoder
from supernet.model import Supernet
from supernet.weight_decay import split_by_decay
from tests.training_cases import RECIPE, SPACE, Tones, make_teacher


def tones(stage, first, stop):
    for step in range(first, stop):
        yield batch_at(
            Tones(),
            "train",
            step,
            seed=0,
            batch_size=stage.batch_size,
            crop_seconds=stage.crop_seconds,
            augment=False,
        )


@pytest.fixture
def recipe(tmp_path):
    """The recipe of `training_cases` with single values changed."""
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return lambda *changes: load_recipe(tmp_path / "recipe.yaml", changes)


class Run:
    """A trainer and all that it reports."""

    def __init__(self, recipe, batches=tones, space=SPACE, store=None, teacher=None, **options):
        self.recipe, self.store = recipe, {} if store is None else store
        self.steps, self.stages, self.states, self.calls = [], [], [], []
        supernet = Supernet(space, generator(recipe.seed, "weights"))
        self.forward = supernet.forward
        supernet.forward = self.spy
        self.trainer = Trainer(
            supernet,
            recipe,
            batches,
            SourceFactory(Tones(), teacher or make_teacher(), recipe.seed, self.store),
            on_step=self.steps.append,
            on_stage=lambda name, _: self.stages.append(name),
            on_checkpoint=lambda state: self.states.append(deepcopy(state)),
            **options,
        )

    def spy(self, wave, lengths, subnet, taps=(), masked=None, dropout=0.0):
        self.calls.append((len(self.steps), subnet, masked, dropout))
        return self.forward(wave, lengths, subnet, taps, masked, dropout)

    def go(self):
        self.trainer.run()
        return self

    @property
    def weights(self):
        return {name: weight.clone() for name, weight in self.trainer.supernet.state_dict().items()}

    def losses(self, role="largest"):
        return [step.losses[role] for step in self.steps if role in step.losses]


def open_sources(run, state, batches=tones):
    """Those of the last stage, as a run that goes on opens them."""
    return Run(run.recipe, batches, store=run.store).trainer._open(run.recipe.stages[-1], state["sources"])[0]


def equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


# What a step draws


def test_the_same_seed_and_step_draw_the_same_subnets(recipe):
    stage = recipe("stage-2.num_random=3").stages[1]
    supernets = [Supernet(SPACE, torch.Generator()) for _ in range(2)]
    draws = [[draw_subnets(stage, supernet, 5, step) for step in range(20)] for supernet in supernets]
    assert draws[0] == draws[1]
    assert draws[0] != [draw_subnets(stage, supernets[0], 6, step) for step in range(20)]
    assert len({subnet for drawn in draws[0] for role, subnet in drawn if role == "random"}) > 50  # of 60
    for step, drawn in enumerate(draws[0]):
        assert [role for role, _ in drawn] == ["largest", "smallest", "random", "random", "random"]
        assert drawn[0][1] == SPACE.container
        assert drawn[1][1] == replace(SPACE.smallest(), kept=((0,), (1,))[step % 2])  # each layer in its turn


@pytest.mark.parametrize("draws", ["size", "depth", "dimension", "subnet", "{depth: 1, subnet: 3}"])
def test_random_subnets_are_drawn_as_the_stage_says(recipe, draws):
    stage = recipe(f"stage-2.draws={draws}", "stage-2.num_random=3").stages[1]
    for step in range(20):
        rng = random.Random(seed_of(7, step, "subnets"))
        expected = [draw_subnet(SPACE, rng, stage.draws) for _ in range(3)]
        drawn = draw_subnets(stage, SimpleNamespace(space=SPACE), 7, step)
        assert [subnet for role, subnet in drawn if role == "random"] == expected


def test_draws_by_subnet_are_those_of_runs_without_a_choice(recipe):
    """So that a run that an earlier Nestling began goes on with the random subnets that it would have drawn."""
    rng = random.Random(seed_of(5, 12, "subnets"))
    (*_, drawn) = draw_subnets(recipe().stages[1], SimpleNamespace(space=SPACE), 5, 12)
    assert drawn == ("random", SPACE.sample(rng))


def test_the_container_alone(recipe):
    stage = recipe().stages[0]
    assert draw_subnets(stage, Supernet(SPACE, torch.Generator()), 0, 0) == [("largest", SPACE.container)]


def test_each_step_trains_what_was_drawn_and_only_the_largest_with_dropout(recipe):
    made = recipe("stage-2.dropout=0.3", "stage-2.reorder=false", "stage-2.num_random=2")
    run = Run(made).go()
    trained = [call for call in run.calls if call[3] or call[2] is not None]  # not those that made codes
    for step in range(10):
        stage = made.stages[step // 5]
        drawn = draw_subnets(stage, run.trainer.supernet, made.seed, step)
        got = [(subnet, dropout) for at, subnet, _, dropout in trained if at == step]
        assert got == [(subnet, stage.dropout if role == "largest" else 0.0) for role, subnet in drawn]
    assert made.stages[0].dropout == 0.1


def test_dropout_changes_what_the_largest_learns_and_no_other_loss(recipe):
    changes = ("stage-1.steps=1", "stage-1.subnets=sandwich", "stage-2.steps=1")
    with_dropout, without = (Run(recipe(*changes, f"stage-1.dropout={p}")).go() for p in (0.5, 0.0))
    first = [run.steps[0].losses for run in (with_dropout, without)]
    assert first[0]["largest"] != first[1]["largest"]
    assert first[0]["smallest"] == first[1]["smallest"]
    assert first[0]["random"] == first[1]["random"]


def test_masks_are_shared_by_a_steps_subnets_and_stay_out_of_padding(recipe):
    made = recipe("stage-1.subnets=sandwich", "stage-1.batch_size=4", "stage-1.crop_seconds=0.5")
    run, stage = Run(made).go(), made.stages[0]
    masks = [[masked for at, _, masked, _ in run.calls if at == step and masked is not None][:3] for step in range(4)]
    for step, same in enumerate(masks):
        assert len(same) == 3
        assert all(torch.equal(mask, same[0]) for mask in same)
        (batch,) = tones(stage, step, step + 1)
        frames = run.trainer.supernet.container.config.count_frames(torch.from_numpy(batch.lengths))
        for mask, count, utterance in zip(same[0], frames.tolist(), batch.utterances, strict=True):
            own = np.random.default_rng(seed_of(0, step, "mask", utterance.id))
            assert mask[:count].tolist() == draw_mask(count, stage.view, own).tolist()
            assert not mask[count:].any()
        assert frames.min() < same[0].shape[1]
    assert not torch.equal(masks[0][0], masks[1][0])


def test_numbers_are_the_same_everywhere():
    assert seed_of(0, "stage-1", "heads") == 5011713161518041451
    assert seed_of(3, 12, "mask", "dev-00017") == 7355704521171707999
    assert seed_of("dry run") == 6791847633910131613
    assert 0 <= min(seed_of(i) for i in range(100)) < max(seed_of(i) for i in range(100)) < 2**63


# What it learns


def test_loss_falls_for_every_subnet(recipe):
    changes = [f"stage-{i}.{key}" for i in (1, 2) for key in ("steps=40", "learning_rate=0.003", "batch_size=4")]
    run = Run(recipe(*changes, "stage-1.dropout=0")).go()
    for role, stage in (("largest", "stage-1"), ("largest", "stage-2"), ("smallest", "stage-2"), ("random", "stage-2")):
        losses = [step.losses[role] for step in run.steps if step.stage == stage]
        assert np.mean(losses[-5:]) < 0.9 * np.mean(losses[:5]), (role, stage)


def test_steps_are_counted_over_all_stages_with_the_rate_of_each(recipe):
    made = recipe("stage-2.learning_rate=0.5")
    run = Run(made).go()
    assert [step.step for step in run.steps] == list(range(10))
    assert [step.stage for step in run.steps] == ["stage-1"] * 5 + ["stage-2"] * 5
    rates = [stage.learning_rate_at(step) for stage in made.stages for step in range(5)]
    assert [step.learning_rate for step in run.steps] == rates
    assert run.stages == ["stage-1", "stage-2", "done"]
    assert [state["step"] for state in run.states] == [2, 4, 5, 6, 8, 10]


def test_heads_go_on_where_the_stage_before_left_them(recipe):
    """The second stage is the first once more, so its heads must not start over."""
    changes = [f"stage-{i}.{key}" for i in (1, 2) for key in ("steps=40", "dropout=0", "learning_rate=0.003")]
    stage = recipe(*changes).stages[0]
    again = stage.model_copy(update={"name": "again"})
    run = Run(recipe(*changes).model_copy(update={"stages": (stage, again)})).go()
    losses = run.losses()
    assert losses[40] < 0.9 * losses[0]


def spied_heads(run):
    """The heads that each stage begins with, before it sorts anything."""
    begun, open_ = [], run.trainer._open

    def spy(*arguments):
        sources, objective = open_(*arguments)
        load = objective.load_state_dict
        objective.load_state_dict = lambda state: (begun.append({k: v.clone() for k, v in state.items()}), load(state))
        return sources, objective

    run.trainer._open = spy
    return begun


def two_stages(recipe, first, second):
    """The recipe's first stage twice, each with other sources and terms."""
    stage = recipe("stage-1.dropout=0", "stage-1.steps=2").stages[0]
    stages = [
        type(stage).model_validate({**stage.model_dump(), "name": name, "sources": sources, "objective": objective})
        for name, (sources, objective) in (("one", first), ("two", second))
    ]
    return recipe().model_copy(update={"stages": tuple(stages)})


CODES = {"kind": "codes", "num_codes": 4}
CODED = {"source": "codes", "matching": "codes", "distance": "cross_entropy"}
TAUGHT = {"source": "teacher", "matching": "mean", "distance": "l1"}


def test_heads_of_new_codes_start_over(recipe):
    """Clusters found anew have other numbers, though they are as many."""
    made = two_stages(recipe, ({"codes": CODES}, [CODED]), ({"codes": CODES}, [CODED]))
    run = Run(made)
    begun = spied_heads(run)
    states = run.go().states
    assert begun[1].keys() == begun[0].keys()
    kept = next(state["heads"] for state in states if state["step"] == 2)
    assert all(not torch.equal(begun[1][name], weight) for name, weight in kept.items() if name.endswith("weight"))
    rest = Run(made, store=run.store)  # resumed at the border it is the same
    begun = [begun[1], *spied_heads(rest)]
    rest.trainer.resume(deepcopy(next(state for state in states if state["step"] == 2)))
    assert equal(rest.go().weights, run.weights)


def test_heads_of_targets_that_are_made_otherwise_start_over(recipe):
    teacher = {"kind": "teacher"}
    made = two_stages(
        recipe,
        ({"t": teacher}, [TAUGHT | {"source": "t"}]),
        ({"t": teacher | {"normalization": "instance"}}, [TAUGHT | {"source": "t"}]),
    )
    run = Run(made)
    begun = spied_heads(run)
    kept = next(state["heads"] for state in run.go().states if state["step"] == 2)
    assert begun[1].keys() == kept.keys()
    assert not torch.equal(begun[1]["heads.t:mean.0.weight"], kept["heads.t:mean.0.weight"])
    assert not torch.equal(begun[1]["heads.t:mean.0.weight"], begun[0]["heads.t:mean.0.weight"])


def test_one_more_term_leaves_the_heads_of_others(recipe):
    made = two_stages(
        recipe,
        ({"teacher": {"kind": "teacher"}}, [TAUGHT]),
        ({"teacher": {"kind": "teacher"}, "codes": CODES}, [CODED, TAUGHT, TAUGHT | {"tap": "ffn"}]),
    )
    run = Run(made)
    begun = spied_heads(run)
    kept = next(state["heads"] for state in run.go().states if state["step"] == 2)
    assert kept.keys() == {"heads.teacher:mean.0.weight", "heads.teacher:mean.0.bias"}
    # another tap beside it is another pass with other statistics, but heads predict the same
    assert all(torch.equal(begun[1][name], weight) for name, weight in kept.items())


def test_a_source_that_goes_on_keeps_what_it_measured(recipe):
    stage = recipe("stage-1.dropout=0").stages[0]
    again = stage.model_copy(update={"name": "again"})
    other = stage.model_copy(update={"name": "other", "view": stage.view.model_copy(update={"target": "clean"})})
    run = Run(recipe().model_copy(update={"stages": (stage, again, other)}), later_batches).go()
    means = {s["step"]: s["sources"]["teacher"]["hidden"]["sums"][0] for s in run.states}
    assert torch.equal(means[5], means[10])
    assert not torch.equal(means[10], means[15])


def later_batches(stage, first, stop):
    """As `tones`, and each stage hears something else."""
    for batch in tones(stage, first, stop):
        yield replace(batch, wave=batch.wave ** len(stage.name), clean=batch.clean ** len(stage.name))


# Another hop


FINE = replace(SPACE, backbone=replace(SPACE.backbone, conv_strides=(5, 2, 2, 2, 2, 2, 1)))


def test_a_space_with_another_hop_trains_by_codes_and_by_a_teacher(recipe):
    """Frames of 10 ms: twice as many, and every target has them."""
    config = replace(make_teacher().config, conv_strides=FINE.backbone.conv_strides)
    teacher = Encoder(config)
    teacher.load_state_dict(make_teacher().state_dict())
    sources = {"teacher": {"kind": "teacher"}, "codes": CODES}
    made = two_stages(recipe, (sources, [CODED, TAUGHT]), (sources, [CODED, TAUGHT]))
    run = Run(made, fine_tones, space=FINE, teacher=teacher)
    looks, look = [], run.trainer._look
    run.trainer._look = lambda *arguments: looks.append(look(*arguments)) or looks[-1]
    run.go()
    assert len(run.steps) == 4
    for seen, targets in looks:
        frames = FINE.backbone.grid.count(seen.student.shape[1])
        assert frames == int(config.count_frames(torch.tensor(seen.student.shape[1]))) > 30
        assert seen.masked.shape[1] == frames
        assert {x.shape[1] for made in targets.values() for layers in made.taps.values() for x in layers} == {frames}
        assert {made.frame_rate_hz for made in targets.values()} == {100.0}


def fine_tones(_, first, stop):
    for step in range(first, stop):
        yield batch_at(
            Tones(), "train", step, seed=0, batch_size=3, crop_seconds=0.4, augment=False, hop=FINE.backbone.grid.hop
        )


# Terms that no head predicts, and one that reads labels


class Spoken(Tones):
    phones = ("a", "b", "sil")

    def utterances(self, split):
        spans = (("a", 0.0, 0.1), ("b", 0.1, 0.2), ("sil", 0.2, 9.0))
        return [replace(utterance, phones=spans) for utterance in super().utterances(split)]


@pytest.mark.parametrize(
    ("source", "matching", "distance"),
    [("teacher", "relations", "gram"), ("teacher", "attention", "kl"), ("labels", "labels", "ctc")],
)
def test_relations_attention_and_transcripts_teach_every_subnet(recipe, source, matching, distance):
    term = {"source": source, "matching": matching, "distance": distance}
    stage = recipe("stage-1.subnets=sandwich", "stage-1.steps=60", "stage-1.dropout=0").stages[0]
    changes = {"sources": {source: {"kind": source}}, "objective": [term], "learning_rate": 0.003, "view": {}}
    stage = type(stage).model_validate({**stage.model_dump(), **changes, "name": "one"})
    run = Run(recipe().model_copy(update={"stages": (stage,)}), spoken)
    run.trainer.make_sources = SourceFactory(Spoken(), make_teacher(), 0)
    run.go()
    for role in ("largest", "smallest"):
        assert np.mean(run.losses(role)[-10:]) < 0.95 * np.mean(run.losses(role)[:10]), role
    assert [step.terms.keys() for step in run.steps] == [{f"{source}:{matching}:{distance}"}] * 60


def spoken(_, first, stop):
    for step in range(first, stop):
        yield batch_at(Spoken(), "train", step, seed=0, batch_size=4, crop_seconds=0.25, augment=False)


def test_each_term_is_logged_by_its_name_without_its_weight(recipe):
    made = recipe("stage-1.steps=1", "stage-2.steps=1", "stage-2.objective.0.weight=0.5", "stage-2.reorder=false")
    first, second = Run(made).go().steps
    assert first.terms == {"teacher:layers:l1": pytest.approx(first.losses["largest"])}
    assert second.terms.keys() == {"teacher:layers:l1", "codes:codes:cross_entropy"}
    total = 0.5 * second.terms["teacher:layers:l1"] + second.terms["codes:codes:cross_entropy"]
    assert total == pytest.approx(np.mean([second.losses[role] for role in ("largest", "smallest", "random")]))


def test_sorting_by_importance_does_not_change_what_the_container_computes(recipe):
    same = ("stage-2.subnets=container", "stage-2.dropout=0", "stage-1.learning_rate=0.01")
    plain, ordered = (Run(recipe(*same, f"stage-2.reorder={flag}")).go() for flag in ("false", "true"))
    assert ordered.losses()[5:] == pytest.approx(plain.losses()[5:], rel=1e-4)
    assert plain.weights["residual_order"].tolist() == list(range(32))
    assert ordered.weights["residual_order"].tolist() != list(range(32))


def test_weights_out_of_the_objectives_reach_do_not_stop_the_sorting(recipe):
    """Where norms come first, the last one only shapes what no layer-wise term looks at."""
    space = replace(SPACE, backbone=replace(SPACE.backbone, norm_first=True))
    layer_wise = recipe("stage-1.steps=1", "stage-2.steps=1")
    stage = layer_wise.stages[0].model_copy(update={"reorder": True})
    run = Run(layer_wise.model_copy(update={"stages": (stage,)}), space=space).go()
    assert run.weights["residual_order"].tolist() != list(range(32))


def test_bf16_is_close_to_fp32(recipe):
    exact, rough = (Run(recipe(), precision=precision).go().losses() for precision in ("fp32", "bf16"))
    assert exact != rough
    # Each step starts where the last one led, so the two drift apart, on some processors faster than on others.
    assert rough[:5] == pytest.approx(exact[:5], rel=0.06)
    assert rough == pytest.approx(exact, rel=0.3)


def test_a_loss_that_is_not_a_number_stops_before_it_does_harm(recipe):
    def batches(stage, first, stop):
        for step, batch in enumerate(tones(stage, first, stop), start=first):
            broken = stage.name == "stage-2" and step == 3
            yield replace(batch, wave=np.full_like(batch.wave, np.nan)) if broken else batch

    uncalibrated = "stage-2.sources.teacher.normalization=none"  # or the mean of the targets is broken at once
    run = Run(recipe(uncalibrated, "stage-2.reorder=false", "save_every=1"), batches)
    with pytest.raises(TrainingError, match=r"the loss of step 8 \(stage-2\) is not a finite number: {'largest': nan"):
        run.go()
    assert len(run.steps) == 8
    assert equal(run.weights, run.states[-1]["supernet"])


@pytest.mark.parametrize("spoilt", [float("nan"), float("inf")])
def test_a_gradient_that_is_not_a_number_never_reaches_a_weight(recipe, spoilt):
    """The loss is finite, and what goes back from it is not."""
    run = Run(recipe("save_every=1"))
    weight = run.trainer.supernet.get_parameter("container.masked_spec_embed")
    weight.register_hook(lambda gradient: gradient * (spoilt if len(run.steps) == 3 else 1.0))
    with pytest.raises(DivergedError, match=r"^the gradient of step 3 \(stage-1\) is not a finite number; resume "):
        run.go()
    assert equal(run.weights, run.states[-1]["supernet"])
    assert run.states[-1]["step"] == 3


def test_the_norm_of_the_gradient_is_that_before_clipping(recipe):
    one = ("stage-1.steps=1", "stage-2.steps=1")
    loose, tight = (Run(recipe(*one, f"stage-1.clip_norm={norm}")).go() for norm in (100, 0.001))
    assert loose.steps[0].gradient_norm == tight.steps[0].gradient_norm > 0.001


def test_a_sandwichs_gradient_is_the_mean_of_its_subnets(recipe):
    """Where all are one, it is that of the one."""
    single = {"conv_dims": ((8,),) * 7, "embed_dim": (32,), "heads": (2,), "ffn_dim": (48,), "depth": {2: ((0, 1),)}}
    once = ("stage-1.steps=1", "stage-1.dropout=0", "stage-2.steps=1")
    norms = [
        Run(recipe(*once, f"stage-1.subnets={which}"), space=replace(SPACE, **single)).go().steps[0].gradient_norm
        for which in ("container", "sandwich")
    ]
    assert norms[0] == pytest.approx(norms[1], rel=1e-5)


def test_training_leaves_the_callers_randomness_alone(recipe):
    runs = [Run(recipe("stage-1.dropout=0.5")) for _ in range(2)]
    for seed, run in enumerate(runs):
        torch.manual_seed(seed)
        expected = torch.rand(2)
        torch.manual_seed(seed)
        run.go()
        assert torch.equal(torch.rand(2), expected)
    assert equal(runs[0].weights, runs[1].weights)


def test_training_on_a_cpu_leaves_the_randomness_of_gpus_alone(recipe, monkeypatch):
    seeded = []
    monkeypatch.setattr(torch.cuda, "manual_seed_all", seeded.append)
    Run(recipe("stage-1.dropout=0.5", "stage-1.steps=1", "stage-2.steps=1")).go()
    assert not seeded


def test_dropout_is_keyed_by_what_is_heard(recipe, monkeypatch):
    """Ranks hear rows of their own at the same step, and must not drop the same channels."""
    drawn = []
    fork = torch.random.fork_rng

    @contextmanager
    def watch(devices):
        with fork(devices):
            yield
            drawn.append(torch.random.initial_seed())

    made = recipe("stage-1.steps=1", "stage-2.steps=1", "stage-1.dropout=0.5")
    for name in "ab":

        def batches(stage, first, stop, name=name):
            for batch in tones(stage, first, stop):
                yield replace(batch, utterances=tuple(replace(u, id=name + u.id) for u in batch.utterances))

        monkeypatch.setattr(torch.random, "fork_rng", watch)
        with pytest.raises(ValueError, match="has no codes"):
            Run(made, batches).go()
    assert len(set(drawn)) == 2


def test_a_weight_that_is_not_a_number_is_never_kept(recipe):
    run = Run(recipe("stage-1.learning_rate=0.02"))

    def spoil(step):
        if step.step == 3:
            run.trainer.supernet.get_parameter("container.masked_spec_embed").data[0] = float("inf")

    run.trainer.on_step = spoil
    with pytest.raises(DivergedError, match=r"^a weight of step 3 \(stage-1\) is not a finite number; resume "):
        run.go()
    assert [state["step"] for state in run.states] == [2]


def test_a_step_where_chance_masks_nothing_is_harmless(recipe):
    one = ("stage-1.steps=3", "stage-2.steps=1", "stage-1.view.mask_share=0.0001")
    run = Run(recipe(*one, "stages.0.objective.0.frames=masked")).go()
    assert run.losses()[:3] == [0.0, 0.0, 0.0]


# Stopping


def test_a_resumed_run_equals_an_undisturbed_one(recipe):
    whole = Run(recipe()).go()
    for state in whole.states:
        rest = Run(recipe(), store=whole.store)
        rest.trainer.resume(deepcopy(state))
        rest.go()
        done = state["step"]
        assert rest.steps == whole.steps[done:]
        assert equal(rest.weights, whole.weights)
        assert [s["step"] for s in rest.states] == [s["step"] for s in whole.states if s["step"] > done]
        assert rest.stages == (["stage-2", "done"] if done <= 5 else ["done"])
        if rest.states:
            assert equal(rest.states[-1]["heads"], whole.states[-1]["heads"])


def other_first_batches(stage, first, stop):
    """As `tones`, but what a stage begins with is heard otherwise."""
    for batch in tones(stage, first, stop):
        yield batch if first else replace(batch, wave=batch.wave**3, clean=batch.clean**3)


def test_what_a_source_measured_is_kept(recipe):
    whole = Run(recipe()).go()
    state = next(state for state in whole.states if state["step"] == 8)  # amid stage 2
    rest = Run(recipe(), other_first_batches, store=whole.store)
    rest.trainer.resume(deepcopy(state))
    assert equal(rest.go().weights, whole.weights)
    batch = next(tones(recipe().stages[1], 0, 1))
    wave = torch.from_numpy(batch.wave)
    ours, theirs = (
        open_sources(whole, state, batches)["teacher"](batch, Seen(wave, wave, None)).taps["hidden"]
        for batches in (tones, other_first_batches)
    )
    assert all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def test_another_recipe_is_refused(recipe):
    state = Run(recipe("stage-1.steps=2", "stage-2.steps=1")).go().states[0]
    with pytest.raises(TrainingError, match=r"made by another recipe \(stage-2.steps\); resume with the recipe of the"):
        Run(recipe("stage-1.steps=2", "stage-2.steps=2")).trainer.resume(state)


SHORT = ("stage-1.steps=2", "stage-2.steps=1", "save_every=1")
SPOILT = [
    ({"optimizer": {"state": {}}}, "the checkpoint's optimizer is none of PyTorch's"),
    ({"supernet": {}}, "the checkpoint's supernet does not have the weights of this space"),
    ({"supernet": {"residual_order": None}}, "the checkpoint's supernet does not have the weights of this space"),
    ({"step": -1}, "the checkpoint's step is -1; the recipe has 0 to 3"),
    ({"step": 4}, "the checkpoint's step is 4; the recipe has 0 to 3"),
    (
        {"step": 3},
        "the checkpoint's step is 3, of stage-2, and its sources are not those of that: teacher, codes",
    ),
    ({"sources": {}}, "the checkpoint's step is 1, of stage-1, and its sources are not those of that: teacher"),
    (
        {"sources": {"teacher": 1}},
        "the checkpoint's step is 1, of stage-1, and its sources are not those of that: teacher",
    ),
]
SPOILT_WITHIN = [
    ({"heads": {}}, "the checkpoint's heads are not those of stage-1"),
    ({"optimizer": {"state": {}, "param_groups": []}}, "the checkpoint's optimizer is not that of stage-1"),
]


@pytest.fixture(scope="module")
def amid_stage(tmp_path_factory):
    """A state after the first of two steps of a stage."""
    path = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    path.write_text(RECIPE)
    return Run(load_recipe(path, SHORT)).go().states[0]


def test_weight_decay_pulls_at_maps_alone(recipe):
    """Without gradients to speak of it is all that moves a weight."""
    run = Run(recipe("save_every=1", "stage-1.learning_rate=0.1", "stage-1.weight_decay=5", "stage-1.clip_norm=1e-30"))
    conv = "container.encoder.pos_conv_embed.conv.parametrizations.weight"
    before, after = run.weights, run.go().states[0]["supernet"]
    assert torch.equal(after[f"{conv}.original0"], before[f"{conv}.original0"])
    assert (after[f"{conv}.original1"].abs() < before[f"{conv}.original1"].abs()).all()


def test_a_checkpoint_of_when_all_but_vectors_were_decayed_is_resumed(recipe, amid_stage):
    whole, rest = Run(recipe(*SHORT)).go(), Run(recipe(*SHORT))
    objective = rest.trainer._open(rest.trainer.recipe.stages[0], amid_stage["sources"])[1]
    trainable = [*rest.trainer.supernet.parameters(), *objective.parameters()]
    now = {
        id(p): i for i, p in enumerate(p for group in split_by_decay(rest.trainer.supernet, objective) for p in group)
    }
    groups = [p for p in trainable if p.dim() > 1], [p for p in trainable if p.dim() <= 1]
    moments, (settings, _) = amid_stage["optimizer"]["state"], amid_stage["optimizer"]["param_groups"]
    assert len(groups[0]) != len(settings["params"])
    numbers = range(len(groups[0])), range(len(groups[0]), len(trainable))
    then = {
        "state": {i: moments[now[id(p)]] for i, p in enumerate([*groups[0], *groups[1]]) if now[id(p)] in moments},
        "param_groups": [{**settings, "params": list(n), "weight_decay": 0.5, "fused": None} for n in numbers],
    }
    rest.trainer.resume({**deepcopy(amid_stage), "optimizer": deepcopy(then)})
    assert equal(rest.go().weights, whole.weights)


@pytest.mark.parametrize(("changes", "message"), SPOILT)
def test_a_state_that_does_not_fit_is_refused_at_once(recipe, amid_stage, changes, message):
    with pytest.raises(TrainingError, match=rf"^{message}$"):
        Run(recipe(*SHORT)).trainer.resume({**deepcopy(amid_stage), **changes})


def test_a_state_of_no_step_fits(recipe, amid_stage):
    Run(recipe(*SHORT)).trainer.resume({**deepcopy(amid_stage), "step": 0})


@pytest.mark.parametrize(("changes", "message"), SPOILT_WITHIN)
def test_a_state_that_does_not_fit_its_stage_is_refused(recipe, amid_stage, changes, message):
    run = Run(recipe(*SHORT))
    run.trainer.resume({**deepcopy(amid_stage), **changes})
    with pytest.raises(TrainingError, match=rf"^{message}$"):
        run.go()
    assert not run.steps


@pytest.mark.parametrize(("batch_size", "half"), [(3, 1), (1, 1), (8, 4)])
def test_too_little_memory_names_what_to_lower(recipe, batch_size, half):
    def batches(*_):
        raise MemoryError("no room")

    with pytest.raises(OutOfMemoryError) as caught:
        Run(recipe(f"stage-1.batch_size={batch_size}"), batches).go()
    assert str(caught.value) == (
        f"not enough memory (no room) for stage-1 with batch_size {batch_size} and crop_seconds 0.4; lower one of them "
        f"(--set stage-1.batch_size={half}), or close other programs"
    )


def test_what_else_goes_wrong_is_left_as_it_is(recipe):
    def batches(*_):
        raise RuntimeError("something else")

    with pytest.raises(RuntimeError, match=r"^something else$"):
        Run(recipe(), batches).go()


@pytest.mark.parametrize("device", ["cuda:99", "cdua"])
def test_a_device_that_is_not_there(recipe, device):
    with pytest.raises(TrainingError, match=f"cannot compute on '{device}': "):
        Run(recipe(), device=device)
