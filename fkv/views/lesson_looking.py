"""Steps 1 to 4 of the lesson: what the cache is, and what single heads look at in it."""

from __future__ import annotations

import base64

import numpy as np

from fkv.views import evidence, numbers
from fkv.views.lesson_step import Json, Live, Step, choice, guess
from fkv.views.trace import Atlas, Close, Look, Model, Trace

SHOWN, SPAN = 4, 24  # chunks drawn before the first question, and at most
CARDS = 6
LETTERS = "ABCDEF"


def chunks(trace: Trace) -> Step | None:
    """The cache grows with every chunk until the window is full."""
    lanes, model = trace.lanes, trace.model
    if "A" not in lanes or len(lanes["A"].made) <= SHOWN + 1:
        return None
    rows = lanes["A"].made[:SPAN]
    now, last = rows[SHOWN - 1], rows[-1]
    grows = now.stored * last.past / now.past if now.past else 0
    linear = int(now.stored * last.chunk / max(now.chunk, 1))
    stops = int(now.stored / max(now.past, 1) * max(model.window - model.chunk, 0))
    guesses = {"It grows with the video": linear, f"It stops when the window of {model.window} frames is full": stops}
    guesses["It stays as it is"] = now.stored
    if linear and abs(stops / linear - 1) < 0.05:
        guesses = {name: size for name, size in guesses.items() if size != stops}
    right = min(guesses, key=lambda name: abs(guesses[name] - last.stored))
    words = numbers.size_text
    options = [(f"{name}: about {words(size)}", name == right, "") for name, size in guesses.items()]
    full = next(row for row in rows if row.stored == last.stored)
    says = f"At chunk {last.chunk + 1} lane A stores **{words(last.stored)}**: keys and values of {last.past} past frames"
    ends = f"; it has not grown since chunk {full.chunk + 1}." if full.chunk < last.chunk else ", and it is still growing."
    reveal = [says + ends, cost(model, now.stored / now.past if now.past else grows)]
    if "B" in lanes and lanes["B"].made:
        other = lanes["B"].made[:SPAN][-1]
        kept = other.stored / last.stored if last.stored else 0
        reveal.append(
            f"Lane B ({lanes['B'].label}) stores {words(other.stored)} beside the same chunk: **{numbers.percent(kept)} %** of it."
        )
    series = {
        lane: {
            "label": one.label,
            "stored": [row.stored for row in one.made[:SPAN]],
            "text": [words(row.stored) for row in one.made[:SPAN]],
        }
        for lane, one in lanes.items()
    }
    data: Json = {"shown": SHOWN, "chunk": model.chunk, "lanes": series, "pictures": list(lanes["A"].pictures), "most": last.stored}
    data["frames"] = [row.past for row in rows]
    text = [
        f"The model draws **{model.chunk} frames at a time**, a chunk. While it draws, it looks back at frames it has already made: not at "
        "their pixels but at their keys and values, kept in the **cache**.",
        f"Draw the first {SHOWN} chunks and watch what lane A's cache stores while each of them is drawn.",
    ]
    live = Live("Watch it on Live", "Switches compression on: the memory chart shows both lanes.", {"compress": True})
    return Step(text, choice(f"What will lane A's cache hold at chunk {last.chunk + 1}?", options), data, reveal, live)


def cost(model: Model, per_frame: float) -> str:
    """What one frame costs, and the product it comes from where the file says what a key is made of."""
    said = f"One frame costs {numbers.size_text(round(per_frame))}"
    if not model.numbers:
        return f"{said}, in {model.layers} layers of {model.heads} heads with {model.rows * model.columns} tokens a frame."
    tokens = model.rows * model.columns
    product = 2 * model.layers * model.heads * tokens * model.numbers * model.width
    parts = (
        f"2 (key and value) × {model.layers} layers × {model.heads} heads × {tokens} tokens × {model.numbers} numbers × {model.width} bytes"
    )
    same = "exactly" if round(per_frame) == product else f"against {numbers.size_text(product)} by the formula"
    return f"{said}, {same} {parts}."


