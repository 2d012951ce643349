// The stage: one `ingest(text)` for everything the server sends, one state, and the parts that draw it.

class Stage {
  constructor(element, trigger) {
    this.root = element.querySelector(".fkv");
    this.run = null;
    this.seq = -1;
    this.lost = 0;
    this.prompt = "";
    this.thumbs = new Thumbs();
    this.board = new Board(this.root);
    this.player = new Player(this.root);
    this.charts = new Charts(this.root);
    this.map = new HeadMap(this.root.querySelector("[data-heads]"), (layer, head) => {
      trigger("select_head", { layer, head });
      this.redraw();
    });
    this.film = new Film(this.root.querySelector("[data-film]"), this.thumbs);
    this.timeline = new Timeline(this.root.querySelector("[data-timeline]"), this.thumbs, (chunk) => this.seek(chunk));
    this.player.onframe = (chunk, frames) => this.onframe(chunk, frames);
    this.controls();
    this.reset({});
    new ResizeObserver(() => this.redraw()).observe(this.root);
    new MutationObserver(() => this.redraw()).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    this.clock = setInterval(() => this.board.count(this.player), 500);
  }

  reset(model) {
    this.model = model;
    this.maps = new Map();
    this.residency = { A: new Map(), B: new Map() };
    this.on = -1;
    this.newest = -1;
    this.limit = 0;
    this.told = false;
    this.player.reset(model);
    this.charts.reset();
    this.timeline.reset();
    this.thumbs.reset();
    this.board.reset(model);
    this.film.reset(model.layers ? model : null);
  }

  // ---- what arrives

  ingest(text) {
    if (!text) return;
    const message = JSON.parse(text),
      begins = message.events.some((event) => event.type === "start");
    if (message.run && message.run !== this.run && !begins) return;
    if (message.run && begins) {
      this.run = message.run;
      this.seq = message.seq - 1;
    }
    if (message.run) {
      this.lost += Math.max(0, message.seq - this.seq - 1);
      this.seq = message.seq;
    }
    for (const event of message.events) this[`on_${event.type}`]?.(event);
    this.redraw();
  }

  state(name, text) {
    this.board.state(name, { newest: this.newest, limit: this.limit, text });
    this.pending();
  }

  on_hello(event) {
    if (event.model) this.map.take(event.profile);
    if (!/running|paused/.test(this.board.name)) this.state(event.state, event.text);
  }

  on_queue(event) {
    this.state("queue", event.text);
    this.board.say(event.text);
  }

  on_start(event) {
    this.reset(event.model);
    this.map.take(event.profile);
    this.limit = this.timeline.limit = event.chunks;
    this.prompt = event.settings.prompt;
    if (event.profile) this.map.pick(event.settings.layer, event.settings.head, false);
    this.live();
    this.state("running");
  }

  on_frames(event) {
    this.player.take(event);
    const chunk = this.player.chunks[event.lane].get(event.chunk);
    if (event.lane === this.player.lead) this.thumbs.take(event, chunk.blob, this.model).then(() => this.redraw());
    this.newest = this.timeline.newest = Math.max(this.newest, event.chunk);
    this.timeline.oldest = this.player.firstKept();
    this.board.label(event.lane, event.label);
    this.state("running");
  }

  on_sample(event) {
    this.charts.take(event);
    const frames = this.player.chunks[event.lane].get(event.chunk)?.count || this.player.span;
    this.player.measured(event.lane, event.chunk, event.fps, event.ms, frames);
    this.board.number(event.lane, event, this.model);
  }

  on_maps(event) {
    this.keep(this.maps, event);
  }
  on_residency(event) {
    this.keep(this.residency[event.lane], event);
  }

  keep(store, event) {
    store.set(event.chunk, event);
    for (const number of store.keys()) if (number <= event.chunk - KEEP) store.delete(number);
  }

  on_verdict(event) {
    this.board.verdict(event);
    if (event.measured && !this.told) this.board.say(`${event.speed.value} ${event.speed.unit}, ${event.kept.value} of the cache kept`);
    this.told = event.measured;
  }

  on_tick() {
    this.player.held = true;
    this.state("paused");
  }

  on_notice(event) {
    this.board.say(event.text);
    if (event.kind === "info") return;
    if (event.kind === "error") {
      this.board.sentence(event.text, true);
      if (this.newest < 0 || this.board.name === "queue") this.state("error");
      return;
    }
    if (event.kind === "prompt" && event.state === "received") this.prompt = promptBox()?.value ?? this.prompt;
    this.mark(event);
    this.pending();
  }

  // Changes on the timeline and the charts. A prompt is applied lane by lane and marked once; a waiting ring gives way to what was applied.
  mark(event) {
    const marks = this.timeline.marks,
      same = (old) => old.kind === event.kind && old.state === event.state && old.chunk === event.chunk;
    if (event.kind === "prompt" && marks.some(same)) return;
    const waiting = (old) =>
      event.state === "applied" && old.state === "received" && old.kind !== "prompt" && old.kind === event.kind && old.lane === event.lane;
    const lane = event.lane || "both lanes";
    const short = {
      prompt: event.state === "received" ? "prompt received" : "new prompt",
      policy: `${lane} policy changed`,
      parameter: `${lane} setting changed`,
    }[event.kind];
    this.charts.marks = this.timeline.marks = [...marks.filter((old) => !waiting(old)), { ...event, short }].slice(-60);
  }

