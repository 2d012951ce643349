// The key frames on the film, each with the heat of the map now looked at, its share, and what of it lane B no longer holds.

const FILM = 24,
  SHOT = [160, 100];

class Shots {
  constructor(gaze) {
    this.gaze = gaze;
    this.node = el("div", { class: "shots" });
    this.reset();
  }

  reset() {
    this.cells = new Map();
    this.printed = "";
    this.node.replaceChildren();
  }

  // The key frames on the film: those of the map, or of the newest measurement, or the newest pictures.
  frames() {
    const { thumbs, newest, model } = this.gaze.stage,
      known = this.gaze.seen?.frames;
    if (newest < 0 || !model.chunk) return [];
    const last = (Math.min(this.gaze.stage.on, newest) + 1) * model.chunk - 1;
    return (known || [...thumbs.frames.keys()].filter((frame) => frame <= last).slice(-model.window)).slice(-FILM);
  }

  draw(colours) {
    const frames = this.frames(),
      print = frames.join();
    if (print !== this.printed) {
      const old = this.cells;
      this.cells = new Map(frames.map((frame) => [frame, old.get(frame) || this.shot(frame)]));
      this.node.replaceChildren(...[...this.cells.values()].map(({ node }) => node));
    }
    this.printed = print;
    for (const [frame, cell] of this.cells) this.heat(cell, frame, colours);
  }

  shot(frame) {
    const canvas = el("canvas", { width: SHOT[0], height: SHOT[1], "data-frame": frame }),
      text = el("span");
    return { node: el("figure", { class: "look" }, canvas, el("figcaption", {}, el("b", {}, String(frame)), text)), canvas, text };
  }

  heat({ node, canvas, text }, frame, colours) {
    const pen = canvas.getContext("2d"),
      picture = this.gaze.stage.thumbs.frames.get(frame),
      map = this.gaze.seen,
      place = map ? map.frames.indexOf(frame) : -1;
    pen.clearRect(0, 0, ...SHOT);
    pen.filter = map ? "grayscale(0.7) brightness(0.7)" : "none";
    if (picture) pen.drawImage(picture, 0, 0, ...SHOT);
    pen.filter = "none";
    if (place >= 0 && !this.gaze.hidden(frame))
      heatmap(
        pen,
        map,
        place,
        { size: SHOT, level: (weight) => this.gaze.level(weight), lost: this.lost(frame), least: this.gaze.most * 0.02 },
        colours,
      );
    if (this.gaze.token?.frame === frame) outline(pen, this.gaze.token, this.gaze.stage.model, ...SHOT, colours);
    const share = place >= 0 ? map.share[place] : null;
    text.textContent = this.gaze.hidden(frame) ? "sink hidden" : share === null ? (map ? "not held" : "") : pctOf(share);
    node.classList.toggle("out", Boolean(map) && share === null);
  }

  // Whether lane B no longer holds a token that lane A's map tells about; null where nothing is known.
  lost(frame) {
    const b = this.gaze.map?.B;
    if (this.gaze.lane !== "A" || this.gaze.toward !== "keys" || !b) return null;
    const place = b.frames.indexOf(frame);
    return (row, column) => place < 0 || Number.isNaN(b.values[(place * b.rows + row) * b.columns + column]);
  }
}

// The token pointed at.
function outline(pen, { row, column }, { rows, columns }, width, height, colours) {
  const wide = width / columns,
    high = height / rows,
    line = width / 170;
  pen.lineWidth = 2 * line;
  pen.strokeStyle = "#ffffff";
  pen.strokeRect(column * wide + line, row * high + line, wide - 2 * line, high - 2 * line);
  pen.lineWidth = line;
  pen.strokeStyle = colours.probe;
  pen.strokeRect(column * wide + line, row * high + line, wide - 2 * line, high - 2 * line);
}
