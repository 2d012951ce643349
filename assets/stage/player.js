// Plays both lanes: decodes JPEG atlases, keeps a bounded past, paces by the speed frames are made at, draws the panes.

const COLUMNS = 4,
  SCALE = 4,
  WIDE = 1024,
  KEEP = 48,
  AHEAD = 6;

class Player {
  constructor(root) {
    this.root = root;
    this.canvases = Object.fromEntries(LANES.map((lane) => [lane, root.querySelector(`.screen[data-lane="${lane}"] canvas`)]));
    this.scratch = document.createElement("canvas");
    this.view = "side";
    this.pace = "lockstep";
    this.split = 0.5;
    this.onframe = () => {};
    this.reset({});
    const loop = (now) => {
      this.tick(now);
      this.handle = requestAnimationFrame(loop);
    };
    this.handle = requestAnimationFrame(loop);
  }

  reset(model) {
    for (const chunks of Object.values(this.chunks || {})) for (const chunk of chunks.values()) this.release(chunk);
    this.model = model;
    this.chunks = { A: new Map(), B: new Map() };
    this.ends = { A: 0, B: 0 };
    this.head = 0;
    this.scrub = null;
    this.held = false;
    this.last = null;
    this.race = null;
    this.rate = 0;
    this.stamps = [];
    this.early = { A: 0, B: 0 };
    this.onscreen = { A: -1, B: -1 };
    this.shown = { A: [], B: [] };
    this.counts = { received: 0, drawn: 0, dropped: 0 };
  }

  stop() {
    cancelAnimationFrame(this.handle);
  }

  // One lane's frames of a chunk, as sent.
  take(event) {
    const bytes = Uint8Array.from(atob(event.atlas), (c) => c.charCodeAt(0));
    const chunk = { ...event, atlas: null, blob: new Blob([bytes], { type: "image/jpeg" }), bitmap: null, decoding: null, fps: 0 };
    const chunks = this.chunks[event.lane];
    chunks.set(event.chunk, chunk);
    this.ends[event.lane] = event.start + event.count;
    for (const [number, old] of chunks)
      if (number <= event.chunk - KEEP) {
        this.release(old);
        chunks.delete(number);
      }
    if (event.lane === (this.lost === "B" ? "A" : "B")) {
      this.counts.received += event.count;
      this.stamp(event.count);
    }
    this.held = false;
  }

  // Frames per second at which finished pairs of chunks arrive.
  stamp(count) {
    this.stamps.push([performance.now(), count]);
    if (this.stamps.length > 5) this.stamps.shift();
    if (this.stamps.length > 2) {
      const frames = this.stamps.slice(1).reduce((sum, [, n]) => sum + n, 0);
      this.rate = (1000 * frames) / (this.stamps.at(-1)[0] - this.stamps[0][0]);
    }
  }

  // Until arrivals tell the speed, the measured times of the lanes do.
  measured(lane, chunk, fps, ms, frames) {
    const entry = this.chunks[lane].get(chunk);
    if (entry) entry.fps = fps;
    if (this.stamps.length > 2) return;
    this.early[lane] = ms;
    this.rate = (900 * frames) / (this.early.A + this.early.B);
  }

  // A lane that stays behind has ended; the other one goes on alone.
  get lost() {
    const span = 2.5 * this.span;
    return LANES.find((lane, side) => this.ends[lane] < this.ends[LANES[1 - side]] - span) || null;
  }

  get lead() {
    return this.lost === "A" ? "B" : "A";
  }

  get end() {
    return this.lost ? Math.max(this.ends.A, this.ends.B) : Math.min(this.ends.A, this.ends.B);
  }

  get span() {
    return this.model.chunk * this.model.pixel_frames || 12;
  }

  firstKept() {
    return this.chunks[this.lead].keys().next().value ?? 0;
  }

  find(lane, frame) {
    for (const chunk of [...this.chunks[lane].values()].reverse())
      if (frame >= chunk.start && frame < chunk.start + chunk.count) return chunk;
    return null;
  }

  tick(now) {
    const seconds = this.last === null ? 0 : Math.min(0.25, (now - this.last) / 1000);
    this.last = now;
    const frames =
      this.scrub !== null ? { A: this.scrub, B: this.scrub } : this.pace === "race" ? this.raced(seconds) : this.played(seconds);
    if (!frames) return;
    this.decode(frames);
    const ready = LANES.map((lane) => this.find(lane, frames[lane])),
      lead = this.lead,
      alive = LANES.filter((lane) => lane !== this.lost);
    if (alive.some((lane) => !ready[LANES.indexOf(lane)]?.bitmap)) return;
    const moved = alive.filter((lane) => this.onscreen[lane] !== frames[lane]);
    if (!moved.length && !this.dirty) return;
    this.dirty = false;
    this.draw(ready, frames);
    for (const lane of moved) {
      this.onscreen[lane] = frames[lane];
      this.shown[lane].push(now);
    }
    if (moved.includes(lead) && this.scrub === null && this.pace === "lockstep") this.counts.drawn += 1;
    this.onframe(ready[LANES.indexOf(lead)], frames);
  }

