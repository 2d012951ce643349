"""Which heads look at the newest frames only (static) and which look further back (dynamic), after Forcing-KV (arXiv 2605.09681).

score(head) = attention on the last 4 key frames (a chunk of 3 and the frame before it) / attention on all but the first key frames.
A head is static from a threshold on (published: 0.8), or by its rank in the layer. The released script leaves out 1 first frame, its
shipped profiles say 3; both are parameters here, and every profile carries the recipe it was made with.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from fkv.cache import Roles, check_roles
from fkv.heads_file import FORMAT, MANY, ONE, fields_of
from fkv.probe import FrameProbe
from fkv.spec import Geometry
from fkv.stability import Agreement, Table, agreement, flips, halves, summary
from fkv.stream import Stream

SKIPS = (1, 3)  # first key frames left out: by the released script, by its shipped profiles


def head_scores(maps: Tensor, *, last_k: int = 4, skip_first_k: int = 1) -> Tensor:
    """Scores [...] in [0, 1] of frame maps [..., query frames, key frames]; NaN where a head cannot see every frame."""
    if maps.shape[-1] <= max(last_k, skip_first_k):
        recipe = f"last_k {last_k} and skip_first_k {skip_first_k}"
        raise ValueError(f"{maps.shape[-1]} key frames are too few for {recipe}; measure later in the video")
    return maps[..., -last_k:].sum(dim=(-2, -1)) / maps[..., skip_first_k:].sum(dim=(-2, -1))


@dataclass(frozen=True)
class HeadProfile:
    """The static heads of every layer, and where it is known how they were found.

    scores and errors are [layers][heads]; `rule` says in words how the classes follow from them. samples, steps and chunks are the scores
    [n][layers][heads] of each prompt, denoise step and chunk measured, averaged over all else; `variants` scores by another recipe, named
    by it; `flips` the share of the prompts that class a head otherwise; `sampling` how far the live estimate lies from the scores.
    `stability`: correlations of two halves ("prompts", "passes"), and what `fkv.stability.summary` says.
    """

    model: str
    layers: int
    heads: int
    static: Roles
    rule: str = "given"
    threshold: float | None = None
    scores: Table | None = None
    errors: Table | None = None
    recipe: dict[str, Any] = field(default_factory=dict)
    stability: dict[str, float] = field(default_factory=dict)
    samples: tuple[Table, ...] | None = None
    steps: tuple[Table, ...] | None = None
    chunks: tuple[Table, ...] | None = None
    variants: dict[str, Table] = field(default_factory=dict)
    flips: Table | None = None
    sampling: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        several = [(name, table) for name in MANY for table in getattr(self, name) or ()]
        for name, table in (*((name, getattr(self, name)) for name in ONE), *several, *self.variants.items()):
            if table is not None and [len(line) for line in table] != [self.heads] * self.layers:
                raise ValueError(f"head profile: {name} are not {self.layers} layers of {self.heads} heads; measure them again")
        self.check(Geometry(self.layers, self.heads, 1, 1, 1, 1))

    @classmethod
    def of_scores(cls, model: str, scores: Sequence[Sequence[float]], **details: Any) -> HeadProfile:
        """A profile with scores [layers][heads] and no static head yet; choose with `by_threshold` or `by_quota`."""
        table = tuple(tuple(float(score) for score in line) for line in scores)
        return cls(model, len(table), len(table[0]), ((),) * len(table), rule="none", scores=table, **details)

    def check(self, geometry: Geometry) -> None:
        """Raises ValueError where the profile is not one of that model."""
        if self.heads != geometry.heads:
            raise ValueError(f"the head profile has {self.heads} heads a layer, the model {geometry.heads}; use a profile of this model")
        check_roles("head profile", self.static, geometry)

    def roles(self) -> Roles:
        """Static heads of every layer."""
        return self.static

    @property
    def share(self) -> float:
        """Share of static heads, in [0, 1]."""
        return sum(map(len, self.static)) / (self.layers * self.heads)

    def by_threshold(self, threshold: float) -> HeadProfile:
        """Static from that score on."""
        if not 0 <= threshold <= 1:
            raise ValueError(f"threshold {threshold} is outside [0, 1]; the published one is 0.8")

        def classes(table: Table) -> Roles:
            return tuple(tuple(head for head, score in enumerate(line) if score >= threshold) for line in table)

        return self._classed(classes, f"score >= {threshold:g}", threshold)

    def by_quota(self, fraction: float) -> HeadProfile:
        """Static by rank: in every layer the same share of heads, those with the highest scores."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"quota {fraction} is outside [0, 1]; 0.5 makes half the heads of every layer static")
        count = round(fraction * self.heads)

        def classes(table: Table) -> Roles:
            ranked = (sorted(range(self.heads), key=lambda head: -line[head]) for line in table)
            return tuple(tuple(sorted(order[:count])) for order in ranked)

        return self._classed(classes, f"the {count} highest of {self.heads} in each layer", None)

    def classified(self, threshold: float = 0.8, *, floor: float = 0.2, quota: float = 0.5) -> HeadProfile:
        """By threshold, unless that gives a class fewer than a share `floor` of all heads; then by quota."""
        split = self.by_threshold(threshold)
        return split if floor <= split.share <= 1 - floor else self.by_quota(quota)

    def inverted(self) -> HeadProfile:
        """Static and dynamic exchanged."""
        static = tuple(tuple(head for head in range(self.heads) if head not in line) for line in self.static)
        return replace(self, static=static, rule=f"inverted: {self.rule}", threshold=None)

    def random(self, seed: int) -> HeadProfile:
        """As many static heads in every layer, drawn at random."""
        draw = random.Random(seed)
        static = tuple(tuple(sorted(draw.sample(range(self.heads), len(line)))) for line in self.static)
        return replace(self, static=static, rule=f"random (seed {seed})", threshold=None, flips=None)

    def agreement(self, other: HeadProfile) -> Agreement:
        """This profile against another of the same model. Raises ValueError where they are of different sizes."""
        other.check(Geometry(self.layers, self.heads, 1, 1, 1, 1))
        return agreement(self.static, other.static, self.heads)

    def to_json(self) -> str:
        """One line per field, so that tables stay compact and changes readable."""
        fields = {"format": FORMAT, **asdict(self)}
        return "{\n" + ",\n".join(f" {json.dumps(name)}: {json.dumps(value)}" for name, value in fields.items()) + "\n}"

    def to_published(self) -> str:
        """The JSON that the released Forcing-KV reads."""
        everyone = set(range(self.heads))
        pairs = ((list(line), sorted(everyone - set(line))) for line in self.static)
        rows = [{"layer_idx": i, "static_head": static, "dynamic_head": dynamic} for i, (static, dynamic) in enumerate(pairs)]
        head = {"format": "forcingkv_offline_head_custom2", "profile": self.model, "num_layers": self.layers, "num_heads": self.heads}
        return json.dumps({**head, "description": self.rule, "layers": rows}, indent=1)

    @classmethod
    def from_json(cls, text: str, geometry: Geometry | None = None) -> HeadProfile:
        """A profile in this format or a published one; published lists that name no sizes need `geometry`. Raises ValueError saying why."""
        profile = cls(**fields_of(text, geometry))
        if geometry is not None:
            profile.check(geometry)
        return profile

    def _classed(self, classes: Callable[[Table], Roles], rule: str, threshold: float | None) -> HeadProfile:
        """With classes by a rule, and how far single prompts, steps and chunks agree with them by the same rule."""
        static = classes(self._scored())
        groups = {"prompts": self.samples, "passes": self.steps, "chunks": self.chunks}
        kept = {name: value for name, value in self.stability.items() if name in groups}
        found = flips(self.samples, static, classes) if self.samples else None
        known = {**kept, **summary(groups, static, classes)}
        return replace(self, static=static, rule=rule, threshold=threshold, stability=known, flips=found)

    def _scored(self) -> Table:
        if self.scores is None:
            raise ValueError(f"the head profile of {self.model} has classes but no scores; measure one to choose by score")
        return self.scores


