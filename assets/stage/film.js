// Where the chosen head looks and what each lane still remembers, on one frame axis: thumbnails, attention shares, residency, similarity.
// The cells stay where they are from chunk to chunk; only what they show changes.

const RECENT = 13,
  BAR = 38,
  MOVES = { entering: "just came in", leaving: "just went" };
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
    this.card.hidden = !model;
  }

  columns(newest) {
    if (newest <= RECENT) return { frames: [...Array(RECENT + 1).keys()], gap: null };
    return { frames: [0, ...Array.from({ length: RECENT }, (_, i) => newest - RECENT + 1 + i)], gap: [1, newest - RECENT] };
  }

  // chunk: what is on screen; maps and residency: what was measured for it (or null); before: residency one chunk earlier; pinned: the head
  // and its words.
  draw({ chunk, maps, residency, before, pinned, running }) {
    if (!this.model || chunk < 0) return;
    const newest = (chunk + 1) * this.model.chunk - 1,
      columns = this.columns(newest);
    const rows = LANES.flatMap((lane) => (residency[lane]?.kept || []).map((kept) => ({ lane, kept })));
    const shape = JSON.stringify([Boolean(columns.gap), rows.map(({ lane, kept }) => [lane, kept.name])]);
    if (shape !== this.shape) {
      this.shape = shape;
      this.build(columns, rows);
    }
    this.head(pinned, maps, chunk, running);
    this.pictures(columns, maps, newest - this.model.chunk);
    this.shares(columns, maps);
    rows.forEach(({ lane, kept }, index) => {
      const old = before[lane]?.layer === residency[lane].layer ? before[lane].kept : [];
      this.strip(
        this.stows[index],
        lane,
        kept,
        columns,
        old.find(({ name }) => name === kept.name),
      );
    });
    this.similar(columns, residency.B?.similarity || residency.A?.similarity);
    this.rest(columns, maps, residency);
    this.open();
  }

  // One line of the frame axis; gives its element and its cells.
  line(kind, label, gap, make) {
    const cells = Array.from({ length: RECENT + 1 }, make),
      row = [...cells];
    if (gap) row.splice(1, 0, el("span", { class: "gap", "aria-hidden": "true" }, "⋯"));
    return { node: el("div", { class: `line ${kind}` }, el("div", { class: "name" }, ...label), ...row), cells };
  }

  build({ gap }, rows) {
    const name = (bold, small) => [el("b", {}, ...[bold].flat()), el("span", { "data-text": true }, small)];
    const bar = (lane) => el("span", { class: `share ${lane.toLowerCase()}` }, el("em"), el("i"));
    this.shots = this.line("film", name("Key frame", "bright where it looks"), gap, () =>
      el("div", { class: "shot" }, el("div", { class: "still" }, el("canvas", { width: THUMB[0], height: THUMB[1] })), el("span")),
    );
    this.pairs = this.line("attention", name("Attention share", "A and B, percent"), gap, () =>
      el("div", { class: "pair" }, ...LANES.map(bar)),
    );
    this.stows = rows.map(({ lane, kept }) => {
      const kind = /static/i.test(kept.name) ? "static" : /dynamic/i.test(kept.name) ? "dynamic" : "";
      const title = kept.name === "all" ? "All heads" : kept.name[0].toUpperCase() + kept.name.slice(1);
      return this.line("stow", name([letter(lane), ` ${title} `, kind ? glyph(kind) : ""], ""), gap, () => el("div", { class: "kept" }));
    });
    this.bars = this.line("similar", name("Similarity", "to the next frame"), gap, () => el("div", { class: "bars" }));
    this.bars.node.append(el("p", { class: "why" }));
    this.bars.node.addEventListener("pointerover", (event) => this.compare(event.target));
    this.bars.node.addEventListener("pointerleave", () => this.compare(null));
    const key = (mark, text) => el("li", {}, el("b", { class: `chip ${mark}` }, mark === "gone" ? "" : mark), text);
    const keys = el(
      "ul",
      { class: "keys" },
      ...["S", "L", "D", "C"].map((mark) => key(mark, WORDS[mark])),
      key("gone", "forgotten"),
      el("li", {}, el("b", { class: "chip entering" }, "·"), "just came in"),
      el("li", {}, el("b", { class: "chip gone leaving" }, "×"), "just went"),
    );
    const left = this.card.querySelector(".scroll")?.scrollLeft;
    this.scroll = el(
      "div",
      { class: "scroll", tabindex: 0, role: "region", "aria-label": "Frames from old to new" },
      this.shots.node,
      this.pairs.node,
      el("div", { class: "rule" }),
      el("h3", { class: "sub" }, "What each lane still remembers ", el("span", { "data-when": true })),
      ...this.stows.map((row) => row.node),
      this.bars.node,
    );
    this.title = el("h3");
    this.card.replaceChildren(
      el("header", {}, el("div", {}, this.title, el("p", { "data-lede": true }))),
      this.scroll,
      el("div", { class: "foot" }, keys, el("p", { "data-rest": true })),
    );
    this.scroll.scrollLeft = left ?? this.scroll.scrollWidth;
  }

  // A narrow card opens at the oldest chosen piece of history, once; then it stays where a person put it.
  open() {
    const piece = this.scroll.querySelector(".kept.parts, .kept.D");
    if (this.opened || !piece || this.scroll.scrollWidth <= this.scroll.clientWidth) return;
    this.opened = true;
    this.scroll.scrollLeft = piece.offsetLeft - this.scroll.querySelector(".name").offsetWidth - 8;
  }

  head(pinned, maps, chunk, running) {
    const wait = running ? "Its attention is measured from the next chunk on." : "Its attention is measured while the lanes run.";
    this.title.replaceChildren(
      `Layer ${pinned.layer}, head ${pinned.head} `,
      el("span", { class: `pill ${pinned.kind}` }, pinned.kind ? glyph(pinned.kind) : "", pinned.text),
    );
    this.card.querySelector("[data-lede]").textContent = maps ? maps.reach : wait;
    this.card.querySelector("[data-when]").textContent = chunk
      ? `cache after chunk ${chunk}, while chunk ${chunk + 1} is drawn`
      : "nothing yet: the first chunk is drawn";
  }

  share(maps, lane, frame) {
    const index = maps ? maps.frames.indexOf(frame) : -1;
    return index < 0 ? null : (lane === "A" ? maps.left : maps.right)[index];
  }

  pictures(columns, maps, past) {
    const most = maps ? Math.max(1e-6, ...maps.left.filter((x) => x !== null)) : 1;
    columns.frames.forEach((frame, index) => {
      const shot = this.shots.cells[index],
        canvas = shot.querySelector("canvas"),
        number = shot.querySelector("span"),
        pen = canvas.getContext("2d");
      const picture = this.thumbs.frames.get(frame),
        share = this.share(maps, "A", frame);
      pen.clearRect(0, 0, ...THUMB);
      if (picture) pen.drawImage(picture, 0, 0);
      number.textContent = frame;
      number.className = frame > past && picture ? "now" : "";
      shot.classList.toggle("out", Boolean(picture && maps && share === null));
      shot.classList.toggle("blank", !picture);
      canvas.style.filter = share === null ? "" : `brightness(${(0.35 + 0.7 * Math.sqrt(share / most)).toFixed(2)})`;
      shot.title = share === null ? `frame ${frame}` : `frame ${frame}: ${share.toFixed(1)} % of this head's attention in A`;
    });
  }

  shares(columns, maps) {
    const most = maps ? Math.max(1e-6, ...[...maps.left, ...maps.right].filter((x) => x !== null)) : 1;
    columns.frames.forEach((frame, index) =>
      LANES.forEach((lane, side) => {
        const bar = this.pairs.cells[index].children[side],
          share = this.share(maps, lane, frame);
        bar.classList.toggle("out", share === null);
        bar.lastChild.style.height = share === null ? "1px" : `${Math.max(2, (share / most) * BAR)}px`;
        bar.firstChild.textContent = share === null ? (maps && frame === 0 ? "out" : "") : share >= 0.5 ? Math.round(share) : "";
      }),
    );
  }

  // old: the same class one chunk earlier, to tell what has just come in and what has just gone.
  strip(row, lane, kept, columns, old) {
    const known = new Map(kept.frames.map(([frame, mark, parts]) => [frame, { mark, parts }])),
      past = old ? new Set(old.frames.filter(([, mark]) => mark !== "C").map(([frame]) => frame)) : null;
    row.node.querySelector("[data-text]").textContent = kept.name === "all" ? kept.text : `${kept.heads}: ${kept.text}`;
    row.node.classList.toggle(
      "tall",
      kept.frames.some(([, , parts]) => parts.some((part) => part < 0.999)),
    );
    columns.frames.forEach((frame, index) => {
      const cell = row.cells[index],
        entry = known.get(frame),
        part = entry && entry.parts.some((share) => share < 0.999),
        move = !past || entry?.mark === "C" ? "" : entry && !past.has(frame) ? "entering" : !entry && past.has(frame) ? "leaving" : "";
      const print = `${move} ${entry ? `${entry.mark}${part ? entry.parts.join() : ""}` : "gone"}`,
        words = `frame ${frame}: ${entry ? WORDS[entry.mark] : "forgotten"}${move ? `, ${MOVES[move]}` : ""}`;
      if (cell.title !== words) cell.title = words;
      if (cell.dataset.print === print) return;
      cell.dataset.print = print;
      cell.className = `kept ${entry ? entry.mark || `plain ${lane.toLowerCase()}` : "gone"}${part ? " parts" : ""} ${move}`;
      const piece = (share) => el("i", { class: share > 0.001 ? entry.mark : "gone" }, share > 0.001 ? entry.mark : "");
      cell.replaceChildren(...(part ? entry.parts.map(piece) : [entry ? entry.mark : move === "leaving" ? "×" : ""]));
    });
  }

  similar(columns, similarity) {
    this.bars.node.hidden = !similarity;
    if (!similarity) return;
    const values = similarity.bars.flat(),
      low = Math.min(...values),
      high = Math.max(...values);
    const scale = (value) => 4 + (high > low ? (value - low) / (high - low) : 1) * 22;
    columns.frames.forEach((frame, index) => {
      const cell = this.bars.cells[index],
        at = similarity.frames.indexOf(frame);
      const bar = (value, part) =>
        el("i", {
          class: similarity.kept[at][part] ? "D" : "",
          style: `height:${scale(value).toFixed(1)}px`,
          title: `frames ${frame} and ${frame + 1}, segment ${part + 1}: similarity ${value.toFixed(3)}, ${similarity.kept[at][part] ? "kept" : "not kept"}`,
          "data-pair": `${frame},${part},${similarity.bars[at].length}`,
        });
      cell.replaceChildren(...(at < 0 ? [] : similarity.bars[at].map(bar)));
      cell.style.setProperty("--cut", `${scale(similarity.cut).toFixed(1)}px`);
      cell.classList.toggle("cut", at >= 0);
    });
    const why = this.bars.node.querySelector(".why"),
      room = columns.frames.findIndex((frame) => similarity.frames.includes(frame));
    this.bars.node.title = why.textContent = similarity.text;
    why.style.maxWidth = `${(room - 0.5) * (86 / 14)}%`;
    why.hidden = room < 6;
  }

  // Outlines one segment on both frames that a similarity bar compares.
  compare(bar) {
    for (const outline of this.shots.node.querySelectorAll(".outline")) outline.remove();
    if (!bar?.dataset.pair) return;
    const [frame, part, count] = bar.dataset.pair.split(",").map(Number),
      place = `top:${(100 * part) / count}%;height:${100 / count}%`;
    for (const shot of this.shots.cells)
      if ([frame, frame + 1].includes(Number(shot.querySelector("span").textContent)))
        shot.firstChild.append(el("i", { class: "outline", style: place }));
  }

  // What is between the first column and the recent ones.
  rest(columns, maps, residency) {
    const note = this.card.querySelector("[data-rest]");
    note.textContent = "";
    if (!columns.gap) return;
    const [from, to] = columns.gap,
      inside = (frame) => frame >= from && frame <= to;
    const held = (residency.A?.kept || []).flatMap((kept) => kept.frames.map(([frame]) => frame).filter(inside));
    const share = maps ? maps.frames.reduce((sum, frame, index) => sum + (inside(frame) ? maps.left[index] || 0 : 0), 0) : null;
    const holds = held.length ? `A holds ${Math.min(...held)} to ${Math.max(...held)}` : "A holds none of them";
    note.textContent = `⋯ frames ${from} to ${to}; ${holds}${held.length && share !== null ? `, ${Math.round(share)} % of this head's attention` : ""}`;
  }
}
