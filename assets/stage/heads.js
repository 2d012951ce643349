// The head map: layers from left to right, heads down. Glyph is class, colour is score; one tab stop, arrows move, Enter chooses.

class HeadMap {
  constructor(card, choose) {
    this.card = card;
    this.choose = choose;
    this.profile = null;
    this.selected = { layer: 1, head: 0 };
    this.empty("The head map appears when the model is loaded.");
  }

  empty(text) {
    this.card.replaceChildren(el("header", {}, el("div", {}, el("h3", {}, "Which heads need history?"), el("p", {}, text))));
  }

  take(profile) {
    if (JSON.stringify(profile) === this.print) return;
    this.print = JSON.stringify(profile);
    this.profile = profile;
    if (!profile) return this.empty("This model has no head profile; policies that need head classes are not offered.");
    this.build();
  }

  kind(layer, head) {
    return this.profile.static[layer].includes(head) ? "static" : "dynamic";
  }

  // By threshold the scale starts at it; by rank it runs within each class, because there the classes overlap in score.
  scale() {
    const { scores, threshold } = this.profile,
      all = { static: [], dynamic: [] };
    scores.forEach((row, layer) => row.forEach((score, head) => all[this.kind(layer, head)].push(score)));
    this.cut = all.static.every((s) => s >= threshold) && all.dynamic.every((s) => s < threshold);
    const low = Math.min(...all.static),
      high = Math.max(...all.dynamic);
    this.range = this.cut
      ? { static: [threshold, 1], dynamic: [threshold, 0] }
      : { static: [low, Math.max(...all.static)], dynamic: [high, Math.min(...all.dynamic)] };
  }

  colour(layer, head, colours) {
    const kind = this.kind(layer, head),
      [from, to] = this.range[kind],
      score = this.profile.scores[layer][head];
    const share = from === to ? 1 : Math.max(0, Math.min(1, (score - from) / (to - from)));
    return mix(colours.middle, colours[kind], 0.2 + 0.8 * share);
  }

  undecided(layer, head) {
    return this.cut && Math.abs(this.profile.scores[layer][head] - this.profile.threshold) < 2 * this.profile.errors[layer][head];
  }

  ruled(layer) {
    return this.profile.by_rule.includes(layer);
  }

  score(layer, head) {
    const error = this.profile.errors[layer][head];
    return `${this.profile.scores[layer][head].toFixed(2)}${error >= 0.005 ? ` ± ${error.toFixed(2)}` : ""}`;
  }

  label(layer, head) {
    return `Layer ${layer}, head ${head}: ${this.kind(layer, head)}, score ${this.score(layer, head)}${this.undecided(layer, head) ? ", undecided" : ""}${this.ruled(layer) ? ", kept by rule" : ""}`;
  }