  on_done(event) {
    this.state(event.reason === "error" ? "error" : "ended", event.text);
    this.board.say(event.text);
  }

  // ---- what is shown

  onframe(chunk, frames) {
    this.board.caption(this.player, chunk, frames);
    if (this.player.pace === "race" && this.player.race) this.board.racing(this.player.race, frames);
    if (chunk.chunk !== this.on) {
      this.on = this.timeline.on = chunk.chunk;
      this.redraw();
    }
  }

  redraw() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = null;
      const colours = palette(this.root);
      this.charts.draw(colours, this.player.scrub !== null ? this.on : null);
      this.map.draw(colours);
      this.timeline.draw();
      this.film.draw(this.seen());
    });
  }

  // What was measured for the chunk on screen, or the nearest chunk before it.
  seen() {
    const { layer, head } = this.map.selected,
      profile = this.map.profile;
    const at = (store, mine = () => true) => [...store.values()].filter((event) => event.chunk <= this.on && mine(event)).at(-1) || null;
    const maps = at(this.maps, (event) => event.layer === layer && event.head === head);
    const kind = profile ? this.map.kind(layer, head) : "",
      text = profile ? `${kind} ${this.map.score(layer, head)}` : "no profile";
    return {
      chunk: this.on,
      maps,
      residency: { A: at(this.residency.A), B: at(this.residency.B) },
      pinned: { layer, head, kind, text },
      running: this.board.name === "running",
    };
  }

  // ---- what a person does

  controls() {
    choice(this.root, "pace", (value) => {
      this.player.pace = value;
      this.player.race = null;
      this.live();
      this.board.sentence("");
    });
    const view = choice(this.root, "view", (value) => {
      this.player.view = this.root.dataset.view = value;
      this.player.dirty = true;
    });
    const chart = choice(this.root, "chart", (value) => {
      this.root.querySelector(".charts").dataset.shown = value;
      this.redraw();
    });
    chart("speed");
    if (window.matchMedia("(max-width: 700px)").matches) view("wipe");
    this.root.querySelector("[data-live]").addEventListener("click", () => this.live());
    this.wipe(this.root.querySelector(".wipe"));
    this.root.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("input", (event) => {
      if (event.target === promptBox()) this.pending();
    });
    document.addEventListener("click", (event) => {
      if (event.target.closest("#stop") && /queue|loading/.test(this.board.name)) this.state("idle");
    });
  }

  wipe(handle) {
    const set = (split) => {
      this.player.split = Math.max(0, Math.min(1, split));
      this.player.dirty = true;
      handle.style.left = `${100 * this.player.split}%`;
      handle.setAttribute("aria-valuenow", Math.round(100 * this.player.split));
    };
    handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
    handle.addEventListener("pointermove", (event) => {
      if (!handle.hasPointerCapture(event.pointerId)) return;
      const box = handle.parentElement.getBoundingClientRect();
      set((event.clientX - box.left) / box.width);
    });
    handle.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key];
      if (by) {
        event.preventDefault();
        event.stopPropagation();
        set(this.player.split + by);
      }
    });
  }

  key(event) {
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key],
      jump = { "[": -1, "]": 1 }[event.key];
    if (event.key === "Escape") this.live();
    if (event.key === " " && event.target.matches(".strip, .wipe")) {
      event.preventDefault();
      document.querySelector("#pause")?.click();
    }
    if (jump) this.timeline.go(this.on + jump);
    if (step && !event.target.closest("input, .seg, .scroll")) {
      event.preventDefault();
      this.stepTo((this.player.scrub ?? Math.floor(this.player.head)) + step);
    }
  }

  seek(chunk) {
    const entry = this.player.chunks[this.player.lead].get(chunk);
    if (entry) this.stepTo(entry.start + Math.floor(entry.count / 2));
  }

  // Shows one frame, within what is kept, until "back to live".
  stepTo(frame) {
    const first = this.player.chunks[this.player.lead].get(this.player.firstKept());
    if (!first) return;
    this.player.scrub = Math.max(first.start, Math.min(this.player.end - 1, frame));
    this.root.querySelector("[data-live]").hidden = false;
  }

  live() {
    this.player.scrub = null;
    this.root.querySelector("[data-live]").hidden = true;
  }

  // Apply stands out only while the prompt in the box is not the one in use.
  pending() {
    const box = promptBox(),
      different = Boolean(box) && box.value.trim() !== this.prompt.trim();
    document.body.classList.toggle("fkv-pending", different && /running|paused/.test(this.board.name));
  }
}

function promptBox() {
  return document.querySelector("#prompt textarea, #prompt input");
}

function mount(element, trigger, props, watch) {
  const stage = new Stage(element, trigger);
  window.fkvStage.current = stage;
  watch("value", () => stage.ingest(props.value));
  stage.ingest(props.value);
}
