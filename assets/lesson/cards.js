// Bars over frames, and step 4: six heads to class by eye, and the scale they drop on.

// Shares in percent as bars; the newest `last` stand in a dashed frame.
function bars(values, { kind, last, values: written = false }) {
  const most = Math.max(...values, 1e-9),
    count = values.length;
  const each = values.map((value) => el("i", { style: `--share:${Math.max(0.015, value / most)}`, title: `${value.toFixed(1)} %` }, written ? el("span", {}, value >= 0.95 ? Math.round(value) : value.toFixed(1)) : ""));
  return el(
    "div",
    { class: `shares ${kind}`, role: "img", "aria-label": `Attention per frame in percent, oldest first: ${values.map((value) => value.toFixed(0)).join(", ")}` },
    el("div", { class: "run", style: `--count:${count}` }, ...each, el("b", { style: `--last:${last / count}` })),
    el("p", {}, el("span", {}, "older"), el("span", { style: `width:${(100 * last) / count}%` }, `last ${last}`)),
  );
}

SCENES.predict = (lesson, box) => {
  const { data } = lesson.step,
    mine = lesson.mine();
  mine.cards ||= {};
  mine.threshold ??= data.threshold;
  const scene = { changed: null };
  const id = (card) => `L${card.layer}H${card.head}`;
  scene.state = (card) => (mine.cards[id(card)] ||= {});
  const nodes = data.cards.map((one) => el("section", { class: "box head", tabindex: "-1", "aria-label": `Head ${one.letter}` }));
  let current = Math.max(0, data.cards.findIndex((card) => !scene.state(card).shown));

  const guess = (index, kind) => {
    const state = scene.state(data.cards[index]);
    if (state.shown) return;
    state.guess = kind;
    lesson.keep();
    draw(index);
    lesson.say(`Head ${data.cards[index].letter}: your guess is ${kind}.`);
  };
  const reveal = (index) => {
    const one = data.cards[index],
      state = scene.state(one);
    if (!state.guess || state.shown) return;
    state.shown = true;
    lesson.keep();
    draw(index);
    drop();
    lesson.say(`Head ${one.letter}: ${state.guess === one.kind ? "right" : "not this time"}. Score ${one.score.toFixed(2)}, ${one.kind}. ${one.why}`);
    scene.changed?.();
  };

  const draw = (index) => {
    const one = data.cards[index],
      state = scene.state(one),
      node = nodes[index],
      focused = node.contains(document.activeElement) ? document.activeElement.dataset.kind : null;
    const tag = state.shown
      ? el("span", { class: `tag ${one.kind}` }, glyph(one.kind), `${one.kind} ${one.score.toFixed(2)}`)
      : el("span", { class: "small" }, state.guess ? `your guess: ${state.guess}` : "your turn");
    const button = (kind) =>
      el(
        "button",
        { type: "button", class: `guess ${kind}`, "data-kind": kind, "aria-pressed": String(state.guess === kind), disabled: Boolean(state.shown), onclick: () => { move(index, false); guess(index, kind); } },
        glyph(kind),
        kind === "static" ? "Static" : "Dynamic",
      );
    const words = state.shown
      ? el("p", {}, el("strong", { class: state.guess === one.kind ? "right" : "wrong" }, state.guess === one.kind ? RIGHT : WRONG), " ", ...rich(one.why))
      : state.guess
        ? el("p", { class: "row" }, el("button", { type: "button", class: "button ink", "data-kind": "reveal", onclick: () => reveal(index) }, "Reveal"), el("span", { class: "small" }, "You can still change it."))
        : el("p", {}, lesson.step.question.prompt);
    node.classList.toggle("current", index === current);
    node.replaceChildren(el("header", {}, el("h3", {}, `Head ${one.letter}`), tag), bars(one.bars, { kind: state.shown ? one.kind : "hidden", last: data.last }), el("div", { class: "guesses" }, button("static"), button("dynamic")), words);
    if (focused) (node.querySelector(`[data-kind="${focused}"]:not(:disabled)`) || node).focus();
  };

  const move = (index, focus = true) => {
    const before = current;
    current = (index + nodes.length) % nodes.length;
    nodes[before].classList.remove("current");
    nodes[current].classList.add("current");
    if (focus) nodes[current].focus();
  };
  scene.key = (event) => {
    if (event.target.closest(".scale, .steps, .turn")) return;
    const over = event.target.closest(".head");
    if (over) current = nodes.indexOf(over);
    const act = { s: () => guess(current, "static"), d: () => guess(current, "dynamic"), ArrowRight: () => move(current + 1), ArrowLeft: () => move(current - 1) };
    if (event.key === "Enter" && !event.target.closest("button")) act.Enter = () => reveal(current);
    const does = act[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!does) return;
    event.preventDefault();
    does();
  };

  const score = el("span", {}),
    scale = el("div", { class: "scale" }),
    count = el("p", { class: "small" });
  scene.score = (bold, rest) => score.replaceChildren(el("b", {}, bold), rest);
  const drop = () => {
    const threshold = mine.threshold,
      rows = [];
    const marks = data.cards
      .filter((one) => scene.state(one).shown)
      .sort((a, b) => a.score - b.score)
      .map((one) => {
        const kind = one.score >= threshold ? "static" : "dynamic",
          level = rows.findIndex((last) => one.score - last > 0.05),
          up = level < 0 ? rows.length : level;
        rows[up] = one.score;
        return el("span", { class: `pin ${kind} ${one.undecided ? "undecided" : ""}`, style: `--at:${one.score};--up:${up}`, title: `L${one.layer} H${one.head}: ${one.score.toFixed(2)}` }, el("b", {}, one.letter));
      });
    const handle = el("div", {
      class: "handle", role: "slider", tabindex: "0", style: `--at:${threshold}`, "aria-label": "Threshold", "aria-valuemin": "0", "aria-valuemax": "1",
      "aria-valuenow": threshold.toFixed(2), "aria-valuetext": `${threshold.toFixed(2)}, ${words(threshold)}`,
    }, el("span", {}, "threshold ", el("b", {}, threshold.toFixed(2))));
    const track = el("div", { class: "track", style: `--cut:${100 * threshold}%` });
    const ticks = [0, 0.2, 0.4, 0.6, 0.8, 1].map((tick) => el("em", { style: `--at:${tick}` }, tick.toFixed(1)));
    const had = scale.contains(document.activeElement);
    scale.replaceChildren(el("span", { class: "side" }, "looks back: dynamic"), ...marks, handle, track, ...ticks);
    if (had) handle.focus();
    count.textContent = `${words(threshold)}.`;
    drag(handle);
  };
  const words = (threshold) => {
    const found = data.scores.filter((one) => one >= threshold).length;
    return `at ${threshold.toFixed(2)}, ${found} of ${data.scores.length} heads of the model are static`;
  };
  const set = (value) => {
    mine.threshold = Math.max(0, Math.min(1, Math.round(value * 100) / 100));
    lesson.keep();
    drop();
  };
  const drag = (handle) => {
    handle.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      const box = scale.getBoundingClientRect(),
        go = (moved) => set((moved.clientX - box.left) / box.width),
        end = () => window.removeEventListener("pointermove", go);
      window.addEventListener("pointermove", go);
      window.addEventListener("pointerup", end, { once: true });
    });
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.01, ArrowRight: 0.01, PageDown: -0.1, PageUp: 0.1 }[event.key];
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      set(mine.threshold + by);
    });
  };
  nodes.forEach((_, index) => draw(index));
  box.replaceChildren(
    el("div", { class: "heads" }, ...nodes),
    el("section", { class: "box" }, el("header", {}, el("h3", {}, "Your heads on the scale"), score), el("p", { class: "small" }, "Each revealed head drops here. Drag the threshold: which head would change class first?"), scale, count),
  );
  drop();
  return scene;
};
