"""Steps 5 to 8 of the lesson: are classes stable, what is kept, does the choice of heads matter, what was it worth."""

from __future__ import annotations

from itertools import product

import numpy as np

from fkv.views import evidence, numbers
from fkv.views.lesson_step import Json, Live, Step, choice, guess
from fkv.views.trace import Look, Stability, Trace, Trial

DOTS, FIRM = 8, 0.95
ENOUGH, SPAN = 5, 24  # paired chunks a ratio needs, chunks drawn at most
NAMES = {"full": "A, keeps everything", "profile": "roles as measured", "inverted": "roles exchanged", "all-static": "all static",
         "all-dynamic": "all dynamic"}  # fmt: skip


def stable(trace: Trace) -> Step | None:
    """Does a head keep its class over prompts and over denoise steps?"""
    seen = trace.stability
    if seen is None or len(seen.samples) < 2:
        return None
    cut = evidence.cut(seen.samples.mean(axis=0))
    prompts, steps = (evidence.agreement(one, cut.threshold) for one in (seen.samples, seen.steps))
    percent = numbers.percent
    same = round(prompts.always * prompts.heads)
    both = "both prompts" if prompts.n == 2 else f"all {prompts.n} prompts"
    reveal = [
        f"**{same} of {prompts.heads}** heads ({percent(prompts.always)} %) have one class on {both}. Two prompts agree on "
        f"{percent(prompts.pairs)} % of the heads; two random labellings with as many static heads would agree on "
        f"{percent(prompts.chance)} %.",
        f"Over the {steps.n} denoise steps {percent(steps.always)} % keep one class, and two steps agree on {percent(steps.pairs)} %.",
    ]
    claim = "Forcing-KV finds the classes once, before any video is made. That needs them to be a property of the head, not of the clip. "
    line = f"This lesson draws the line where two of them agree on {percent(FIRM)} % of the heads"
    if min(prompts.pairs, steps.pairs) >= FIRM:
        reveal.append(f"{claim}{line}. **Here it holds**: both agreements reach it.")
    elif max(prompts.pairs, steps.pairs) < FIRM:
        reveal.append(f"{claim}{line}. **Here it holds only in part**: neither prompts nor steps reach it.")
    else:
        weak, strong = ("steps", "prompts") if prompts.pairs >= FIRM else ("prompts", "steps")
        reveal.append(f"{claim}{line}. **Here it holds over {strong}, but not over {weak}**.")
    data: Json = {"threshold": cut.threshold, "rows": dots(seen, cut.threshold), "prompts": list(seen.prompts), "steps": len(seen.steps)}
    nearest = f"The {len(data['rows'])} heads nearest to the threshold {cut.threshold:.2f}. One mark is one"
    data["captions"] = {
        "prompts": f"{nearest} prompt: all queries, mean over {steps.n} denoise steps.",
        "steps": f"{nearest} denoise step: all queries, mean over {numbers.count(prompts.n, 'prompt')}.",
    }
    text = [
        f"So far one clip. Below, a head's score is one mark **per prompt**; you see the first prompt, {prompts.n - 1} more "
        f"{'is' if prompts.n == 2 else 'are'} hidden. Would a class found on this clip still be right on another?",
    ]
    question = guess(
        f"How many of the {prompts.heads} heads keep one class on "
        f"{both}?", 100 * prompts.always, low=0, high=100, step=5, unit="%", near=10,
        start=50,
    )  # fmt: skip
    layer, head = nearest_heads(seen, cut.threshold)[0]
    live = Live(
        "Try another prompt on Live", f"Puts L{layer} H{head}, the head nearest to the threshold, on show and takes another prompt.",
        {"heads": [[layer, head]], "prompt": "next"},
    )  # fmt: skip
    return Step(text, question, data, reveal, live)


def nearest_heads(seen: Stability, threshold: float) -> list[tuple[int, int]]:
    """All heads, the nearest to the threshold first."""
    mean = seen.samples.mean(axis=0)
    layers, heads = mean.shape
    return sorted(product(range(layers), range(heads)), key=lambda place: abs(float(mean[place]) - threshold))


