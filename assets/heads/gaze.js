// Where a token looks: a frame on screen to point at, and every key frame of the film with the heat of that very token's map.

const HOVER = 40,
  FLOOR = 1e-4;

class Gaze {
  constructor(node, store, stage) {
    Object.assign(this, { node, store, stage });
    this.toward = "keys";
    this.scale = "row";
    this.lane = "A";
    this.sink = true;
    this.reset();
    this.big = el("canvas", { class: "onscreen", tabindex: 0, role: "application", width: 512, height: 320 });
    this.where = el("p", { class: "small" });
    this.shots = new Shots(this);
    this.reach = new Reach(this);
    this.legend = el("div", { class: "colourbar", "aria-hidden": "true" }, el("i"), el("span"), el("span"));
    this.told = el("p", { class: "told", role: "status" });
    this.title = el("h3");
    this.lay();
    this.listen();
  }

  reset() {
    this.token = null;
    this.fixed = false;
    this.map = null;
    this.refused = false;
    this.waiting = null;
    this.busy = false;
    this.known = new Map();
    this.peak = 0;
    this.shots?.reset();
    this.reach?.reset();
  }

  lay() {
    const seg = (name, label, entries) =>
      el(
        "div",
        { class: "seg", role: "group", "aria-label": label, "data-choice": name },
        ...entries.map(([value, text, title]) =>
          el("button", { type: "button", "data-value": value, "aria-pressed": "false", title }, text),
        ),
      );
    const tools = el(
      "div",
      { class: "tools" },
      seg("toward", "Direction", [
        ["keys", "Attends to"],
        ["queries", "Attended by"],
      ]),
      seg("eye", "Lane", [
        ["A", "Lane A"],
        ["B", "Lane B"],
      ]),
      seg("scale", "Normalisation", [
        ["row", "Row", "Brightest is this map's largest value"],
        ["global", "Global", "Brightest is the largest value of all maps looked at in this run"],
        ["log", "Log", "Logarithmic, from 0.01 %"],
      ]),
      seg("sink", "First frame", [
        ["show", "With sink"],
        ["hide", "Hide sink"],
      ]),
    );
    this.node.replaceChildren(
      el(
        "header",
        {},
        el(
          "div",
          {},
          this.title,
          el("p", {}, "Point at a place in a picture, or tap it to hold it. Every key frame then shows where that token looks: its exact softmax over all keys, not smoothed."),
        ),
      ),
      tools,
      el("div", { class: "gaze" }, el("div", { class: "eye" }, this.big, this.reach.node, this.where, this.legend, this.told), this.shots.node),
    );
    const set = (name, apply, first) => choice(this.node, name, (value) => (apply(value), this.store.changed()))(first);
    set("toward", (value) => ((this.toward = value), this.again()), "keys");
    set("eye", (value) => (this.lane = value), "A");
    set("scale", (value) => (this.scale = value), "row");
    set("sink", (value) => (this.sink = value === "show"), "show");
  }

  listen() {
    const point = (event, canvas) => {
      const box = canvas.getBoundingClientRect(),
        { rows, columns } = this.stage.model;
      const at = (part, count) => Math.max(0, Math.min(count - 1, Math.floor(part * count)));
      return { row: at((event.clientY - box.top) / box.height, rows), column: at((event.clientX - box.left) / box.width, columns) };
    };
    const over = (event, hold) => {
      const canvas = event.target.closest("canvas"),
        frame = canvas === this.big ? this.frame : Number(canvas?.dataset.frame);
      if (!canvas || !this.stage.model.rows || frame < 0 || Number.isNaN(frame)) return;
      if (this.fixed && !hold) return;
      const token = { frame, ...point(event, canvas) };
      this.live = canvas === this.big;
      if (hold) this.fixed = !(this.fixed && same(this.token, token));
      clearTimeout(this.soon);
      this.soon = setTimeout(() => this.aim(token), hold ? 0 : HOVER);
    };
    for (const area of [this.big, this.shots.node]) {
      area.addEventListener("pointermove", (event) => event.pointerType === "mouse" && over(event, false));
      area.addEventListener("click", (event) => over(event, true));
    }
    this.big.addEventListener("keydown", (event) => this.key(event));
  }

  key(event) {
    const by = { ArrowLeft: [0, -1], ArrowRight: [0, 1], ArrowUp: [-1, 0], ArrowDown: [1, 0] }[event.key],
      { rows, columns } = this.stage.model;
    if (event.key === "Escape") {
      this.fixed = false;
      this.token = this.map = null;
      this.store.changed();
    } else if (by && this.frame >= 0) {
      const from = this.token || { row: Math.floor(rows / 2), column: Math.floor(columns / 2) };
      const clip = (value, most) => Math.max(0, Math.min(most - 1, value));
      this.fixed = true;
      this.aim({ frame: this.frame, row: clip(from.row + by[0], rows), column: clip(from.column + by[1], columns) });
    } else return;
    event.preventDefault();
    event.stopPropagation();
  }

  // The latent frame on screen.
  get frame() {
    const { player } = this.stage,
      at = player.onscreen[player.lead],
      chunk = at < 0 ? null : player.find(player.lead, at);
    return chunk ? player.latent(chunk, at) : -1;
  }

