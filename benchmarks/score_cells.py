"""The cells of `benchmarks/score.py`: each a subnet, with its score by every candidate and its errors in probes."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import cycle, islice
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import Tensor

from checkpoints.run_folder import RunFolder
from checkpoints.teachers import load_teacher
from distillation.sources.statistics import ChannelStatistics
from distillation.sources.teacher import TeacherSource
from distillation.views import View
from nas.ridge import fit_ridge
from nestling.workflows.audio import open_audio
from nestling.workflows.jobs import describe_job
from nestling.workflows.train import train
from search_spaces.budget import Budget
from search_spaces.costs import count_macs, count_params
from search_spaces.counting import Census
from search_spaces.files import write_file
from search_spaces.space import SearchSpace
from search_spaces.subnet import Subnet
from speech_data.batching import evaluation_batches
from speech_data.corpus import SpeechCorpus, Utterance, Waveform
from speech_tasks.distance_probes import VoiceProbe
from speech_tasks.feature_store import Clip, FeatureStore, Rendition
from speech_tasks.label_probes import FrameProbe, LabelProbe, take_each
from speech_tasks.materials import open_materials
from speech_tasks.proxy import KEYWORDS, SENTENCES, VOICE_SECONDS, VOICES, Probe
from speech_tasks.task import Material
from supernet.model import Supernet

RUNS = Path("runs/score")
CELLS = Path(__file__).parent / "results" / "score"
MEAN_TERMS = "[{source: teacher, matching: mean, distance: l1}, {source: teacher, matching: mean, distance: cosine}]"
OBJECTIVES: Mapping[str, tuple[str, ...]] = {
    "layers": (),
    "mean": tuple(f"stage-{i}.objective={MEAN_TERMS}" for i in (1, 2)),
}
"""Name of a run -> what it changes in the recipe `demo`."""
BANDS = (250_000, 500_000, 950_000)
"""Parameters, ±7 %."""
EACH = 16
NUM_SCORED = 60
"""Utterances of `search`, as a search takes by default; as many of `train`, where a candidate is fitted there."""
PENALTIES = (3e-4, 1e-3, 3e-3, 1e-2, 3e-2)
DEFAULT = 3e-3
PROBES = ("phones", "keywords", "speakers", "verification")


def draw_subnets(space: SearchSpace) -> list[tuple[int, Subnet]]:
    """Subnets of each band, one after another of every depth; each is drawn uniformly from its band and kept path."""
    depths = sorted(space.depth, reverse=True)
    rng, drawn = Random(0), []
    for band in BANDS:
        bounds = Budget.parse([f"params={round(0.93 * band)}..{round(1.07 * band)}"], space).bounds
        turns = {depth: cycle(space.depth[depth]) for depth in depths}
        for depth in islice(cycle(depths), EACH):
            census = Census(space.boxes({"kept": (next(turns[depth]),)}), bounds)
            drawn.append((band, census.subnet(rng.randrange(census.total))))
    return drawn


def open_run(name: str) -> RunFolder:
    """The run, trained now if it is not there."""
    path = RUNS / name
    if not (path / "supernet.safetensors").exists():
        print(f"training {path}", file=sys.stderr, flush=True)
        job = describe_job("train supernet", "tiny", "demo", "demo", "demo", OBJECTIVES[name], "cpu", "auto", None)
        train(path, job)
    return RunFolder.open(path)


@dataclass
class Heard:
    """A corpus as encoders hear it, each rendition computed once."""

    corpus: SpeechCorpus
    rendition: Rendition
    synthesised: bool = True
    waves: dict[str, Waveform] = field(default_factory=dict)

    @property
    def name(self) -> str:  # noqa: D102
        return self.corpus.name

    @property
    def hash(self) -> str:  # noqa: D102
        return self.corpus.hash

    def utterances(self, split: str) -> Sequence[Utterance]:  # noqa: D102
        return self.corpus.utterances(split)

    def read(self, utterance: Utterance) -> Waveform:  # noqa: D102
        if utterance.id not in self.waves:
            self.waves[utterance.id] = Clip(self.corpus, utterance, self.rendition).read()
        return self.waves[utterance.id]


def hear(material: Material) -> Material:
    return replace(material, corpus=Heard(material.corpus, material.rendition), rendition="clean", other=None)


class Truth:
    """Probes fitted on `train` and scored on `dev`: no utterance that a score heard."""

    def __init__(self) -> None:
        opened = open_materials([SENTENCES, KEYWORDS, VOICES], scored="dev", out_of_domain=False)
        materials = {name: hear(material) for name, material in opened.items()}
        sentences, keywords, voices = materials[SENTENCES], materials[KEYWORDS], materials[VOICES]
        begun = {
            split: [replace(c, max_samples=round(VOICE_SECONDS * 16_000)) for c in voices.clips(split)]
            for split in ("train", "dev")
        }
        known = list(dict.fromkeys(c.utterance.speaker for c in begun["train"]))
        taught = take_each([c for c in begun["train"] if c.utterance.speaker in known[:88]], 4)
        met = [c for c in begun["dev"] if c.utterance.speaker in known[:88]]
        others = take_each([c for c in begun["dev"] if c.utterance.speaker not in known], 5)
        self.probes: dict[str, list[Probe]] = {
            SENTENCES: [FrameProbe("phones", sentences.clips("train", 250), sentences.clips("dev", 240))],
            KEYWORDS: [
                LabelProbe("keywords", lambda u: u.intent, keywords.clips("train", 400), keywords.clips("dev", 300))
            ],
            VOICES: [
                LabelProbe("speakers", lambda u: u.speaker, taught, met),
                VoiceProbe("verification", taught, others),
            ],
        }

    def __call__(self, supernet: Supernet, subnet: Subnet) -> dict[str, list[float]]:
        """By probe: its error on every second clip, and on the others."""

        def encode(wave: Tensor, lengths: Tensor | None) -> list[Tensor]:
            return supernet(wave, lengths, subnet).hidden

        errors = {}
        for probes in self.probes.values():
            with FeatureStore(encode, (clip for probe in probes for clip in probe.clips)) as store:
                for probe in probes:
                    found = probe.errors(store)
                    errors[probe.name] = [round(float(found[half::2].mean()), 5) for half in (0, 1)]
        return errors


@dataclass
class Spoken:
    """Utterances with what the teacher makes of them."""

    waves: list[tuple[Tensor, Tensor | None, list[int]]]
    """Of each batch: waveforms, lengths, valid frames."""
    targets: list[Tensor]
    """Of each utterance, (T, L, K): every layer of the teacher, as it is."""


@torch.no_grad()
def listen(corpus: SpeechCorpus, split: str, supernet: Supernet, source: TeacherSource) -> Spoken:
    spoken = Spoken([], [])
    for batch in evaluation_batches(corpus, split, batch_size=8, augment=True, max_utterances=NUM_SCORED):
        grid = supernet.space.backbone.grid
        seen, frames = View().draw(batch, grid, torch.device("cpu")), grid.count(batch.lengths).tolist()
        layers = torch.stack(source(batch, seen).taps["hidden"], 2)  # (B, T, L, K)
        spoken.waves.append((seen.student, seen.lengths, frames))
        spoken.targets += [x[:count] for x, count in zip(layers, frames, strict=True)]
    return spoken


class Scores:
    """Every candidate on a run's supernet."""

    def __init__(self, run: RunFolder, corpus: SpeechCorpus) -> None:
        self.supernet = run.load_supernet()
        state = run.load_state(print)
        assert state
        self.heads: dict[str, Tensor] = state["heads"]
        source = TeacherSource(load_teacher("demo").encoder, ["hidden"], "none")
        self.search, self.train = (listen(corpus, split, self.supernet, source) for split in ("search", "train"))
        measured = ChannelStatistics(state["sources"]["teacher"]["hidden"])
        self.trained = [torch.stack(measured.standardize(y.unbind(1)), 1) for y in self.search.targets]
        # For read-outs: unit variance of every channel over the scored utterances.
        every = torch.cat(self.search.targets).double()
        self.centre, self.scale = every.mean(0).float(), every.std(0).float()
        self.upper = round(2 * every.shape[1] / 3)

    @torch.no_grad()
    def __call__(self, subnet: Subnet) -> dict[str, float]:
        """By candidate, lower is better."""
        search, train = (self._states(subnet, spoken) for spoken in (self.search, self.train))
        return {**self._old(subnet, search), **self._read_outs(search, train)}

    def _states(self, subnet: Subnet, spoken: Spoken) -> list[list[Tensor]]:
        """Hidden states of each utterance, each (T, D)."""
        states = []
        for wave, lengths, frames in spoken.waves:
            hidden = self.supernet(wave, lengths, subnet).hidden
            states += [[x[i, :count] for x in hidden] for i, count in enumerate(frames)]
        return states

    # the score until November 2026, and a repair of it

    def _old(self, subnet: Subnet, search: list[list[Tensor]]) -> dict[str, float]:
        if any("layers" in name for name in self.heads):
            count = max(self.supernet.space.depth)
            kept = [(layer, place + 1) for place, layer in enumerate(subnet.kept)]
            every = [(k, sum(layer <= k for layer in subnet.kept)) for k in range(count)]
            return {
                "trained heads": self._trained(search, kept, "layers"),
                "trained heads, identity": self._trained(search, every, "layers"),
            }
        return {"trained heads": self._trained(search, [(0, -1)], "mean")}

    def _trained(self, search: list[list[Tensor]], pairs: list[tuple[int, int]], matching: str) -> float:
        """L1 and cosine of some heads, each reading the hidden state of a number, mean over utterances."""
        losses = []
        for states, layers in zip(search, self.trained, strict=True):
            total = 0.0
            for head, state in pairs:
                weight = self.heads[f"heads.teacher:{matching}.{head}.weight"]
                bias = self.heads[f"heads.teacher:{matching}.{head}.bias"]
                x, groups = states[state], self.supernet.stream_groups
                weight = weight.unflatten(1, (groups, -1))[..., : x.shape[1] // groups].flatten(1)
                # the container has as many layers as this teacher, so that head k predicts its layer k
                target = layers[:, head] if matching == "layers" else layers[:, -self.upper :].mean(1)
                predicted = x @ weight.T + bias
                total += float((predicted - target).abs().mean())
                total += 1 - float(torch.cosine_similarity(predicted, target, dim=-1).mean())
            losses.append(total / len(pairs))
        return float(np.mean(losses))

    # closed form

    def _read_outs(self, search: list[list[Tensor]], train: list[list[Tensor]]) -> dict[str, float]:
        found = {}
        for targets in ("all", "mean"):
            y, fitted = (self._targets(spoken, targets) for spoken in (self.search, self.train))
            for states in ("last", "middle and last", "every", "weighted"):
                x, x_train = (_choose(states, hidden) for hidden in (search, train))
                if states == "weighted":
                    mix = fit_mix(search[::2], y[::2])
                    x, x_train = list(map(mix, search)), list(map(mix, train))
                halves = [self._residuals(x[i::2], y[i::2], x[1 - i :: 2], y[1 - i :: 2]) for i in (0, 1)]
                found |= self._name(states, targets, "half", halves[0].mean(0))
                found |= self._name(states, targets, "cross", torch.cat(halves).mean(0))
                found |= self._name(states, targets, "train", self._residuals(x_train, fitted, x, y).mean(0))
        x, y = _choose("last", search), self._targets(self.search, "all")
        for penalty in PENALTIES:
            halves = [self._residuals(x[i::2], y[i::2], x[1 - i :: 2], y[1 - i :: 2], penalty) for i in (0, 1)]
            found[f"last → all, cross, penalty {penalty:g}"] = float(torch.cat(halves).mean())
        return found

    def _targets(self, spoken: Spoken, which: str) -> list[Tensor]:
        """Of each utterance, (T, K'), standardised."""
        layers = [(y - self.centre) / self.scale for y in spoken.targets]
        if which == "all":
            return [y.flatten(1) for y in layers]
        means = [y[:, -self.upper :].mean(1) for y in layers]
        return [m / self._mean_scale for m in means]

    @cached_property
    def _mean_scale(self) -> Tensor:
        layers = torch.cat([(y - self.centre) / self.scale for y in self.search.targets])
        return layers[:, -self.upper :].mean(1).double().std(0).float()

    def _residuals(
        self, x: list[Tensor], y: list[Tensor], scored: list[Tensor], wanted: list[Tensor], penalty: float = DEFAULT
    ) -> Tensor:
        """Unexplained share of each scored utterance and layer, (N, L)."""
        read = fit_ridge(torch.cat(x), torch.cat(y), penalty)
        shares = []
        for state, target in zip(scored, wanted, strict=True):
            shares.append((read(state) - target).square().mean(0).unflatten(0, (-1, len(self.centre[0]))).mean(1))
        return torch.stack(shares)

    def _name(self, states: str, targets: str, fitted: str, layers: Tensor) -> dict[str, float]:
        found = {f"{states} → {targets}, {fitted}": float(layers.mean())}
        if targets == "all":
            found[f"{states} → upper, {fitted}"] = float(layers[-self.upper :].mean())
        return found


def _choose(states: str, hidden: list[list[Tensor]]) -> list[Tensor]:
    """What is read of each utterance's hidden states, (T, D)."""
    num_layers = len(hidden[0]) - 1
    numbers = {"last": [-1], "middle and last": [(num_layers + 1) // 2, -1], "every": range(num_layers + 1)}
    return [torch.cat([h[i] for i in numbers.get(states, [-1])], 1) for h in hidden]


@torch.enable_grad()
def fit_mix(hidden: list[list[Tensor]], y: list[Tensor]) -> Callable[[list[Tensor]], Tensor]:
    """The weighted sum of standardised states that reads the targets best: the states of an utterance -> (T, D)."""
    joined = [torch.cat(states).double() for states in zip(*hidden, strict=True)]
    means, deviations = [x.mean(0) for x in joined], [x.std(0).clamp_min(1e-6) for x in joined]
    z = [(x - mean) / deviation for x, mean, deviation in zip(joined, means, deviations, strict=True)]
    target = torch.cat(y).double()
    squares = torch.stack([torch.stack([a.T @ b for b in z]) for a in z])  # (L, L, D, D)
    products = torch.stack([a.T @ target for a in z])  # (L, D, K)
    eye = torch.eye(z[0].shape[1], dtype=torch.float64)
    logits = torch.zeros(len(z), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([logits], max_iter=15, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        shares = logits.softmax(0)
        product = torch.einsum("l,ldk->dk", shares, products)
        square = torch.einsum("l,m,lmde->de", shares, shares, squares)
        square = square + DEFAULT * square.diagonal().mean() * eye  # relative: a sum varies less than what it is of
        loss = -(product * torch.cholesky_solve(product, torch.linalg.cholesky(square))).sum() / target.numel()
        loss.backward()
        return loss

    optimizer.step(closure)
    shares = logits.detach().softmax(0)

    def mix(states: list[Tensor]) -> Tensor:
        parts = zip(shares, states, means, deviations, strict=True)
        return sum(share * (x.double() - mean) / deviation for share, x, mean, deviation in parts).float()  # type: ignore[union-attr]

    return mix


def make_cells(names: Sequence[str]) -> None:
    """Scores and probes each subnet of some runs that has no cell."""
    corpus, truth = open_audio("demo"), None
    for name in names:
        scores = None
        for band, subnet in draw_subnets(SearchSpace.load("tiny")):
            path = CELLS / name / f"{subnet.id}.json"
            if path.exists():
                continue
            truth, scores = truth or Truth(), scores or Scores(open_run(name), corpus)
            backbone = scores.supernet.space.backbone
            began = time.process_time()
            found = {key: round(value, 6) for key, value in scores(subnet).items()}
            scored = time.process_time()
            errors = truth(scores.supernet, subnet)
            cell = {
                "run": name,
                "band": band,
                "id": subnet.id,
                "params": count_params(backbone, subnet),
                "macs": count_macs(backbone, subnet, 1.0),
                "kept": subnet.kept,
                "scores": found,
                "errors": errors,
                "seconds": [round(scored - began, 1), round(time.process_time() - scored, 1)],
            }
            path.parent.mkdir(parents=True, exist_ok=True)
            write_file(path, json.dumps(cell, indent=1) + "\n")
            print(path, cell["seconds"], file=sys.stderr, flush=True)
