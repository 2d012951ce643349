// The stage: one `ingest(text)` for everything the server sends, one state, and the parts that draw it.

const STATUS = { idle: "Ready", loading: "Loading the model", queue: "Waiting", running: "Running", paused: "Paused", ended: "Ended", error: "Stopped" };

class Stage {
  constructor(element, trigger) {
    this.root = element.querySelector(".fkv");
    this.trigger = trigger;
    this.run = null; this.seq = -1; this.lost = 0; this.model = null; this.prompt = "";
    this.thumbs = new Thumbs();
    this.player = new Player(this.root);
    this.charts = new Charts(this.root);
    this.map = new HeadMap(this.root.querySelector("[data-heads]"), (layer, head) => { this.trigger("select_head", { layer, head }); this.redraw(); });
    this.film = new Film(this.root.querySelector("[data-film]"), this.thumbs);
    this.timeline = new Timeline(this.root.querySelector("[data-timeline]"), this.thumbs, (chunk) => this.seek(chunk));
    this.player.onframe = (chunk, frames) => this.onframe(chunk, frames);
    this.numbers(); this.verdict(null); this.controls(); this.reset({});
    new ResizeObserver(() => this.redraw()).observe(this.root);
    new MutationObserver(() => this.redraw()).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    this.clock = setInterval(() => this.count(), 500);
  }

  reset(model) {
    this.samples = {}; this.maps = new Map(); this.residency = { A: new Map(), B: new Map() }; this.on = -1; this.newest = -1; this.limit = 0;
    this.player.reset(model); this.charts.reset(); this.timeline.reset(); this.thumbs.reset(); this.film.reset(model.layers ? model : null);
    this.sentence(""); this.verdict(null);
    for (const lane of LANES) this.number(lane, null);
  }

  // ---- what arrives

  ingest(text) {
    if (!text) return;
    let message;
    try { message = JSON.parse(text); } catch { return; }
    const begins = message.events.some((event) => event.type === "start");
    if (message.run && message.run !== this.run && !begins) return;
    if (message.run && begins) { this.run = message.run; this.seq = message.seq - 1; }
    if (message.run) { this.lost += Math.max(0, message.seq - this.seq - 1); this.seq = message.seq; }
    for (const event of message.events) this[`on_${event.type}`]?.(event);
    this.redraw();
  }

  on_hello(event) { this.know(event.model, event.profile); if (!this.run) this.state(event.state, event.text); }

  know(model, profile) {
    if (!model) return;
    this.model = model;
    this.map.take(profile, model);
  }

  on_queue(event) { this.state("queue", event.text); }

  on_start(event) {
    this.reset(event.model);
    this.know(event.model, event.profile);
    this.limit = this.timeline.limit = event.chunks;
    this.prompt = event.settings.prompt;
    this.map.profile && this.map.pick(Math.min(event.settings.layer, event.model.layers - 1), Math.min(event.settings.head, event.model.heads - 1), false);
    this.player.scrub = null;
    this.state("running");
    this.pending();
  }

  on_frames(event) {
    this.player.take(event);
    const chunk = this.player.chunks[event.lane].get(event.chunk);
    if (event.lane === this.player.lead) this.thumbs.take(event, chunk.blob, this.model).then(() => this.redraw());
    this.newest = this.timeline.newest = Math.max(this.newest, event.chunk);
    this.timeline.oldest = this.player.firstKept();
    const short = event.label.length > 24 ? event.label.split(",")[0] : event.label, tag = this.root.querySelector(`.screen[data-lane="${event.lane}"] [data-label]`);
    tag.textContent = short; tag.title = event.label;
    if (event.lane === "B") this.root.querySelector("[data-label-b]").textContent = short;
    this.state("running");
  }

  on_sample(event) {
    this.samples[event.lane] = event;
    this.charts.take(event);
    const frames = this.player.chunks[event.lane].get(event.chunk)?.count || 12;
    this.player.measured(event.lane, event.chunk, event.fps, event.ms, frames);
    this.number(event.lane, event);
    this.root.querySelector("[data-honest]").textContent = `Honest meter: probe ${event.text.probe} % of the time and counted in neither lane, attention kernels untouched. Memory in use ${event.text.memory}.`;
  }

  on_maps(event) { this.keep(this.maps, event.chunk, event); }
  on_residency(event) { this.keep(this.residency[event.lane], event.chunk, event); }
  keep(store, chunk, event) { store.set(chunk, event); for (const number of store.keys()) if (number <= chunk - KEEP) store.delete(number); }
  on_verdict(event) { this.verdict(event); if (event.measured && !this.told) { this.told = true; this.say(`${event.speed.value} ${event.speed.unit}, ${event.kept.value} of the cache kept`); } }
  on_tick() { this.player.held = true; this.state("paused"); }

