// One head's card: what was measured of it, how lane B treats it, and the heads that look back in the same way.

const pct = (share) =>
  share === null || Number.isNaN(share) ? "–" : `${share > 0 && share < 0.095 ? (100 * share).toFixed(1) : Math.round(100 * share)} %`;

// Share by age (0 the newest frame) of one head; nan where a frame is not seen.
function byAge(row, head) {
  if (!row) return null;
  const newest = row.frames.at(-1),
    curve = new Float32Array(newest - row.frames[0] + 1).fill(NaN);
  row.frames.forEach((frame, place) => {
    curve[newest - frame] = row.share[head][place];
  });
  return curve;
}

// Pearson correlation of two curves over the ages both know.
function alike(one, other) {
  const pairs = [...one.slice(0, other.length)]
    .map((value, age) => [value, other[age]])
    .filter(([a, b]) => !Number.isNaN(a) && !Number.isNaN(b));
  const mean = (side) => pairs.reduce((sum, pair) => sum + pair[side], 0) / pairs.length,
    [a, b] = [mean(0), mean(1)];
  const sum = (f) => pairs.reduce((total, pair) => total + f(pair[0] - a, pair[1] - b), 0),
    scale = Math.sqrt(sum((x) => x * x) * sum((_, y) => y * y));
  return pairs.length > 2 && scale > 0 ? sum((x, y) => x * y) / scale : null;
}

class HeadCard {
  constructor(node, store, stage) {
    Object.assign(this, { node, store, stage });
    this.title = el("h3");
    this.pill = el("span", { class: "pill" });
    this.words = el("p", { class: "about-head" });
    this.facts = el("dl", { class: "facts" });
    this.bars = el("canvas", { role: "img", class: "bars-of-head" });
    this.held = el("span");
    this.most = el("div", { class: "most" });
    this.near = el("ol", { class: "near" });
    this.pins = el("ul", { class: "pins" });
    this.treat = el("div", { class: "seg wide", role: "group", "aria-label": "Treat this head as" });
    for (const [kind, text] of [
      ["", "As measured"],
      ["static", "Static"],
      ["dynamic", "Dynamic"],
    ])
      this.treat.append(
        el("button", { type: "button", "data-kind": kind, "aria-pressed": "false" }, ...(kind ? [glyph(kind), " "] : []), text),
      );
    this.treat.addEventListener("click", (event) => {
      const button = event.target.closest("button"),
        { layer, head } = store.selected;
      if (button) store.treat(layer, head, button.dataset.kind || null);
    });
    const part = (title, ...rest) => el("section", {}, el("h4", {}, ...[title].flat()), ...rest);
    node.replaceChildren(
      el("header", {}, this.title, this.pill),
      this.words,
      this.facts,
      part(["Share by frame, filled where B keeps it ", this.held], this.bars),
      part("Where it looked most", this.most),
      part("Treat this head as", this.treat, el("p", { class: "small" }, "An override takes effect at the next chunk of lane B.")),
      part("Closest heads by age curve", this.near),
      part("Pinned, at most four", this.pins),
    );
  }

  draw(colours) {
    const { store } = this;
    if (!store.profile) return;
    const { layer, head } = store.preview || store.selected,
      row = store.row(layer),
      curve = byAge(row, head);
    this.heading(layer, head);
    this.numbers(layer, head, row, curve);
    this.frames(layer, head, row, colours);
    this.best(layer, head, row);
    this.neighbours(layer, head, curve);
    this.list();
    const override = store.override(store.selected.layer, store.selected.head) || "";
    for (const button of this.treat.children) button.setAttribute("aria-pressed", String(button.dataset.kind === override));
  }

  heading(layer, head) {
    const { store } = this,
      kind = store.kind(layer, head),
      text = store.ruled(layer)
        ? "not parted"
        : `${kind}${store.override(layer, head) ? ", overridden" : store.undecided(layer, head) ? ", undecided" : ""}`;
    this.node.classList.toggle("preview", Boolean(store.preview) && !store.is(store.selected, layer, head));
    this.title.textContent = `Layer ${layer}, head ${head}`;
    this.pill.className = `pill ${store.ruled(layer) ? "" : kind}`;
    this.pill.replaceChildren(store.ruled(layer) ? "" : glyph(kind), text);
  }

