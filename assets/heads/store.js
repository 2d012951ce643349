// What is known and wished about heads, shared by every view: the profile, what this run measured, who is chosen, the classes asked for.

const PINS = 4,
  RULES = {
    profile: "as profiled",
    threshold: "by threshold",
    inverted: "inverted",
    random: "random, same size",
    quota: "same share of every layer",
    "all-static": "all static",
    "all-dynamic": "all dynamic",
  };
const METRICS = {
  score: {
    title: "Score",
    grid: "scores",
    words: "Share of attention on the newest frames. High: static. Low: dynamic, it needs history.",
  },
  coverage: { title: "Coverage", grid: "coverage", words: "Share of this head's attention in A that falls on what lane B still holds." },
  entropy: { title: "Entropy", grid: "entropy", words: "How widely attention spreads: 0 one place, 1 everywhere alike." },
  sink: { title: "Sink share", grid: "sink", words: "Share of attention on the first frame of the video." },
  error: { title: "Error", grid: "errors", words: "Standard error of the score." },
};

class HeadStore {
  constructor(ask, changed, trouble) {
    Object.assign(this, { ask, changed, trouble });
    this.profile = null;
    this.alike = [];
    this.parts = true;
    this.metric = "score";
    this.source = "profile";
    this.skip = 1;
    this.benchmark = false;
    this.brush = null;
    this.preview = null;
    this.asked = 0;
    this.selected = { layer: 1, head: 0 };
    this.pinned = [{ layer: 1, head: 0 }];
    this.forget();
  }

  // A new run: nothing is measured yet.
  forget() {
    this.rows = new Map();
    this.measured = new Map();
    this.force = null;
    this.told = null;
    this.on = Infinity;
  }

  take(profile, settings = null) {
    const print = (one) => JSON.stringify([one?.scores, one?.static, one?.name]),
      other = print(profile) !== print(this.profile);
    this.profile = profile;
    if (!profile) return;
    if (other || settings) {
      this.wanted = { rule: "profile", threshold: null, overrides: new Map() };
      if (settings) {
        const { rule, threshold, overrides } = settings;
        this.wanted = { rule, threshold, overrides: new Map(overrides.map(([layer, head, kind]) => [`${layer},${head}`, kind])) };
      }
      this.roles = this.drawn(this.wanted) || profile.static.map((row) => new Set(row));
    }
    const layers = this.layers,
      heads = this.heads;
    const clip = ({ layer, head }) => ({ layer: Math.min(layer, layers - 1), head: Math.min(head, heads - 1) });
    this.selected = clip(this.selected);
    this.pinned = this.pinned.map(clip);
  }

  get layers() {
    return this.profile.scores.length;
  }
  get heads() {
    return this.profile.scores[0].length;
  }
  // Whether the profile has scores; classes alone cannot be drawn anew by a threshold.
  get scored() {
    return this.profile.scores.some((row) => row.some((score) => score !== null));
  }
  get threshold() {
    return this.wanted.threshold ?? this.profile.threshold;
  }

  // ---- measured while the lanes run

  measure(event) {
    const { shape, values } = unpack(event.share),
      [, heads, frames] = shape;
    event.layers.forEach((layer, place) => {
      const rows = this.rows.get(layer) || [];
      const share = Array.from({ length: heads }, (_, head) =>
        values.subarray((place * heads + head) * frames, (place * heads + head + 1) * frames),
      );
      this.rows.set(layer, [...rows, { chunk: event.chunk, frames: event.frames, share }].slice(-KEEP));
    });
    this.measured.set(event.chunk, event.metrics);
    for (const chunk of this.measured.keys()) if (chunk <= event.chunk - KEEP) this.measured.delete(chunk);
    this.told = event;
    if (!this.force) this.force = { static: event.static, chunk: event.chunk };
  }

  inForce(event) {
    this.force = { static: event.static, chunk: event.chunk };
  }

  // The newest measurement of a layer at or before the chunk on screen.
  row(layer) {
    const rows = this.rows.get(layer) || [];
    return rows.filter((row) => row.chunk <= this.on).at(-1) || rows[0] || null;
  }

  get metrics() {
    const chunks = [...this.measured.keys()],
      at = chunks.filter((chunk) => chunk <= this.on).at(-1) ?? chunks[0];
    return at === undefined ? null : this.measured.get(at);
  }

  value(metric, layer, head) {
    const name = METRICS[metric].grid,
      own = this.source === "profile" && (metric === "score" || metric === "error");
    const value = (own ? this.profile : this.metrics)?.[name]?.[layer][head];
    return value ?? null;
  }

  // ---- classes

  kind(layer, head) {
    return this.roles[layer].has(head) ? "static" : "dynamic";
  }
  ruled(layer) {
    return this.alike.includes(layer);
  }
  override(layer, head) {
    return this.wanted.overrides.get(`${layer},${head}`) || null;
  }
  is(place, layer, head) {
    return place && place.layer === layer && place.head === head;
  }

  // Every head that the policy parts by class.
  *all() {
    for (let layer = 0; layer < this.layers; layer++)
      if (!this.ruled(layer)) for (let head = 0; head < this.heads; head++) yield [layer, head];
  }

