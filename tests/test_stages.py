"""Recipes are strict, say what is wrong with them, and can be changed value by value."""

from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest

from distillation.sources.codes import CodesSpec
from distillation.stages import (
    RECIPES,
    Recipe,
    Stage,
    change_recipe,
    find_changes,
    is_changeable,
    load_recipe,
)
from distillation.trainer import draw_subnets
from distillation.views import View
from search_spaces.space import SearchSpace
from search_spaces.strict_yaml import parse_config
from tests.training_cases import RECIPE

SHIPPED = sorted(path.stem for path in RECIPES.glob("*.yaml"))


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    return tmp_path / "recipe.yaml"


def make_stage(**values):
    source = {"t": {"kind": "teacher"}}
    term = {"source": "t", "matching": "mean", "distance": "l1"}
    return Stage(**{"name": "a", "steps": 10, "sources": source, "objective": [term], **values})


# Values


@pytest.mark.parametrize(
    ("key", "below", "least", "most", "above"),
    [
        ("num_random", -1, 0, 1000, 1001),
        ("steps", 0, 1, 100_000_000, 100_000_001),
        ("batch_size", 0, 1, 65_536, 65_537),
        ("crop_seconds", 0.1, 0.101, 3600, 3600.1),
        ("learning_rate", 0, 1e-12, 10, 10.1),
        ("warmup_share", -0.01, 0, 0.999, 1),
        ("weight_decay", -0.01, 0, 10, 10.1),
        ("clip_norm", 0, 1e-12, 1e12, float("inf")),
        ("dropout", -0.01, 0, 0.999, 1),
    ],
)
def test_a_stage_takes_what_is_within_its_bounds(key, below, least, most, above):
    for value in (least, most):
        assert getattr(make_stage(**{key: value}), key) == value
    for value in (below, above, float("nan")):
        with pytest.raises(ValueError, match=rf"validation error for Stage\n{key}\n"):
            make_stage(**{key: value})


def test_other_bounds():
    assert [CodesSpec(kind="codes", num_codes=count).num_codes for count in (2, 32_768)] == [2, 32_768]
    for count in (1, 32_769):
        with pytest.raises(ValueError, match="num_codes"):
            CodesSpec(kind="codes", num_codes=count)
    assert Recipe(save_every=1, stages=[make_stage()]).save_every == 1
    with pytest.raises(ValueError, match="save_every"):
        Recipe(save_every=0, stages=[make_stage()])
    with pytest.raises(ValueError, match="stages"):
        Recipe(stages=[])
    with pytest.raises(ValueError, match="objective"):
        make_stage(objective=[])


def test_values_that_a_recipe_leaves_out():
    recipe = Recipe(stages=[make_stage()])
    assert (recipe.description, recipe.seed, recipe.save_every) == ("", 0, 50)
    (stage,) = recipe.stages
    left_out = {key: getattr(stage, key) for key in Stage.model_fields if key not in stage.model_fields_set}
    assert left_out.pop("view") == View()
    assert left_out == {
        "subnets": "container",
        "num_random": 1,
        "draws": "subnet",
        "reorder": False,
        "batch_size": 16,
        "crop_seconds": 2.0,
        "learning_rate": 1e-3,
        "warmup_share": 0.1,
        "weight_decay": 0.01,
        "clip_norm": 1.0,
        "dropout": 0.0,
    }
    assert CodesSpec(kind="codes").num_codes == 100


# Learning rate


def test_learning_rate_rises_and_falls_linearly():
    stage = make_stage(steps=10, learning_rate=1.0, warmup_share=0.4)
    assert [stage.learning_rate_at(step) for step in range(11)] == pytest.approx(
        [0.25, 0.5, 0.75, 1.0, 1.0, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0.0]
    )


@pytest.mark.parametrize("steps", [1, 2, 3, 7, 300])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_learning_rate_is_positive_and_reaches_its_peak(steps, share):
    stage = make_stage(steps=steps, learning_rate=0.5, warmup_share=share)
    rates = [stage.learning_rate_at(step) for step in range(steps)]
    assert max(rates) == pytest.approx(0.5)
    assert min(rates) > 0
    peak = rates.index(max(rates))
    assert rates[: peak + 1] == sorted(rates[: peak + 1])
    assert rates[peak:] == sorted(rates[peak:], reverse=True)


