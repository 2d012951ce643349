// Thumbnails of latent frames and the strip of chunks: marks for changes, a knob at the chunk on screen, scrubbing over what is kept.

const SLOTS = 16,
  THUMBS = 160,
  THUMB = [96, 60];

class Thumbs {
  constructor() {
    this.reset();
  }

  reset() {
    this.frames = new Map();
    this.chunks = new Map();
  }

  // The middle pixel frame of every latent frame of lane A's chunk.
  async take(event, bytes, model) {
    const frames = this.frames,
      chunks = this.chunks,
      bitmap = await createImageBitmap(bytes);
    let at = 0,
      latent = event.latent;
    while (at < event.count) {
      const span = latent === 0 ? model.first_frames : model.pixel_frames,
        index = Math.min(at + Math.floor(span / 2), event.count - 1);
      const picture = el("canvas", { width: THUMB[0], height: THUMB[1] });
      picture
        .getContext("2d")
        .drawImage(
          bitmap,
          (index % COLUMNS) * event.width,
          Math.floor(index / COLUMNS) * event.height,
          event.width,
          event.height,
          0,
          0,
          ...THUMB,
        );
      frames.set(latent, picture);
      chunks.set(event.chunk, picture);
      at += span;
      latent += 1;
    }
    bitmap.close();
    for (const number of frames.keys()) if (number >= model.chunk && number < latent - THUMBS) frames.delete(number);
    for (const number of chunks.keys()) if (number < event.chunk - KEEP) chunks.delete(number);
  }
}

class Timeline {
  constructor(root, thumbs, seek) {
    this.root = root;
    this.thumbs = thumbs;
    this.seek = seek;
    this.strip = root.querySelector(".strip");
    this.canvas = root.querySelector("canvas");
    this.reset();
    const pick = (event) => {
      const box = this.strip.getBoundingClientRect();
      this.go(this.first + Math.floor(((event.clientX - box.left) / box.width) * SLOTS));
    };
    this.strip.addEventListener("pointerdown", (event) => {
      this.strip.setPointerCapture(event.pointerId);
      pick(event);
    });
    this.strip.addEventListener("pointermove", (event) => {
      if (this.strip.hasPointerCapture(event.pointerId)) pick(event);
    });
    this.strip.addEventListener("keydown", (event) => {
      const to = { ArrowLeft: this.on - 1, ArrowRight: this.on + 1, Home: this.oldest, End: this.newest }[event.key];
      if (to !== undefined) {
        event.preventDefault();
        event.stopPropagation();
        this.go(to);
      }
    });
  }

  reset() {
    this.newest = -1;
    this.oldest = 0;
    this.on = 0;
    this.limit = 0;
    this.marks = [];
  }

  go(chunk) {
    if (this.newest >= 0) this.seek(Math.max(this.oldest, Math.min(this.newest, chunk)));
  }

  get first() {
    return Math.max(0, Math.min(this.newest - SLOTS + 2, this.on));
  }

  draw() {
    const { pen, width, height } = sharp(this.canvas),
      slot = width / SLOTS;
    for (let index = 0; index < SLOTS; index++) {
      const picture = this.thumbs.chunks.get(this.first + index);
      if (!picture || this.first + index > this.newest) continue;
      const high = slot * (THUMB[1] / THUMB[0]),
        tall = Math.max(high, height),
        wide = tall * (THUMB[0] / THUMB[1]);
      pen.save();
      pen.beginPath();
      pen.rect(index * slot, 0, slot - 1.5, height);
      pen.clip();
      pen.drawImage(picture, index * slot + (slot - wide) / 2, (height - tall) / 2, wide, tall);
      pen.restore();
    }
    this.label();
  }

  place(chunk, inside = 0) {
    return `${(((chunk - this.first + inside) / SLOTS) * 100).toFixed(2)}%`;
  }

  label() {
    const seen = Math.max(0, this.newest - this.first + 1),
      more = this.limit ? this.limit - this.newest - 1 : 0,
      ahead = this.strip.querySelector(".ahead"),
      knob = this.strip.querySelector(".knob");
    ahead.style.left = `${(seen / SLOTS) * 100}%`;
    ahead.textContent = this.newest < 0 ? "One picture per chunk appears here" : SLOTS - seen > 2 && more > 0 ? `${more} more` : "";
    knob.hidden = this.newest < 0;
    knob.style.left = this.place(this.on, 1);
    this.strip.setAttribute("aria-valuemin", this.oldest + 1);
    this.strip.setAttribute("aria-valuemax", this.newest + 1);
    this.strip.setAttribute("aria-valuenow", this.on + 1);
    this.strip.setAttribute("aria-valuetext", `chunk ${this.on + 1}`);
    const ticks = [];
    for (let index = 0; index < SLOTS; index++)
      ticks.push(el("span", { class: this.first + index === this.on && this.newest >= 0 ? "on" : "" }, String(this.first + index + 1)));
    this.root.querySelector(".ticks").replaceChildren(...ticks);
    this.mark();
  }

  // Every change has its sign; the newest two also their words, when there is room between them.
  mark() {
    const seen = this.marks.filter((mark) => mark.chunk >= this.first && mark.chunk < this.first + SLOTS),
      rows = [],
      share = (mark) => (mark.chunk - this.first) / SLOTS;
    seen.forEach((mark, index) => {
      const inside = mark.state === "received" ? 0.85 : 0,
        at = mark.chunk - this.first + inside,
        kind = mark.state === "received" ? "ring" : mark.kind === "prompt" ? "disc" : "diamond";
      const sign = el("i", {
        class: `sign ${kind} ${mark.lane ? mark.lane.toLowerCase() : "both"}`,
        style: `left:${this.place(mark.chunk, inside)}`,
        title: mark.text,
        "data-kind": mark.kind,
        "data-chunk": mark.chunk,
      });
      rows.push(sign);
      const next = seen.slice(index + 1).find((other) => share(other) > share(mark)),
        before = seen
          .slice(0, index)
          .reverse()
          .find((other) => share(other) < share(mark));
      const room = (next ? share(next) : 1) - at / SLOTS,
        behind = at / SLOTS - (before ? share(before) : 0),
        text = el(
          "span",
          { class: "words" },
          el("b", {}, mark.short),
          mark.state === "received" ? "" : ` · chunk ${mark.chunk + 1}${mark.cost ? `, re-cache ${mark.cost}` : ""}`,
        );
      if (index < seen.length - 2 || mark.state === "received") return;
      if (room > 0.3) text.style.left = `calc(${this.place(mark.chunk, inside)} + 12px)`;
      else if (behind > 0.3) {
        text.style.right = `calc(100% - ${this.place(mark.chunk, inside)} + 12px)`;
      } else return;
      rows.push(text);
    });
    this.root.querySelector(".marks").replaceChildren(...rows);
  }
}