  // Static heads of a rule, with overrides; null where only the server can tell (a draw, a rank).
  drawn({ rule, threshold, overrides }) {
    if (threshold !== null && !this.scored) return null;
    const { scores, static: own } = this.profile,
      cut = threshold === null ? (layer, head) => own[layer].includes(head) : (layer, head) => scores[layer][head] >= threshold,
      every = (test) => scores.map((row, layer) => new Set(row.map((_, head) => head).filter((head) => test(layer, head))));
    const made = {
      profile: () => every(cut),
      threshold: () => every(cut),
      inverted: () => every((layer, head) => !cut(layer, head)),
      "all-static": () => every(() => true),
      "all-dynamic": () => every(() => false),
    }[rule];
    const roles = made ? made() : this.roles && rule === this.wanted.rule ? this.roles.map((row) => new Set(row)) : null;
    for (const [place, kind] of roles ? overrides : []) {
      const [layer, head] = place.split(",").map(Number);
      roles[layer][kind === "static" ? "add" : "delete"](head);
    }
    return roles;
  }

  // Whether the score alone tells the classes apart, as a threshold does.
  get cut() {
    if (!this.scored) return false;
    return (
      this.wanted.rule === "threshold" ||
      [...this.all()].every(([l, h]) => this.profile.scores[l][h] >= this.threshold === (this.kind(l, h) === "static"))
    );
  }

  undecided(layer, head) {
    const score = this.value("score", layer, head),
      error = this.value("error", layer, head);
    return this.cut && score !== null && Math.abs(score - this.threshold) < 2 * (error || 0);
  }

  counts() {
    const heads = [...this.all()],
      fixed = heads.filter(([l, h]) => this.kind(l, h) === "static").length;
    return {
      all: heads.length,
      static: fixed,
      dynamic: heads.length - fixed,
      undecided: heads.filter(([l, h]) => this.undecided(l, h)).length,
    };
  }

  // Whether lane B already runs with the classes shown.
  get applied() {
    return (
      Boolean(this.force) &&
      this.force.static.every((row, layer) => row.length === this.roles[layer].size && row.every((head) => this.roles[layer].has(head)))
    );
  }

  // ---- what a person does

  // Re-classifies in the view only, while a threshold is being dragged.
  show(threshold) {
    this.wanted = { ...this.wanted, rule: "threshold", threshold };
    this.roles = this.drawn(this.wanted) || this.roles;
    this.changed();
  }

  // Asks for other classes, from the next chunk of lane B on; what the server refuses is taken back and said.
  async classify(edits) {
    const before = { wanted: this.wanted, roles: this.roles },
      number = ++this.asked;
    const wanted = { ...this.wanted, ...edits };
    this.roles = this.drawn(wanted) || this.roles;
    this.wanted = wanted;
    this.changed();
    const overrides = [...wanted.overrides].map(([place, kind]) => [...place.split(",").map(Number), kind]);
    const answer = await this.ask("choose", { rule: wanted.rule, threshold: wanted.threshold, overrides });
    if (number !== this.asked) return answer;
    if (!answer.ok) Object.assign(this, before);
    else if (answer.static) this.roles = answer.static.map((row) => new Set(row));
    this.trouble(answer.ok ? "" : answer.error);
    this.changed();
    return answer;
  }

  treat(layer, head, kind) {
    const overrides = new Map(this.wanted.overrides);
    if (kind) overrides.set(`${layer},${head}`, kind);
    else overrides.delete(`${layer},${head}`);
    return this.classify({ overrides });
  }

  // As measured, static, dynamic, and round again.
  cycle(layer, head) {
    const next = { null: "static", static: "dynamic", dynamic: null };
    return this.treat(layer, head, next[this.override(layer, head)]);
  }

  // Chooses a head and pins it; beyond four the oldest pin goes.
  pick(layer, head) {
    this.selected = { layer, head };
    if (!this.pinned.some((pin) => this.is(pin, layer, head))) this.pinned = [...this.pinned, { layer, head }].slice(-PINS);
    return this.pins();
  }

  unpin(layer, head) {
    this.pinned = this.pinned.filter((pin) => !this.is(pin, layer, head) || this.is(this.selected, layer, head));
    return this.pins();
  }

  unpinAll() {
    this.pinned = [this.selected];
    return this.pins();
  }

  async pins() {
    const { layer, head } = this.selected;
    this.changed();
    const others = this.pinned.filter((pin) => !this.is(pin, layer, head)).map((pin) => [pin.layer, pin.head]);
    const answer = await this.ask("choose", { layer, head, pinned: others });
    this.trouble(answer.ok ? "" : answer.error);
    return answer;
  }

  async set(edits) {
    Object.assign(this, edits);
    this.changed();
    const sent = { ...("skip" in edits ? { skip_first: this.skip } : {}), ...("benchmark" in edits ? { benchmark: this.benchmark } : {}) };
    if (!Object.keys(sent).length) return;
    const answer = await this.ask("choose", sent);
    this.trouble(answer.ok ? "" : answer.error);
  }
}
