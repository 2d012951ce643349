// What stands in words and numbers around the panes: state, sentences, pane numbers, the verdict.

const STATUS = {
  idle: "Ready",
  loading: "Loading the model",
  queue: "Waiting",
  running: "Running",
  paused: "Paused",
  ended: "Ended",
  error: "Stopped",
};
const CLAIMS = {
  speed: { title: "B against A, end to end", detail: "Needs five chunks after the start or the last change." },
  kept: { title: "of A's cache", detail: "Stored bytes of both lanes." },
  psnr: { title: "B against A, frame by frame", detail: "Difference from A, not quality." },
};

class Board {
  constructor(root) {
    this.root = root;
    this.name = "idle";
    this.samples = {};
    this.shown = {};
    const cell = (name, unit, below) =>
      el(
        "div",
        { class: "number" },
        el("p", {}, el("b", { [`data-${name}`]: true }, "–"), el("span", { [`data-${name}-unit`]: true }, unit)),
        el("small", { [`data-${name}-below`]: true }, below),
      );
    for (const lane of LANES)
      this.box(lane).replaceChildren(
        letter(lane),
        cell("fps", "FPS", "end to end"),
        cell("ms", "ms", "per chunk"),
        cell("stored", "MB", "cache stored"),
      );
    this.verdict(null);
  }

  find(selector) {
    return this.root.querySelector(selector);
  }
  box(lane) {
    return this.find(`.numbers[data-lane="${lane}"]`);
  }
  screen(lane) {
    return this.find(`.screen[data-lane="${lane}"]`);
  }

  reset(model) {
    this.samples = {};
    this.shown = {};
    this.sentence("");
    this.verdict(null);
    for (const lane of LANES) this.number(lane, null, model);
  }

  // `where` is what is going on now; without a text the state's own words are used.
  state(name, { newest = -1, limit = 0, text = "" } = {}) {
    this.name = this.root.dataset.state = document.body.dataset.fkv = name;
    const where = newest >= 0 && (name === "running" || name === "paused") ? ` · chunk ${newest + 1}${limit ? ` of ${limit}` : ""}` : "";
    this.find("[data-status] span").textContent = text || STATUS[name] + where;
    const hint = {
      running: "The first chunk is being drawn",
      queue: text,
      loading: "The model is being loaded",
      error: "Nothing was generated",
    };
    for (const empty of this.root.querySelectorAll("[data-empty]")) {
      empty.hidden = newest >= 0;
      empty.textContent = hint[name] || "Press Start: the video is generated here, live";
    }
  }

  sentence(text, error = false) {
    const line = this.find("[data-sentence]");
    line.hidden = !text;
    line.textContent = text;
    line.classList.toggle("error", error);
  }

  say(text) {
    this.find("[data-said]").textContent = text;
  }

  label(lane, text) {
    const short = text.length > 24 ? text.split(",")[0] : text,
      tag = this.screen(lane).querySelector("[data-label]");
    tag.textContent = short;
    tag.title = text;
    if (lane === "B") this.find("[data-label-b]").textContent = short;
  }

  number(lane, sample, model) {
    const box = this.box(lane),
      put = (name, text) => {
        box.querySelector(`[data-${name}]`).textContent = text;
      };
    if (sample) this.samples[lane] = sample;
    this.below(lane);
    for (const name of ["fps", "ms", "stored"]) put(name, sample ? sample.text[name] : "–");
    put("stored-unit", sample ? sample.text.unit : "MB");
    put("ms-below", model.chunk ? `per chunk of ${model.chunk}` : "per chunk");
    box.title = sample ? sample.text.window : "";
    if (sample)
      this.find("[data-honest]").textContent =
        `Honest meter: probe ${sample.text.probe} % of the time and counted in neither lane, attention kernels untouched. Memory in use ${sample.text.memory}.`;
  }

  // Displayed speed is counted in this page, from frames really drawn; a dash while the panes do not follow the run.
  count(player) {
    const live = player.scrub === null && player.pace === "lockstep" && this.name === "running";
    for (const lane of LANES) {
      this.shown[lane] = live ? player.displayed(lane).toFixed(1) : "–";
      this.below(lane);
    }
  }

  // The two other speeds of a lane; diffusion is of the chunk that stands above it.
  below(lane) {
    const sample = this.samples[lane];
    this.box(lane).querySelector("[data-fps-below]").textContent = sample
      ? `${sample.text.diffusion} diffusion · ${this.shown[lane] || "–"} shown`
      : "end to end";
  }

  verdict(event) {
    const block = (name) => {
      const part = event ? event[name] : { ...CLAIMS[name], value: "", unit: "not measured yet" };
      const bar =
        name === "kept"
          ? el("div", { class: "share", "aria-hidden": "true" }, el("i", { style: `width:${100 * Math.min(1, part.share || 0)}%` }))
          : null;
      return el(
        "div",
        { class: `claim ${part.value ? "" : "waiting"}`, "data-claim": name },
        el("p", { class: "big" }, el("b", {}, part.value), " ", el("span", {}, part.unit)),
        el("p", { class: "what" }, part.title),
        el("p", { class: "how" }, part.detail),
        bar,
      );
    };
    this.find(".verdict").replaceChildren(...Object.keys(CLAIMS).map(block));
  }

  // The frame on screen, for the tags and for a screen reader.
  caption(player, chunk, frames) {
    for (const lane of LANES) {
      const its = player.find(lane, frames[lane]),
        screen = this.screen(lane),
        text = its ? `frame ${player.latent(its, frames[lane])}` : "ended";
      const tag = screen.querySelector("[data-frame]"),
        canvas = screen.querySelector("canvas"),
        label = `Lane ${lane}, ${screen.querySelector("[data-label]").title}, chunk ${chunk.chunk + 1}`;
      if (tag.textContent !== text) tag.textContent = text;
      if (canvas.getAttribute("aria-label") !== label) canvas.setAttribute("aria-label", label);
    }
  }

  racing({ from, to }, frames) {
    const lead = frames.B - frames.A,
      far = `${Math.abs(lead)} ${Math.abs(lead) === 1 ? "frame" : "frames"} ahead`;
    this.sentence(
      `Replay of chunks ${from + 1} to ${to + 1}, each lane at the speed it was made: ${lead === 0 ? "level" : `${lead > 0 ? "B" : "A"} is ${far}`}.`,
    );
  }
}
