// How far back classes look: share by age, mean of a class with the band of 10 to 90 % of its heads, and the chosen head as a line of ink.

class Curves {
  constructor(node, store, stage) {
    Object.assign(this, { node, store, stage });
    this.canvas = el("canvas", { role: "img", "aria-label": "Share of attention by age of the key frame, per class" });
    this.note = el("p", { class: "small" });
    node.replaceChildren(
      el("header", {}, el("h3", {}, "How far back do they look?"), el("span", {}, "share of attention, log")),
      this.canvas,
      el(
        "ul",
        { class: "keys" },
        el("li", {}, el("i", { class: "key solid" }), "mean of the class"),
        el("li", {}, el("i", { class: "key band" }), "10 to 90 % of its heads"),
      ),
      this.note,
    );
  }

  // [{mean, low, high}] by age for one class; ages no head sees are null.
  curve(kind) {
    const { store } = this,
      columns = [];
    for (const [layer, head] of store.all()) {
      if (store.kind(layer, head) !== kind) continue;
      byAge(store.row(layer), head)?.forEach((share, age) => {
        if (!Number.isNaN(share)) (columns[age] ||= []).push(share);
      });
    }
    const at = (sorted, part) => sorted[Math.round(part * (sorted.length - 1))];
    return Array.from(columns, (values) => {
      if (!values) return null;
      const sorted = values.sort((a, b) => a - b);
      return { mean: sorted.reduce((a, b) => a + b) / sorted.length, low: at(sorted, 0.1), high: at(sorted, 0.9) };
    });
  }

  draw(colours) {
    if (!this.canvas.clientWidth || !this.store.profile) return;
    const { pen, width, height } = sharp(this.canvas),
      classes = { static: this.curve("static"), dynamic: this.curve("dynamic") },
      ages = Math.max(...Object.values(classes).map((curve) => curve.length));
    this.note.textContent = ages
      ? `Newest measurement of every layer at the chunk on screen. ${this.store.told?.text.shares || ""}`
      : "";
    if (!ages) return blank(pen, colours, width, height);
    const plot = { pen, colours, left: 52, right: width - 66, top: 14, base: height - 24, ages };
    const known = Object.values(classes).flatMap((curve) => curve.filter(Boolean).flatMap(({ low, high }) => [low, high]));
    plot.low = Math.log10(Math.max(LOW, Math.min(...known.filter((x) => x > 0), 0.01)));
    plot.high = Math.log10(Math.max(...known, 0.1));
    plot.x = (age) => plot.right - (age / Math.max(1, ages - 1)) * (plot.right - plot.left);
    plot.y = (share) =>
      plot.base - ((Math.log10(Math.max(share, 10 ** plot.low)) - plot.low) / (plot.high - plot.low)) * (plot.base - plot.top);
    this.frame(plot);
    for (const kind of ["static", "dynamic"]) this.band(plot, classes[kind], kind);
    this.own(plot);
    this.ends(plot, classes);
  }

  frame({ pen, colours, left, right, top, base, x, y, low, high, ages }) {
    const newest = this.stage.model.chunk + 1;
    pen.fillStyle = colours.sunk;
    pen.fillRect(x(Math.min(newest, ages) - 1) - 4, top, right - x(Math.min(newest, ages) - 1) + 8, base - top);
    pen.font = `11px ${FONT}`;
    pen.textBaseline = "middle";
    for (let power = Math.ceil(low); power <= high + 1e-9; power++) {
      pen.fillStyle = colours.grid;
      pen.fillRect(left, Math.round(y(10 ** power)), right - left, 1);
      pen.fillStyle = colours["ink-3"];
      pen.textAlign = "right";
      pen.fillText(`${grouped(100 * 10 ** power)} %`, left - 8, y(10 ** power));
    }
    pen.textAlign = "center";
    const step = right - left < 260 ? 10 : 5;
    for (let age = 0; age < ages; age += step) {
      const oldest = age + step >= ages;
      pen.fillText(age ? `${age}${oldest ? " frames ago" : ""}` : "now", Math.max(x(age), left + (oldest ? 24 : 0)), base + 14);
    }
    pen.fillText(`last ${newest}`, (x(Math.min(newest, ages) - 1) + right) / 2, base - 10);
  }

  path(pen, points) {
    pen.beginPath();
    points.forEach(([x, y], index) => pen[index ? "lineTo" : "moveTo"](x, y));
  }

  band({ pen, colours, x, y }, curve, kind) {
    const points = curve.map((entry, age) => entry && { age, ...entry }).filter(Boolean);
    if (!points.length) return;
    pen.fillStyle = colours[kind];
    pen.globalAlpha = 0.18;
    this.path(pen, [...points.map(({ age, high }) => [x(age), y(high)]), ...points.toReversed().map(({ age, low }) => [x(age), y(low)])]);
    pen.fill();
    pen.globalAlpha = 1;
    pen.strokeStyle = colours[kind];
    pen.lineWidth = 2;
    this.path(
      pen,
      points.map(({ age, mean }) => [x(age), y(mean)]),
    );
    pen.stroke();
    for (const { age, mean } of points.filter(({ age }) => age % 5 === 0)) sign(pen, colours, kind, x(age), y(mean));
  }

  own({ pen, colours, x, y }) {
    const { layer, head } = this.store.selected,
      curve = byAge(this.store.row(layer), head);
    if (!curve) return;
    pen.strokeStyle = colours.ink;
    pen.lineWidth = 1.5;
    this.path(
      pen,
      [...curve]
        .map((share, age) => [share, age])
        .filter(([share]) => !Number.isNaN(share))
        .map(([share, age]) => [x(age), y(share)]),
    );
    pen.stroke();
  }

  ends({ pen, colours, right, y }, classes) {
    const { layer, head } = this.store.selected,
      curve = byAge(this.store.row(layer), head);
    const labels = ["static", "dynamic"]
      .filter((kind) => classes[kind][0])
      .map((kind) => ({ text: kind, y: y(classes[kind][0].mean), bold: "" }));
    if (curve) labels.push({ text: `L${layer} H${head}`, y: y(curve[0]), bold: "bold " });
    labels
      .sort((a, b) => a.y - b.y)
      .forEach((entry, index) => {
        if (index) entry.y = Math.max(entry.y, labels[index - 1].y + 14);
      });
    pen.textAlign = "left";
    pen.fillStyle = colours["ink-2"];
    for (const { text, y: at, bold } of labels) {
      pen.font = `${bold}12px ${FONT}`;
      pen.fillText(text, right + 10, at);
    }
  }
}

// Filled square for static, ring for dynamic.
function sign(pen, colours, kind, x, y, size = 4) {
  pen.lineWidth = 2;
  pen.strokeStyle = pen.fillStyle = colours[kind];
  if (kind === "static") return pen.fillRect(x - size, y - size, 2 * size, 2 * size);
  pen.beginPath();
  pen.arc(x, y, size, 0, 7);
  pen.fillStyle = colours.card;
  pen.fill();
  pen.stroke();
}
