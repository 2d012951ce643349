// The Heads page: the same run and the same heads as the Live page, looked at closely. Views are drawn only while the page is open.

class Lab {
  constructor(element, stage) {
    this.root = element.querySelector(".lab");
    this.stage = stage;
    const { store } = stage,
      part = (name) => this.root.querySelector(`[data-${name}]`);
    this.histogram = new Histogram(store);
    this.grid = new HeadGrid(store, { say: (text) => stage.board.say(text), toThreshold: () => this.histogram.grip.focus() });
    this.grid.node.classList.add("numbered");
    part("map").replaceChildren(this.grid.node, this.grid.keys);
    part("histogram").replaceChildren(this.histogram.node);
    this.card = new HeadCard(part("card"), store, stage);
    this.gaze = new Gaze(part("gaze"), store, stage);
    this.views = [
      this.grid,
      this.histogram,
      this.card,
      this.gaze,
      new Strip(part("strip"), store, stage),
      new Curves(part("curves"), store, stage),
      new Scatter(part("scatter"), store),
      (this.paint = new Paint(part("paint"), store, stage)),
    ];
    this.rules(part("rules"));
    this.profile = new ProfileBar(part("profile"), this.root.querySelector(".card.heads"), store, stage);
    this.views.push(this.profile);
    this.source = choice(this.root, "source", (source) => store.set({ source }));
    this.source("profile");
    choice(this.root, "metric", (metric) => store.set({ metric }))("score");
    const skip = choice(this.root, "skip", (value) => this.ready && store.set({ skip: +value, source: "run" }));
    skip("1");
    this.ready = true;
    part("run").addEventListener("click", () =>
      document.querySelector(/running|paused|queue|loading/.test(stage.board.name) && stage.run ? "#pause" : "#start")?.click(),
    );
    part("benchmark").addEventListener("click", () => store.set({ benchmark: !store.benchmark }));
    new ResizeObserver(() => stage.redraw()).observe(this.root);
  }

  // Other ways to choose the classes, for comparison.
  rules(node) {
    const { store } = this.stage,
      draw = () => Math.floor(Math.random() * 1e6);
    const ways = [
      [
        "profile",
        "As profiled",
        () => ({ rule: "profile", threshold: null, overrides: new Map() }),
        "The profile's own classes, no override",
      ],
      ["inverted", "Invert", () => ({ rule: "inverted" }), "Static and dynamic exchanged"],
      [
        "random",
        "Random, same size",
        () => ({ rule: `random:${draw()}` }),
        "As many static heads in every layer, drawn anew at each press",
      ],
      ["all-static", "All static", () => ({ rule: "all-static" }), ""],
      ["all-dynamic", "All dynamic", () => ({ rule: "all-dynamic" }), ""],
    ];
    const quota = el("select", { "aria-label": "Share of static heads in every layer" });
    for (const share of [0.25, 0.5, 0.75]) quota.append(el("option", { value: share, selected: share === 0.5 }, `${100 * share} %`));
    quota.addEventListener("change", () => store.classify({ rule: `quota:${quota.value}` }));
    const by = el(
      "span",
      { class: "quota" },
      el(
        "button",
        {
          type: "button",
          class: "plain",
          "data-rule-name": "quota",
          title: "In every layer the heads with the highest scores",
          onclick: () => store.classify({ rule: `quota:${quota.value}` }),
        },
        "Same share per layer",
      ),
      quota,
    );
    const button = ([name, text, edits, title]) =>
      el("button", { type: "button", class: "plain", "data-rule-name": name, title, onclick: () => store.classify(edits()) }, text);
    node.replaceChildren(el("b", {}, "Classes of lane B"), ...ways.map(button), by);
  }

  draw(colours) {
    if (!this.root.offsetParent) return;
    const { stage } = this,
      { store } = stage;
    this.line();
    if (!store.profile) return;
    const counts = store.counts(),
      set = (name, text) => {
        const node = this.root.querySelector(`[data-${name}]`);
        if (node.textContent !== text) node.textContent = text;
      };
    set("title", `${store.layers * store.heads} heads, ${store.layers} layers by ${store.heads}`);
    set("when", inForce(store));
    set("rule", `${METRICS[store.metric].words} ${store.source === "run" ? "" : `Profile. ${store.profile.rule} ${store.profile.note}`}`);
    set(
      "honest",
      store.benchmark
        ? "Benchmark mode: nothing is measured of heads from the next chunk on, so that no probe takes time. What is shown is from before."
        : store.told
          ? `${store.told.text.how} Honest meter: ${store.told.text.probe}.`
          : `${counts.all} heads of the ${store.profile.name ? `profile ${store.profile.name}` : "bundled profile"}. What they look at is measured while the lanes run.`,
    );
    this.root.querySelector("[data-benchmark]").setAttribute("aria-pressed", String(store.benchmark));
    for (const button of this.root.querySelectorAll("[data-rule-name]"))
      button.setAttribute("aria-pressed", String(store.wanted.rule.split(":")[0] === button.dataset.ruleName));
    for (const view of this.views) view.draw(colours);
  }

  // State and sentence of the run, as on the Live page.
  line() {
    const { board } = this.stage,
      from = board.root,
      copy = (selector) => {
        const [there, here] = [from.querySelector(selector), this.root.querySelector(selector)];
        here.hidden = there.hidden;
        here.className = there.className;
        if (here.textContent !== there.textContent) (here.querySelector("span") || here).textContent = there.textContent.trim();
      };
    this.root.dataset.state = board.name;
    copy("[data-status]");
    copy("[data-sentence]");
    const button = this.root.querySelector("[data-run]"),
      word = { running: "Pause", paused: "Resume" }[board.name] || "Start";
    if (button.textContent !== word) button.textContent = word;
  }
}

function mountLab(element) {
  const stage = window.fkvStage.current;
  if (!stage) return setTimeout(() => mountLab(element), 30);
  stage.lab = new Lab(element, stage);
  stage.redraw();
}
