"""`Session`: two lanes of one model, side by side from the same prompt and noise, changed while they run; events are pulled.

One immutable `Settings` is read once per chunk. A lane holds the engine's lock while it works on a chunk, so sessions interleave by lane
and chunk and share nothing else.
"""

from __future__ import annotations

import logging
import threading
import time
import traceback
import uuid
from collections.abc import Callable, Generator, Iterator
from contextlib import suppress
from dataclasses import fields, replace
from typing import Any, TypeVar

import torch
from torch import Tensor

from fkv.cache import Policy, Roles
from fkv.delivery import Encode
from fkv.engine import Engine, model_facts, profile_facts, relief
from fkv.events import Done, Event, Frames, Notice, Residency, Sample, Settings, Start, Tick, sentence
from fkv.findings import LANES, Classes, Lane
from fkv.lane import LaneRun, out_of_memory
from fkv.looking import Looks
from fkv.measuring import Measuring
from fkv.pairs import Pairs
from fkv.policies import spelling
from fkv.stream import Noise, seeded_noise
from fkv.text import Prompt
from fkv.wishes import check_head, moved, named, policy_of, profile_of, received, roles_of, wish

PAUSE_SECONDS = 0.5
Made = TypeVar("Made")


class Session:
    """One run of two lanes. `events` may be called once; `change` and `stop` from any thread.

    With `latents` frames come with their clean latents. Raises ValueError at once if the first settings cannot run: a prompt, a policy or a
    head the model does not have.
    """

    def __init__(self, engine: Engine, settings: Settings, encode: Encode | None = None, *, latents: bool = False):
        self.engine, self.encode, self.latents = engine, encode, latents
        self.run = uuid.uuid4().hex[:12]
        self._settings = settings
        self._guard, self._wake, self._stopped = threading.Lock(), threading.Event(), threading.Event()
        self._received: dict[str, Notice] = {}
        self._waiting: dict[str, Notice] = {}
        self._begun, self._chunk = False, 0
        self._lanes: dict[Lane, LaneRun] = {}
        self._pairs, self._measuring = Pairs(), Measuring(engine)
        profile = profile_of(engine, settings)
        self._static: Roles = profile.roles() if profile else ((),) * engine.spec.geometry.layers
        self._prompt = prompt_of(engine, settings.prompt, settings.seed)
        self._policies = {lane: policy_of(engine, settings, lane) for lane in LANES}
        self._asked = {lane: wish(settings, lane) for lane in LANES}
        self._asked_prompt, self._seed = settings.prompt, settings.seed
        self._noise = noise_of(engine, settings.seed)
        check_head(engine, settings)

    @property
    def settings(self) -> Settings:
        return self._settings

    def change(self, **edits: Any) -> Settings:
        """Edits the settings from the next chunk on; gives the new ones. Raises ValueError on a setting or a head there is not."""
        names = [item.name for item in fields(Settings)]
        if unknown := sorted(set(edits) - set(names)):
            raise ValueError(f"setting {unknown[0]!r} is unknown; use one of: {', '.join(names)}")
        with self._guard:
            before, after = self._settings, replace(self._settings, **edits)
            check_head(self.engine, after)
            self._settings = after
            self._received.update(received(before, after, self._chunk))
        self._wake.set()
        return after

    @property
    def looks(self) -> Looks:
        """Where tokens of the heads on show and pinned look, in the chunks that are kept; from any thread."""
        return self._measuring.looks

    def stop(self) -> None:
        """Ends the run at its next yield, within one chunk."""
        self._stopped.set()
        self._wake.set()

    def events(self) -> Iterator[Event]:
        """Start, then for each chunk Frames, Sample and Residency of each lane, sometimes Maps and Heads, and a Verdict; Notices and
        Classes between; Done."""
        if self._begun:
            raise RuntimeError("this session has already begun; make another one")
        self._begun = True
        try:
            yield Start(self.run, model_facts(self.engine), profile_facts(self.engine, self._settings.profile), self._settings)
            yield from (Notice("info", None, 0, note) for note in self._prompt.notes)
            yield from self._begin()
            yield from self._classes(self._settings)
            while self._lanes and not self._stopped.is_set():
                settings = self._settings
                yield from self._heard()
                if settings.chunks and self._chunk >= settings.chunks:
                    break
                if settings.paused:
                    self._wake.wait(PAUSE_SECONDS)
                    self._wake.clear()
                    yield Tick(self._chunk)
                    continue
                yield from self._apply(settings)
                yield from self._classes(settings)
                yield from self._both(settings)
                self._chunk += 1
            yield Done("error" if not self._lanes else "stopped" if self._stopped.is_set() else "finished", self._chunk)
        finally:
            self._lanes.clear()

    def _begin(self) -> Iterator[Notice]:
        """Both lanes, on noise that follows the session's seed."""

        def noise(chunk: int) -> tuple[Tensor, list[Tensor]]:
            return self._noise(chunk)

        for lane in LANES:
            try:
                with self.engine.lock:
                    self._lanes[lane] = LaneRun(
                        lane, self.engine, self._prompt.embedding, self._policies[lane], noise, self.encode, latents=self.latents
                    )
            except Exception as error:
                yield self._lose(lane, error)

    def _heard(self) -> Iterator[Notice]:
        """Changes that have come in since last asked."""
        with self._guard:
            news, self._received = self._received, {}
        self._waiting.update(news)
        yield from news.values()

    def _apply(self, settings: Settings) -> Iterator[Notice]:
        """Brings the lanes to `settings`; what cannot be done is said and left as it was."""
        text, spent, reworded = None, 0.0, settings.prompt != self._asked_prompt
        if reworded or settings.seed != self._seed:
            began, words = time.perf_counter(), settings.prompt if reworded else self._prompt.text
            self._asked_prompt = settings.prompt
            try:
                prompt = prompt_of(self.engine, words, settings.seed)
            except ValueError as error:
                self._waiting.pop("prompt", None)
                yield Notice("error", None, self._chunk, f"{sentence(error)} The earlier prompt goes on.")
            else:
                spent = 1000 * (time.perf_counter() - began)
                text = None if torch.equal(prompt.embedding, self._prompt.embedding) else prompt.embedding
                self._prompt = prompt
                yield from (Notice("info", None, self._chunk, note) for note in prompt.notes if reworded)
        if settings.seed != self._seed:
            self._seed, self._noise = settings.seed, noise_of(self.engine, settings.seed)
            self._waiting.pop("seed", None)
            yield Notice("parameter", None, self._chunk, f"New noise from seed {settings.seed}, in both lanes.", "applied")
        for lane in list(self._lanes):
            yield from self._apply_to(lane, settings, text, spent, "prompt" if reworded else "seed")
        for key, notice in self._waiting.items():
            if key in self._lanes or (key == "prompt" and text is None) or key == "seed":
                same = "That is what was already running; nothing to re-cache."
                yield replace(notice, chunk=self._chunk, text=same, state="applied")
        self._waiting = {}

    def _apply_to(self, lane: Lane, settings: Settings, text: Tensor | None, spent: float, cause: str) -> Iterator[Notice]:
        run, policy, brought = self._lanes[lane], None, None
        if wish(settings, lane) != self._asked[lane]:
            brought = settings.profile if settings.profile not in self._asked[lane] else None
            self._asked[lane] = wish(settings, lane)
            try:
                policy = policy_of(self.engine, settings, lane)
            except ValueError as error:
                self._waiting.pop(lane, None)
                yield Notice("error", lane, self._chunk, f"{sentence(error)} Lane {lane} goes on with {run.policy.label}.")
            else:
                self._policies[lane] = policy
                policy = None if policy == run.policy else policy
        if text is None and policy is None:
            return
        before = run.policy
        try:
            with self.engine.lock:
                ms = run.change(text, policy)
        except Exception as error:
            del run
            yield self._lose(lane, error)
            return
        self._pairs.restart()
        if text is not None:
            run.watch.laps["text"] = [spent, *run.watch.laps.get("text", [])]
            kind = "prompt" if cause == "prompt" else "parameter"
            yield Notice(kind, lane, self._chunk, f"Lane {lane} follows the new {cause}; {cost(run, ms)}.", "applied", ms)
        if policy is not None:
            asked = self._waiting.pop(lane, None)
            kind = asked.kind if asked else "policy" if policy.name != before.name else "parameter"
            by = f", by head profile {named(brought)}" if brought and policy.needs_roles else ""
            yield Notice(kind, lane, self._chunk, f"{changed(lane, before, policy)}{by}; {cost(run, ms)}.", "applied", ms)

    def _classes(self, settings: Settings) -> Iterator[Classes]:
        """The classes in force, where they are not those told last: lane B's, or, where its policy parts no heads, those it would go by."""
        run, static = self._lanes.get("B"), self._static
        if run is not None and run.policy.needs_roles:
            static = run.policy.roles or static
        else:
            with suppress(ValueError):
                static = roles_of(self.engine, settings)
        if static != self._static:
            self._static = static
            yield Classes(self._chunk, static, settings.rule, settings.overrides)

    def _both(self, settings: Settings) -> Iterator[Event]:
        """One chunk of every lane that is left, in turn."""
        made: dict[Lane, tuple[Frames, Sample]] = {}
        measuring = self._measuring
        measuring.begin(self._chunk, settings)
        for lane in list(self._lanes):
            frames = yield from self._held(lane, lambda run: run.step(measuring.probe(run)))
            if frames is None:
                continue
            yield frames  # which may be while its clean pass still runs
            measured = yield from self._held(lane, lambda run, frames=frames: self._measured(run, frames, settings))
            if measured is None:
                continue
            made[lane] = (frames, measured[0])
            yield from (event for event in measured if event is not None)
            yield from self._heard()
            if self._stopped.is_set():
                return
        with self.engine.lock:
            told = measuring.told(self._lanes, self._static, sum(sample.ms.end_to_end for _, sample in made.values()))
        yield from told
        if len(made) == len(LANES):
            yield self._pairs.add(made["A"], made["B"])

    def _measured(self, run: LaneRun, frames: Frames, settings: Settings) -> tuple[Sample, Residency | None]:
        """What is told of a chunk beside its frames; waits for its clean pass."""
        residency = None
        if not settings.benchmark:
            with run.watch.aside("probe"):
                residency = run.residency(frames, settings.layer)
            self._measuring.read(run.watch.laps["probe"][-1])
        return run.sample(frames, self._measuring.governor.share), residency

    def _held(self, lane: Lane, work: Callable[[LaneRun], Made]) -> Generator[Notice, None, Made | None]:
        """What `work` gives of a lane while it holds the device; None where the lane is lost by it."""
        try:
            with self.engine.lock:
                return work(self._lanes[lane])
        except Exception as error:
            yield self._lose(lane, error)
            return None

    def _lose(self, lane: Lane, error: Exception) -> Notice:
        """Ends one lane, frees what it held, and says why."""
        logging.getLogger(__name__).error("lane %s ended at chunk %d", lane, self._chunk, exc_info=error)
        self._lanes.pop(lane, None)
        traceback.clear_frames(error.__traceback__)
        if self.engine.device.type == "cuda":
            torch.cuda.empty_cache()
        rest = f"Lane {next(iter(self._lanes))} goes on." if self._lanes else "No lane is left."
        if out_of_memory(error):
            advice = relief(self.engine, [spelling(self._policies[lane]) for lane in LANES])
            why = f"Lane {lane} ran out of memory on {self.engine.device} and has ended. {advice}"
        else:
            why = f"Lane {lane} has ended: {sentence(error)}"
        return Notice("error", lane, self._chunk, f"{why} {rest}")


