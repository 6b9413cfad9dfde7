"""One loop for every stage of every recipe."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from distillation.objective import Objective, mean
from distillation.sources.source import Source, Targets
from distillation.stages import DONE, Recipe, Stage, find_changes, is_changeable
from distillation.views import Seen
from search_spaces.draws import draw_subnet, smallest_in_turn
from search_spaces.errors import FailedError, NestlingError, OutOfMemoryError, describe_shortage
from search_spaces.randomness import seed_of
from search_spaces.strict_yaml import parse_config
from search_spaces.subnet import Subnet
from speech_data.batching import Batch
from supernet.importance import reorder, taylor_importance
from supernet.model import Supernet
from supernet.weight_decay import split_by_decay

Precision = Literal["fp32", "bf16"]
IMPORTANCE_BATCHES = 4
CALIBRATION_BATCHES = 8

BatchSource = Callable[[Stage, int, int], Iterator[Batch]]
"""(stage, first step, last step + 1) -> its batches; the batch of a step is a pure function of stage and step."""
SourceFactory = Callable[[Stage, Supernet, Mapping[str, Any]], dict[str, Source]]
"""(stage, supernet at the start of the stage, saved states of sources or nothing) -> the stage's sources by name."""


STATE: Mapping[str, type] = {
    "recipe": dict,
    "step": int,
    "supernet": dict,
    "heads": dict,
    "optimizer": dict,
    "sources": dict,
}
"""What a state of `Trainer` holds: `step` is the number of steps that are done."""


class TrainingError(NestlingError):
    """Training cannot go on."""


class DivergedError(TrainingError, FailedError):
    """A number that training makes is not finite."""


@dataclass(frozen=True)
class Step:
    """What one step did: the row that goes into the record."""

    stage: str
    step: int
    """Counted over all stages, from 0."""
    learning_rate: float
    losses: dict[str, float]
    """By role of the subnet: `largest`, `smallest`, `random` (their mean)."""
    terms: dict[str, float]
    """By term, without its weight; the mean of the subnets."""
    gradient_norm: float
    """Of all that is trained, before it was clipped."""