  numbers(layer, head, row, curve) {
    const { store } = this,
      score = store.value("score", layer, head),
      error = store.value("error", layer, head),
      coverage = store.value("coverage", layer, head);
    const ranked = [...store.all()].map(([l, h]) => store.value("score", l, h)).filter((value) => value !== null);
    const source = store.source === "run" ? `score, ${store.told?.queries ?? "–"} queries a chunk` : store.profile.name ? "score, profile loaded" : "score, bundled profile";
    let reach = null;
    if (row) reach = Math.exp(-[...row.share[head]].reduce((sum, p) => sum + (p > 0 ? p * Math.log(p) : 0), 0));
    const kept = this.kept(layer, head);
    const facts = [
      [round(score), error ? `± ${round(error)}` : "", source],
      [
        reach === null ? "–" : reach.toFixed(1),
        reach === null ? "" : "frames",
        row ? `effective reach, of ${row.frames.length}` : "effective reach",
      ],
      [pct(coverage), "", "coverage under lane B's policy"],
      [
        kept === null ? "–" : kept[0],
        kept === null ? "" : kept[1],
        kept === null ? "kept by lane B" : `kept by lane B, of ${kept[2]} in A`,
      ],
      [pct(store.value("sink", layer, head)), "", "on the first frame"],
      [
        store.ruled(layer) || score === null ? "–" : `#${ranked.filter((value) => value < score).length + 1}`,
        "",
        `from the dynamic end of ${ranked.length}`,
      ],
    ];
    const print = JSON.stringify(facts);
    if (print !== this.print)
      this.facts.replaceChildren(
        ...facts.map(([value, unit, name]) => el("div", {}, el("dd", {}, el("b", {}, value), " ", unit), el("dt", {}, name))),
      );
    this.print = print;
    const chunk = this.stage.model.chunk || 0,
      now = curve ? [...curve.slice(0, chunk)].reduce((sum, x) => sum + (x || 0), 0) : null;
    this.words.textContent = curve
      ? `${pct(now)} of its attention stays in the ${chunk} frames being drawn, ${pct(1 - now)} goes back to earlier ones. Measured in chunk ${row.chunk + 1}, ${store.told?.queries ?? "–"} sampled queries.`
      : "Where it looks is measured while the lanes run.";
  }

  // Bytes of keys and values lane B stores for this head, from what its class keeps in the layer on show.
  kept(layer, head) {
    const { residency } = this.stage.seen(),
      size = this.stage.model.frame_bytes;
    if (!size || !residency.A || !residency.B || residency.B.layer !== layer) return null;
    const of = (event) => {
      const kept = event.kept.find((entry) => entry.name === this.store.kind(layer, head)) || event.kept[0];
      const parts = kept?.frames.filter(([frame]) => !event.current.includes(frame)) || [];
      return parts.reduce((sum, [, , share]) => sum + share.reduce((a, b) => a + b, 0) / share.length, 0) * size;
    };
    const text = (bytes) => (bytes >= 1e6 ? [grouped(bytes / 1e6), "MB"] : [grouped(bytes / 1e3), "kB"]);
    const [number, unit] = text(of(residency.B));
    return [number, unit, text(of(residency.A)).join(" ")];
  }

