// A number foretold, dashed and with its tag; where it has run, what came of it stands solid beneath.
function priced([value, unit, name, measured]) {
  const was = measured ? el("dd", { class: "measured" }, el("em", {}, "measured"), " ", measured) : null;
  return el(
    "div",
    { class: "foretold" },
    el("dd", {}, el("em", {}, "predicted"), el("b", {}, value === "–" ? value : `≈ ${value}`), " ", unit),
    el("dt", {}, name),
    was,
  );
}

// A policy painted by hand: what heads of each class keep, by age of the frame and by segment. Its price is told before it runs.

class Paint {
  constructor(node, store, stage) {
    Object.assign(this, { node, store, stage });
    this.sink = 1;
    this.cells = { static: new Set(["1.all"]), dynamic: new Set(["1.all"]) };
    this.shape = "";
    this.told = {};
    this.grid = el("div", { class: "canvas-of-ages" });
    this.price = el("dl", { class: "facts" });
    this.words = el("p", { class: "small", role: "status" });
    this.apply = el("button", { type: "button", class: "plain strong", onclick: () => this.run() }, "Run it in lane B");
    const preset = (text, fill) => el("button", { type: "button", class: "plain", onclick: () => this.fill(fill) }, text);
    const sink = el("select", { "aria-label": "First frames kept for ever" });
    for (const count of [0, 1, 2, 3]) sink.append(el("option", { value: count, selected: count === 1 }, String(count)));
    sink.addEventListener("change", () => {
      this.sink = +sink.value;
      this.ask();
    });
    node.replaceChildren(
      el(
        "header",
        {},
        el(
          "div",
          {},
          el("h3", {}, "Paint a policy"),
          el(
            "p",
            {},
            "What may heads of each class keep? Columns are past frames by age, rows are segments of a frame, top to bottom. Drag to paint; arrow keys and space work too. Pale: kept on the way to an older age.",
          ),
        ),
      ),
      el(
        "div",
        { class: "tools" },
        preset("Nothing", () => false),
        preset("Last frame", (age) => age === 1),
        preset("Last three", (age) => age <= 3),
        preset("Everything", () => true),
        el("label", { class: "quota" }, "Sink frames ", sink),
      ),
      (this.scroll = el("div", { class: "scroll" }, this.grid)),
      this.price,
      el("div", { class: "foot" }, this.words, this.apply),
    );
    this.grid.addEventListener("pointerdown", (event) => this.begin(event));
    this.grid.addEventListener(
      "pointermove",
      (event) => this.brush && this.stroke(document.elementFromPoint(event.clientX, event.clientY)),
    );
    window.addEventListener("pointerup", () => this.end());
    window.addEventListener("pointercancel", () => this.end());
    this.grid.addEventListener("keydown", (event) => this.key(event));
  }

  get segments() {
    const { rows } = this.stage.facts;
    return Array.from({ length: rows }, (_, i) => i + 1)
      .filter((count) => rows % count === 0)
      .sort((a, b) => Math.abs(a - 6) - Math.abs(b - 6))[0];
  }

  get ages() {
    return this.stage.facts.window - this.stage.facts.chunk;
  }

  has(kind, age, segment) {
    return this.cells[kind].has(`${age}.all`) || this.cells[kind].has(`${age}.${segment}`);
  }

  // What is painted at a later age has to be kept until then.
  through(kind, age, segment) {
    for (let later = age + this.stage.facts.chunk; later <= this.ages; later += this.stage.facts.chunk)
      if (this.has(kind, later, segment)) return true;
    return false;
  }

  paint(kind, age, segment, on) {
    const all = Array.from({ length: this.segments }, (_, i) => i),
      kept = all.filter((part) => (part === segment ? on : this.has(kind, age, part)));
    for (const part of ["all", ...all]) this.cells[kind].delete(`${age}.${part}`);
    if (kept.length === all.length) this.cells[kind].add(`${age}.all`);
    else for (const part of kept) this.cells[kind].add(`${age}.${part}`);
  }

  fill(test) {
    for (const kind of ["static", "dynamic"]) {
      this.cells[kind].clear();
      for (let age = 1; age <= this.ages; age++) if (test(age)) this.cells[kind].add(`${age}.all`);
    }
    this.store.changed();
    this.ask();
  }

  // The policy as it is written: painted:sink=1,static=1,dynamic=1+2.0.
  get spelling() {
    const list = (kind) =>
      [...this.cells[kind]]
        .map((cell) => cell.replace(".all", ""))
        .sort((a, b) => a - b)
        .join("+");
    return `painted:sink=${this.sink},static=${list("static")},dynamic=${list("dynamic")}`;
  }

