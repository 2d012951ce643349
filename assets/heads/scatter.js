// Any two metrics against each other; a dragged frame highlights its heads in the map and the histogram.

class Scatter {
  constructor(node, store) {
    Object.assign(this, { node, store });
    this.axes = { x: "score", y: "entropy" };
    this.canvas = el("canvas", { role: "img", class: "brush" });
    this.clear = el("button", { type: "button", class: "plain", hidden: true, onclick: () => this.brush(null) }, "Clear");
    this.note = el("p", { class: "small", role: "status" });
    const pick = (axis) => {
      const select = el("select", { "aria-label": axis === "x" ? "Metric to the right" : "Metric upwards" });
      for (const [name, { title }] of Object.entries(METRICS))
        select.append(el("option", { value: name, selected: name === this.axes[axis] }, title));
      select.addEventListener("change", () => {
        this.axes[axis] = select.value;
        this.brush(null);
      });
      return select;
    };
    node.replaceChildren(
      el("header", {}, el("h3", {}, "Two metrics at once"), el("div", { class: "pair-of" }, pick("y"), " by ", pick("x"), this.clear)),
      this.canvas,
      this.note,
    );
    this.listen();
  }

  listen() {
    const { canvas } = this;
    canvas.addEventListener("pointerdown", (event) => {
      canvas.setPointerCapture(event.pointerId);
      this.from = this.to = [event.offsetX, event.offsetY];
    });
    canvas.addEventListener("pointermove", (event) => {
      if (!canvas.hasPointerCapture(event.pointerId)) return;
      this.to = [event.offsetX, event.offsetY];
      this.store.changed();
    });
    canvas.addEventListener("lostpointercapture", () => this.settle());
  }

  settle() {
    const [x0, x1] = [this.from[0], this.to[0]].sort((a, b) => a - b),
      [y0, y1] = [this.from[1], this.to[1]].sort((a, b) => a - b);
    this.from = null;
    const inside = (this.points || []).filter(({ x, y }) => x >= x0 && x <= x1 && y >= y0 && y <= y1);
    const near = (this.points || []).find(({ x, y }) => Math.hypot(x - x1, y - y1) < 8);
    if (x1 - x0 < 4 && y1 - y0 < 4 && near) this.store.pick(near.layer, near.head);
    this.brush(inside.length && x1 - x0 >= 4 ? new Set(inside.map(({ layer, head }) => `${layer},${head}`)) : null);
  }

  brush(set) {
    this.store.brush = set;
    this.store.changed();
  }

  draw(colours) {
    const { store } = this;
    if (!this.canvas.clientWidth || !store.profile) return;
    const { pen, width, height } = sharp(this.canvas),
      heads = [...store.all()]
        .map(([layer, head]) => ({ layer, head, a: store.value(this.axes.x, layer, head), b: store.value(this.axes.y, layer, head) }))
        .filter(({ a, b }) => a !== null && b !== null);
    this.clear.hidden = !store.brush;
    this.note.textContent = store.brush
      ? `${store.brush.size} heads highlighted in the map.`
      : heads.length
        ? `n = ${heads.length} heads. Drag a frame around some to highlight them in the map. ${this.store.told?.text.how || ""}`
        : "";
    this.canvas.setAttribute("aria-label", `${METRICS[this.axes.y].title} by ${METRICS[this.axes.x].title} of ${heads.length} heads`);
    this.points = [];
    if (!heads.length) return blank(pen, colours, width, height);
    const left = 48,
      base = height - 38,
      range = (key) => {
        const values = heads.map((entry) => entry[key]),
          [low, high] = [Math.min(...values), Math.max(...values)],
          room = Math.max(0.01, 0.06 * (high - low));
        return [Math.max(0, low - room), high + room];
      };
    const [x0, x1] = range("a"),
      [y0, y1] = range("b"),
      x = (value) => left + ((value - x0) / (x1 - x0)) * (width - left - 12),
      y = (value) => base - ((value - y0) / (y1 - y0)) * (base - 12);
    this.frame(pen, colours, { x, y, x0, x1, y0, y1, left, base, width });
    for (const { layer, head, a, b } of heads) {
      pen.globalAlpha = store.brush && !store.brush.has(`${layer},${head}`) ? 0.2 : 0.9;
      sign(pen, colours, store.kind(layer, head), x(a), y(b), 3.5);
      this.points.push({ layer, head, x: x(a), y: y(b) });
    }
    pen.globalAlpha = 1;
    this.over(pen, colours);
  }

  frame(pen, colours, { x, y, x0, x1, y0, y1, left, base, width }) {
    const steps = (low, high) => {
      const step = niceStep(high - low, 5);
      return Array.from({ length: Math.floor(high / step) - Math.ceil(low / step) + 1 }, (_, i) => (Math.ceil(low / step) + i) * step);
    };
    const text = (value, top) => value.toFixed(top < 0.2 ? 3 : 2);
    pen.font = `11px ${FONT}`;
    pen.textBaseline = "middle";
    for (const value of steps(y0, y1)) {
      pen.fillStyle = colours.grid;
      pen.fillRect(left, Math.round(y(value)), width - left - 12, 1);
      pen.fillStyle = colours["ink-3"];
      pen.textAlign = "right";
      pen.fillText(text(value, y1), left - 8, y(value));
    }
    pen.textAlign = "center";
    for (const value of steps(x0, x1)) pen.fillText(text(value, x1), x(value), base + 12);
    pen.fillStyle = colours["line-2"];
    pen.fillRect(left, base, width - left - 12, 1);
    pen.fillStyle = colours["ink-2"];
    pen.textAlign = "right";
    pen.fillText(METRICS[this.axes.x].title.toLowerCase(), width - 12, base + 28);
  }

  over(pen, colours) {
    const chosen = this.points.find(({ layer, head }) => this.store.is(this.store.selected, layer, head));
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.5;
    if (chosen) {
      pen.beginPath();
      pen.arc(chosen.x, chosen.y, 8, 0, 7);
      pen.stroke();
    }
    if (!this.from) return;
    pen.setLineDash([4, 3]);
    pen.strokeRect(this.from[0], this.from[1], this.to[0] - this.from[0], this.to[1] - this.from[1]);
    pen.setLineDash([]);
  }
}
