// Three live charts on canvas. x is the chunk, never wall time; the last value stands at the line's end with its lane's letter.

const SHOWN = 40;
const PHASES = [
  ["noisy", "noisy passes"],
  ["clean", "clean pass"],
  ["decode", "decode"],
  ["recache", "re-cache"],
  ["probe", "probe"],
];
const MEMORY = [
  ["stored", "stored"],
  ["read", "read"],
  ["allocated", "allocated"],
  ["expected", "by formula"],
];

class Charts {
  constructor(root) {
    this.cards = Object.fromEntries([...root.querySelectorAll("[data-chart]")].map((card) => [card.dataset.chart, card]));
    this.history = new Map();
    this.marks = [];
    this.keys();
  }

  reset() {
    this.history.clear();
    this.marks = [];
  }

  take(sample) {
    const chunk = this.history.get(sample.chunk) || {};
    chunk[sample.lane] = sample;
    this.history.set(sample.chunk, chunk);
    for (const number of this.history.keys()) if (number < sample.chunk - SHOWN) this.history.delete(number);
  }

  keys() {
    const key = (kind, text) => el("li", {}, el("i", { class: `key ${kind}` }), text);
    const put = (name, ...items) => this.cards[name].querySelector(".keys").replaceChildren(...items);
    put("speed", key("solid", "end to end"), key("dashed", "diffusion only"), key("hatch", "warm-up"));
    put("memory", key("solid", "stored"), key("dotted", "read"), key("thin", "allocated"), key("dashed", "by formula"));
    put("time", ...PHASES.map(([phase, text]) => key(phase, text)));
  }

  draw(colours, cursor) {
    const chunks = [...this.history.keys()].sort((a, b) => a - b);
    for (const [name, card] of Object.entries(this.cards)) {
      const canvas = card.querySelector("canvas");
      if (!canvas.clientWidth) continue;
      const { pen, width, height } = sharp(canvas);
      if (!chunks.length) {
        blank(pen, colours, width, height);
        continue;
      }
      const last = chunks.at(-1),
        first = chunks[0];
      const plot = {
        pen,
        colours,
        cursor,
        bars: name === "time",
        chunks,
        first,
        last: Math.max(last, first + 7),
        x0: LEFT,
        x1: width - RIGHT,
        y0: height - BOTTOM,
        y1: TOP,
      };
      plot.x = (chunk) =>
        plot.x0 + ((chunk - plot.first + (plot.bars ? 0.5 : 0)) / (plot.last - plot.first + (plot.bars ? 1 : 0))) * (plot.x1 - plot.x0);
      this[name](plot, card);
      this.events(plot);
    }
  }

  value(chunk, lane, field) {
    const sample = this.history.get(chunk)?.[lane];
    return sample ? sample[field] : null;
  }

  // Hatches the chunks that medians leave out.
  warmup({ pen, colours, x, y0, y1, chunks }) {
    const warm = chunks.filter((chunk) => this.value(chunk, "A", "warmup"));
    if (!warm.length) return;
    const from = x(warm[0]),
      to = Math.max(x(warm.at(-1)), from + 6);
    pen.save();
    pen.beginPath();
    pen.rect(from, y1, to - from, y0 - y1);
    pen.clip();
    pen.strokeStyle = colours.line;
    pen.lineWidth = 1;
    for (let at = from - (y0 - y1); at < to; at += 5) {
      pen.beginPath();
      pen.moveTo(at, y0);
      pen.lineTo(at + (y0 - y1), y1);
      pen.stroke();
    }
    pen.restore();
  }

  line(plot, lane, field, { dash = [], width = 2, step = false, scale = 1, colour }) {
    const { pen } = plot;
    pen.save();
    pen.strokeStyle = colour;
    pen.lineWidth = width;
    pen.setLineDash(dash);
    pen.lineJoin = "round";
    pen.beginPath();
    let before = null;
    for (const chunk of plot.chunks) {
      const value = this.value(chunk, lane, field);
      if (value === null) continue;
      const at = plot.x(chunk),
        high = plot.y(value / scale);
      if (before === null) pen.moveTo(at, high);
      else {
        if (step) pen.lineTo(at, before);
        pen.lineTo(at, high);
      }
      before = high;
    }
    pen.stroke();
    pen.restore();
    return before;
  }

  speed(plot, card) {
    axes(
      plot,
      Math.max(
        8,
        ...plot.chunks.flatMap((c) =>
          LANES.flatMap((lane) => [this.value(c, lane, "fps") || 0, this.value(c, lane, "fps_diffusion") || 0]),
        ),
      ),
    );
    this.warmup(plot);
    const labels = LANES.map((lane) => {
      const colour = plot.colours[lane.toLowerCase()];
      this.line(plot, lane, "fps_diffusion", { dash: [3, 3], width: 1.25, colour });
      const y = this.line(plot, lane, "fps", { width: 2.25, colour }),
        sample = this.latest(plot, lane);
      return y === null ? null : { lane, y, text: sample.text.fps };
    });
    ends(plot, labels);
    this.say(card, labels, "frames per second end to end");
  }

