// Steps 5, 7 and 8: marks per prompt, pictures under other roles, bytes and milliseconds.

SCENES.stable = (lesson, box) => {
  const { data } = lesson.step,
    mine = lesson.mine();
  const values = data.rows.flatMap((row) => [...row.prompts.values, ...row.steps.values]);
  const low = Math.min(data.threshold, ...values) - 0.02,
    high = Math.max(data.threshold, ...values) + 0.02,
    at = (value) => (value - low) / (high - low);
  let over = "prompts",
    focus = false;
  const list = el("div", { class: "dots" }),
    caption = el("p", { class: "small" }),
    seg = el("div", { class: "seg", role: "group", "aria-label": "Samples" });
  const draw = () => {
    const rows = data.rows.map((row) => {
      const own = row[over],
        shown = mine.done ? own.values : own.values.slice(0, 1);
      const marks = shown.map((value) => el("i", { class: value >= data.threshold ? "static" : "dynamic", style: `--at:${at(value)}` }));
      const span = [Math.min(...shown), Math.max(...shown)].map(at);
      const flips = mine.done ? (own.flips === 0 ? "never flips" : `${own.flips} ${own.flips === 1 ? "flip" : "flips"}`) : "";
      const line = el("div", { class: "line" }, el("u", { style: `left:${100 * span[0]}%;width:${100 * (span[1] - span[0])}%` }), ...marks);
      return el("div", { class: "dotrow", role: "img", "aria-label": `${row.name}: scores ${shown.map((value) => value.toFixed(2)).join(", ")}. ${flips}` }, el("b", {}, row.name), line, el("span", {}, flips));
    });
    const axis = el("div", { class: "dotrow axis" }, el("b", {}), el("div", { class: "line" }, el("em", { style: `--at:${at(data.threshold)}` }, `threshold ${data.threshold.toFixed(2)}`)), el("span", {}));
    list.replaceChildren(axis, ...rows);
    list.style.setProperty("--cut", at(data.threshold));
    caption.textContent = data.captions[over];
    seg.hidden = !mine.done;
    seg.replaceChildren(
      ...[["prompts", `${data.prompts.length} prompts`], ["steps", `${data.steps} steps`]].map(([key, text]) =>
        el("button", { type: "button", "aria-pressed": String(key === over), onclick: () => { over = key; focus = true; draw(); } }, text),
      ),
    );
    if (focus) seg.querySelector("[aria-pressed='true']").focus();
    focus = false;
  };
  box.replaceChildren(card("Scores of single heads", "square: static, ring: dynamic", seg, list, caption));
  draw();
  return { reveal: draw };
};

SCENES.break = (lesson, box) => {
  const { data } = lesson.step,
    mine = lesson.mine();
  const gallery = el("ol", { class: "gallery" }, ...data.trials.map((trial) => el("li", {}, trial.picture ? el("img", { src: trial.picture, alt: `Last frame, ${trial.name}` }) : "", el("span", {}, trial.name))));
  const chart = el("section", { class: "box", hidden: true });
  const heads = ["Recorded roles", "static heads", "attention kept", "objects found", "stored"];
  const recorded = table(heads, data.trials.map((trial) => [trial.name, trial.static ?? "–", trial.covered, trial.kept, trial.stored]));
  const draw = () => {
    const rows = data.trials.filter((trial) => trial.psnr.length).map(({ name, psnr, mean }) => ({ name, psnr, mean, words: `${mean.toFixed(1)} dB` }));
    const theirs = { title: `Recorded. Dot: one prompt, median over its pixel frames. Bar: mean of ${data.n} ${data.n === 1 ? "prompt" : "prompts"}.`, kind: "", rows: mine.done ? rows : [] };
    const yours = { title: "Your run. Dot: one chunk, median over its pixel frames. Bar: median of the chunks, once they are enough.", kind: "own", rows: trials.rows };
    const drawn = decibels([theirs, yours]);
    chart.hidden = !drawn.length;
    chart.replaceChildren(el("header", {}, el("h3", {}, "Distance from lane A")), ...drawn, ...(mine.done ? [recorded] : []));
  };
  const trials = new Trials(lesson, () => draw());
  box.replaceChildren(card("The same video, other roles", "recorded; last frame, first prompt", gallery), trials.node, chart);
  draw();
  return { reveal: draw, tick: () => trials.tick() };
};

SCENES.buy = (lesson, box) => {
  const { data } = lesson.step,
    mine = lesson.mine();
  const panel = (name, unit, words) => {
    const most = Math.max(...Object.values(data.lanes).flatMap((lane) => lane[name]), 1e-9),
      count = Math.max(...Object.values(data.lanes).map((lane) => lane[name].length));
    const columns = Array.from({ length: count }, (_, chunk) =>
      el("li", { class: "there" }, el("div", { class: "bars" }, ...Object.entries(data.lanes).map(([lane, one]) => el("i", { class: `bar ${lane.toLowerCase()} ${one.counts[chunk] === false && name === "ms" ? "warm" : ""}`, style: `--share:${(one[name][chunk] || 0) / most}` })))),
    );
    return el("div", { class: "panel" }, el("h3", {}, words), el("p", { class: "small" }, unit), el("ol", { class: "chunks both tall", "aria-hidden": "true", style: `--count:${count}` }, ...columns));
  };
  const times = el("div", { class: "slot" });
  const reveal = () => times.replaceChildren(panel("ms", "milliseconds end to end, by chunk; pale: caches fill, not counted", "Time"));
  const legend = el("p", { class: "small legend" }, ...Object.entries(data.lanes).flatMap(([lane, one]) => [letter(lane), ` ${one.label}, ${one.text}  `]));
  box.replaceChildren(card("What each lane stores and takes", "", el("div", { class: "panels" }, panel("stored", "bytes stored, by chunk", "Memory"), times), legend));
  times.replaceChildren(el("p", { class: "hiddenpanel" }, "Time: guess first"));
  if (mine.done) reveal();
  return { reveal };
};