def noise_of(engine: Engine, seed: int) -> Noise:
    """A seed's noise for one video, in the engine's place and dtype."""
    return seeded_noise(seed, engine.spec, 1, engine.device, engine.dtype)


def prompt_of(engine: Engine, words: str, seed: int) -> Prompt:
    """A prompt as the model reads it. Raises ValueError with the cure, also where the text encoder fails or finds no memory left; what
    it held is freed.
    """
    try:
        return engine.text.encode(words, seed)
    except (RuntimeError, OSError, MemoryError) as error:
        logging.getLogger(__name__).error("the text encoder failed", exc_info=error)
        traceback.clear_frames(error.__traceback__)
        if engine.device.type == "cuda":
            torch.cuda.empty_cache()
        raise ValueError(_unread(engine, error)) from None


def _unread(engine: Engine, error: Exception) -> str:
    if not out_of_memory(error):
        said = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
        return f"the text encoder failed: {said}; use another prompt, or load the model again"
    cure = "close other programs on the device, or use an example prompt that is stored"
    if engine.device.type == "cuda":
        command = f"python -m fkv embed --model {engine.spec.name} --prompts FILE"
        cure = f"encode the prompt on the CPU: write it to a file and run `{command}`, then ask for it again"
    return f"the text encoder ran out of memory on {engine.device}; {cure}"


def changed(lane: Lane, before: Policy, after: Policy) -> str:
    """A change of policy in words; where only roles change, which heads it moves."""
    if before.with_roles(None) == after.with_roles(None):
        return f"Lane {lane}: {moved(before.roles, after.roles)}"
    return f"Lane {lane} now runs {after.label}"


def cost(run: LaneRun, ms: float) -> str:
    last = run.stream.cache.last
    return f"re-cached {last.frames} frames in {ms:.0f} ms" if last and last.recache else "there was nothing to re-cache yet"
