// Where the chosen head looks and what each lane still remembers, on one frame axis: thumbnails, attention shares, residency, similarity.

const RECENT = 13,
  BAR = 38;
const WORDS = { S: "sink", L: "recent frame", D: "kept piece of history", C: "chunk being drawn", "": "kept" };

class Film {
  constructor(card, thumbs) {
    this.card = card;
    this.thumbs = thumbs;
    this.reset(null);
  }

  reset(model) {
    this.model = model;
    this.shape = "";
    this.opened = false;
    this.left = undefined;
    this.card.hidden = !model;
  }

  columns(newest) {
    if (newest <= RECENT) return { frames: [...Array(RECENT + 1).keys()], gap: null };
    return { frames: [0, ...Array.from({ length: RECENT }, (_, i) => newest - RECENT + 1 + i)], gap: [1, newest - RECENT] };
  }

  // chunk: what is on screen; maps and residency: what was measured for it (or null); pinned: the head and its words.
  draw({ chunk, maps, residency, pinned, running }) {
    if (!this.model || chunk < 0) return;
    this.left = this.card.querySelector(".scroll")?.scrollLeft ?? this.left;
    const newest = (chunk + 1) * this.model.chunk - 1,
      columns = this.columns(newest),
      current = new Set(Array.from({ length: this.model.chunk }, (_, i) => newest - i));
    const rows = LANES.flatMap((lane) => (residency[lane]?.kept || []).map((kept) => ({ lane, kept })));
    const shape = JSON.stringify([
      columns,
      rows.map(({ lane, kept }) => [lane, kept.name]),
      maps && [maps.layer, maps.head],
      pinned.layer,
      pinned.head,
      LANES.some((lane) => residency[lane]?.similarity),
    ]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.build(columns, current, rows, pinned);
    }
    this.head(pinned, maps, chunk, running);
    this.pictures(columns, maps);
    this.shares(columns, maps);
    rows.forEach(({ lane, kept }, index) => this.strip(index, lane, kept, columns));
    this.similar(columns, residency.B?.similarity || residency.A?.similarity);
    this.rest(columns, maps, residency);
    this.open();
  }

  // A narrow card opens at the oldest chosen piece of history, once; then it stays where a person put it.
  open() {
    const scroll = this.card.querySelector(".scroll"),
      piece = scroll.querySelector(".kept.parts, .kept.D");
    if (this.opened || !piece || scroll.scrollWidth <= scroll.clientWidth) return;
    this.opened = true;
    scroll.scrollLeft = piece.offsetLeft - scroll.querySelector(".name").offsetWidth - 8;
  }

  cells(columns, make) {
    return columns.frames.flatMap((frame, index) =>
      columns.gap && index === 0 ? [make(frame), el("span", { class: "gap", "aria-hidden": "true" }, "⋯")] : [make(frame)],
    );
  }

  line(name, label, cells, attributes = {}) {
    return el("div", { class: `line ${name}`, ...attributes }, el("div", { class: "name" }, ...label), ...cells);
  }

