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
from fkv.probe import FrameProbe
from fkv.spec import Geometry
from fkv.stream import Stream

FORMAT = "fkv-heads-1"
STATIC = ("static_head", "static_heads", "local_head", "local_heads", "spatial_head", "spatial_heads")
DYNAMIC = ("dynamic_head", "dynamic_heads", "temporal_head", "temporal_heads")
Table = tuple[tuple[float, ...], ...]


def head_scores(maps: Tensor, *, last_k: int = 4, skip_first_k: int = 1) -> Tensor:
    """Scores [...] in [0, 1] of frame maps [..., query frames, key frames]; NaN where a head cannot see every frame."""
    if maps.shape[-1] <= max(last_k, skip_first_k):
        recipe = f"last_k {last_k} and skip_first_k {skip_first_k}"
        raise ValueError(f"{maps.shape[-1]} key frames are too few for {recipe}; measure later in the video")
    return maps[..., -last_k:].sum(dim=(-2, -1)) / maps[..., skip_first_k:].sum(dim=(-2, -1))


@dataclass(frozen=True)
class HeadProfile:
    """The static heads of every layer, and where it is known how they were found.

    scores and errors are [layers][heads]; `rule` says in words how the classes follow from them.
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

    def __post_init__(self) -> None:
        for name, table in (("scores", self.scores), ("errors", self.errors)):
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
        static = tuple(tuple(head for head, score in enumerate(line) if score >= threshold) for line in self._scored())
        return replace(self, static=static, rule=f"score >= {threshold:g}", threshold=threshold)

    def by_quota(self, fraction: float) -> HeadProfile:
        """Static by rank: in every layer the same share of heads, those with the highest scores."""
        if not 0 <= fraction <= 1:
            raise ValueError(f"quota {fraction} is outside [0, 1]; 0.5 makes half the heads of every layer static")
        count = round(fraction * self.heads)
        ranked = (sorted(range(self.heads), key=lambda head: -line[head]) for line in self._scored())
        static = tuple(tuple(sorted(order[:count])) for order in ranked)
        return replace(self, static=static, rule=f"the {count} highest of {self.heads} in each layer", threshold=None)

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
        return replace(self, static=static, rule=f"random (seed {seed})", threshold=None)

    def to_json(self) -> str:
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=1)

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
        try:
            data = json.loads(text)
        except json.JSONDecodeError as error:
            raise ValueError(f"head profile is not JSON: {error}") from None
        if isinstance(data, dict) and data.get("format") == FORMAT:
            profile = _own(data)
        else:
            profile = _published(data, geometry)
        if geometry is not None:
            profile.check(geometry)
        return profile

    def _scored(self) -> Table:
        if self.scores is None:
            raise ValueError(f"the head profile of {self.model} has classes but no scores; measure one to choose by score")
        return self.scores


def _own(data: dict[str, Any]) -> HeadProfile:
    given = {name: value for name, value in data.items() if name != "format"}
    for name in ("static", "scores", "errors"):
        given[name] = given.get(name) and tuple(tuple(line) for line in given[name])
    try:
        return HeadProfile(**given)
    except TypeError as error:
        raise ValueError(f"head profile: a field is missing or unknown ({error}); write it with to_json") from None


def _published(data: Any, geometry: Geometry | None) -> HeadProfile:
    """A published profile: a dict with `layers`, or that list alone; layers that are absent are all dynamic."""
    head, rows = (data, data.get("layers")) if isinstance(data, dict) else ({}, data)
    if not isinstance(rows, list) or not all(isinstance(line, dict) and "layer_idx" in line for line in rows):
        raise ValueError("head profile: no list of layers with layer_idx in it; use a file written by fkv or by Forcing-KV")
    layers = head.get("num_layers", geometry.layers if geometry else 0)
    heads = head.get("num_heads", geometry.heads if geometry else 0)
    if not layers or not heads:
        raise ValueError("head profile: it does not say how many layers and heads the model has; name the model it is for")
    static: list[tuple[int, ...]] = [()] * layers
    for line in rows:
        layer = line["layer_idx"]
        if not 0 <= layer < layers:
            raise ValueError(f"head profile: layer {layer} does not exist among {layers}; use a profile of this model")
        kinds = [[head for name in names for head in line.get(name, [])] for names in (STATIC, DYNAMIC)]
        named = kinds[0] + kinds[1]
        if sorted(named) != list(range(heads)):
            missing, twice = sorted(set(range(heads)) - set(named)), sorted({head for head in named if named.count(head) > 1})
            foreign = sorted(set(named) - set(range(heads)))
            faults = f"missing {missing}, twice {twice}, foreign {foreign}"
            raise ValueError(f"head profile: layer {layer} does not partition {heads} heads ({faults}); name each head once")
        static[layer] = tuple(sorted(kinds[0]))
    return HeadProfile(str(head.get("profile", "")), layers, heads, tuple(static), rule=str(head.get("description") or "published"))


def measure(
    make_stream: Callable[[str, int], Stream],
    prompts: Sequence[str],
    *,
    history: int = 21,
    skip_first_k: int = 1,
    queries: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> HeadProfile:
    """Scores every head over prompts (numbered for `make_stream`) and denoise steps, on the chunk that has `history` frames before it.

    The streams must keep the whole history. Errors are standard errors over prompts; stability is the correlation of two halves of the
    prompts, and of two halves of the denoise steps. `progress` is told chunks done and chunks due. Raises ValueError where there is no
    prompt, or where frames were forgotten.
    """
    if not prompts:
        raise ValueError("a head profile needs at least one prompt, and two for a stability; give some")
    found: list[Tensor] = []
    recipe: dict[str, Any] = {}
    for number, prompt in enumerate(prompts):
        stream = make_stream(prompt, number)
        chunk = stream.spec.chunk
        warm = -(-history // chunk)
        probe = FrameProbe(stream.spec.geometry, queries=queries, generator=torch.Generator().manual_seed(number))
        for index in range(warm + 1):
            stream.step(probe if index == warm else None)
            if progress is not None:
                progress(number * (warm + 1) + index + 1, len(prompts) * (warm + 1))
        found.append(_scores(probe, stream, last_k=chunk + 1, skip_first_k=skip_first_k))
        recipe = {"model": stream.spec.name, "prompts": len(prompts), "history": warm * chunk, "passes": len(found[0]), "last_k": chunk + 1}
        recipe |= {"skip_first_k": skip_first_k, "queries": queries or "all", "policy": stream.policy.label}
    return _profile(torch.stack(found), recipe)


def _profile(scores: Tensor, recipe: dict[str, Any]) -> HeadProfile:
    """A profile without classes from scores [prompts, passes, layers, heads]."""
    per_prompt = scores.mean(dim=1)
    errors = _table(per_prompt.std(dim=0) / len(scores) ** 0.5) if len(scores) > 1 else None
    halves = {"prompts": _halves(per_prompt), "passes": _halves(scores.mean(dim=0))}
    stability = {name: value for name, value in halves.items() if value is not None}
    return HeadProfile.of_scores(recipe["model"], per_prompt.mean(dim=0).tolist(), errors=errors, recipe=recipe, stability=stability)


def _scores(probe: FrameProbe, stream: Stream, last_k: int, skip_first_k: int) -> Tensor:
    """[passes, layers, heads] of one step."""
    seen = [probe.per_pass(layer) for layer in range(stream.spec.net.layers)]
    if any(len(one.frames) != stream.frames for layer in seen for one in layer):
        raise ValueError(f"the policy {stream.policy.label!r} forgets frames; measure heads with the whole history")
    layers = [torch.stack([head_scores(one.mass.double(), last_k=last_k, skip_first_k=skip_first_k) for one in layer]) for layer in seen]
    return torch.stack(layers, dim=1).cpu()


def _table(values: Tensor) -> Table:
    return tuple(tuple(line) for line in values.tolist())


def _halves(samples: Tensor) -> float | None:
    """Correlation between the means of the even and the odd samples [n, layers, heads]; None for fewer than two."""
    if len(samples) < 2:
        return None
    pair = torch.stack([samples[0::2].mean(dim=0).flatten(), samples[1::2].mean(dim=0).flatten()])
    return float(torch.corrcoef(pair)[0, 1])
