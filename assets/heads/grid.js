// Layers from left to right, heads down. Glyph is class, colour is the metric; one tab stop, arrows move, Enter pins, O overrides, T finds the threshold.

function round(value, places = 2) {
  return value === null || Number.isNaN(value) ? "–" : value.toFixed(places);
}

class HeadGrid {
  constructor(store, { toThreshold, say }) {
    Object.assign(this, { store, toThreshold, say });
    this.node = el("div", { class: "map", role: "grid", "aria-label": "Heads by layer" });
    this.keys = el("ul", { class: "keys" });
    this.shape = "";
    this.node.addEventListener("click", (event) => this.click(event));
    this.node.addEventListener("keydown", (event) => this.key(event));
    this.node.addEventListener("pointerover", (event) => this.peek(event.pointerType === "mouse" ? this.at(event) : null));
    this.node.addEventListener("pointerleave", () => this.peek(null));
  }

  at(event) {
    const cell = event.target.closest(".cell");
    return cell ? { layer: +cell.dataset.layer, head: +cell.dataset.head } : null;
  }

  peek(place) {
    this.store.preview = place;
    this.store.changed();
  }

  click(event) {
    const place = this.at(event);
    if (place) this.pick(place);
  }

  pick({ layer, head }) {
    this.store.pick(layer, head);
    this.say(`Layer ${layer}, head ${head} pinned`);
  }

  build() {
    const { layers, heads } = this.store,
      sparse = layers > 16,
      axis = (role, text, data) => el("span", { class: "axis", role, ...data }, text);
    this.cells = [];
    this.node.style.setProperty("--layers", layers);
    this.node.classList.toggle("dense", sparse);
    const top = el("div", { role: "row", class: "row" }, axis("columnheader", "layer"));
    for (let layer = 0; layer < layers; layer++)
      top.append(axis("columnheader", sparse && layer % 5 ? "" : String(layer), { "data-layer": layer }));
    const rows = Array.from({ length: heads }, (_, head) => {
      const row = el("div", { role: "row", class: "row" }, axis("rowheader", String(head), { "data-head": head }));
      for (let layer = 0; layer < layers; layer++) {
        const cell = el("button", { type: "button", role: "gridcell", tabindex: -1, "data-layer": layer, "data-head": head });
        this.cells.push({ cell, layer, head, print: "" });
        row.append(cell);
      }
      return row;
    });
    this.mixes = Array.from({ length: layers }, () =>
      el("span", { class: "mix" }, el("i", { class: "static" }), el("i", { class: "dynamic" })),
    );
    this.node.replaceChildren(
      top,
      ...rows,
      el("div", { class: "row mixes", "aria-hidden": "true" }, axis("presentation", ""), ...this.mixes),
    );
  }

  label(layer, head) {
    const { store } = this,
      score = store.value("score", layer, head),
      error = store.value("error", layer, head),
      metric = METRICS[store.metric].title.toLowerCase(),
      value = store.value(store.metric, layer, head);
    const words = [`Layer ${layer}, head ${head}: ${store.kind(layer, head)}`, `score ${round(score)}${error ? ` ± ${round(error)}` : ""}`];
    if (store.metric !== "score") words.push(value === null ? `${metric} not measured yet` : `${metric} ${round(value)}`);
    if (store.undecided(layer, head)) words.push("undecided");
    if (store.override(layer, head)) words.push("overridden");
    if (store.ruled(layer)) words.push("the policy treats all heads of this layer alike");
    if (store.pinned.some((pin) => store.is(pin, layer, head))) words.push("pinned");
    return words.join(", ");
  }

  draw(colours) {
    const { store } = this;
    if (!store.profile) return;
    const shape = `${store.layers}x${store.heads}`;
    if (shape !== this.shape) this.build();
    this.shape = shape;
    const paint = ramp(store, colours);
    for (const entry of this.cells) this.fill(entry, paint, colours);
    this.stop();
    this.mixes.forEach((mix, layer) => {
      mix.style.setProperty("--share", store.roles[layer].size / store.heads);
      mix.classList.toggle("alike", store.ruled(layer));
    });
    for (const axis of this.node.querySelectorAll(".axis")) {
      const { layer, head } = store.selected;
      axis.classList.toggle("on", axis.dataset.layer === String(layer) || axis.dataset.head === String(head));
    }
    this.legend();
  }

  // The one tab stop: where the focus is, else the chosen head.
  stop() {
    const { layer, head } = this.store.selected,
      focused = document.activeElement?.closest?.(".cell"),
      stop = focused && this.node.contains(focused) ? focused : this.cell(layer, head);
    for (const { cell } of this.cells) if (cell.tabIndex !== (cell === stop ? 0 : -1)) cell.tabIndex = cell === stop ? 0 : -1;
  }