def pictured(close: Close, model: Model) -> Json:
    """The frames of the close look with their pictures, and how many of the newest are being drawn."""
    return {"frames": list(close.frames), "pictures": list(close.pictures), "chunk": close.chunk, "drawn": model.chunk}


def marked(close: Close) -> str:
    return ",".join([str(close.chunk), *(f"{atlas.layer}.{atlas.head}" for atlas in close.atlases)])


def age(close: Close, atlas: Atlas) -> np.ndarray:
    """How many frames back each token looks on average, [tokens]."""
    return evidence.reach(atlas.share, close.frames)


def two(close: Close) -> list[Atlas]:
    """The first head, and the one that differs most from it in how far back it looks; in their order in the model."""
    first, *others = close.atlases
    mean = float(age(close, first).mean())
    second = max(others, key=lambda one: abs(float(age(close, one).mean()) - mean))
    return sorted((first, second), key=lambda atlas: (atlas.layer, atlas.head))


def token(trace: Trace) -> Step | None:
    """Two heads, one token."""
    close, model = trace.close, trace.model
    if close is None:
        return None
    pair, last = two(close), model.chunk + 1
    back = [float(age(close, atlas).mean()) for atlas in pair]
    near = [float(np.nansum(atlas.share[:, -last:], axis=1).mean()) for atlas in pair]
    far = 2 if abs(back[0] - back[1]) < 1 else int(back[1] > back[0])
    names = [f"L{atlas.layer} H{atlas.head}" for atlas in pair]
    facts = [
        f"{name} looks {numbers.plain(frames)} frames back on average and puts {numbers.percent(new)} % of its attention on the newest "
        f"{last} frames"
        for name, frames, new in zip(names, back, near)
    ]
    every = f"Mean over all {model.rows * model.columns} tokens of frame {close.frames[-1]}: {'; '.join(facts)}."
    verdict = (
        "The two differ by less than one frame: in this chunk they do **not** look at different things in time."
        if far == 2
        else f"**{names[far]}** looks further back: two heads of one network, at the same moment, look at different times."
    )
    start = int(np.argmax(np.abs(age(close, pair[0]) - age(close, pair[1]))))
    heads = [head_of(atlas) for atlas in pair]
    data = pictured(close, model) | {"heads": heads, "rows": model.rows, "columns": model.columns, "start": start}
    text = [
        f"Attention works on **tokens**: a frame is cut into {model.rows} × {model.columns} of them. Point at one (or walk with the arrow "
        f"keys) and see where two heads look from there, over the {len(close.frames)} frames they can see. Bright is where a head looks.",
        "The number under a frame is the share of that token's attention, in percent. Both heads read the same frames.",
    ]
    shown = sorted(range(2), key=lambda place: -back[place])
    live = Live(
        "See both on Live", f"Puts {names[shown[0]]} on show and pins {names[shown[1]]}: the film shows the one on show.",
        {"heads": [[pair[place].layer, pair[place].head] for place in shown]},
    )  # fmt: skip
    options = [(words, number == far, "") for number, words in enumerate([*names, "Both about equally far"])]
    question = choice("Which head looks further back, over all tokens of this frame?", options)
    return Step(text, question, data, [every, verdict], live, close.chunk, marked(close))


def head_of(atlas: Atlas) -> Json:
    """A head with its maps and shares in percent, both empty where each token is asked for by itself."""
    share = np.round(np.nan_to_num(100 * atlas.share), 1).tolist() if atlas.maps else []
    return {"layer": atlas.layer, "head": atlas.head, "share": share, "maps": atlas.maps}