  on_notice(event) {
    if (event.kind === "error") { this.sentence(event.text, true); if (this.newest < 0 || this.root.dataset.state === "queue") this.state("error"); this.say(event.text); return; }
    if (event.kind === "info") { this.say(event.text); return; }
    if (event.kind === "prompt" && event.state === "received") this.prompt = document.querySelector("#prompt input, #prompt textarea")?.value ?? this.prompt;
    if (event.kind === "prompt" && event.state === "applied" && this.timeline.marks.some((old) => old.kind === "prompt" && old.state === "applied" && old.chunk === event.chunk)) return;
    const short = { prompt: event.state === "received" ? "prompt received" : "new prompt", policy: `${event.lane || "B"} policy changed`, parameter: `${event.lane || "B"} setting changed` }[event.kind];
    const mark = { ...event, short };
    const waiting = (old) => old.state === "received" && old.kind !== "prompt" && old.kind === event.kind && old.lane === event.lane;
    this.charts.marks = this.timeline.marks = [...this.timeline.marks.filter((old) => event.state !== "applied" || !waiting(old)), mark].slice(-60);
    if (event.state === "applied" || !event.state) this.told = false;
    this.pending();
    this.say(event.text);
  }

  on_done(event) { this.state(event.reason === "error" ? "error" : "ended", event.text); this.say(event.text); }

  // ---- what is shown

  state(name, text) {
    this.root.dataset.state = name; document.body.dataset.fkv = name;
    const where = this.newest >= 0 && (name === "running" || name === "paused") ? ` · chunk ${this.newest + 1}${this.limit ? ` of ${this.limit}` : ""}` : "";
    this.root.querySelector("[data-status] span").textContent = text || STATUS[name] + where;
    for (const empty of this.root.querySelectorAll("[data-empty]")) {
      empty.hidden = this.newest >= 0;
      empty.textContent = { running: "The first chunk is being drawn", queue: text, loading: "The model is being loaded", error: "Nothing was generated" }[name] || "Press Start: the video is generated here, live";
    }
  }

  sentence(text, error = false) { const line = this.root.querySelector("[data-sentence]"); line.hidden = !text; line.textContent = text; line.classList.toggle("error", error); }

  say(text) { this.root.querySelector("[data-said]").textContent = text; }

  numbers() {
    const cell = (name, unit, below) => el("div", { class: "number" }, el("p", {}, el("b", { [`data-${name}`]: true }, "–"), el("span", { [`data-${name}-unit`]: true }, unit)), el("small", { [`data-${name}-below`]: true }, below));
    for (const lane of LANES) this.root.querySelector(`.numbers[data-lane="${lane}"]`).replaceChildren(letter(lane), cell("fps", "FPS", "end to end"), cell("ms", "ms", "per chunk"), cell("stored", "MB", "cache stored"));
  }

  number(lane, sample) {
    const box = this.root.querySelector(`.numbers[data-lane="${lane}"]`), put = (name, text) => { box.querySelector(`[data-${name}]`).textContent = text; };
    put("fps", sample ? sample.text.fps : "–"); put("ms", sample ? sample.text.ms : "–"); put("stored", sample ? sample.text.stored : "–");
    put("stored-unit", sample ? sample.text.unit : "MB"); put("ms-below", this.model ? `per chunk of ${this.model.chunk}` : "per chunk");
    box.title = sample ? sample.text.window : "";
    this.count();
  }

  // Displayed speed is counted here, from frames really drawn.
  count() {
    for (const lane of LANES) {
      const sample = this.samples?.[lane], below = this.root.querySelector(`.numbers[data-lane="${lane}"] [data-fps-below]`);
      const live = this.player.scrub === null && this.player.pace === "lockstep" && this.root.dataset.state === "running";
      if (below) below.textContent = sample ? `${sample.text.diffusion} diffusion · ${live ? this.player.displayed(lane).toFixed(1) : "–"} shown` : "end to end";
    }
  }

  verdict(event) {
    const idle = { title: "", value: "", unit: "measuring", detail: "" }, titles = { speed: "B against A, end to end", kept: "of the cache", psnr: "B against A, frame by frame" };
    const wait = { speed: "Needs five chunks after the start or the last change.", kept: "Stored bytes of both lanes.", psnr: "Difference from A, not quality." };
    const block = (name) => {
      const part = event ? event[name] : { ...idle, title: titles[name], unit: "not measured yet", detail: wait[name] };
      const bar = name === "kept" ? el("div", { class: "share", role: "img", "aria-label": part.share == null ? "" : `${part.value} kept` }, el("i", { style: `width:${100 * Math.min(1, part.share || 0)}%` })) : null;
      return el("div", { class: `claim ${part.value ? "" : "waiting"}`, "data-claim": name }, el("p", { class: "big" }, el("b", {}, part.value), " ", el("span", {}, part.unit)), el("p", { class: "what" }, part.title), el("p", { class: "how" }, part.detail), bar);
    };
    this.root.querySelector(".verdict").replaceChildren(...["speed", "kept", "psnr"].map(block));
  }