  // One bar per key frame; the part of it that lane B still holds is filled with the class's colour.
  frames(layer, head, row, colours) {
    if (!this.bars.clientWidth) return;
    const { pen, width, height } = sharp(this.bars),
      coverage = this.store.value("coverage", layer, head);
    this.held.textContent = row && coverage !== null ? pct(coverage) : "";
    if (!row) return blank(pen, colours, width, height);
    const held = this.stage.holding("B", layer, this.store.kind(layer, head), row.chunk),
      most = Math.max(1e-9, ...[...row.share[head]].filter((x) => !Number.isNaN(x))),
      slot = width / row.frames.length;
    row.frames.forEach((frame, place) => {
      const share = row.share[head][place],
        high = Number.isNaN(share) ? 0 : Math.max(1.5, Math.sqrt(share / most) * (height - 20));
      const part = held ? (held.get(frame) || []).reduce((a, b, _, all) => a + b / all.length, 0) : 0;
      pen.fillStyle = colours.current;
      pen.fillRect(place * slot + 1, height - 16 - high, slot - 2, high);
      pen.fillStyle = colours[this.store.kind(layer, head)];
      pen.fillRect(place * slot + 1, height - 16 - high * part, slot - 2, high * part);
    });
    pen.font = `11px ${FONT}`;
    pen.fillStyle = colours["ink-3"];
    pen.textBaseline = "bottom";
    pen.textAlign = "left";
    pen.fillText(`frame ${row.frames[0]}`, 0, height);
    pen.textAlign = "right";
    pen.fillText(String(row.frames.at(-1)), width, height);
    this.bars.setAttribute("aria-label", `Attention share per key frame, ${row.frames[0]} to ${row.frames.at(-1)}, height by square root`);
  }

  // The three frames with the largest shares, as pictures.
  best(layer, head, row) {
    const found = row ? row.frames.map((frame, place) => [row.share[head][place], frame]).filter(([share]) => share > 0) : [],
      three = found
        .sort((a, b) => b[0] - a[0])
        .slice(0, 3)
        .sort((a, b) => a[1] - b[1]),
      print = JSON.stringify([layer, head, three]);
    if (print === this.bestPrint) return;
    this.bestPrint = print;
    const shot = ([share, frame]) => {
      const canvas = el("canvas", { width: THUMB[0], height: THUMB[1] }),
        picture = this.stage.thumbs.frames.get(frame);
      if (picture) canvas.getContext("2d").drawImage(picture, 0, 0);
      return el("figure", {}, canvas, el("figcaption", {}, `frame ${frame}, ${pct(share)}`));
    };
    this.most.replaceChildren(...(three.length ? three.map(shot) : [el("p", { class: "small" }, "Measured while the lanes run.")]));
  }

  neighbours(layer, head, curve) {
    const { store } = this,
      found = [];
    for (let l = 0; curve && l < store.layers; l++)
      for (let h = 0; h < store.heads; h++) {
        const other = l === layer && h === head ? null : byAge(store.row(l), h),
          value = other && alike(curve, other);
        if (value !== null && !Number.isNaN(value)) found.push([value, l, h]);
      }
    const print = found.length + JSON.stringify([layer, head, store.row(layer)?.chunk]);
    if (print === this.nearest) return;
    this.nearest = print;
    const line = ([value, l, h]) =>
      el(
        "li",
        {},
        el("button", { type: "button", class: "link", onclick: () => store.pick(l, h) }, `L${l} H${h}`),
        el("i", { class: "meter", style: `--share:${Math.max(0, value)}` }),
        el("span", {}, value.toFixed(2)),
      );
    const lines = found
      .sort((a, b) => b[0] - a[0])
      .slice(0, 3)
      .map(line);
    this.near.replaceChildren(...(lines.length ? lines : [el("li", { class: "small" }, "Measured while the lanes run.")]));
  }

  list() {
    const { store } = this,
      print = JSON.stringify([store.pinned, store.selected]);
    if (print === this.pinnedPrint) return;
    this.pinnedPrint = print;
    this.pins.replaceChildren(
      ...store.pinned.map(({ layer, head }) => {
        const name = `L${layer} H${head}`,
          on = store.is(store.selected, layer, head);
        const show = el("button", { type: "button", "aria-pressed": String(on), onclick: () => store.pick(layer, head) }, name),
          drop = el("button", { type: "button", "aria-label": `Unpin ${name}`, onclick: () => store.unpin(layer, head) }, "×");
        return el("li", { class: on ? "on" : "" }, show, on ? null : drop);
      }),
    );
  }
}