  build() {
    this.scale();
    const { scores, counts, rule, note } = this.profile,
      layers = scores.length,
      heads = scores[0].length,
      sparse = layers > 16;
    const grid = el("div", { class: "map", role: "grid", "aria-label": "Heads by layer", style: `--layers:${layers}` });
    const corner = el("div", { role: "row", class: "row" }, el("span", { class: "axis", role: "columnheader" }, "layer"));
    for (let layer = 0; layer < layers; layer++)
      corner.append(el("span", { class: "axis", role: "columnheader", "data-layer": layer }, sparse && layer % 5 ? "" : String(layer)));
    grid.append(corner);
    for (let head = 0; head < heads; head++) {
      const row = el(
        "div",
        { role: "row", class: "row" },
        el("span", { class: "axis", role: "rowheader", "data-head": head }, String(head)),
      );
      for (let layer = 0; layer < layers; layer++) {
        const kind = this.kind(layer, head),
          flags = [kind, this.undecided(layer, head) ? "undecided" : "", this.ruled(layer) ? "ruled" : ""].join(" ");
        row.append(
          el(
            "button",
            {
              type: "button",
              role: "gridcell",
              class: `cell ${flags}`,
              tabindex: -1,
              "data-layer": layer,
              "data-head": head,
              "aria-label": this.label(layer, head),
              title: this.label(layer, head),
            },
            glyph(kind),
          ),
        );
      }
      grid.append(row);
    }
    const mixRow = el("div", { class: "row mixes", "aria-hidden": "true" }, el("span", { class: "axis" }));
    for (let layer = 0; layer < layers; layer++)
      mixRow.append(
        el(
          "span",
          { class: "mix", style: `--share:${this.profile.static[layer].length / heads}` },
          el("i", { class: "static" }),
          el("i", { class: "dynamic" }),
        ),
      );
    grid.append(mixRow);
    grid.addEventListener("click", (event) => {
      const cell = event.target.closest(".cell");
      if (cell) this.pick(+cell.dataset.layer, +cell.dataset.head, true);
    });
    grid.addEventListener("keydown", (event) => this.key(event));
    this.hist = el("canvas", {
      role: "img",
      "aria-label": `${counts.all} heads by score: ${counts.dynamic} dynamic, ${counts.static} static`,
    });
    const unsure = scores.flatMap((row, layer) => row.filter((_, head) => this.undecided(layer, head))).length;
    const keys = el(
      "ul",
      { class: "keys" },
      el("li", {}, glyph("static"), `static, ${counts.static}`),
      el("li", {}, glyph("dynamic"), `dynamic, ${counts.dynamic}`),
      unsure ? el("li", {}, el("i", { class: "key undecided" }), `undecided, ${unsure}`) : null,
      this.profile.by_rule.length
        ? el("li", {}, el("i", { class: "key hatch" }), `layer ${this.profile.by_rule.join(", ")}, kept by rule`)
        : null,
    );
    this.card.replaceChildren(
      el(
        "header",
        {},
        el(
          "div",
          {},
          el("h3", {}, "Which heads need history?"),
          el(
            "p",
            {},
            `Score: share of attention a head spends on the newest frames. High: it hardly looks back (static). Low: it needs history (dynamic).`,
          ),
        ),
      ),
      el(
        "div",
        { class: "columns" },
        el("div", {}, grid, keys),
        el(
          "div",
          { class: "histogram" },
          el(
            "div",
            { class: "caption" },
            el("b", {}, `${counts.all} heads by score`),
            this.cut ? "" : el("span", {}, "classes by rank, so they may overlap"),
          ),
          this.hist,
        ),
      ),
      el("p", { class: "rule" }, el("b", {}, "How roles were chosen. "), rule, note ? ` ${note}` : ""),
    );
    this.pick(Math.min(this.selected.layer, layers - 1), Math.min(this.selected.head, heads - 1), false);
  }

  cell(layer, head) {
    return this.card.querySelector(`.cell[data-layer="${layer}"][data-head="${head}"]`);
  }

  pick(layer, head, tell) {
    this.selected = { layer, head };
    for (const cell of this.card.querySelectorAll(".cell")) {
      const on = +cell.dataset.layer === layer && +cell.dataset.head === head;
      cell.tabIndex = on ? 0 : -1;
      cell.setAttribute("aria-selected", String(on));
    }
    for (const axis of this.card.querySelectorAll(".axis"))
      axis.classList.toggle("on", axis.dataset.layer === String(layer) || axis.dataset.head === String(head));
    if (tell) this.choose(layer, head);
    if (this.colours) this.draw(this.colours);
  }

  key(event) {
    const cell = event.target.closest(".cell");
    if (!cell) return;
    const layer = +cell.dataset.layer,
      head = +cell.dataset.head,
      layers = this.profile.scores.length,
      heads = this.profile.scores[0].length;
    const to = {
      ArrowLeft: [layer - 1, head],
      ArrowRight: [layer + 1, head],
      ArrowUp: [layer, head - 1],
      ArrowDown: [layer, head + 1],
      Home: [0, head],
      End: [layers - 1, head],
    }[event.key];
    if (to) {
      event.preventDefault();
      event.stopPropagation();
      const next = this.cell(Math.max(0, Math.min(layers - 1, to[0])), Math.max(0, Math.min(heads - 1, to[1])));
      cell.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
    } else if (event.key === "Enter" || event.key === " ") {
      event.preventDefault();
      event.stopPropagation();
      this.pick(layer, head, true);
    }
  }