def dots(seen: Stability, threshold: float) -> list[Json]:
    """The heads nearest to the threshold, with every sample and how many of them lie on the rarer side."""
    mean, rows = seen.samples.mean(axis=0), []
    places = nearest_heads(seen, threshold)[:DOTS]
    for layer, head in sorted(places, key=lambda place: float(mean[place])):
        sides: Json = {}
        for name, table in (("prompts", seen.samples), ("steps", seen.steps)):
            values = table[:, layer, head]
            static = int((values >= threshold).sum())
            sides[name] = {"values": np.round(values, 3).tolist(), "flips": min(static, len(values) - static)}
        rows.append({"name": f"L{layer} H{head}", **sides})
    return rows


def kept_by_class(look: Look, chunk: int, trial: Trial) -> dict[str, float]:
    """Share of attention the heads of each class keep, by the name of the class."""
    found = evidence.coverage(look.bands, look.frames, chunk, trial.holds)
    by: dict[str, list[float]] = {}
    for hold in trial.holds:
        by.setdefault(hold.name, []).extend(float(found[hold.layer, head]) for head in hold.heads)
    return {name: float(np.mean(values)) for name, values in by.items()}


def forget(trace: Trace) -> Step | None:
    """Which segments survive, and how much of its attention a head keeps."""
    held, look = trace.residency, trace.look
    if not held or not held.get("similarity"):
        return None
    similar = held["similarity"]
    bars = [(frame, place) for frame, row in enumerate(similar["kept"]) for place in range(len(row))]
    kept = [similar["kept"][frame][place] for frame, place in bars]
    values = [similar["bars"][frame][place] for frame, place in bars]
    count = sum(kept)
    if not 0 < count < len(kept):
        return None
    low, high = float(np.mean([v for v, on in zip(values, kept) if on])), float(np.mean([v for v, on in zip(values, kept) if not on]))
    side = "**least similar** to the next frame" if low < high else "**most similar** to the next frame"
    reveal = [
        f"Kept are the {count} of {len(kept)} {side}: mean similarity {low:.2f} against {high:.2f} of those it forgot; the cut is at "
        f"{similar['cut']:.2f}. "
        + (
            "That is the idea of Forcing-KV: what hardly changes can be read off a newer frame, what changes cannot."
            if low < high
            else "That is **not** the idea of Forcing-KV, which keeps what changes most."
        ),
    ]
    trial = next((one for one in trace.trials if one.name == "profile" and one.holds), None)
    if trial is not None and look is not None:
        by = kept_by_class(look, trace.model.chunk, trial)
        percent = numbers.percent
        if "static" in by and "dynamic" in by:
            a, b = by["static"], by["dynamic"]
            more = "The static heads lose less, as Forcing-KV intends" if a > b else "Here the static heads do **not** lose less"
            reveal.append(
                f"With the roles as measured, static heads still reach **{percent(a)} %** of what they look at in lane A, dynamic heads "
                f"**{percent(b)} %**. {more}. Lost attention is not yet a lost picture: that is the next step."
            )
    data: Json = {"residency": held, "count": count, "pictures": {}}
    if look is not None and look.pictures:
        data["pictures"] = {str(frame): shot for frame, shot in zip(look.frames, look.pictures) if frame in similar["frames"]}
    holds = "; ".join(f"{kind['name']} heads keep {kind['text']}" for kind in held["kept"])
    text = [
        f"Lane B has room for little. Beside chunk {held['chunk'] + 1}, in layer {held['layer']}: {holds}. A **segment** is a horizontal "
        "band of a frame.",
        "Each bar is one segment of a frame that is about to be forgotten: how similar its keys are to the same place one frame later. "
        f"**Choose the {count} you would keep.**",
    ]
    says = f"Gives lane B a policy with segments and puts layer {held['layer']} on show: its cache is below the film."
    live = Live("Watch it on Live", says, {"compress": True, "policy": policy_of(trace), "heads": [[held["layer"], 0]]})
    question = {"kind": "pick", "prompt": f"Which {count} of these {len(kept)} segments are worth keeping?"}
    return Step(text, question, data, reveal, live, held["chunk"])


def policy_of(trace: Trace) -> str:
    """Lane B's policy as it is written."""
    return trace.lanes["B"].policy if "B" in trace.lanes else "forcing-kv"