  build(columns, current, rows, pinned) {
    const frames = this.cells(columns, (frame) =>
      el(
        "div",
        { class: "shot", "data-frame": frame },
        el("canvas", { width: THUMB[0], height: THUMB[1] }),
        el("span", { class: current.has(frame) ? "now" : "" }, String(frame)),
      ),
    );
    const shares = this.cells(columns, (frame) =>
      el(
        "div",
        { class: "pair", "data-frame": frame },
        ...LANES.map((lane) => el("span", { class: `share ${lane.toLowerCase()}` }, el("em", {}), el("i", {}))),
      ),
    );
    const strips = rows.map(({ lane, kept }, index) => {
      const kind = /static/i.test(kept.name) ? "static" : /dynamic/i.test(kept.name) ? "dynamic" : "";
      const label = [
        el(
          "b",
          {},
          letter(lane),
          ` ${kept.name === "all" ? "All heads" : kept.name[0].toUpperCase() + kept.name.slice(1)} `,
          kind ? glyph(kind) : "",
        ),
        el("span", { "data-text": true }),
      ];
      return this.line(
        "stow",
        label,
        this.cells(columns, (frame) => el("div", { class: "kept", "data-frame": frame })),
        { "data-row": index },
      );
    });
    const similar = this.line(
      "similar",
      [el("b", {}, "Similarity"), el("span", {}, "to the next frame")],
      this.cells(columns, (frame) => el("div", { class: "bars", "data-frame": frame })),
    );
    similar.append(el("p", { class: "why" }));
    const keys = el(
      "ul",
      { class: "keys" },
      ...Object.entries(WORDS)
        .filter(([mark]) => mark)
        .map(([mark, text]) => el("li", {}, el("b", { class: `chip ${mark}` }, mark), text)),
      el("li", {}, el("b", { class: "chip gone" }), "forgotten"),
    );
    const scroll = el(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Frames from old to new" },
      this.line("film", [el("b", {}, "Key frame"), el("span", {}, "bright where it looks")], frames),
      this.line("attention", [el("b", {}, "Attention share"), el("span", {}, "A and B, percent")], shares),
      el("div", { class: "rule" }),
      el("h3", { class: "sub" }, "What each lane still remembers ", el("span", { "data-when": true })),
      ...strips,
      similar,
    );
    this.card.replaceChildren(
      el(
        "header",
        {},
        el(
          "div",
          {},
          el(
            "h3",
            {},
            `Layer ${pinned.layer}, head ${pinned.head} `,
            el("span", { class: `pill ${pinned.kind}` }, pinned.kind ? glyph(pinned.kind) : "", pinned.text),
          ),
          el("p", { "data-lede": true }),
        ),
      ),
      scroll,
      el("div", { class: "foot" }, keys, el("p", { "data-rest": true })),
    );
    scroll.scrollLeft = this.left ?? scroll.scrollWidth;
    scroll.addEventListener("scroll", () => {
      this.left = scroll.scrollLeft;
    });
  }

  head(pinned, maps, chunk, running) {
    const fresh = maps && maps.layer === pinned.layer && maps.head === pinned.head;
    this.card.querySelector("[data-lede]").textContent = fresh
      ? maps.reach
      : running
        ? "Its attention is measured from the next chunk on."
        : "Its attention is measured while the lanes run.";
    this.card.querySelector("[data-when]").textContent = chunk
      ? `cache after chunk ${chunk}, while chunk ${chunk + 1} is drawn`
      : "nothing yet: the first chunk is drawn";
  }

  share(maps, lane, frame) {
    if (!maps) return null;
    const index = maps.frames.indexOf(frame);
    return index < 0 ? null : (lane === "A" ? maps.left : maps.right)[index];
  }

  pictures(columns, maps) {
    const most = maps ? Math.max(1e-6, ...maps.left.filter((x) => x !== null)) : 1;
    for (const frame of columns.frames) {
      const shot = this.card.querySelector(`.shot[data-frame="${frame}"]`),
        picture = this.thumbs.frames.get(frame),
        pen = shot.firstChild.getContext("2d");
      pen.clearRect(0, 0, ...THUMB);
      if (picture) pen.drawImage(picture, 0, 0);
      const share = this.share(maps, "A", frame);
      shot.classList.toggle("out", Boolean(picture && maps && share === null));
      shot.classList.toggle("blank", !picture);
      shot.firstChild.style.filter = maps && share !== null ? `brightness(${(0.35 + 0.7 * Math.sqrt(share / most)).toFixed(2)})` : "";
      shot.title = share === null ? `frame ${frame}` : `frame ${frame}: ${share.toFixed(1)} % of this head's attention in A`;
    }
  }