  // Called for every frame put on screen: the picture moves, and a place pointed at in passing, or one of which there is no map, stays
  // pointed at in the new frame.
  follow(colours) {
    if (!this.big.clientWidth) return;
    const { frame } = this;
    if (this.token && (this.refused || (this.live && !this.fixed)) && this.token.frame !== frame) this.aim({ ...this.token, frame });
    this.screen(colours);
  }

  aim(token) {
    this.token = token;
    this.again();
    this.store.changed();
  }

  // Asks for the map of the token now pointed at; one question at a time, the newest waits, what is known is not asked again.
  again() {
    if (!this.token) return;
    const { layer, head } = this.store.selected,
      wish = this.wish(layer, head),
      name = JSON.stringify(wish);
    this.map = this.known.get(name) || null;
    if (this.map) {
      this.refused = false;
      return;
    }
    this.waiting = { wish, name };
    if (!this.busy) this.next();
  }

  // What is asked of the server; a key is looked at from the chunk on screen.
  wish(layer, head) {
    return { layer, head, ...this.token, toward: this.toward, ...(this.toward === "queries" ? { chunk: Math.max(0, this.stage.on) } : {}) };
  }

  async next() {
    const { wish, name } = this.waiting;
    this.waiting = null;
    this.busy = true;
    const answer = await this.stage.ask("look", wish);
    this.busy = false;
    this.take(answer, name);
    if (this.waiting) this.next();
  }

  take(answer, name) {
    const { layer, head } = this.store.selected;
    const current = this.token && JSON.stringify(this.wish(layer, head)) === name;
    if (current) this.refused = !answer.ok;
    if (!answer.ok) {
      if (current) this.told.textContent = answer.error;
    } else {
      const maps = Object.fromEntries(LANES.map((lane) => [lane, answer.maps[lane] && opened(answer.maps[lane])]));
      this.known.set(name, maps);
      if (this.known.size > 200) this.known.delete(this.known.keys().next().value);
      this.peak = Math.max(this.peak, top(maps.A));
      if (current) this.map = maps;
    }
    this.store.changed();
  }

  draw(colours) {
    const { layer, head } = this.store.selected;
    this.title.textContent = `Where layer ${layer}, head ${head} looks`;
    const subject = `${layer},${head},${this.toward === "queries" ? this.stage.on : ""},${this.refused ? this.reach.chunks.length : ""}`;
    if (this.asked !== subject) this.again();
    this.asked = subject;
    this.seen = this.map?.[this.lane] || null;
    this.range();
    this.screen(colours);
    this.shots.draw(colours);
    this.reach.draw();
    this.words();
  }

  hidden(frame) {
    return !this.sink && frame === 0;
  }

  range() {
    const map = this.seen;
    if (!map) return;
    const most = this.scale === "global" ? this.peak : top(map, (frame) => !this.hidden(frame));
    this.most = Math.max(most, 2 * FLOOR);
    const low = this.scale === "log" ? FLOOR : 0;
    const [, from, to] = this.legend.children;
    from.textContent = pctOf(low);
    to.textContent = `${pctOf(this.most)} of ${this.toward === "keys" ? "this token's attention" : "a token's attention"}`;
  }

  // 0 to 1 on the colour bar.
  level(weight) {
    if (this.scale === "log") return Math.max(0, Math.log(Math.max(weight, 1e-12) / FLOOR) / Math.log(this.most / FLOOR));
    return weight / this.most;
  }

  screen(colours) {
    const pen = this.big.getContext("2d"),
      picture = this.stage.player.canvases[this.lane],
      frame = this.frame;
    pen.clearRect(0, 0, 512, 320);
    pen.imageSmoothingEnabled = false;
    if (frame >= 0) pen.drawImage(picture, 0, 0, 512, 320);
    else {
      pen.fillStyle = colours["ink-3"];
      pen.font = `22px ${FONT}`;
      pen.textAlign = "center";
      pen.fillText("Press Start, then point at the picture", 256, 166);
    }
    const place = this.seen && this.seen.lane === this.lane ? this.seen.frames.indexOf(frame) : -1;
    if (place >= 0 && !this.hidden(frame)) glow(pen, this.seen, place, (weight) => this.level(weight), colours);
    if (this.token?.frame === frame) outline(pen, this.token, this.stage.model, 512, 320, colours);
    this.big.setAttribute(
      "aria-label",
      frame < 0 ? "No frame yet" : `Frame ${frame} of lane ${this.lane}. Arrow keys move the token, Escape lets go.`,
    );
    this.where.textContent = this.token
      ? `Token row ${this.token.row}, column ${this.token.column} of frame ${this.token.frame}${this.fixed ? ", held; tap it again to let go" : ""}`
      : frame >= 0
        ? `Frame ${frame} is on screen. No token chosen yet.`
        : "";
  }

  words() {
    if (!this.token) this.told.textContent = "";
    else if (this.map) {
      const where = this.seen ? "" : `Lane ${this.lane} holds nothing of this frame now. `,
        side = this.toward === "keys" ? this.map.B?.text || "" : "Brightness: how much each query of the chunk gives to this token.";
      this.told.textContent = `${where}${side}${this.lane === "A" && this.toward === "keys" && this.map.B?.text ? " Dashed red: gone from lane B." : ""}`;
    } else if (this.busy) this.told.textContent = "Looking …";
    this.node.dataset.map = this.seen
      ? `${this.seen.layer},${this.seen.head},${this.seen.frame},${this.seen.row},${this.seen.column},${this.seen.toward}`
      : "";
  }
}
