// How far back the chosen head can be looked at: a mark for every chunk of the film, filled where queries and keys are kept.

class Reach {
  constructor(gaze) {
    this.gaze = gaze;
    this.chunks = [];
    this.marks = el("div", { class: "marks", "aria-hidden": "true" });
    this.words = el("p", { class: "small" });
    const step = (text, label, by) =>
      el("button", { type: "button", class: "plain", "aria-label": label, onclick: () => this.step(by) }, text);
    this.earlier = step("‹", "Show the kept chunk before this one", -1);
    this.later = step("›", "Show the kept chunk after this one", 1);
    this.node = el(
      "div",
      { class: "reach", role: "group", "aria-label": "Chunks that can be looked at" },
      this.earlier,
      this.marks,
      this.later,
      this.words,
    );
    this.marks.addEventListener("click", (event) => event.target.dataset.chunk && this.show(+event.target.dataset.chunk));
  }

  reset() {
    this.chunks = [];
    this.asked = this.print = "";
  }

  // Chunks on the film, oldest first.
  get film() {
    const { player } = this.gaze.stage;
    return [...player.chunks[player.lead].keys()].sort((a, b) => a - b);
  }

  show(chunk) {
    this.gaze.stage.seek(chunk);
  }

  step(by) {
    const { on } = this.gaze.stage,
      film = new Set(this.film),
      there = this.chunks.filter((chunk) => film.has(chunk) && (by < 0 ? chunk < on : chunk > on)),
      next = by < 0 ? there.at(-1) : there[0];
    if (next !== undefined) this.show(next);
  }

  // Asked again when another head is chosen and when a chunk has been measured.
  async ask() {
    const { stage, store } = this.gaze,
      { layer, head } = store.selected,
      measured = [...stage.maps.keys()].at(-1) ?? -1,
      wish = `${stage.run},${layer},${head},${measured}`;
    if (wish === this.asked || measured < 0) return;
    this.asked = wish;
    const answer = await stage.ask("lookable", { layer, head });
    if (wish !== this.asked) return;
    this.chunks = answer.ok ? answer.chunks : [];
    this.words.textContent = answer.ok ? `Can be looked at: ${answer.text}.` : answer.error;
    store.changed();
  }

  draw() {
    this.ask();
    const { on } = this.gaze.stage,
      film = this.film,
      kept = new Set(this.chunks),
      print = JSON.stringify([film[0], film.length, on, this.chunks]);
    this.node.hidden = !film.length;
    if (print === this.print) return;
    this.print = print;
    const mark = (chunk) => {
      const title = `Chunk ${chunk + 1}: ${kept.has(chunk) ? "can be looked at" : "not kept for looking"}`;
      return el("i", { class: `${kept.has(chunk) ? "kept" : ""} ${chunk === on ? "on" : ""}`, "data-chunk": String(chunk), title });
    };
    this.marks.replaceChildren(...film.map(mark));
    this.earlier.disabled = !this.chunks.some((chunk) => chunk < on && chunk >= film[0]);
    this.later.disabled = !this.chunks.some((chunk) => chunk > on);
  }
}