  shares(columns, maps) {
    const most = maps ? Math.max(1e-6, ...[...maps.left, ...maps.right].filter((x) => x !== null)) : 1;
    for (const frame of columns.frames) {
      const pair = this.card.querySelector(`.pair[data-frame="${frame}"]`);
      LANES.forEach((lane, side) => {
        const share = this.share(maps, lane, frame),
          bar = pair.children[side];
        bar.classList.toggle("out", share === null);
        bar.lastChild.style.height = share === null ? "1px" : `${Math.max(2, (share / most) * BAR)}px`;
        bar.firstChild.textContent = share === null ? (maps && frame === 0 ? "out" : "") : share >= 0.5 ? String(Math.round(share)) : "";
      });
    }
  }

  strip(index, lane, kept, columns) {
    const row = this.card.querySelector(`.line[data-row="${index}"]`),
      known = new Map(kept.frames.map(([frame, mark, parts]) => [frame, { mark, parts }]));
    row.querySelector("[data-text]").textContent = kept.name === "all" ? kept.text : `${kept.heads}: ${kept.text}`;
    row.classList.toggle(
      "tall",
      kept.frames.some(([, , parts]) => parts.length > 1 && parts.some((part) => part < 0.999)),
    );
    for (const frame of columns.frames) {
      const cell = row.querySelector(`.kept[data-frame="${frame}"]`),
        entry = known.get(frame);
      const part = entry && entry.parts.some((share) => share < 0.999),
        print = entry ? entry.mark + entry.parts.join() : "";
      if (cell.dataset.print === print) continue;
      cell.dataset.print = print;
      cell.className = `kept ${entry ? entry.mark || `plain ${lane.toLowerCase()}` : "gone"}${part ? " parts" : ""}`;
      cell.title = entry ? `frame ${frame}: ${WORDS[entry.mark]}` : `frame ${frame}: forgotten`;
      if (part)
        cell.replaceChildren(
          ...entry.parts.map((share) => el("i", { class: share > 0.001 ? entry.mark : "gone" }, share > 0.001 ? entry.mark : "")),
        );
      else cell.replaceChildren(entry ? entry.mark : "");
    }
  }

  similar(columns, similarity) {
    const line = this.card.querySelector(".line.similar");
    line.hidden = !similarity;
    if (!similarity) return;
    const values = similarity.bars.flat(),
      low = Math.min(...values),
      high = Math.max(...values),
      scale = (value) => 4 + (high > low ? (value - low) / (high - low) : 1) * 22;
    for (const frame of columns.frames) {
      const cell = line.querySelector(`.bars[data-frame="${frame}"]`),
        index = similarity.frames.indexOf(frame);
      cell.replaceChildren(
        ...(index < 0
          ? []
          : similarity.bars[index].map((value, part) =>
              el("i", {
                class: similarity.kept[index][part] ? "D" : "",
                style: `height:${scale(value).toFixed(1)}px`,
                title: `similarity ${value.toFixed(3)}`,
              }),
            )),
      );
      cell.style.setProperty("--cut", `${scale(similarity.cut).toFixed(1)}px`);
      cell.classList.toggle("cut", index >= 0);
    }
    const why = line.querySelector(".why"),
      room = columns.frames.findIndex((frame) => similarity.frames.includes(frame));
    line.title = similarity.text;
    why.textContent = similarity.text;
    why.style.maxWidth = `${(room - 0.5) * (86 / 14)}%`;
    why.hidden = room < 6;
  }

  // What is between the first column and the recent ones.
  rest(columns, maps, residency) {
    const note = this.card.querySelector("[data-rest]");
    if (!columns.gap) {
      note.textContent = "";
      return;
    }
    const [from, to] = columns.gap,
      inside = (frame) => frame >= from && frame <= to;
    const held = [...new Set((residency.A?.kept || []).flatMap((kept) => kept.frames.map(([frame]) => frame).filter(inside)))].sort(
      (a, b) => a - b,
    );
    const share = maps ? maps.frames.reduce((sum, frame, index) => sum + (inside(frame) ? maps.left[index] || 0 : 0), 0) : null;
    note.textContent = `⋯ frames ${from} to ${to}; ${held.length ? `A holds ${held[0]} to ${held.at(-1)}` : "A holds none of them"}${held.length && share !== null ? `, ${Math.round(share)} % of this head's attention` : ""}`;
  }
}