def curve(trace: Trace) -> Step | None:
    """Token maps, summed per frame and averaged over tokens, are a curve; a part of the curve is the score."""
    close, model, percent = trace.close, trace.model, numbers.percent
    if close is None:
        return None
    place = max(range(len(close.atlases)), key=lambda one: float(age(close, close.atlases[one]).mean()))
    atlas, name = close.atlases[place], f"L{close.atlases[place].layer} H{close.atlases[place].head}"
    bars = np.nan_to_num(atlas.share).mean(axis=0)
    last, count = model.chunk + 1, model.rows * model.columns
    near, score, whole = float(bars[-last:].sum()), evidence.scores(bars, last), evidence.scores(close.whole[place], last)
    reveal = [
        f"Summed per frame and averaged over {count} tokens, {len(bars)} maps become {len(bars)} numbers. **{percent(near)} %** falls on "
        f"the newest {last} frames; if the head looked everywhere alike it would be {percent(last / len(bars))} %.",
        f"The oldest frame alone gets {percent(float(bars[0]))} % and is left out of the score. Of the rest, the newest {last} are the "
        f"**head score: {score:.2f}**; over all {numbers.count(model.chunk, 'frame')} of the chunk being drawn it is {whole:.2f}.",
    ]
    if trace.look is not None:
        reveal.append(resting(trace.look))
    mean = evidence.mean_map(atlas)
    light = np.round(255 * np.sqrt(mean / max(float(mean.max()), 1e-12))).astype(np.uint8)
    data = pictured(close, model) | {"head": {"layer": atlas.layer, "head": atlas.head}, "rows": model.rows, "columns": model.columns}
    data |= {"mean": base64.b64encode(light.tobytes()).decode("ascii"), "bars": [round(100 * float(bar), 2) for bar in bars], "last": last}
    text = [
        f"Head **{name}**. Each picture shows where the tokens of the newest frame look in that frame, all {count} of them together. A map "
        "says where; to say **when**, forget the place: add up each frame.",
    ]
    prompt = f"How much of this head's attention falls on the newest {last} of {len(bars)} frames?"
    question = guess(prompt, 100 * near, low=0, high=100, step=5, unit="%", near=10, start=50)
    others = [[one.layer, one.head] for one in close.atlases if one is not atlas]
    live = Live("See it on Live", f"Puts {name} on show: the film below the head map shows its shares, chunk by chunk.",
                {"heads": [[atlas.layer, atlas.head], *others]})  # fmt: skip
    return Step(text, question, data, reveal, live, close.chunk, marked(close))


def resting(look: Look) -> str:
    """How many heads rest on the oldest frame, which is why the score leaves it out."""
    found = int((look.share[..., 0] > 1 / look.share.shape[-1]).sum())
    gives = "gives" if found == 1 else "give"
    return (
        f"Why leave it out? A head that rests on the oldest frame would count as one that looks back: {found} of {look.share[..., 0].size} "
        f"heads {gives} it more than an even share in chunk {look.chunk + 1}."
    )


def six(found: np.ndarray, threshold: float) -> list[tuple[int, int]]:
    """Heads past layer 0, spread over the scores, the one nearest to the threshold among them, in an order that tells nothing."""
    places = [(layer, head) for layer in range(min(1, len(found) - 1), len(found)) for head in range(found.shape[1])]
    ordered = sorted(places, key=lambda place: float(found[place]))
    picks = {ordered[round(step)] for step in np.linspace(0, len(ordered) - 1, min(CARDS, len(ordered)))}
    nearest = min(ordered, key=lambda place: abs(float(found[place]) - threshold))
    if nearest not in picks:
        picks.remove(min(picks, key=lambda place: abs(float(found[place]) - threshold)))
        picks.add(nearest)
    return sorted(picks, key=lambda place: (place[1] * 7 + place[0] * 5) % 11)