  memory(plot, card) {
    const top = Math.max(
      1,
      ...plot.chunks.flatMap((c) => LANES.flatMap((lane) => MEMORY.map(([field]) => this.value(c, lane, field) || 0))),
    );
    const [scale, unit] = top >= 1e9 ? [1e9, "GB"] : top >= 1e6 ? [1e6, "MB"] : [1e3, "kB"];
    card.querySelector("[data-unit]").textContent = unit;
    axes(plot, plot.chunks.length ? top / scale : 1);
    const labels = LANES.map((lane) => {
      const colour = plot.colours[lane.toLowerCase()],
        style = { step: true, scale, colour };
      this.line(plot, lane, "allocated", { ...style, width: 1 });
      this.line(plot, lane, "expected", { ...style, width: 1.25, dash: [6, 4] });
      this.line(plot, lane, "read", { ...style, width: 1.25, dash: [1.5, 3] });
      const y = this.line(plot, lane, "stored", { ...style, width: 2.25 }),
        sample = this.latest(plot, lane);
      return y === null ? null : { lane, y, text: grouped(sample.stored / scale) };
    });
    ends(plot, labels);
    this.say(card, labels, `${unit} stored`);
  }

  time(plot, card) {
    const total = (sample) => (sample ? PHASES.reduce((sum, [phase]) => sum + sample.phases[phase], 0) : 0);
    axes(plot, Math.max(10, ...plot.chunks.flatMap((c) => LANES.map((lane) => total(this.history.get(c)[lane])))));
    const { pen, colours } = plot,
      slot = (plot.x1 - plot.x0) / (plot.last - plot.first + 1),
      wide = Math.max(1.5, Math.min(9, slot * 0.4));
    const labels = LANES.map((lane, side) => {
      const colour = colours[lane.toLowerCase()];
      const paint = {
        noisy: colour,
        clean: mix(colour, colours.card, 0.4),
        decode: mix(colour, colours.card, 0.68),
        recache: colours["ink-3"],
        probe: colours.probe,
      };
      for (const chunk of plot.chunks) {
        let at = 0;
        const sample = this.history.get(chunk)[lane];
        if (!sample) continue;
        for (const [phase] of PHASES) {
          const from = plot.y(at),
            to = plot.y((at += sample.phases[phase]));
          pen.fillStyle = paint[phase];
          pen.fillRect(plot.x(chunk) + (side ? 0.5 : -wide - 0.5), to, wide, Math.max(0, from - to - (from - to > 3 ? 0.75 : 0)));
        }
      }
      const sample = this.latest(plot, lane);
      return sample ? { lane, y: plot.y(sample.ms), text: sample.text.ms } : null;
    });
    const passes = this.latest(plot, "A")?.passes;
    if (passes) this.cards.time.querySelector(".keys li").lastChild.textContent = `${passes} noisy passes`;
    ends(plot, labels);
    this.say(card, labels, "ms per chunk, probe not counted");
  }

  latest(plot, lane) {
    for (const chunk of [...plot.chunks].reverse()) {
      const sample = this.history.get(chunk)[lane];
      if (sample) return sample;
    }
    return null;
  }

  say(card, labels, what) {
    const text = labels
      .filter(Boolean)
      .map(({ lane, text }) => `lane ${lane} ${text}`)
      .join(", ");
    card.querySelector("canvas").setAttribute("aria-label", text ? `${what}: ${text}` : `${what}: nothing measured yet`);
  }

  // Diamond: policy or parameter; disc: prompt applied. Only what is in view; the cursor is the chunk on screen.
  events(plot) {
    const { pen, colours } = plot;
    for (const mark of this.marks.filter((m) => m.state !== "received" && m.chunk >= plot.first && m.chunk <= plot.last)) {
      const x = plot.x(mark.chunk),
        colour = mark.kind === "prompt" ? colours.ink : mark.lane === "A" ? colours.a : colours.b;
      pen.save();
      pen.strokeStyle = pen.fillStyle = colour;
      pen.lineWidth = 1;
      pen.setLineDash([1.5, 3]);
      pen.beginPath();
      pen.moveTo(x, plot.y1 - 6);
      pen.lineTo(x, plot.y0);
      pen.stroke();
      pen.restore();
      pen.fillStyle = colour;
      if (mark.kind === "prompt") {
        pen.beginPath();
        pen.arc(x, plot.y1 - 11, 4, 0, 7);
        pen.fill();
      } else {
        pen.save();
        pen.translate(x, plot.y1 - 11);
        pen.rotate(Math.PI / 4);
        pen.fillRect(-3.6, -3.6, 7.2, 7.2);
        pen.restore();
      }
    }
    if (plot.cursor !== null && plot.cursor >= plot.first && plot.cursor <= plot.last && plot.chunks.length) {
      pen.strokeStyle = colours.ink;
      pen.globalAlpha = 0.35;
      pen.lineWidth = 1;
      pen.beginPath();
      pen.moveTo(plot.x(plot.cursor), plot.y1);
      pen.lineTo(plot.x(plot.cursor), plot.y0);
      pen.stroke();
      pen.globalAlpha = 1;
    }
  }
}