  onframe(chunk, frames) {
    const words = LANES.map((lane) => { const its = this.player.find(lane, frames[lane]); return its ? this.player.latent(its, frames[lane]) : 0; });
    LANES.forEach((lane, index) => {
      const screen = this.root.querySelector(`.screen[data-lane="${lane}"]`), text = `frame ${words[index]}`, tag = screen.querySelector("[data-frame]");
      if (tag.textContent !== text) tag.textContent = text;
      const label = `Lane ${lane}, ${screen.querySelector("[data-label]").textContent}, chunk ${chunk.chunk + 1}`, canvas = screen.querySelector("canvas");
      if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
    });
    if (this.player.pace === "race" && this.player.race) this.racing(frames);
    if (chunk.chunk !== this.on) { this.on = this.timeline.on = chunk.chunk; this.redraw(); }
  }

  racing(frames) {
    const lead = frames.B - frames.A, { from, to } = this.player.race;
    this.sentence(`Replay of chunks ${from + 1} to ${to + 1}, each lane at the speed it was made: ${lead === 0 ? "level" : `${lead > 0 ? "B" : "A"} is ${Math.abs(lead)} frame${Math.abs(lead) === 1 ? "" : "s"} ahead`}.`);
  }

  redraw() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = null;
      const colours = palette(this.root);
      this.charts.draw(colours, this.player.scrub !== null ? this.on : null);
      this.map.draw(colours);
      this.timeline.draw(colours);
      this.film.draw(this.seen());
    });
  }

  // What was measured for the chunk on screen, or the nearest chunk before it.
  seen() {
    const at = (store) => store.get(this.on) || [...store.values()].filter((event) => event.chunk <= this.on).at(-1) || null;
    const { layer, head } = this.map.selected, profile = this.map.profile, maps = at(this.maps), mine = maps && maps.layer === layer && maps.head === head ? maps : null;
    const kind = profile ? this.map.kind(layer, head) : "", text = profile ? `${kind} ${this.map.score(layer, head)}` : "no profile";
    return { chunk: this.on, maps: mine, residency: { A: at(this.residency.A), B: at(this.residency.B) }, pinned: { layer, head, kind, text }, running: this.root.dataset.state === "running" };
  }

  seek(chunk) {
    const entry = this.player.chunks[this.player.lead].get(chunk);
    if (!entry) return;
    this.player.scrub = entry.start + Math.floor(entry.count / 2);
    this.root.querySelector("[data-live]").hidden = false;
  }

  // One frame back or forward, within what is kept.
  stepTo(frame) {
    const first = this.player.chunks[this.player.lead].get(this.player.firstKept());
    if (!first) return;
    this.player.scrub = Math.max(first.start, Math.min(this.player.end - 1, frame));
    this.root.querySelector("[data-live]").hidden = false;
  }

  live() { this.player.scrub = null; this.root.querySelector("[data-live]").hidden = true; }

  controls() {
    choice(this.root, "pace", (value) => { this.player.pace = this.root.dataset.pace = value; this.player.race = null; this.live(); this.sentence(""); });
    const view = choice(this.root, "view", (value) => { this.player.view = this.root.dataset.view = value; this.player.dirty = true; });
    const chart = choice(this.root, "chart", (value) => { this.root.querySelector(".charts").dataset.shown = value; this.redraw(); });
    chart("speed");
    if (window.matchMedia("(max-width: 700px)").matches) view("wipe");
    this.root.querySelector("[data-live]").addEventListener("click", () => this.live());
    this.wipe(this.root.querySelector(".wipe"));
    this.root.addEventListener("keydown", (event) => this.key(event));
    document.addEventListener("input", (event) => { if (event.target.closest?.("#prompt")) this.pending(); });
  }

  wipe(handle) {
    const set = (split) => { this.player.split = Math.max(0, Math.min(1, split)); this.player.dirty = true; handle.style.left = `${100 * this.player.split}%`; handle.setAttribute("aria-valuenow", Math.round(100 * this.player.split)); };
    handle.addEventListener("pointerdown", (event) => handle.setPointerCapture(event.pointerId));
    handle.addEventListener("pointermove", (event) => { if (!handle.hasPointerCapture(event.pointerId)) return; const box = handle.parentElement.getBoundingClientRect(); set((event.clientX - box.left) / box.width); });
    handle.addEventListener("keydown", (event) => { const by = { ArrowLeft: -0.05, ArrowRight: 0.05 }[event.key]; if (by) { event.preventDefault(); event.stopPropagation(); set(this.player.split + by); } });
  }

  key(event) {
    if (event.key === "Escape") this.live();
    const step = { ArrowLeft: -1, ArrowRight: 1 }[event.key], jump = { "[": -1, "]": 1 }[event.key];
    if (jump) this.timeline.go(this.on + jump);
    if (step && !event.target.closest("input, select, textarea, .seg")) { event.preventDefault(); this.stepTo((this.player.scrub ?? Math.floor(this.player.head)) + step); }
  }

  // Apply stands out only while the prompt in the box is not the one in use.
  pending() { const box = document.querySelector("#prompt textarea, #prompt input"); document.body.classList.toggle("fkv-pending", Boolean(this.run && box && box.value.trim() !== this.prompt.trim() && /running|paused/.test(this.root.dataset.state))); }
}

function mount(element, trigger, props, watch) {
  const stage = new Stage(element, trigger);
  window.fkvStage.current = stage;
  watch("value", () => stage.ingest(props.value));
  stage.ingest(props.value);
}
