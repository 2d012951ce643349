// Share of attention per key frame, one row per pinned head, by absolute frame or by age; below the chosen head's own query frames.

const ROW = 24,
  LOW = 1e-4;

class Strip {
  constructor(node, store, stage) {
    Object.assign(this, { node, store, stage });
    this.axis = "frame";
    this.canvas = el("canvas", { role: "img" });
    this.matrix = null;
    const seg = el("div", { class: "seg", role: "group", "aria-label": "Axis", "data-choice": "axis" });
    for (const [value, text] of [
      ["frame", "Frame"],
      ["age", "Age"],
    ])
      seg.append(el("button", { type: "button", "data-value": value }, text));
    this.legend = el("div", { class: "colourbar", "aria-hidden": "true" }, el("i"), el("span", {}, "0.01 %"), el("span", {}, "100 %, log"));
    this.note = el("p", { class: "small" });
    node.replaceChildren(
      el(
        "header",
        {},
        el(
          "div",
          {},
          el("h3", {}, "Pinned heads over the frames"),
          el(
            "p",
            {},
            "Share of attention per key frame in lane A. Letters: what lane B still holds for that head. Hatched: gone from lane B.",
          ),
        ),
        seg,
      ),
      this.canvas,
      el("div", { class: "foot" }, this.legend, this.note),
    );
    choice(node, "axis", (value) => {
      this.axis = value;
      store.changed();
    })("frame");
    this.canvas.addEventListener("click", (event) => this.jump(event));
  }

  // Rows to draw: label, shares by frame, and the head whose residency they are marked with.
  rows() {
    const { store, stage } = this,
      rows = [];
    for (const { layer, head } of store.pinned) {
      const row = store.row(layer);
      if (row) rows.push({ label: `L${layer} H${head}`, frames: row.frames, share: row.share[head], layer, head, chunk: row.chunk });
    }
    const { layer, head } = store.selected,
      mine = this.matrix;
    if (mine && mine.layer === layer && mine.head === head && mine.chunk <= stage.on)
      mine.queries.forEach((query, place) =>
        rows.push({
          label: `query ${query}`,
          frames: mine.frames,
          share: mine.values.subarray(place * mine.frames.length, (place + 1) * mine.frames.length),
          fine: true,
        }),
      );
    return rows;
  }

  // Asks once per chunk, while it is looked at, for the exact matrix of the chosen head.
  async refresh() {
    const { store, stage } = this,
      { layer, head } = store.selected,
      name = `${layer},${head},${stage.newest}`;
    if (this.asked === name || this.busy || stage.newest < 1 || stage.board.name !== "running") return;
    this.asked = name;
    this.busy = true;
    const answer = await stage.ask("pooled", { layer, head });
    this.busy = false;
    if (!answer.ok) return;
    const { values } = unpack(answer.matrix.mass);
    this.matrix = { ...answer.matrix, values };
    store.changed();
  }

  draw(colours) {
    if (!this.canvas.clientWidth) return;
    this.refresh();
    const rows = this.rows();
    this.canvas.style.height = `${Math.max(1, rows.length) * ROW + 34}px`;
    const { pen, width, height } = sharp(this.canvas);
    if (!rows.length) return blank(pen, colours, width, height);
    const columns = this.columns(rows);
    this.scale = { left: 74, slot: (width - 74) / columns.length, columns };
    rows.forEach((row, index) => this.line(pen, colours, row, index));
    this.ticks(pen, colours, rows.length * ROW + 6);
    this.note.textContent = `${this.store.told?.text.shares || ""}${this.matrix ? " Query rows: every query, exact." : ""}`;
    this.canvas.setAttribute(
      "aria-label",
      `Attention share of ${rows.map((row) => row.label).join(", ")} over ${columns.length} key frames`,
    );
  }

  line(pen, colours, { label, frames, share, layer, head, chunk, fine }, index) {
    const { left, slot, columns } = this.scale,
      y = index * ROW + 2,
      high = ROW - 4,
      held = fine ? null : this.stage.holding("B", layer, this.store.kind(layer, head), chunk);
    pen.font = `${fine ? "" : "bold "}12px ${FONT}`;
    pen.fillStyle = fine ? colours["ink-3"] : colours.ink;
    pen.textBaseline = "middle";
    pen.textAlign = "left";
    pen.fillText(label, 0, y + high / 2);
    frames.forEach((frame, place) => {
      const value = share[place],
        x = left + columns.indexOf(this.axis === "age" ? frames.at(-1) - frame : frame) * slot;
      if (Number.isNaN(value)) return;
      const level = Math.max(0, Math.min(1, 1 - Math.log(Math.max(value, LOW)) / Math.log(LOW))),
        colour = heatColour(level, colours);
      pen.fillStyle = colour;
      pen.fillRect(x + 0.5, y, slot - 1, high);
      if (held) this.mark(pen, colours, frame, held, [x + 0.5, y, slot - 1, high], contrast(colour));
    });
  }

  mark(pen, colours, frame, held, box, ink) {
    const letter = held.letters.get(frame);
    if (letter === undefined) return dashes(pen, box, colours.gone);
    if (!letter || box[2] < 9) return;
    pen.fillStyle = ink;
    pen.font = `bold 10px ${FONT}`;
    pen.textAlign = "center";
    pen.fillText(letter, box[0] + box[2] / 2, box[1] + box[3] / 2 + 0.5);
  }

  // What stands in every column: key frames, or ages from the oldest to 0, each row's own newest frame.
  columns(rows) {
    const seen = rows.map(({ frames, share }) => frames.filter((_, place) => !Number.isNaN(share[place])));
    if (this.axis === "frame") return [...new Set(seen.flat())].sort((a, b) => a - b);
    const oldest = Math.max(0, ...seen.filter((frames) => frames.length).map((frames) => frames.at(-1) - frames[0]));
    return Array.from({ length: oldest + 1 }, (_, place) => oldest - place);
  }

  ticks(pen, colours, y) {
    const { left, slot, columns } = this.scale,
      every = Math.max(1, Math.ceil(34 / slot)),
      last = columns.length - 1;
    pen.font = `11px ${FONT}`;
    pen.fillStyle = colours["ink-3"];
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    columns.forEach((value, place) => {
      if ((last - place) % every) return;
      const text = this.axis === "age" && !value ? "now" : String(value);
      pen.fillText(text, Math.min(left + (place + 0.5) * slot, left + (last + 1) * slot - 11), y + 7);
    });
    pen.textAlign = "left";
    pen.fillText(this.axis === "age" ? "frames ago" : "key frame", 0, y + 7);
  }

  jump(event) {
    if (!this.scale || this.axis === "age") return;
    const frame = this.scale.columns[Math.floor((event.offsetX - this.scale.left) / this.scale.slot)];
    if (frame !== undefined && this.stage.model.chunk) this.stage.seek(Math.floor(frame / this.stage.model.chunk));
  }
}