class Trainer:
    """Trains a supernet by a recipe.

    It knows no file format and draws nothing on a screen: it is handed batches, sources and callbacks. What happens at
    a step depends on the recipe, the step and the weights alone, so a run that resumes at a checkpoint goes on as if
    it had never stopped.

    Args:
        supernet: Trained in place.
        recipe: What to do.
        batches: Where batches come from.
        make_sources: Builds a stage's sources.
        on_step: Called after every step.
        on_stage: Called with a stage's name and the supernet before its first step, and with "done" after the last.
        on_checkpoint: Called with a state that `resume` takes, every `recipe.save_every` steps and at the end of
            every stage.
        precision: `bf16` runs forwards under autocast; weights, losses and the optimiser stay in fp32.
        device: Where to compute.

    Raises:
        TrainingError: There is no such device here.
    """

    def __init__(
        self,
        supernet: Supernet,
        recipe: Recipe,
        batches: BatchSource,
        make_sources: SourceFactory,
        *,
        on_step: Callable[[Step], None],
        on_stage: Callable[[str, Supernet], None],
        on_checkpoint: Callable[[dict[str, Any]], None],
        precision: Precision = "fp32",
        device: str = "cpu",
    ) -> None:
        self.device = open_device(device)
        self.supernet = supernet.to(self.device)
        self.recipe = recipe
        self.batches = batches
        self.make_sources = make_sources
        self.on_step, self.on_stage, self.on_checkpoint = on_step, on_stage, on_checkpoint
        self.precision = precision
        self._saved: dict[str, Any] | None = None
        self._heads: Mapping[str, Tensor] = {}
        self._sources: Mapping[str, Any] = {}

    def resume(self, state: dict[str, Any]) -> None:
        """Goes on from what `on_checkpoint` was given.

        Raises:
            TrainingError: The state is of a recipe that differs in more than `CHANGEABLE`, or of another space.
        """
        changes = find_changes(parse_config(Recipe, state["recipe"], "the checkpoint's recipe"), self.recipe)
        if fixed := [key for key in changes if not is_changeable(key)]:
            raise TrainingError(
                f"the checkpoint was made by another recipe ({', '.join(fixed)}); "
                "resume with the recipe of the run folder"
            )
        self._stage_of(state)
        if not {"state", "param_groups"} <= state["optimizer"].keys():
            raise TrainingError("the checkpoint's optimizer is none of PyTorch's")
        try:
            self.supernet.load_state_dict(state["supernet"])
        except (RuntimeError, AttributeError) as error:
            raise TrainingError("the checkpoint's supernet does not have the weights of this space") from error
        self._saved = state
        self._heads, self._sources = state["heads"], state["sources"]

    def run(self) -> None:
        """Runs every stage that is not done.

        Raises:
            DivergedError: A loss or a weight is not a finite number.
            OutOfMemoryError: Names what to lower.
        """
        first = self._saved["step"] if self._saved else 0
        for stage, stage_start in self._starts():
            if first < stage_start + stage.steps:
                try:
                    self._run_stage(stage, stage_start, max(first, stage_start))
                except Exception as error:
                    if not (shortage := describe_shortage(error)):
                        raise
                    raise OutOfMemoryError(
                        f"{shortage} for {stage.name} with batch_size {stage.batch_size} and crop_seconds "
                        f"{stage.crop_seconds:g}; lower one of them (--set {stage.name}.batch_size="
                        f"{max(1, stage.batch_size // 2)}), or close other programs"
                    ) from error
        self.on_stage(DONE, self.supernet)

    def _run_stage(self, stage: Stage, stage_start: int, first: int) -> None:
        """Runs the steps `first` .. of a stage whose first step is `stage_start`."""
        saved = self._saved if first > stage_start else None  # a checkpoint inside this stage
        if saved is None:
            self.on_stage(stage.name, self.supernet)
        before = next((other for other, at in self._starts() if at + other.steps == stage_start), None)
        sources, objective = self._open(stage, saved["sources"] if saved else self._carry_sources(before, stage))
        fresh = objective.state_dict()
        kept = self._heads if saved is not None else self._carry_heads(before, stage)
        if _shapes({**fresh, **kept}) != _shapes(fresh) or (saved is not None and kept.keys() != fresh.keys()):
            raise TrainingError(f"the checkpoint's heads are not those of {stage.name}")
        objective.load_state_dict({**fresh, **kept})
        if saved is None and stage.reorder:
            self._sort_by_importance(stage, sources, objective)
        groups = split_by_decay(self.supernet, objective)
        optimizer = torch.optim.AdamW(
            [{"params": groups[0], "weight_decay": stage.weight_decay}, {"params": groups[1], "weight_decay": 0.0}],
            lr=stage.learning_rate,
            betas=(0.9, 0.98),
            eps=1e-6,
            fused=True,  # a quarter of the time, on a CPU too
        )
        if saved is not None:
            try:
                optimizer.state.update(_read_moments(saved["optimizer"], groups, self._trainable(objective)))
            except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
                raise TrainingError(f"the checkpoint's optimizer is not that of {stage.name}") from error
        end = stage_start + stage.steps
        for step, batch in enumerate(self.batches(stage, first - stage_start, stage.steps), start=first):
            rate = stage.learning_rate_at(step - stage_start)
            for group in optimizer.param_groups:
                group["lr"] = rate
            self.on_step(self._step(stage, step, rate, batch, sources, objective, optimizer))
            if (step + 1) % self.recipe.save_every == 0 or step + 1 == end:
                if not all(weight.isfinite().all() for weight in self._trainable(objective)):
                    raise _diverged(stage, step, "a weight")
                self.on_checkpoint(self._state(step + 1, objective, optimizer, sources))
        self._heads = {k: v.clone() for k, v in objective.state_dict().items()}
        self._sources = {name: source.state for name, source in sources.items()}

    def _starts(self) -> Iterator[tuple[Stage, int]]:
        """Every stage with its first step."""
        start = 0
        for stage in self.recipe.stages:
            yield stage, start
            start += stage.steps

    def _carry_sources(self, before: Stage | None, stage: Stage) -> dict[str, Any]:
        """States of sources that go on from the stage before, and measure nothing else in this one."""
        if before is None or before.view.target != stage.view.target:
            return {}
        return {
            name: state
            for name, state in self._sources.items()
            if _goes_on(before, stage, name) and stage.taps_of(name) == before.taps_of(name)
        }

    def _carry_heads(self, before: Stage | None, stage: Stage) -> dict[str, Tensor]:
        """Heads that go on from the stage before: those that predict what they did there, not what has their shape."""
        if before is None:
            return {}
        names = {term.heads for term in stage.objective if _goes_on(before, stage, term.source)}
        return {key: weight for key, weight in self._heads.items() if key.removeprefix("heads.").split(".")[0] in names}

    def _stage_of(self, state: Mapping[str, Any]) -> Stage:
        """The last stage that a state was in.

        Raises:
            TrainingError: No stage has that step, or its sources.
        """
        for stage, start in self._starts():
            if 0 <= state["step"] <= start + stage.steps:
                break
        else:
            raise TrainingError(
                f"the checkpoint's step is {state['step']}; the recipe has 0 to {self.recipe.num_steps}"
            )
        saved = state["sources"]
        if saved.keys() != stage.sources.keys() or not all(isinstance(values, dict) for values in saved.values()):
            raise TrainingError(
                f"the checkpoint's step is {state['step']}, of {stage.name}, and its sources are not those of that: "
                f"{', '.join(stage.sources)}"
            )
        return stage

    def _open(self, stage: Stage, saved: Mapping[str, Any]) -> tuple[dict[str, Source], Objective]:
        """A stage's sources, calibrated, and its objective with fresh heads."""
        sources = self.make_sources(stage, self.supernet, saved)
        fresh = [source for source in sources.values() if not source.state]
        grid = self.supernet.space.backbone.grid
        for batch in self.batches(stage, 0, min(CALIBRATION_BATCHES, stage.steps)) if fresh else ():
            with torch.no_grad(), self._autocast():
                seen = stage.view.draw(batch, grid, self.device)
                for source in fresh:
                    source.calibrate(batch, seen)
        objective = Objective(
            stage.objective,
            sources,
            self.supernet.space.container,
            self.supernet.stream_groups,
            generator(self.recipe.seed, stage.name, "heads"),
        )
        return sources, objective.to(self.device)

    def _step(
        self,
        stage: Stage,
        step: int,
        rate: float,
        batch: Batch,
        sources: Mapping[str, Source],
        objective: Objective,
        optimizer: torch.optim.Optimizer,
    ) -> Step:
        """One update from one batch: every subnet sees the same audio, mask and targets."""
        seen, targets = self._look(stage, step, batch, sources)
        subnets = draw_subnets(stage, self.supernet, self.recipe.seed, step)
        optimizer.zero_grad(set_to_none=True)
        losses, terms = [], []
        for role, subnet in subnets:
            dropout = stage.dropout if role == "largest" else 0.0
            keyed = self._randomness(step, "dropout", batch.utterances[0].id) if dropout else nullcontext()
            with keyed, self._autocast():
                trace = self.supernet(seen.student, seen.lengths, subnet, objective.taps, seen.masked, dropout)
                parts = objective(trace, targets, subnet, seen.masked)
                loss = objective.weigh(parts)
            (loss / len(subnets)).backward()
            losses.append(loss.detach())
            terms.append(torch.stack([mean(part).detach() for part in parts.values()]))
        norm = torch.nn.utils.clip_grad_norm_(self._trainable(objective), stage.clip_norm)
        by_term = torch.stack(terms).mean(0)
        numbers = torch.cat(
            [torch.stack([norm.to(losses[0]), *losses]), by_term]
        ).tolist()  # waits for the device, once
        gradient, values = numbers[0], numbers[1 : 1 + len(subnets)]
        by_role: dict[str, list[float]] = {}
        for (role, _), value in zip(subnets, values, strict=True):
            by_role.setdefault(role, []).append(value)
        means = {role: sum(values) / len(values) for role, values in by_role.items()}
        if not all(np.isfinite(value) for value in means.values()):
            raise _diverged(stage, step, "the loss", f": {means}")
        if not np.isfinite(gradient):
            raise _diverged(stage, step, "the gradient")
        optimizer.step()
        named = dict(zip((term.name for term in objective.terms), numbers[1 + len(subnets) :], strict=True))
        return Step(stage.name, step, rate, means, named, gradient)

    @contextmanager
    def _randomness(self, *key: int | str) -> Iterator[None]:
        """PyTorch's own randomness keyed by the recipe's seed and `key`; the process's goes on after as before."""
        seed = torch.default_generator.manual_seed if self.device.type == "cpu" else torch.manual_seed  # of all devices
        with torch.random.fork_rng(range(torch.cuda.device_count()) if self.device.type == "cuda" else []):
            seed(seed_of(self.recipe.seed, *key))
            yield

    def _look(
        self, stage: Stage, step: int, batch: Batch, sources: Mapping[str, Source]
    ) -> tuple[Seen, dict[str, Targets]]:
        """What the student and the sources see of a batch, and the targets."""
        grid = self.supernet.space.backbone.grid
        seen = stage.view.draw(batch, grid, self.device, self.recipe.seed, step)
        with torch.no_grad(), self._autocast():
            return seen, {name: source(batch, seen) for name, source in sources.items()}

    def _sort_by_importance(self, stage: Stage, sources: Mapping[str, Source], objective: Objective) -> None:
        self.supernet.zero_grad(set_to_none=True)
        subnet = self.supernet.space.container
        for step, batch in enumerate(self.batches(stage, 0, min(IMPORTANCE_BATCHES, stage.steps))):
            seen, targets = self._look(stage, step, batch, sources)
            with self._autocast():
                trace = self.supernet(seen.student, seen.lengths, subnet, objective.taps, seen.masked)
                loss = objective.weigh(objective(trace, targets, subnet, seen.masked))
            loss.backward()
        for weight in self.supernet.parameters():
            if weight.grad is None:  # out of the objective's reach: no say in the order
                weight.grad = torch.zeros_like(weight)
        order = reorder(self.supernet, taylor_importance(self.supernet))
        objective.reorder(order)
        self.supernet.zero_grad(set_to_none=True)
        objective.zero_grad(set_to_none=True)

    def _trainable(self, objective: Objective) -> list[torch.nn.Parameter]:
        return [*self.supernet.parameters(), *objective.parameters()]

    def _autocast(self) -> AbstractContextManager[Any]:
        if self.precision == "fp32":
            return nullcontext()
        return torch.autocast(self.device.type, dtype=torch.bfloat16)

    def _state(
        self, step: int, objective: Objective, optimizer: torch.optim.Optimizer, sources: Mapping[str, Source]
    ) -> dict[str, Any]:
        return {
            "recipe": self.recipe.model_dump(mode="json"),
            "step": step,
            "supernet": self.supernet.state_dict(),
            "heads": objective.state_dict(),
            "optimizer": optimizer.state_dict(),
            "sources": {name: source.state for name, source in sources.items()},
        }


