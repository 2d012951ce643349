// Step 7 in the learner's own run: a button for every choice of roles, and what the run has measured under each since it was made.

function dotrow({ name, psnr, mean, words }, at, kind) {
  const dots = psnr.map((value) => el("i", { class: `prompt ${kind}`, style: `--at:${at(value)}` }));
  const bar = mean === null ? "" : el("i", { class: "mean", style: `--at:${at(mean)}` });
  return el("div", { class: "dotrow", role: "img", "aria-label": `${name}: ${words}` }, el("b", {}, name), el("div", { class: "line" }, ...dots, bar), el("span", {}, words));
}

// Groups of rows on one axis of decibels: recorded trials, one dot a prompt, and the learner's own, one dot a chunk.
function decibels(groups) {
  const all = groups.flatMap(({ rows }) => rows.flatMap(({ psnr }) => psnr));
  if (!all.length) return [];
  const low = Math.floor(Math.min(...all) - 1),
    high = Math.ceil(Math.max(...all) + 1),
    at = (value) => (value - low) / (high - low);
  const parts = groups.filter(({ rows }) => rows.length).flatMap(({ title, kind, rows }) => [el("h4", {}, title), el("div", { class: "dots wide" }, ...rows.map((row) => dotrow(row, at, kind)))]);
  return [...parts, el("p", { class: "small" }, `From ${low} to ${high} dB PSNR of lane B against lane A; further right is nearer to A.`)];
}

function table(heads, rows) {
  const head = el("thead", {}, el("tr", {}, ...heads.map((text) => el("th", { scope: "col" }, text))));
  const body = rows.map(([first, ...rest]) => el("tr", {}, el("th", { scope: "row" }, first), ...rest.map((text) => el("td", {}, String(text)))));
  return el("div", { class: "scroll", tabindex: "0", role: "region", "aria-label": heads[0] }, el("table", {}, head, el("tbody", {}, ...body)));
}

class Trials {
  constructor(lesson, changed) {
    Object.assign(this, { lesson, changed });
    const { rules } = lesson.step.data;
    this.answer = { trials: [], words: [], parted: true };
    this.buttons = rules.map(([rule, name]) =>
      el("button", { type: "button", class: "button rule", "data-rule": rule, "aria-pressed": "false", onclick: () => this.take(rule, name) }, name),
    );
    this.note = el("p", { class: "small", role: "status", "data-trial": true }, this.hint);
    this.start = el("button", { type: "button", class: "button", hidden: true, onclick: () => document.querySelector("#start")?.click() }, "Start a run");
    const choices = el("div", { class: "rules", role: "group", "aria-label": "Roles for lane B of your run" }, ...this.buttons);
    this.slot = el("div", { class: "slot" });
    this.node = card("Try it in your own run", "each choice is a trial of its own", choices, el("div", { class: "row" }, this.start, this.note), this.slot);
    this.tick();
  }

  get hint() {
    return this.lesson.live.running ? "Choose roles: lane B takes them at its next chunk." : "Nothing is running: press Start a run, then choose roles for lane B.";
  }

  async take(rule, name) {
    const { live, step } = this.lesson,
      trouble = await live.set({ compress: true, policy: step.data.policy, rule });
    this.said = trouble || (live.running ? `Lane B takes ${name} at its next chunk.` : `Set: ${name}. Nothing is running: press Start a run.`);
    this.mark = "";
    this.tick();
  }

  // Asks for the trials when the run has moved on.
  async tick() {
    const { stage, running } = this.lesson.live,
      mark = stage ? [stage.run, stage.newest, running, stage.store.wanted?.rule].join() : "";
    if (!stage || mark === this.mark) return;
    this.mark = mark;
    const answer = stage.run ? await this.lesson.ask("trials") : { ok: true, trials: [], words: [], parted: true };
    if (answer.ok) this.answer = answer;
    this.draw();
  }

  draw() {
    const { running, stage } = this.lesson.live,
      { trials, words, parted } = this.answer;
    for (const button of this.buttons) button.setAttribute("aria-pressed", String(button.dataset.rule === stage?.store.wanted?.rule));
    this.start.hidden = running;
    const now = trials.find((trial) => trial.current);
    if (running && now && this.enough !== now.name && now.median !== null) {
      this.enough = now.name;
      this.lesson.say(`${now.name}: ${now.spread}, ${now.chunks}.`);
    }
    const alike = running && !parted ? "Lane B's policy treats all heads alike, so roles change nothing: choose one here and it gets a policy that parts them." : "";
    const note = alike || (running && now ? `Lane B runs ${now.name}: ${now.n} ${now.n === 1 ? "chunk" : "chunks"} measured.` : this.said || this.hint);
    if (this.note.textContent !== note) this.note.textContent = note;
    const heads = ["Your trials", "chunks", "n", "PSNR, middle 8 in 10", "cache kept", "speed"];
    const rows = trials.map((trial) => [trial.name, trial.chunks, trial.n, trial.spread, trial.kept, trial.speed]);
    this.slot.replaceChildren(...(rows.length ? [table(heads, rows), ...words.map((text) => el("p", {}, ...rich(text)))] : []));
    this.changed();
  }

  // For the chart.
  get rows() {
    return this.answer.trials.map(({ name, psnr, median, spread, chunks }) => ({ name: `${name}, ${chunks.replace("chunks ", "")}`, psnr, mean: median, words: median === null ? spread : `${median.toFixed(1)} dB` }));
  }
}
