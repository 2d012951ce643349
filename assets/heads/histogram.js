// Heads piled up by a metric, with a threshold that is dragged, nudged with the keyboard or touched; letting go asks lane B for it.

const PAD = 6;

class Histogram {
  constructor(store) {
    this.store = store;
    this.canvas = el("canvas", { role: "img" });
    this.title = el("b");
    this.hint = el("span");
    this.grip = el(
      "button",
      { type: "button", class: "grip", role: "slider", "aria-label": "Threshold", "aria-valuemin": 0, "aria-valuemax": 1 },
      el("i"),
    );
    this.label = el("p", { class: "at", "aria-hidden": "true" });
    this.node = el(
      "div",
      { class: "histogram" },
      el("div", { class: "caption" }, this.title, this.hint),
      el("div", { class: "piles" }, this.canvas, this.grip, this.label),
    );
    this.grip.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.grip.focus();
      this.grip.setPointerCapture(event.pointerId);
    });
    this.grip.addEventListener("pointermove", (event) => {
      if (this.grip.hasPointerCapture(event.pointerId)) this.drag(this.score(event));
    });
    this.grip.addEventListener("lostpointercapture", () => this.settle());
    this.grip.addEventListener("keydown", (event) => this.key(event));
  }

  score(event) {
    const box = this.canvas.getBoundingClientRect();
    return (event.clientX - box.left - PAD) / (box.width - 2 * PAD);
  }

  drag(score) {
    this.moved = true;
    this.store.show(Math.round(100 * Math.max(0, Math.min(1, score))) / 100);
  }

  settle() {
    clearTimeout(this.later);
    if (this.moved) this.store.classify({ rule: "threshold", threshold: this.store.threshold });
    this.moved = false;
  }

  key(event) {
    const { threshold } = this.store;
    const to = {
      ArrowLeft: threshold - 0.01,
      ArrowDown: threshold - 0.01,
      ArrowRight: threshold + 0.01,
      ArrowUp: threshold + 0.01,
      PageDown: threshold - 0.05,
      PageUp: threshold + 0.05,
      Home: 0,
      End: 1,
    }[event.key];
    if (to === undefined) return;
    event.preventDefault();
    event.stopPropagation();
    this.drag(to);
    clearTimeout(this.later);
    this.later = setTimeout(() => this.settle(), 300);
  }

  draw(colours) {
    const { store } = this;
    if (!store.profile || !this.canvas.clientWidth) return;
    const { pen, width, height } = sharp(this.canvas),
      counts = store.counts(),
      metric = METRICS[store.metric];
    const heads = [...store.all()]
      .map(([layer, head]) => ({ layer, head, value: store.value(store.metric, layer, head) }))
      .filter(({ value }) => value !== null);
    const top = store.metric === "error" ? Math.max(0.01, ...heads.map(({ value }) => value)) * 1.02 : 1,
      base = height - 30,
      x = (value) => PAD + (value / top) * (width - 2 * PAD);
    this.title.textContent = `${heads.length} heads by ${metric.title.toLowerCase()}`;
    this.hint.textContent = !heads.length
      ? store.scored || store.source === "run"
        ? "measured while the lanes run"
        : "this profile has classes only; choose This run"
      : store.metric !== "score"
        ? ""
        : !store.scored
          ? "scores of this run, classes of the profile"
          : store.cut
          ? "drag the threshold"
          : "classes by rank, so they may overlap; drag to use a threshold";
    this.canvas.setAttribute(
      "aria-label",
      `${heads.length} heads by ${metric.title.toLowerCase()}: ${counts.dynamic} dynamic, ${counts.static} static`,
    );
    this.piles(pen, colours, heads, { x, top, base, width });
    this.axis(pen, colours, { x, top, base, width });
    this.chosen(pen, colours, { x, base });
    this.place(counts, x, width);
  }

  piles(pen, colours, heads, { x, top, base, width }) {
    const { store } = this,
      bins = heads.length > 150 ? 40 : 25,
      piles = new Map(),
      paint = ramp(store, colours);
    for (const entry of heads) {
      const bin = Math.min(Math.floor((entry.value / top) * bins), bins - 1);
      piles.set(bin, [...(piles.get(bin) || []), entry]);
    }
    const most = Math.max(1, ...[...piles.values()].map((pile) => pile.length)),
      wide = (width - 2 * PAD) / bins - 2,
      high = Math.min(18, (base - 52) / most - 1.5);
    for (const [bin, pile] of piles) {
      pile.sort((a, b) => (store.kind(a.layer, a.head) < store.kind(b.layer, b.head) ? -1 : 1));
      pile.forEach(({ layer, head }, index) => {
        pen.globalAlpha = store.brush && !store.brush.has(`${layer},${head}`) ? 0.25 : 1;
        pen.fillStyle = paint(layer, head);
        pen.beginPath();
        pen.roundRect(x((bin / bins) * top) + 1, base - (index + 1) * (high + 1.5), wide, high, 2);
        pen.fill();
        pen.globalAlpha = 1;
        if (!store.is(store.selected, layer, head)) return;
        pen.strokeStyle = colours.ink;
        pen.lineWidth = 1.5;
        pen.stroke();
      });
    }
  }

  axis(pen, colours, { x, top, base, width }) {
    pen.fillStyle = colours["line-2"];
    pen.fillRect(PAD, base, width - 2 * PAD, 1);
    if (this.store.metric === "score" && this.store.cut) {
      const cut = this.store.threshold,
        scale = pen.createLinearGradient(x(0), 0, x(1), 0);
      scale.addColorStop(0, colours.dynamic);
      scale.addColorStop(cut, colours.middle);
      scale.addColorStop(1, colours.static);
      pen.fillStyle = scale;
      pen.fillRect(PAD, base + 3, width - 2 * PAD, 3);
    }
    pen.font = `11px ${FONT}`;
    pen.fillStyle = colours["ink-3"];
    pen.textBaseline = "middle";
    const { layer, head } = this.store.selected,
      own = this.store.ruled(layer) ? null : this.store.value(this.store.metric, layer, head);
    for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
      if (own !== null && Math.abs(x(tick * top) - x(own)) < 36) continue;
      pen.textAlign = tick === 0 ? "left" : tick === 1 ? "right" : "center";
      pen.fillText((tick * top).toFixed(top < 0.5 ? 3 : 1), x(tick * top), base + 20);
    }
  }

  // Where the chosen head stands.
  chosen(pen, colours, { x, base }) {
    const { layer, head } = this.store.selected,
      value = this.store.value(this.store.metric, layer, head);
    if (value === null || this.store.ruled(layer)) return;
    const name = `L${layer} H${head}`,
      at = x(value);
    pen.font = `bold 11px ${FONT}`;
    const wide = pen.measureText(name).width + 10,
      left = Math.max(0, Math.min(at - wide / 2, this.canvas.clientWidth - wide));
    pen.fillStyle = colours.ink;
    pen.fillRect(at - 1, base + 1, 2, 9);
    pen.textAlign = "left";
    pen.fillText(name, left + 5, base + 20);
  }

  place(counts, x, width) {
    const { store } = this,
      on = store.metric === "score" && store.scored,
      at = x(store.threshold);
    this.grip.hidden = this.label.hidden = !on;
    if (!on) return;
    this.grip.style.left = `${at}px`;
    this.grip.classList.toggle("idle", !store.cut);
    this.grip.setAttribute("aria-valuenow", store.threshold.toFixed(2));
    this.grip.setAttribute("aria-valuetext", `${store.threshold.toFixed(2)}: ${counts.dynamic} dynamic, ${counts.static} static`);
    const left = at > width / 2;
    this.label.style.left = left ? "auto" : `${at + 14}px`;
    this.label.style.right = left ? `${width - at + 14}px` : "auto";
    const text = `threshold ${store.threshold.toFixed(2)} ${store.cut ? "" : "not in use "}`;
    if (this.label.dataset.print === `${text}${counts.static}`) return;
    this.label.dataset.print = `${text}${counts.static}`;
    this.label.replaceChildren(
      text,
      el("span", {}, glyph("dynamic"), ` ${counts.dynamic} dynamic`),
      el("span", {}, glyph("static"), ` ${counts.static} static`),
    );
  }
}