def _goes_on(before: Stage, stage: Stage, source: str) -> bool:
    """Whether a source means in a stage what it meant in the one before."""
    spec = stage.sources.get(source)
    return spec is not None and spec.lasting and spec == before.sources.get(source)


def open_device(name: str) -> torch.device:
    """A device that can compute here.

    Raises:
        TrainingError: There is none of that name.
    """
    try:
        device = torch.device(name)
    except RuntimeError as error:  # which lists every backend that PyTorch ever had
        raise TrainingError(f"cannot compute on {name!r}: give cpu, cuda or cuda:1, cuda:2 …") from error
    try:
        torch.ones(1, device=device).item()
    except Exception as error:  # each backend of PyTorch refuses in its own way
        said = str(error).splitlines() or [type(error).__name__]
        raise TrainingError(f"cannot compute on {name!r}: {said[0]}") from error
    return device


def _diverged(stage: Stage, step: int, what: str, values: str = "") -> DivergedError:
    return DivergedError(
        f"{what} of step {step} ({stage.name}) is not a finite number{values}; resume with a lower learning rate "
        f"(--resume --set {stage.name}.learning_rate={stage.learning_rate / 10:.1g}), or look at the audio of that step"
    )


def _read_moments(
    saved: Mapping[str, Any], groups: Sequence[list[torch.nn.Parameter]], trainable: Sequence[torch.nn.Parameter]
) -> Mapping[Tensor, Any]:
    """What a checkpoint's optimizer knew of each parameter; its settings are the recipe's business."""
    if len(saved["param_groups"][0]["params"]) != len(groups[0]):  # until 2026-11-28 all of two axes or more decayed
        groups = [p for p in trainable if p.dim() > 1], [p for p in trainable if p.dim() <= 1]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups])
    fused = [{**group, "fused": True} for group in saved["param_groups"]]
    optimizer.load_state_dict({"state": saved["state"], "param_groups": fused})
    return optimizer.state


def _shapes(weights: Mapping[str, Any]) -> dict[str, list[int]]:
    """Name -> shape of what is a tensor; of anything else, none."""
    return {name: list(weight.shape) if isinstance(weight, Tensor) else [] for name, weight in weights.items()}


def draw_subnets(stage: Stage, supernet: Supernet, seed: int, step: int) -> list[tuple[str, Subnet]]:
    """The subnets of one step by role, the same for every rank and every resumed run.

    Source: the sandwich rule of slimmable networks (arXiv 1903.05134).
    """
    space = supernet.space
    chosen = [("largest", space.container)]
    if stage.subnets == "sandwich":
        rng = random.Random(seed_of(seed, step, "subnets"))
        chosen.append(("smallest", smallest_in_turn(space, step)))
        chosen += [("random", draw_subnet(space, rng, stage.draws)) for _ in range(stage.num_random)]
    return chosen


def generator(*key: int | str) -> torch.Generator:
    """PyTorch's generator for a key, as `seed_of` takes it."""
    return torch.Generator().manual_seed(seed_of(*key))
