"""Stages and recipes: training as values. Shipped recipes are `recipes/*.yaml`."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from distillation.matchings import MATCHINGS
from distillation.sources import SourceSpec
from distillation.terms import Term
from distillation.views import View
from search_spaces.draws import Draws, check_draws
from search_spaces.errors import NestlingError
from search_spaces.nearest_names import suggest
from search_spaces.strict_yaml import load_yaml, parse_config, parse_yaml
from supernet.encoder import TAPS

Which = Literal["container", "sandwich"]
CHANGEABLE = ("learning_rate", "weight_decay", "clip_norm", "dropout", "batch_size", "crop_seconds", "save_every")
"""Keys of a recipe that may change while a run is under way: no checkpoint depends on them."""
DONE = "done"
"""What comes after the last stage."""
KEPT = {"teacher": ("tap", "normalization"), "signal": (), "codes": ("num_codes", "layer")}
KEPT_OF_ALL = {"kind", *(key for keys in KEPT.values() for key in keys)}
"""Of an older run's source: the keys of its kind, and all that were written whatever the kind."""
LAYERS = ("hidden", "ffn")
"""Taps that have channels of frames from every layer."""
RELATIONS = {"codes", "labels", *TAPS} - {*LAYERS, "front_end"}
"""Taps that are no channels of frames, so each is met by a matching of its own."""
OF_SANDWICH = ("num_random", "draws")
"""Keys of a stage that only the sandwich reads."""
STRICT = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Stage(BaseModel):
    """Data, view, objective, what is trained and for how long."""

    model_config = STRICT

    name: str
    subnets: Which = "container"
    """`container`: the largest alone. `sandwich`: the largest, the smallest and `num_random` that are drawn."""
    num_random: int = Field(1, ge=0, le=1000)
    draws: Annotated[Draws, BeforeValidator(check_draws)] = "subnet"
    """How, as `search_spaces.draws` says: `size`, `depth`, `dimension`, `subnet`, or weights of several of them."""
    reorder: bool = False
    """Sort heads, inner units and channels by importance before the stage, so that prefixes are the best part."""
    steps: int = Field(ge=1, le=100_000_000)
    batch_size: int = Field(16, ge=1, le=65_536)
    crop_seconds: float = Field(2.0, gt=0.1, le=3600)
    view: View = View()
    sources: dict[str, SourceSpec]
    objective: tuple[Term, ...] = Field(min_length=1)
    learning_rate: float = Field(1e-3, gt=0, le=10)
    warmup_share: float = Field(0.1, ge=0, lt=1)
    """Share of the steps over which the learning rate rises; then it falls linearly to zero."""
    weight_decay: float = Field(0.01, ge=0, le=10)
    clip_norm: float = Field(1.0, gt=0)
    dropout: float = Field(0.0, ge=0, lt=1)
    """For the largest subnet alone; smaller ones are regularised by sharing."""

    @model_validator(mode="before")
    @classmethod
    def _read_older(cls, values: Any) -> Any:
        """Reads a recipe from when a source had one tap for all terms, and a run's kept every key of every kind."""
        if not isinstance(values, dict) or not isinstance(values.get("sources"), dict):
            return values
        sources: dict[str, Any] = {}
        moved: dict[str, str] = {}
        for name, given in values["sources"].items():
            spec = given
            if isinstance(spec, dict) and spec.keys() == KEPT_OF_ALL and str(spec["kind"]) in KEPT:
                spec = {key: spec[key] for key in ("kind", *KEPT[spec["kind"]])}
            old = isinstance(spec, dict) and spec.get("kind") == "teacher" and "tap" in spec
            moved |= {name: spec["tap"]} if old and spec["tap"] != "hidden" else {}
            sources[name] = {key: value for key, value in spec.items() if key != "tap"} if old else spec
        terms = values.get("objective")
        if isinstance(terms, list | tuple):
            terms = tuple(
                {**term, "tap": moved[str(term["source"])]}
                if isinstance(term, dict) and str(term.get("source")) in moved and term.get("tap") is None
                else term
                for term in terms
            )
        return values | {"sources": sources} | ({"objective": terms} if "objective" in values else {})

    @model_validator(mode="after")
    def _check_terms(self) -> Self:
        if problems := list(_find_problems(self)):
            raise NestlingError(*problems)
        return self

    def taps_of(self, source: str) -> tuple[str, ...]:
        """What terms read of a source."""
        given = self.sources[source].taps
        return tuple(sorted({term.tap_in(given) for term in self.objective if term.source == source}))

    @model_serializer(mode="wrap")
    def _leave_out_idle(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """What has no effect is not written, so that what is read was wanted."""
        idle = OF_SANDWICH if self.subnets == "container" else ()
        return {key: value for key, value in serialize(self).items() if key not in idle}

    def learning_rate_at(self, step: int) -> float:
        """Learning rate of a step, counted from 0."""
        warmup = max(1, round(self.warmup_share * self.steps))
        if step < warmup:
            return self.learning_rate * (step + 1) / warmup
        return self.learning_rate * max(0.0, (self.steps - step) / max(1, self.steps - warmup))


class Recipe(BaseModel):
    """An ordered list of stages."""

    model_config = STRICT

    description: str = ""
    seed: int = 0
    save_every: int = Field(50, ge=1)
    """Steps between checkpoints."""
    stages: tuple[Stage, ...] = Field(min_length=1)

    @model_validator(mode="after")
    def _check_names(self) -> Self:
        names = [stage.name for stage in self.stages]
        taken = {DONE, *Recipe.model_fields}
        if len({*names, *taken}) < len(names) + len(taken):
            raise NestlingError(
                f"stages need names of their own, and none may be `{DONE}` or a key of the recipe; got "
                f"{', '.join(names)}"
            )
        return self

    @property
    def num_steps(self) -> int:
        """Steps of all stages."""
        return sum(stage.steps for stage in self.stages)

    @property
    def teacher_taps(self) -> dict[str, str]:
        """What terms take from the teacher, by the key of each tap, such as `stage-1.objective.0.tap`."""
        return {
            f"{stage.name}.objective.{number}.tap": term.tap_in(stage.sources[term.source].taps)
            for stage in self.stages
            for number, term in enumerate(stage.objective)
            if stage.sources[term.source].kind == "teacher"
        }


def _find_problems(stage: Stage) -> Iterator[str]:
    """What would only show when the stage starts, hours into a run."""
    for number, term in enumerate(stage.objective):
        source, matching = stage.sources.get(term.source), MATCHINGS[term.matching]
        if source is None:
            yield f"objective.{number} wants the source `{term.source}`; there is only {', '.join(stage.sources)}"
        elif (tap := term.tap_in(source.taps)) not in source.taps:
            yield f"objective.{number} meets the tap `{tap}`, and `{term.source}` gives {', '.join(source.taps)}"
        elif tap != matching.tap and (
            {tap, matching.tap} & RELATIONS or (matching.of_front_end and tap in LAYERS)  # a front-end is one layer
        ):
            yield f"objective.{number}: the matching `{term.matching}` meets `{matching.tap}`, not `{tap}`"
        elif term.distance not in matching.distances:
            yield (
                f"objective.{number}: the matching `{term.matching}` goes with {', '.join(matching.distances)}, not "
                f"with `{term.distance}`"
            )
        if matching.of_front_end and stage.reorder:
            yield f"objective.{number} reads the front-end, whose channels `reorder` would sort; leave out one of them"
        if term.frames == "masked" and not stage.view.mask_share:
            yield f"objective.{number} counts masked frames, and the view masks none; set view.mask_share"
        if term.frames != "all" and term.distance == "ctc":
            yield f"objective.{number}: `ctc` reads whole utterances; leave out `frames`"
        if term.name in {other.name for other in stage.objective[:number]}:
            yield f"objective.{number} is there already; give that one the weight of both"
    yield from (
        f"sources.{name} must have no `.` and no `:` in its name, which keep names in records apart"
        for name in stage.sources
        if set(name) & set(".:")
    )
    for name in stage.sources.keys() - {term.source for term in stage.objective}:
        yield f"sources.{name} is met by no term of the objective; leave it out"


def _find_idle(recipe: Recipe) -> Iterator[str]:
    """What a person set and nothing reads. Not a rule of `Stage`: runs of an earlier Nestling kept such values."""
    for stage in recipe.stages:
        for key in OF_SANDWICH:
            if stage.subnets == "container" and key in stage.model_fields_set:
                yield (
                    f"`{stage.name}.{key}` has no effect where subnets is container; leave it out, or set "
                    f"{stage.name}.subnets=sandwich"
                )


RECIPES = Path(__file__).parent / "recipes"


def load_recipe(name: str | Path, changes: Sequence[str] = ()) -> Recipe:
    """A shipped recipe by its name, or your own from a YAML file, with single values changed.

    Args:
        name: `demo`, `hubert`, `lighthubert`, or a path.
        changes: Each `path.to.key=value`; a stage is addressed by its name, as in `stage-1.steps=100`.

    Raises:
        NestlingError: No such recipe, a change that fits nowhere, or a value that is not allowed; lists every problem.
    """
    shipped = {path.stem: path for path in sorted(RECIPES.glob("*.yaml"))}
    path = shipped.get(str(name), Path(name))
    if not path.is_file():
        raise NestlingError(f"no recipe `{name}`; {suggest(name, shipped)}; or give a .yaml file")
    return _changed(load_yaml(path), changes, str(name))


def change_recipe(recipe: Recipe, changes: Sequence[str]) -> Recipe:
    """A recipe with single values changed; as `load_recipe` takes them, and raises."""
    return _changed(recipe.model_dump(mode="json"), changes, "recipe")


def find_changes(before: Recipe, after: Recipe) -> dict[str, tuple[Any, Any]]:
    """What differs: `stage-1.learning_rate` -> (its value before, after)."""
    old, new = (dict(_flatten(recipe)) for recipe in (before, after))
    return {key: (old.get(key), new.get(key)) for key in (old | new) if old.get(key) != new.get(key)}


def is_changeable(key: str) -> bool:
    """Whether this key of a recipe, as `find_changes` names it, may change while a run is under way."""
    return key.rpartition(".")[2] in CHANGEABLE


def _flatten(values: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    """Each value of a recipe with the keys that lead to it; a stage goes by its name."""
    if isinstance(values, Recipe):
        whole = values.model_dump(mode="json")
        values = whole | {stage["name"]: stage for stage in whole.pop("stages")}
    if isinstance(values, dict | list):
        for key, inner in values.items() if isinstance(values, dict) else enumerate(values):
            yield from _flatten(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, values


def _changed(values: dict[str, Any], changes: Sequence[str], source: str) -> Recipe:
    """The recipe, with changes; what is wrong is told by the names of stages, as they are typed."""
    for change in changes:
        _change(values, change)
    try:
        recipe = parse_config(Recipe, values, source)
    except NestlingError as error:
        stages = values["stages"] if isinstance(values.get("stages"), list) else []
        names = {f"stages.{i}": stage.get("name") for i, stage in enumerate(stages) if isinstance(stage, dict)}
        named = (re.sub(r"\bstages\.\d+\b", lambda place: str(names.get(place[0]) or place[0]), x) for x in error.args)
        raise NestlingError(*named) from error
    if idle := list(_find_idle(recipe)):
        raise NestlingError(*(f"{source}: {problem}" for problem in idle))
    return recipe


def _change(values: dict[str, Any], change: str) -> None:
    """Sets one value in place; unknown keys are left to the model's own check."""
    key, sign, text = change.partition("=")
    if not sign or not key:
        raise NestlingError(f"--set {change}: want path.to.key=value, such as stage-1.steps=100")
    *path, last = key.split(".")
    target: Any = values
    stages = {stage.get("name"): stage for stage in values.get("stages", ()) if isinstance(stage, dict)}
    for depth, part in enumerate(path):
        if depth == 0 and part in stages:
            target = stages[part]
        elif isinstance(target, list) and part.isdigit() and int(part) < len(target):
            target = target[int(part)]
        elif isinstance(target, dict) and not isinstance(target.get(part, {}), str | int | float | bool):
            target = target.setdefault(part, {})
        else:
            raise NestlingError(
                f"--set {change}: there is nothing at `{part}`; stages are {', '.join(map(str, stages))}"
            )
    if not isinstance(target, dict):
        raise NestlingError(f"--set {change}: `{last}` has no place there")
    target[last] = parse_yaml(text, source=f"--set {change}")