# Loading


def test_shipped_recipes():
    assert set(SHIPPED) == {"demo", "hubert", "hubert-next", "lighthubert", "two-stage"}


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_recipe_loads_and_reads_back(name):
    recipe = load_recipe(name)
    assert recipe.description
    assert load_recipe(Path(name)) == recipe
    assert recipe.num_steps == sum(stage.steps for stage in recipe.stages) > 0
    assert type(recipe).model_validate(recipe.model_dump(mode="json")) == recipe


def test_lighthubert_is_the_papers_objective():
    for stage in load_recipe("lighthubert").stages:
        (term,) = stage.objective
        (source,) = stage.sources.values()
        assert (term.matching, term.distance, term.frames) == ("mean", "l1", "masked")
        assert (term.tap, source.normalization) == ("ffn", "instance")
        assert stage.view.mask_share == 0.65


def test_lighthubert_draws_each_dimension_by_itself():
    """And not, as until November 2026, evenly over architectures, of which 89 % have all layers."""
    stage, space = load_recipe("lighthubert").stages[1], SearchSpace.load("lighthubert-small")
    drawn = [draw_subnets(stage, SimpleNamespace(space=space), 0, step)[2][1] for step in range(600)]
    depths = Counter(len(subnet.layers) for subnet in drawn)
    assert {n: depths[n] for n in (10, 11, 12)} == pytest.approx(dict.fromkeys((10, 11, 12), 200), rel=0.2)


@pytest.mark.parametrize("key", ["num_random", "draws"])
@pytest.mark.parametrize("value", ["default", "other"])
def test_what_only_a_sandwich_reads_is_refused_elsewhere(recipe, tmp_path, key, value):
    value = {"num_random": {"default": 1, "other": 2}, "draws": {"default": "subnet", "other": "size"}}[key][value]
    message = (
        rf"recipe\.yaml: `stage-1\.{key}` has no effect where subnets is container; leave it out, or set "
        r"stage-1\.subnets=sandwich$"
    )
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe, [f"stage-1.{key}={value}"])
    set_in_file = tmp_path / "other" / "recipe.yaml"
    set_in_file.parent.mkdir()
    set_in_file.write_text(RECIPE.replace("  - name: stage-1\n", f"  - name: stage-1\n    {key}: {value}\n"))
    with pytest.raises(ValueError, match=message):
        load_recipe(set_in_file)
    assert getattr(load_recipe(set_in_file, ["stage-1.subnets=sandwich"]).stages[0], key) == value
    assert getattr(load_recipe(recipe, [f"stage-2.{key}={value}"]).stages[1], key) == value
    with pytest.raises(ValueError, match=message.removeprefix(r"recipe\.yaml")):
        change_recipe(load_recipe(recipe), [f"stage-1.{key}={value}"])


def test_what_has_no_effect_is_not_kept_and_old_runs_that_kept_it_are_read(recipe):
    loaded = load_recipe(recipe)
    kept = loaded.model_dump(mode="json")
    assert not {"num_random", "draws"} & kept["stages"][0].keys()
    assert {"num_random", "draws"} <= kept["stages"][1].keys()
    kept["stages"][0]["num_random"] = 1
    assert find_changes(parse_config(Recipe, kept), loaded) == {}
    assert change_recipe(parse_config(Recipe, kept), ["seed=1"]).seed == 1


@pytest.mark.parametrize(
    ("text", "draws"),
    [
        ("dimension", "dimension"),
        ("{size: 0.5, subnet: 0.5}", {"size": 0.5, "subnet": 0.5}),
        ("{depth: 2}", {"depth": 2}),
    ],
)
def test_draws_are_a_rule_or_weights_of_several(recipe, text, draws):
    changed = load_recipe(recipe, [f"stage-2.draws={text}"])
    assert changed.stages[1].draws == draws
    assert parse_config(Recipe, changed.model_dump(mode="json")) == changed
    assert any(key.startswith("stage-2.draws") for key in find_changes(load_recipe(recipe), changed))
    assert not is_changeable("stage-2.draws")