def measure(
    make_stream: Callable[[str, int], Stream],
    prompts: Sequence[str],
    *,
    history: int | None = None,
    chunks: int = 1,
    skip_first_k: int = 1,
    queries: int | None = None,
    progress: Callable[[int, int], None] | None = None,
    known: Sequence[Tensor] = (),
    keep: Callable[[Tensor], bool] = lambda measured: True,
) -> HeadProfile:
    """Scores every head over prompts (numbered for `make_stream`), denoise steps and `chunks` chunks, from the one on that has `history`
    frames before it (None: as many as the model was trained to see).

    The streams must keep that history. Errors are standard errors over prompts; stability is the correlation of two halves of the prompts,
    and of two halves of the denoise steps. `progress` is told chunks done and chunks due. What an earlier call gave to `keep` may be given
    as `known` and is not measured again; measuring ends early, after a prompt, where `keep` says False. Raises ValueError where there is no
    prompt, or where frames were forgotten.
    """
    if not prompts:
        raise ValueError("a head profile needs at least one prompt, and two for a stability; give some")
    found, recipe = list(known[: len(prompts)]), {}
    for number, prompt in enumerate(prompts):
        stream = make_stream(prompt, number)
        spec = stream.spec
        warm = -(-(spec.window - spec.chunk if history is None else history) // spec.chunk)
        skips, last, each = (skip_first_k, *(k for k in SKIPS if k != skip_first_k)), spec.chunk + 1, warm + chunks
        recipe = {"model": spec.name, "prompts": len(found), "history": warm * spec.chunk, "chunks": chunks, "last_k": last}
        recipe |= {"skip_first_k": skip_first_k, "queries": queries or "all", "policy": stream.policy.label}
        if number < len(found):
            continue
        if spec.schedule.sampler == "rolling":
            raise ValueError(
                f"{spec.name} denoises several chunks in one pass, whose heads have no newest frames to score; measure another"
            )
        probe = FrameProbe(spec.geometry, queries=queries, generator=torch.Generator().manual_seed(number))
        measured = []
        for index in range(each):
            probe.clear()
            stream.step(probe if index >= warm else None)
            if index >= warm:
                measured.append(_scores(probe, stream, warm * spec.chunk, skips, last))
            if progress is not None:
                progress(number * each + index + 1, len(prompts) * each)
        found.append(torch.stack(measured, dim=1))
        if not keep(found[-1]):
            break
    recipe |= {"prompts": len(found), "passes": found[0].shape[2]}
    return _profile(torch.stack(found), recipe)


def _profile(scores: Tensor, recipe: dict[str, Any]) -> HeadProfile:
    """A profile without classes from scores [prompts, skips, chunks, passes, layers, heads]."""
    chosen = scores[:, 0]
    per_prompt = chosen.mean(dim=(1, 2))
    errors = _table(per_prompt.std(dim=0) / len(scores) ** 0.5) if len(scores) > 1 else None
    correlations = {"prompts": halves(per_prompt), "passes": halves(chosen.mean(dim=(0, 1)))}
    others = [skip for skip in SKIPS if skip != recipe["skip_first_k"]]
    variants = {f"skip_first_k={skip}": scores[:, place].mean(dim=(0, 1, 2)) for place, skip in enumerate(others, 1)}
    return HeadProfile.of_scores(
        recipe["model"],
        per_prompt.mean(dim=0).tolist(),
        errors=errors,
        recipe=recipe,
        stability={name: value for name, value in correlations.items() if value is not None},
        samples=_tables(per_prompt),
        steps=_tables(chosen.mean(dim=(0, 1))),
        chunks=_tables(chosen.mean(dim=(0, 2))),
        variants={name: _tables(table[None])[0] for name, table in variants.items() if not table.isnan().any()},
    )


def _scores(probe: FrameProbe, stream: Stream, history: int, skips: Sequence[int], last_k: int) -> Tensor:
    """[skips, passes, layers, heads] of one step. A skip that leaves too few frames gives nan."""
    seen = [probe.per_pass(layer) for layer in range(stream.spec.net.layers)]
    if any(len(one.frames) < history + stream.spec.chunk for layer in seen for one in layer):
        raise ValueError(f"the policy {stream.policy.label!r} forgets frames; measure heads with the whole history")

    def score(mass: Tensor, skip: int) -> Tensor:
        few = skip != skips[0] and mass.shape[-1] <= max(last_k, skip)
        return mass.new_full(mass.shape[:1], torch.nan) if few else head_scores(mass, last_k=last_k, skip_first_k=skip)

    layers = [torch.stack([torch.stack([score(one.mass.double(), skip) for one in layer]) for skip in skips]) for layer in seen]
    return torch.stack(layers, dim=2).cpu()


def _table(values: Tensor) -> Table:
    return tuple(tuple(line) for line in values.tolist())


def _tables(values: Tensor) -> tuple[Table, ...]:
    """Rounded to four places."""
    return tuple(tuple(tuple(round(score, 4) for score in line) for line in table) for table in values.tolist())