  draw(colours) {
    this.colours = colours;
    if (!this.profile) return;
    for (const cell of this.card.querySelectorAll(".cell")) {
      const colour = this.colour(+cell.dataset.layer, +cell.dataset.head, colours);
      cell.style.setProperty("--score", colour);
      cell.style.color = cell.classList.contains("ruled") ? "" : contrast(colour);
    }
    this.histogram(colours);
  }

  histogram(colours) {
    if (!this.hist.clientWidth) return;
    const { pen, width, height } = sharp(this.hist),
      { scores, threshold, counts } = this.profile,
      base = height - 30,
      x = (score) => 4 + score * (width - 8);
    const bins = counts.all > 150 ? 40 : 25,
      piles = new Map();
    scores.forEach((row, layer) =>
      row.forEach((score, head) => {
        const bin = Math.min(Math.floor(score * bins), bins - 1);
        piles.set(bin, [...(piles.get(bin) || []), [layer, head]]);
      }),
    );
    const most = Math.max(...[...piles.values()].map((pile) => pile.length)),
      wide = (width - 8) / bins - 2,
      high = Math.min(18, (base - 50) / most - 1.5);
    for (const [bin, pile] of piles) {
      pile
        .sort(([l, h], [m, g]) => (this.kind(l, h) < this.kind(m, g) ? -1 : 1))
        .forEach(([layer, head], index) => {
          pen.fillStyle = this.colour(layer, head, colours);
          pen.beginPath();
          pen.roundRect(x(bin / bins) + 1, base - (index + 1) * (high + 1.5), wide, high, 2);
          pen.fill();
          if (layer === this.selected.layer && head === this.selected.head) {
            pen.strokeStyle = colours.ink;
            pen.lineWidth = 1.5;
            pen.stroke();
          }
        });
    }
    pen.strokeStyle = colours["line-2"];
    pen.lineWidth = 1;
    pen.beginPath();
    pen.moveTo(4, base + 0.5);
    pen.lineTo(width - 4, base + 0.5);
    pen.stroke();
    pen.font = `11px ${FONT}`;
    pen.fillStyle = colours["ink-3"];
    pen.textBaseline = "middle";
    for (const tick of [0, 0.2, 0.4, 0.6, 0.8, 1]) {
      pen.textAlign = tick === 0 ? "left" : tick === 1 ? "right" : "center";
      pen.fillText(tick.toFixed(1), x(tick), base + 20);
    }
    const score = this.profile.scores[this.selected.layer][this.selected.head],
      name = `L${this.selected.layer} H${this.selected.head}`;
    pen.fillStyle = colours.ink;
    pen.fillRect(x(score) - 1, base + 2, 2, 8);
    pen.font = `bold 11px ${FONT}`;
    pen.textAlign = score < 0.06 ? "left" : score > 0.94 ? "right" : "center";
    const wideName = pen.measureText(name).width + 10;
    pen.save();
    pen.fillStyle = colours.card;
    pen.fillRect(x(score) - wideName / 2, base + 12, wideName, 16);
    pen.restore();
    pen.fillText(name, x(score), base + 20);
    if (!this.cut) return;
    const at = x(threshold),
      left = at > width / 2;
    pen.fillStyle = colours.ink;
    pen.fillRect(at - 1, 18, 2, base - 12);
    pen.textAlign = left ? "right" : "left";
    pen.font = `12px ${FONT}`;
    pen.fillStyle = colours["ink-2"];
    pen.fillText(`threshold ${threshold.toFixed(2)}`, at + (left ? -8 : 8), 12);
    pen.fillText(`${counts.dynamic} dynamic`, at + (left ? -8 : 8), 30);
    if (left) {
      pen.textAlign = "left";
      pen.fillText(`${counts.static} static`, at + 8, 30);
    }
  }
}
