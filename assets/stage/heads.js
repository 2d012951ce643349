// The head map's card on the Live page: grid, histogram with its threshold, how classes were chosen, and the way to the Heads page.

class HeadMap {
  constructor(card, store, say) {
    this.card = card;
    this.store = store;
    this.histogram = new Histogram(store);
    this.grid = new HeadGrid(store, { say, toThreshold: () => this.histogram.grip.focus() });
    this.empty("The head map appears when the model is loaded.");
  }

  empty(text) {
    this.shown = null;
    this.card.replaceChildren(el("header", {}, el("div", {}, el("h3", {}, "Which heads need history?"), el("p", {}, text))));
  }

  take(profile) {
    if (!profile) return this.empty("This model has no head profile; policies that need head classes are not offered.");
    this.build(profile);
  }

  build({ rule, note }) {
    const words =
      "Score: share of attention a head spends on the newest frames. High: it hardly looks back (static). Low: it needs history (dynamic).";
    this.when = el("p", { class: "when", "aria-live": "polite" });
    this.rule = el("p", { class: "rule" }, el("b", {}, "How roles were chosen. "), rule, note ? ` ${note}` : "");
    const open = el("button", { type: "button", class: "plain", onclick: () => tab("Heads") }, "Open in Heads");
    this.card.replaceChildren(
      el("header", {}, el("div", {}, el("h3", {}, "Which heads need history?"), el("p", {}, words)), open),
      el("div", { class: "columns" }, el("div", {}, this.grid.node, this.grid.keys), el("div", {}, this.histogram.node, this.when)),
      this.rule,
    );
    this.shown = true;
  }

  draw(colours) {
    if (!this.shown || !this.card.offsetParent) return;
    this.grid.draw(colours);
    this.histogram.draw(colours);
    const text = inForce(this.store);
    if (this.when.textContent !== text) this.when.textContent = text;
  }
}

// What lane B makes of the classes shown.
function inForce(store) {
  const rule = store.wanted.rule.split(":")[0],
    words = rule === "threshold" ? `threshold ${store.threshold.toFixed(2)}` : RULES[rule];
  const more = store.wanted.overrides.size,
    asked = more ? `${words}, ${more} ${more === 1 ? "override" : "overrides"}` : words;
  if (!store.parts) return `Classes: ${asked}. Lane B's policy treats all heads alike, so they change nothing there.`;
  if (!store.force) return `Classes: ${asked}. Lane B takes them when it starts.`;
  return store.applied
    ? `Classes: ${asked}. In force in lane B since chunk ${store.force.chunk + 1}.`
    : `Classes: ${asked}. Lane B takes them at its next chunk.`;
}

// Goes to a tab of the page by its name.
function tab(name) {
  const button = [...document.querySelectorAll("#tabs button[role='tab']")].find((entry) => entry.textContent.trim() === name);
  button?.click();
  button?.focus();
}