def predict(trace: Trace) -> Step | None:
    """Six heads to class by eye, then by score."""
    look, model = trace.look, trace.model
    if look is None:
        return None
    last = model.chunk + 1
    found = evidence.scores(look.share, last)
    if not np.isfinite(found).all():
        return None
    cut = evidence.cut(found)
    force = evidence.static_mask(trace.classes, model.heads) if trace.classes else None
    cards = [card(trace, look, place, letter, cut.threshold, force) for place, letter in zip(six(found, cut.threshold), LETTERS)]
    percent, total = numbers.percent, found.size
    here = round(cut.static * total)
    if cut.published:
        said = f"At the published threshold of 0.80, {here} of {total} heads of this model are static ({percent(cut.static)} %)."
    else:
        why = "too few to tell classes apart here" if cut.at < 0.5 else "nearly all"
        said = (
            f"The published threshold, 0.80, would call {round(cut.at * total)} of {total} heads of this model static "
            f"({percent(cut.at)} %): {why}, so the scale starts at **{cut.threshold:.2f}**, which calls {here} of them static."
        )
    reveal = [said]
    if force is not None and trace.classes is not None:
        differ = int((force != (found >= cut.threshold)).sum())
        rule = trace.classes.rule
        reveal.append(
            f"The model's head profile ({rule}) was measured beforehand: **{differ} of {total}** heads have another class there than "
            "in this chunk."
            if differ
            else f"The model's head profile ({rule}), measured beforehand, gives every head the same class as this chunk does."
        )
    close = sum(1 for one in cards if one["undecided"])
    reveal.append(
        f"{close} of these {len(cards)} heads {'is' if close == 1 else 'are'} undecided: nearer to the threshold than two errors."
        if close
        else f"None of these {len(cards)} heads is nearer to the threshold than two errors."
    )
    data: Json = {"cards": cards, "threshold": cut.threshold, "scores": np.round(found.ravel(), 3).tolist(), "last": last}
    data |= {"error_is": look.error_is, "exact": f"{look.queries}, chunk {look.chunk + 1}" + half(look)}
    text = [
        "Each card is one attention head. The bars show how it shares its attention over the frames, oldest on the left, the new chunk "
        "on the "
        "right. A head that lives in the present can forget the past: **static**. A head that goes back for something cannot: **dynamic**. "
        "Decide before you see the score.",
    ]
    live = Live(
        "See all heads on Live", "Puts head A on show; the head map below the charts gives its score away.",
        {"heads": [[cards[0]["layer"], cards[0]["head"]]]},
    )  # fmt: skip
    return Step(text, {"kind": "cards", "prompt": "Is the past worth keeping for this head?"}, data, reveal, live, look.chunk)


def half(look: Look) -> str:
    return f", half-life {numbers.plain(look.halflife)} chunks" if look.halflife else ""


def card(trace: Trace, look: Look, place: tuple[int, int], letter: str, threshold: float, force: np.ndarray | None) -> Json:
    """One head with its bars in percent, score, class at the threshold, and why."""
    last = trace.model.chunk + 1
    bars = np.nan_to_num(look.share[place])
    score, error = float(evidence.scores(bars, last)), float(look.errors[place])
    known = bool(np.isfinite(error))
    undecided = known and abs(score - threshold) < 2 * error
    old = float(bars[1:-last].sum() / max(bars[1:].sum(), 1e-9))
    kind = "static" if score >= threshold else "dynamic"
    share = f"{numbers.percent(1 - old)} % on the newest {last} frames, {numbers.percent(old)} % on older ones."
    why = [f"L{place[0]} H{place[1]}. {share}"]
    if undecided:
        why.append(f"Close: {score:.2f} ± {error:.2f} ({look.error_is}) is **undecided**.")
    if force is not None and bool(force[place]) != (kind == "static"):
        why.append(f"The head profile calls it {'static' if force[place] else 'dynamic'}.")
    return {
        "letter": letter, "layer": place[0], "head": place[1], "bars": [round(100 * float(bar), 2) for bar in bars],
        "score": round(score, 3),
        "error": round(error, 3) if known else None, "kind": kind, "undecided": bool(undecided), "why": " ".join(why),
    }  # fmt: skip