def test_values_are_changed_by_name(recipe):
    changed = load_recipe(
        recipe,
        [
            "seed=7",
            "stage-1.steps=12",
            "stage-1.learning_rate=1e-4",
            "stage-1.reorder=true",
            "stage-2.view.mask_share=0.5",
            "stage-2.sources.codes.num_codes=8",
            "stages.1.objective.0.weight=0.25",
        ],
    )
    first, second = changed.stages
    assert (changed.seed, first.steps, first.learning_rate, first.reorder) == (7, 12, 1e-4, True)
    assert second.view.mask_share == 0.5
    assert second.sources["codes"].num_codes == 8
    assert second.objective[0].weight == 0.25
    plain = load_recipe(recipe)
    assert plain.stages[1].objective[1] == second.objective[1]  # and nothing else
    assert first.view == plain.stages[0].view


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("stage-1.stepps=2", r"unknown key `stage-1\.stepps`; did you mean `steps`\?"),
        ("stage-3.steps=2", "unknown key `stage-3`"),
        ("stage-1.steps=many", r"`stage-1\.steps` should be a valid integer, got 'many'"),
        ("stage-1.steps=0", r"`stage-1\.steps` should be greater than or equal to 1, got 0"),
        ("stage-1.view.mask_share=2", r"`stage-1\.view\.mask_share` should be less than or equal to 1, got 2"),
        ("stage-1.subnets=largest", r"`stage-1\.subnets` should be 'container' or 'sandwich', got 'largest'"),
        (
            "stage-2.draws=sise",
            r"`stage-2\.draws`: no draws by `sise`; did you mean `size`\? there are size, depth, dimension, subnet$",
        ),
        ("stage-2.draws={size: 0}", r"`stage-2\.draws`: the weight of `size` must be above 0 and at most 1000, got 0$"),
        ("stage-2.draws=[size]", r"`stage-2\.draws`: want one of size, depth, dimension, subnet, or weights such as"),
        ("stage-1.steps", "want path.to.key=value, such as stage-1.steps=100"),
        ("=3", "want path.to.key=value"),
        ("stage-1.steps.x=3", "there is nothing at `steps`; stages are stage-1, stage-2"),
        ("stages.7.steps=3", "there is nothing at `7`"),
        ("stages.0=3", "`0` has no place there"),
        ("stage-1.steps=[1", "--set stage-1.steps="),
        ("stage-2.name=stage-1", "stages need names of their own"),
        ("stage-2.name=done", "none may be `done`"),
        ("stage-2.name=seed", "none may be `done` or a key of the recipe; got stage-1, seed"),  # which it would hide
        ("stages.0.objective.0.source=teecher", "objective.0 wants the source `teecher`; there is only teacher"),
        (
            "stages.1.objective.1.distance=l1",
            "objective.1: the matching `codes` goes with cross_entropy, not with `l1`",
        ),
        (
            "stages.1.objective.0.matching=codes",
            "objective.0 meets the tap `codes`, and `teacher` gives hidden, ffn, attention, probabilities",
        ),
        ("stages.1.objective.1.matching=mean", "objective.1: the matching `mean` meets `hidden`, not `codes`"),
        ("stages.0.objective.0.tap=fnn", "objective.0 meets the tap `fnn`, and `teacher` gives hidden, ffn"),
        ("stages.0.objective.0.tap=attention", "the matching `layers` meets `hidden`, not `attention`"),
        ("stages.0.objective.0.distance=ctc", "the matching `layers` goes with l1, mse, cosine, gram, not with `ctc`"),
        ("stage-1.sources.codes.kind=codes", "`stage-1`: sources.codes is met by no term of the objective"),
        # settings that have no effect there
        ("stage-1.sources.teacher.num_codes=500", "unknown key `stage-1.sources.teacher.num_codes`"),
        ("stage-2.sources.codes.normalization=none", "unknown key `stage-2.sources.codes.normalization`"),
        ("stage-2.sources.codes.tap=hidden", "unknown key `stage-2.sources.codes.tap`"),
        ("stage-1.sources.teacher.kind=teecher", "`stage-1.sources.teacher.kind` is 'teecher'; did you mean `teacher`"),
        ("stage-1.sources.more.num_codes=3", "missing key `stage-1.sources.more.kind`"),
        ("stage-1.sources.teacher.normalization=channels", "`stage-1.sources.teacher.normalization` should be 'chan"),
    ],
)
def test_impossible_changes_are_explained(recipe, change, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(recipe, [change])


def test_masked_frames_need_a_mask(recipe):
    load_recipe(recipe, ["stages.0.objective.0.frames=masked"])
    with pytest.raises(ValueError, match=r"`stage-1`: objective\.0 counts masked frames, and the view masks none"):
        load_recipe(recipe, ["stages.0.objective.0.frames=masked", "stage-1.view.mask_share=0"])


def test_a_recipe_in_hand_is_changed_as_a_file_is(recipe):
    before = load_recipe(recipe)
    changes = ["seed=7", "stage-2.objective.0.weight=0.25", "stages.0.view.mask_share=0.5"]
    assert change_recipe(before, changes) == load_recipe(recipe, changes)
    assert before == load_recipe(recipe)
    with pytest.raises(ValueError, match=r"^recipe: unknown key `sede`"):
        change_recipe(before, ["sede=7"])


def test_what_differs_is_named_by_its_stage(recipe):
    before = load_recipe(recipe)
    assert find_changes(before, before) == {}
    changes = ["seed=7", "stage-2.objective.0.weight=0.25", "stage-2.sources.codes.num_codes=8", "stage-1.dropout=0"]
    found = find_changes(before, load_recipe(recipe, changes))
    assert found == {
        "seed": (0, 7),
        "stage-2.sources.codes.num_codes": (4, 8),
        "stage-2.objective.0.weight": (1.0, 0.25),
        "stage-1.dropout": (0.1, 0.0),
    }
    back = find_changes(load_recipe(recipe, changes), before)
    assert back == {key: (new, old) for key, (old, new) in found.items()}


@pytest.mark.parametrize(
    ("key", "changeable"),
    [("save_every", True), ("stage-1.learning_rate", True), ("seed", False), ("stage-1.view.mask_share", False)],
)
def test_what_no_checkpoint_depends_on_may_change(key, changeable):
    assert is_changeable(key) is changeable


def test_all_problems_are_listed_at_once(recipe):
    with pytest.raises(ValueError, match="stepps") as caught:
        load_recipe(recipe, ["stage-1.stepps=2", "save_evry=3", "stage-2.dropout=1"])
    assert all(word in str(caught.value) for word in ("stepps", "save_evry", "dropout"))


@pytest.mark.parametrize(
    ("name", "message"),
    [("demp", r"no recipe `demp`; did you mean `demo`\? there are demo, hubert"), ("x.yaml", "or give a .yaml file")],
)
def test_unknown_recipes(name, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(name)


@pytest.mark.parametrize(
    ("key", "value", "limit"),
    [
        ("sources.codes.num_codes", "40000", "32768"),  # codes are kept in 16 bits
        ("num_random", "100000", "1000"),
        ("steps", "1000000000000", "100000000"),
        ("batch_size", "10000000", "65536"),
        ("crop_seconds", "1e9", "3600"),
    ],
)
def test_absurd_sizes_are_refused(key, value, limit):
    recipe = "hubert" if "codes" in key else "demo"
    stage = load_recipe(recipe).stages[-1]
    try:
        said = str(load_recipe(recipe, [f"{stage.name}.{key}={value}"]))
    except ValueError as error:
        said = str(error)
    assert f"should be less than or equal to {limit}, got " in said


def test_a_tap_that_was_a_sources_is_its_terms(recipe):
    """As recipes of earlier runs have it, and `--set` on their command lines."""
    older = make_stage(sources={"t": {"kind": "teacher", "tap": "ffn", "normalization": "none"}})
    assert older.objective[0].tap == "ffn"
    assert older.taps_of("t") == ("ffn",)
    assert older.sources["t"].normalization == "none"
    assert make_stage(sources={"t": {"kind": "teacher", "tap": "hidden"}}) == make_stage()
    changed = load_recipe(recipe, ["stage-1.sources.teacher.tap=ffn"])
    assert [stage.taps_of("teacher") for stage in changed.stages] == [("ffn",), ("hidden",)]
    assert (
        change_recipe(load_recipe(recipe), ["stage-1.sources.teacher.tap=ffn"]) == changed
    )  # terms as a run keeps them
    named = make_stage(
        sources={"t": {"kind": "teacher", "tap": "ffn"}},
        objective=[{"source": "t", "tap": "front_end", "matching": "mean", "distance": "l1"}],
    )
    assert named.taps_of("t") == ("front_end",)


def test_the_same_term_twice_is_one_of_twice_the_weight():
    term = {"source": "t", "matching": "mean", "distance": "l1"}
    with pytest.raises(ValueError, match=r"objective\.1 is there already; give that one the weight of both"):
        make_stage(objective=[term, term | {"weight": 2.0}])
    with pytest.raises(ValueError, match=r"objective\.1 is there already"):
        make_stage(objective=[term, term | {"tap": "hidden"}])  # which it meets anyway
    make_stage(objective=[term, term | {"distance": "mse"}, term | {"tap": "ffn"}])


@pytest.mark.parametrize(("tap", "fits"), [("front_end", True), ("ffn", False), ("hidden", False)])
def test_a_front_end_meets_a_single_layer(tap, fits):
    """Of a tap with many it took the first."""
    term = {"source": "t", "matching": "front_end", "distance": "l1", "tap": tap}
    if fits:
        make_stage(objective=[term])
        make_stage(objective=[term | {"matching": "mean"}])  # that meets one layer as well as many
        return
    with pytest.raises(ValueError, match=rf"the matching `front_end` meets `front_end`, not `{tap}`"):
        make_stage(objective=[term])


@pytest.mark.parametrize("name", ["my.teacher", "my:teacher"])
def test_names_of_sources_are_parts_of_others(name):
    """Of weights of heads, whose parts a dot keeps apart, and of terms."""
    term = {"source": name, "matching": "mean", "distance": "l1"}
    with pytest.raises(ValueError, match=rf"sources\.{name} must have no `\.` and no `:` in its name"):
        make_stage(sources={name: {"kind": "teacher"}}, objective=[term])
    make_stage(sources={"my-teacher": {"kind": "teacher"}}, objective=[term | {"source": "my-teacher"}])


def test_a_transcript_is_read_whole():
    values = {
        "sources": {"said": {"kind": "labels"}},
        "objective": [{"source": "said", "matching": "labels", "distance": "ctc"}],
    }
    assert make_stage(**values).taps_of("said") == ("labels",)
    values["objective"][0]["frames"] = "unmasked"
    with pytest.raises(ValueError, match="`ctc` reads whole utterances; leave out `frames`"):
        make_stage(**values)


def test_a_run_from_when_a_source_kept_the_keys_of_every_kind_is_read():
    every = {"tap": "hidden", "normalization": "instance", "num_codes": 7, "layer": None}
    values = {
        "sources": {kind: {"kind": kind, **every} for kind in ("teacher", "signal", "codes")},
        "objective": [
            {"source": "teacher", "matching": "mean", "distance": "l1", "frames": "all", "weight": 1.0},
            {"source": "signal", "matching": "mean", "distance": "l1", "frames": "all", "weight": 1.0},
            {"source": "codes", "matching": "codes", "distance": "cross_entropy", "frames": "all", "weight": 1.0},
        ],
    }
    assert {name: spec.model_dump() for name, spec in make_stage(**values).sources.items()} == {
        "teacher": {"kind": "teacher", "normalization": "instance"},
        "signal": {"kind": "signal"},
        "codes": {"kind": "codes", "num_codes": 7, "layer": None},
    }
    values["sources"]["teacher"].pop("layer")  # typed by hand: what has no effect is refused
    with pytest.raises(ValueError, match="num_codes"):
        make_stage(**values)