  // Lock step: one playhead, at the speed of production, gently faster when behind; too far behind it jumps and counts what it skipped.
  played(seconds) {
    const end = this.end;
    if (!end) return null;
    const chunk = this.span,
      behind = end - this.head;
    if (behind > AHEAD * chunk) {
      const to = end - 2 * chunk;
      this.counts.dropped += Math.floor(to) - Math.floor(this.head);
      this.head = to;
    }
    const correction = Math.max(0.8, Math.min(1.6, 1 + 0.25 * (behind / chunk - 1)));
    const rate = Math.min(this.model.fps || 24, (this.rate || 8) * correction);
    const drawn = this.onscreen[this.lead] === Math.floor(this.head);
    if (!this.held && drawn) this.head = Math.min(this.head + Math.min(seconds * rate, 1), end - 1e-6);
    const frame = Math.floor(this.head);
    return { A: frame, B: frame };
  }

  // Race: the kept chunks again, each lane at the speed it was made, frame by frame.
  raced(seconds) {
    if (!this.end) return null;
    if (!this.race) {
      const from = Math.max(this.firstKept(), Math.max(...this.chunks[this.lead].keys()) - 11),
        start = this.chunks[this.lead].get(from).start;
      this.race = { from, to: Math.max(...this.chunks[this.lead].keys()), end: this.end, A: start, B: start, rest: 0 };
    }
    for (const lane of LANES) {
      const chunk = this.find(lane, Math.floor(this.race[lane]));
      if (!chunk && lane === this.lost) continue;
      if (!chunk) {
        this.race = null;
        return null;
      }
      this.race[lane] = Math.min(this.race[lane] + seconds * (chunk.fps || this.rate || 8), this.race.end - 1);
    }
    if (Math.min(this.race.A, this.race.B) >= this.race.end - 1 && (this.race.rest += seconds) > 1.5) this.race = null;
    return this.race ? { A: Math.floor(this.race.A), B: Math.floor(this.race.B) } : null;
  }

  // Keeps the chunk on screen and the next one decoded, nothing else.
  decode(frames) {
    for (const lane of LANES) {
      const wanted = new Set();
      for (const frame of [frames[lane], frames[lane] + this.span]) {
        const chunk = this.find(lane, frame);
        if (chunk) wanted.add(chunk);
      }
      for (const chunk of this.chunks[lane].values()) {
        if (!wanted.has(chunk)) this.release(chunk);
        else if (!chunk.bitmap && !chunk.decoding) {
          chunk.decoding = createImageBitmap(chunk.blob).then(
            (bitmap) => {
              chunk.decoding = null;
              chunk.bitmap = bitmap;
              this.dirty = true;
            },
            () => {
              chunk.decoding = null;
            },
          );
        }
      }
    }
  }

  release(chunk) {
    if (chunk.bitmap) {
      chunk.bitmap.close();
      chunk.bitmap = null;
    }
  }

  draw([a, b], frames) {
    if (this.view === "side" || !a?.bitmap || !b?.bitmap) {
      if (a?.bitmap) this.paint(this.canvases.A, a, frames.A);
      if (b?.bitmap) this.paint(this.canvases.B, b, frames.B);
      return;
    }
    const pen = this.paint(this.canvases.A, a, frames.A),
      { width, height } = this.canvases.A;
    if (this.view === "wipe") {
      pen.save();
      pen.beginPath();
      pen.rect(width * this.split, 0, width, height);
      pen.clip();
      this.paint(this.canvases.A, b, frames.B);
      pen.restore();
    } else {
      pen.globalCompositeOperation = "difference";
      this.paint(this.canvases.A, b, frames.B);
      pen.globalCompositeOperation = "lighter";
      for (let twice = 0; twice < 2; twice++) pen.drawImage(this.canvases.A, 0, 0);
      pen.globalCompositeOperation = "source-over";
    }
  }

  // Small pictures are drawn up to SCALE times larger; those of large models as they are.
  paint(canvas, chunk, frame) {
    const { width, height } = chunk,
      scale = Math.max(1, Math.min(SCALE, Math.floor(WIDE / width))),
      index = frame - chunk.start;
    if (canvas.width !== width * scale || canvas.height !== height * scale) {
      canvas.width = width * scale;
      canvas.height = height * scale;
    }
    const pen = canvas.getContext("2d");
    pen.imageSmoothingQuality = "high";
    pen.drawImage(
      chunk.bitmap,
      (index % COLUMNS) * width,
      Math.floor(index / COLUMNS) * height,
      width,
      height,
      0,
      0,
      canvas.width,
      canvas.height,
    );
    return pen;
  }

  // Frames per second really put on screen in the last two seconds.
  displayed(lane) {
    const now = performance.now();
    while (this.shown[lane].length && this.shown[lane][0] < now - 2000) this.shown[lane].shift();
    return this.shown[lane].length / 2;
  }

  // Latent frame a pixel frame belongs to.
  latent(chunk, frame) {
    const first = chunk.latent === 0 ? this.model.first_frames : this.model.pixel_frames,
      index = frame - chunk.start;
    return index < first ? chunk.latent : chunk.latent + 1 + Math.floor((index - first) / this.model.pixel_frames);
  }
}