def name_of(trial: Trial) -> str:
    kind, _, seed = trial.name.partition(":")
    return NAMES.get(trial.name, f"random roles, draw {seed}" if kind == "random" else trial.name)


def broken(trace: Trace) -> Step | None:
    """Roles as measured against random ones of the same size: the choice, or only the count?"""
    by = {trial.name: trial for trial in trace.trials}
    drawn = [trial for trial in trace.trials if trial.name.startswith("random:")]
    if "profile" not in by or "inverted" not in by or not drawn:
        return None
    profile, n = by["profile"], len(by["profile"].psnr)
    chance = np.mean([trial.psnr for trial in drawn], axis=0)
    random, inverted = evidence.paired(profile.psnr, chance.tolist()), evidence.paired(profile.psnr, by["inverted"].psnr)
    tells = random.n > 1
    answer = "same" if not (tells and random.clear) else "further" if random.mean > 0 else "nearer"
    reveal = [verdict(random, f"random ones of the same number ({len(drawn)} draws)"), verdict(inverted, "the exchanged ones")]
    if "all-static" in by:
        reveal.append(verdict(evidence.paired(profile.psnr, by["all-static"].psnr), "making every head static"))
    if answer == "same":
        reveal.append(f"So on this model, and on {n} prompts, **which** heads are static makes no difference that can be told from chance.")
    elif answer == "further":
        reveal.append(f"So on this model, and on {n} prompts, **which** heads are static matters, not only how many.")
    else:
        reveal.append(
            f"So on this model, and on {n} prompts, the measured roles are **worse** than chance: the score does not choose well here."
        )
    reveal.append(objects(by["full"], profile, drawn) if "full" in by else "")
    reveal.append(
        "PSNR here is distance from lane A, not quality: once two runs have parted it says that they differ, not which is better."
    )
    options = [
        ("Clearly further from A", answer == "further", ""),
        ("About as far from A: no difference can be told", answer == "same", ""),
        ("Nearer to A", answer == "nearer", ""),
    ]
    text = [
        "Attention is where a head looks, not proof that the look matters. The proof is to take it away. Here lane B ran with other roles: "
        f"{'; '.join(name_of(trial) for trial in trace.trials if trial.name not in ('full', 'profile'))}. Random roles have "
        "**as many static heads in every layer** as the measured ones. Same prompts, same noise.",
        "The pictures are each run's last frame on the first prompt. The random roles are the control: if they do as well, the choice of "
        "heads does not matter. Below you can try the same in your own run.",
    ]
    live = Live(
        "Break it live", f"Gives lane B {name_of(drawn[0])} at the next chunk; watch the PSNR. Leaving this step gives your choice back.",
        {"compress": True, "policy": policy_of(trace), "rule": drawn[0].name},
    )  # fmt: skip
    question = choice("Random roles of the same number: where will lane B's picture be?", options)
    rules = [[trial.name, name_of(trial)] for trial in trace.trials if trial.name != "full"]
    data: Json = {"trials": [shown(trace, trial) for trial in trace.trials], "n": n, "rules": rules, "policy": policy_of(trace)}
    return Step(text, question, data, [line for line in reveal if line], live)


def verdict(gap: evidence.Difference, other: str) -> str:
    """One comparison of the measured roles with others, as far as the numbers go."""
    if gap.n < 2:
        return f"The measured roles against {other}: {gap.mean:+.1f} dB on {numbers.count(gap.n, 'prompt')}, too few to tell."
    span = f"{gap.mean:+.1f} dB PSNR (95 % interval {gap.low:+.1f} to {gap.high:+.1f}, {gap.n} prompts)"
    if not gap.clear:
        return f"The measured roles against {other}: {span}. The interval holds 0: **no difference can be told**."
    return f"The measured roles against {other}: {span}: **{'nearer to' if gap.mean > 0 else 'further from'} lane A**."