  fill(entry, paint, colours) {
    const { store } = this,
      { cell, layer, head } = entry,
      kind = store.kind(layer, head),
      ruled = store.ruled(layer),
      value = store.value(store.metric, layer, head);
    const on = store.is(store.selected, layer, head),
      colour = ruled ? "" : paint(layer, head);
    const flags = {
      ruled,
      unknown: value === null,
      undecided: !ruled && store.undecided(layer, head),
      override: Boolean(store.override(layer, head)),
      pinned: !on && store.pinned.some((pin) => store.is(pin, layer, head)),
      dim: Boolean(store.brush) && !store.brush.has(`${layer},${head}`),
    };
    const print = [colour, kind, round(value), on, ...Object.values(flags), store.metric].join("|");
    if (entry.print === print) return;
    entry.print = print;
    cell.className = ["cell", kind, ...Object.keys(flags).filter((flag) => flags[flag])].join(" ");
    cell.setAttribute("aria-selected", String(on));
    const label = this.label(layer, head);
    cell.setAttribute("aria-label", label);
    cell.title = label;
    cell.style.setProperty("--score", colour || "var(--sunk)");
    cell.style.color = ruled ? "" : contrast(colour.startsWith("#") ? `rgb(${rgb(colour).join(",")})` : colour);
    cell.replaceChildren(glyph(kind), el("span", {}, round(value)));
  }

  legend() {
    const { store } = this,
      counts = store.counts(),
      dropped = store.alike.length ? `layer ${store.alike.join(", ")}: policy not applied` : "",
      print = JSON.stringify([counts, dropped, store.wanted.overrides.size]);
    if (print === this.printed) return;
    this.printed = print;
    const item = (sign, text) => el("li", {}, sign, text),
      key = (name) => el("i", { class: `key ${name}` });
    this.keys.replaceChildren(
      item(glyph("static"), `static, ${counts.static}`),
      item(glyph("dynamic"), `dynamic, ${counts.dynamic}`),
      ...(counts.undecided ? [item(key("undecided"), `undecided, ${counts.undecided}`)] : []),
      ...(store.wanted.overrides.size ? [item(key("corner"), `override, ${store.wanted.overrides.size}`)] : []),
      ...(dropped ? [item(key("hatch"), dropped)] : []),
    );
  }

  cell(layer, head) {
    return this.node.querySelector(`.cell[data-layer="${layer}"][data-head="${head}"]`);
  }

  key(event) {
    const place = this.at(event);
    if (!place || event.ctrlKey || event.metaKey || event.altKey) return;
    const { layer, head } = place,
      { layers, heads } = this.store;
    const to = {
      ArrowLeft: [layer - 1, head],
      ArrowRight: [layer + 1, head],
      ArrowUp: [layer, head - 1],
      ArrowDown: [layer, head + 1],
      Home: [0, head],
      End: [layers - 1, head],
    }[event.key];
    const act = {
      Enter: () => this.pick(place),
      " ": () => this.pick(place),
      o: () => this.store.cycle(layer, head),
      t: () => this.toThreshold(),
      Escape: () => this.store.unpinAll(),
    }[event.key.length === 1 ? event.key.toLowerCase() : event.key];
    if (!to && !act) return;
    event.preventDefault();
    event.stopPropagation();
    if (act) act();
    else this.walk(event.target.closest(".cell"), Math.max(0, Math.min(layers - 1, to[0])), Math.max(0, Math.min(heads - 1, to[1])));
  }

  walk(from, layer, head) {
    const next = this.cell(layer, head);
    from.tabIndex = -1;
    next.tabIndex = 0;
    next.focus();
    this.peek({ layer, head });
  }
}

// Colour of every head by the metric. Score: by threshold the scale is centred on it; by rank it runs within each class, because there the
// classes overlap. Any other metric: from pale to ink.
function ramp(store, colours) {
  const values = [...store.all()].map(([l, h]) => [store.value(store.metric, l, h), store.kind(l, h)]).filter(([value]) => value !== null);
  const part = (value, [from, to]) => (from === to ? 1 : Math.max(0, Math.min(1, (value - from) / (to - from))));
  const of = (kind) => values.filter(([, other]) => other === kind).map(([value]) => value);
  if (store.metric !== "score") {
    const top = store.metric === "error" ? Math.max(1e-6, ...values.map(([value]) => value)) : 1;
    return (layer, head) => {
      const value = store.value(store.metric, layer, head);
      return value === null ? colours.sunk : mix(colours.middle, colours["ink-2"], 0.9 * part(value, [0, top]));
    };
  }
  const range = store.cut
    ? { static: [store.threshold, 1], dynamic: [store.threshold, 0] }
    : { static: [Math.min(...of("static")), Math.max(...of("static"))], dynamic: [Math.max(...of("dynamic")), Math.min(...of("dynamic"))] };
  return (layer, head) => {
    const value = store.value("score", layer, head),
      kind = store.kind(layer, head);
    if (value === null) return store.source === "profile" ? mix(colours.middle, colours[kind], 0.5) : colours.sunk;
    return mix(colours.middle, colours[kind], 0.2 + 0.8 * part(value, range[kind]));
  };
}
