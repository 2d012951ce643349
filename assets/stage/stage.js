// The stage: one `ingest(text)` for everything the server sends, one state, and the parts that draw it.

class Stage {
  constructor(element, trigger, server) {
    this.root = element.querySelector(".fkv");
    this.trigger = trigger;
    this.server = server;
    this.known = new Promise((resolve) => (this.recognised = resolve));
    this.run = null;
    this.seq = -1;
    this.lost = 0;
    this.prompt = "";
    this.thumbs = new Thumbs();
    this.board = new Board(this.root);
    this.player = new Player(this.root);
    this.charts = new Charts(this.root);
    this.store = new HeadStore(
      (what, body) => this.ask(what, body),
      () => this.redraw(),
      (text) => this.complain(text),
    );
    this.map = new HeadMap(this.root.querySelector("[data-heads]"), this.store, (text) => this.board.say(text));
    this.film = new Film(this.root.querySelector("[data-film]"), this.thumbs);
    this.timeline = new Timeline(this.root.querySelector("[data-timeline]"), this.thumbs, (chunk) => this.seek(chunk));
    this.player.onframe = (chunk, frames) => this.onframe(chunk, frames);
    this.hands = new Hands(this);
    this.reset({});
    new ResizeObserver(() => this.redraw()).observe(this.root);
    new MutationObserver(() => this.redraw()).observe(document.body, { attributes: true, attributeFilter: ["class"] });
    this.clock = setInterval(() => this.board.count(this.player), 500);
  }

  reset(model) {
    this.model = model;
    this.promised = false;
    this.frame(model);
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
    this.store.forget();
    this.lab?.gaze.reset();
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
    if (event.key) this.recognised(event.key);
    if (event.model) {
      this.profile(event.model, event.profile);
      if (this.newest < 0) this.frame(event.model);
      this.promise(event.next);
    }
    if (!/running|paused/.test(this.board.name)) this.state(event.state, event.text);
  }

  // Every picture on the page stands in a frame of the model's own proportions.
  frame({ size }) {
    if (size) document.body.style.setProperty("--picture", `${size[1]} / ${size[0]}`);
  }

  // That a run goes on as it began while another model or size waits for the next Start; other sentences stay.
  promise(text) {
    if (text || this.promised) this.board.sentence(text);
    this.promised = Boolean(text);
  }

  profile(model, profile, settings = null) {
    this.facts = model;
    this.store.take(profile, settings);
    this.map.take(profile);
  }

  on_parting(event) {
    this.store.alike = event.alike;
    this.store.parts = event.classes;
  }

  on_queue(event) {
    this.state("queue", event.text);
    this.board.say(event.text);
  }

  on_start(event) {
    this.reset(event.model);
    this.profile(event.model, event.profile, event.settings);
    this.limit = this.timeline.limit = event.chunks;
    this.prompt = event.settings.prompt;
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
  on_heads(event) {
    this.store.measure(event);
  }
  on_classes(event) {
    this.store.inForce(event);
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
      if (event.mild) return;
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
    const lane = event.lane || "both lanes",
      profile = event.text.match(/by head profile ([^;]+);/)?.[1];
    const short = {
      prompt: event.state === "received" ? "prompt received" : "new prompt",
      policy: `${lane} policy changed`,
      parameter: profile
        ? `${lane} by profile ${profile}`
        : /now (static|dynamic)/.test(event.text)
          ? `${lane} classes changed`
          : `${lane} setting changed`,
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
    if (this.colours) this.lab?.gaze.follow(this.colours);
  }

  redraw() {
    if (this.asked) return;
    this.asked = requestAnimationFrame(() => {
      this.asked = null;
      const colours = (this.colours = palette(this.root));
      this.charts.draw(colours, this.player.scrub !== null ? this.on : null);
      this.store.on = this.on < 0 ? Infinity : this.on;
      this.map.draw(colours);
      this.timeline.draw();
      this.film.draw(this.seen());
      this.lab?.draw(colours);
    });
  }

  // The newest of a store of chunks at or before a chunk, the one on screen if none is named.
  at(store, mine = () => true, chunk = this.on) {
    return [...store.values()].filter((event) => event.chunk <= chunk && mine(event)).at(-1) || null;
  }

  // What was measured for the chunk on screen, or the nearest chunk before it.
  seen() {
    const { selected, profile } = this.store,
      { layer, head } = selected;
    const maps = this.at(this.maps, (event) => event.layer === layer && event.head === head),
      kind = profile ? this.store.kind(layer, head) : "",
      score = profile ? this.store.value("score", layer, head) : null,
      text = profile ? `${kind} ${round(score)}` : "no profile";
    return {
      chunk: this.on,
      maps,
      residency: { A: this.at(this.residency.A), B: this.at(this.residency.B) },
      before: { A: this.residency.A.get(this.on - 1) || null, B: this.residency.B.get(this.on - 1) || null },
      pinned: { layer, head, kind, text },
      running: this.board.name === "running",
    };
  }

  // What a lane holds for a class of heads, as far as the layer on show tells: parts by frame, with their letters; null when not known.
  holding(lane, layer, kind, chunk = this.on) {
    const event = this.at(this.residency[lane], undefined, chunk);
    if (!event || (event.layer !== layer && (event.kept.length < 2 || this.store.ruled(layer) || this.store.ruled(event.layer))))
      return null;
    const kept = event.kept.find((entry) => entry.name.includes(kind)) || (event.layer === layer ? event.kept[0] : null);
    if (!kept) return null;
    const held = new Map(kept.frames.map(([frame, , parts]) => [frame, parts]));
    held.letters = new Map(kept.frames.map(([frame, letter]) => [frame, letter]));
    return held;
  }

  // ---- what a person does

  // Asks the server; what goes wrong on the way is an answer too.
  async ask(what, body = {}) {
    try {
      return await this.server.ask({ key: await this.known, what, ...body });
    } catch (error) {
      return { ok: false, error: "The server did not answer; it may have stopped. Reload the page." };
    }
  }

  // A sentence about what was just asked; it goes when the next question is answered, other sentences stay.
  complain(text) {
    if (text || this.complained) this.board.sentence(text, Boolean(text));
    this.complained = Boolean(text);
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

function mount(element, trigger, props, watch, server) {
  const stage = new Stage(element, trigger, server);
  window.fkvStage.current = stage;
  watch("value", () => stage.ingest(props.value));
  stage.ingest(props.value);
}