def objects(full: Trial, profile: Trial, drawn: list[Trial]) -> str:
    """The objects of the prompts that can be found again; empty where no clip could tell."""

    def mean(*trials: Trial) -> float:
        values = np.asarray([trial.kept for trial in trials], float)
        return float(np.nanmean(values)) if np.isfinite(values).any() else float("nan")

    a, b, c = mean(full), mean(profile), mean(*drawn)
    if not np.isfinite([a, b, c]).all():
        return ""
    percent = numbers.percent
    return (
        f"Prompted objects found in {percent(a)} % of lane A's frames, {percent(b)} % with the measured roles, "
        f"{percent(c)} % with random ones."
    )


def shown(trace: Trace, trial: Trial) -> Json:
    """One trial for the chart and the table."""
    psnr = [value for value in trial.psnr if np.isfinite(value)]
    kept = [value for value in trial.kept if np.isfinite(value)]
    covered = None
    if trace.look is not None and trial.holds:
        covered = float(np.mean(evidence.coverage(trace.look.bands, trace.look.frames, trace.model.chunk, trial.holds)))
    return {
        "name": name_of(trial), "key": trial.name, "picture": trial.picture, "psnr": [round(value, 2) for value in psnr],
        "mean": round(float(np.mean(psnr)), 2) if psnr else None,
        "kept": f"{numbers.percent(float(np.mean(kept)))} %" if kept else "–",
        "covered": f"{numbers.percent(covered)} %" if covered is not None else "–",
        "stored": numbers.size_text(trial.stored) if trial.stored else "–",
        "static": sum(map(len, trial.static)) if trial.static else None,
    }  # fmt: skip


def buy(trace: Trace) -> Step | None:
    """Bytes, milliseconds, and what no cache policy can save."""
    lanes = trace.lanes
    if "A" not in lanes or "B" not in lanes:
        return None
    a, b = lanes["A"].made, lanes["B"].made
    fast = evidence.speed(a, b)
    if fast is None or fast.n < ENOUGH or not a[-1].stored:
        return None
    kept = b[-1].stored / a[-1].stored
    percent, ms = numbers.percent, numbers.milliseconds
    value, word = numbers.ratio(fast.median)
    reveal = [
        f"**{value} {word}**: {ms(fast.left)} ms a chunk in lane A, {ms(fast.right)} ms in lane B, median of {fast.n} paired chunks "
        f"(8 in 10: "
        f"{fast.low:.2f} to {fast.high:.2f}×), from noise to encoded picture. The cache shrank to {percent(kept)} %, the time to "
        f"{percent(1 / fast.median)} %.",
    ]
    if (cost := evidence.history_cost(a)) is not None:
        short, quick, long, slow = cost
        saved = 1 - quick / slow
        reveal.append(
            f"Why not more? A chunk of lane A took {ms(quick)} ms with {numbers.count(short, 'past frame')} and {ms(slow)} ms with {long}: "
            + (
                f"looking back on the others costs {percent(saved)} % of it. That is about all a policy that keeps {short} could save."
                if saved > 0
                else "on this machine looking back on more of them cost no measurable time, so there was none to save."
            )
        )
    if trace.psnr:
        off = float(np.median(trace.psnr))
        reveal.append(f"And the price: lane B's picture is {min(off, 99):.1f} dB PSNR from lane A's (median of {len(trace.psnr)} chunks).")
    reveal.append("Attention says where a head looks, not what follows from it: **step 7 is the evidence, step 2 was the hint.**")
    series = {
        lane: {
            "label": one.label, "ms": [round(row.ms, 1) for row in one.made[-SPAN:]], "stored": [row.stored for row in one.made[-SPAN:]],
            "counts": [row.counts for row in one.made[-SPAN:]], "text": numbers.size_text(one.made[-1].stored),
        }
        for lane, one in lanes.items()
    }  # fmt: skip
    text = [
        f"At chunk {a[-1].chunk + 1} lane A stores {numbers.size_text(a[-1].stored)} and lane B {numbers.size_text(b[-1].stored)}: "
        f"**{percent(kept)} "
        "%** of it. Both lanes ran on the same device, chunk by chunk in turn. What is that worth in time?",
    ]
    question = guess("How many times faster is lane B, end to end?", fast.median, low=0.5, high=6, step=0.1, unit="×", near=0.2, start=1)
    live = Live("Open the charts on Live", "Switches compression on: speed, memory and time per chunk of your own run.", {"compress": True})
    return Step(text, question, {"lanes": series}, reveal, live)