  begin(event) {
    const cell = event.target.closest("button");
    if (!cell) return;
    event.preventDefault();
    cell.focus();
    const { kind, age, segment } = cell.dataset;
    this.brush = { on: !this.has(kind, +age, +segment) };
    this.stroke(cell);
  }

  stroke(cell) {
    if (!cell?.dataset?.age || !this.grid.contains(cell)) return;
    this.paint(cell.dataset.kind, +cell.dataset.age, +cell.dataset.segment, this.brush.on);
    this.store.changed();
  }

  end() {
    if (this.brush) this.ask();
    this.brush = null;
  }

  key(event) {
    const cell = event.target.closest("button"),
      by = { ArrowLeft: [1, 0], ArrowRight: [-1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (!cell || (!by && event.key !== " " && event.key !== "Enter")) return;
    event.preventDefault();
    event.stopPropagation();
    const { kind, age, segment } = cell.dataset;
    if (!by) {
      this.paint(kind, +age, +segment, !this.has(kind, +age, +segment));
      this.store.changed();
      return this.ask();
    }
    const row = (kind === "dynamic" ? this.segments : 0) + +segment + by[1],
      to = {
        kind: row < this.segments ? "static" : "dynamic",
        segment: ((row % this.segments) + this.segments) % this.segments,
        age: +age + by[0],
      };
    const next = row >= 0 && this.grid.querySelector(`[data-kind="${to.kind}"][data-age="${to.age}"][data-segment="${to.segment}"]`);
    if (!next) return;
    cell.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
  }

  build() {
    const ages = Array.from({ length: this.ages }, (_, i) => this.ages - i),
      chunk = this.stage.facts.chunk;
    this.grid.style.setProperty("--columns", ages.length + chunk);
    const block = (kind) => {
      const rows = Array.from({ length: this.segments }, (_, segment) =>
        el(
          "div",
          { class: "ages", role: "row" },
          ...ages.map((age) =>
            el("button", {
              type: "button",
              role: "gridcell",
              tabindex: kind === "static" && age === 1 && !segment ? 0 : -1,
              "data-kind": kind,
              "data-age": age,
              "data-segment": segment,
              "aria-label": `${kind} heads, age ${age}, segment ${segment + 1} of ${this.segments}`,
            }),
          ),
          ...Array.from({ length: chunk }, () => el("i", { "aria-hidden": "true" })),
        ),
      );
      return el(
        "div",
        { class: `block ${kind}`, role: "grid", "aria-label": `What ${kind} heads keep` },
        el("p", {}, glyph(kind), el("b", {}, kind[0].toUpperCase() + kind.slice(1))),
        el("div", {}, ...rows),
      );
    };
    const axis = el(
      "div",
      { class: "ages axis", "aria-hidden": "true" },
      ...ages.map((age) => el("span", {}, age === 1 || age % 3 === 0 ? String(age) : "")),
      ...Array.from({ length: chunk }, (_, i) => el("span", {}, i === 1 || chunk === 1 ? "now" : "")),
    );
    this.grid.replaceChildren(
      block("static"),
      block("dynamic"),
      el("div", { class: "block" }, el("p", { class: "small" }, "frames ago"), el("div", {}, axis)),
    );
  }

  draw() {
    const { facts } = this.stage;
    if (!facts?.window) return;
    const shape = `${this.ages}x${this.segments}`;
    if (shape !== this.shape) this.build();
    if (shape !== this.shape) this.scroll.scrollLeft = this.scroll.scrollWidth;
    this.shape = shape;
    for (const cell of this.grid.querySelectorAll("button")) {
      const place = [cell.dataset.kind, +cell.dataset.age, +cell.dataset.segment],
        on = String(this.has(...place));
      cell.classList.toggle("through", this.through(...place));
      if (cell.getAttribute("aria-selected") !== on) cell.setAttribute("aria-selected", on);
    }
    const at = this.stage.newest;
    if (this.priced !== `${at}|${this.spelling}` && !this.busy && !this.brush) this.ask(at);
  }

  // What it would keep and cost, from what was measured in this run so far.
  async ask(at = this.stage.newest) {
    this.priced = `${at}|${this.spelling}`;
    this.busy = true;
    const answer = await this.stage.ask("paint", { painted: this.spelling });
    this.busy = false;
    const facts = answer.ok ? answer.facts : [];
    this.price.replaceChildren(...facts.map(priced));
    this.words.textContent = answer.ok ? answer.text : answer.error;
    this.words.classList.toggle("error", !answer.ok);
  }

  run() {
    this.stage.trigger("run_painted", { policy: this.spelling });
    this.stage.board.say("The painted policy runs in lane B from the next chunk on.");
  }
}
