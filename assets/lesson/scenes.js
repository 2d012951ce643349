// What is shown between the text and the question: the cache filling, token maps, a film that becomes a curve, segments to choose.

const HOVER = 40; // ms a pointer rests before its token is asked for

function card(title, small, ...inside) {
  return el("section", { class: "box" }, el("header", {}, el("h3", {}, title), small ? el("span", { class: "small" }, small) : ""), ...inside);
}

function bytes(text) {
  return Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0));
}

function pictures(sources) {
  return sources.map((source) => {
    const image = new Image();
    image.src = source;
    return image;
  });
}

// A frame, dark where the weight is 0 and as it is where the weight is 1; weights [tokens] in [0, 1].
function lit(canvas, image, weights, rows, columns) {
  const paint = () => {
    canvas.width = image.naturalWidth;
    canvas.height = image.naturalHeight;
    const pen = canvas.getContext("2d"),
      wide = canvas.width / columns,
      high = canvas.height / rows;
    pen.drawImage(image, 0, 0);
    pen.fillStyle = "rgb(9 12 16 / 80%)";
    pen.fillRect(0, 0, canvas.width, canvas.height);
    weights.forEach((weight, place) => {
      const x = (place % columns) * wide,
        y = Math.floor(place / columns) * high;
      pen.globalAlpha = Math.min(1, weight);
      pen.drawImage(image, x, y, wide, high, x, y, wide, high);
    });
    pen.globalAlpha = 1;
  };
  if (image.complete && image.naturalWidth) paint();
  else image.addEventListener("load", paint, { once: true });
}

// The frames of a close look in order, seven in a row, each with a number below.
function film(data, images) {
  const cells = data.frames.map((frame, index) => {
    const canvas = el("canvas", { width: "128", height: "80", "aria-hidden": "true" }),
      share = el("span", {});
    const drawn = index >= data.frames.length - data.drawn;
    return { canvas, share, image: images[index], node: el("li", { title: `frame ${frame}${drawn ? ", being drawn" : ""}` }, canvas, share) };
  });
  return { cells, node: el("ol", { class: "film" }, ...cells.map((cell) => cell.node)) };
}

function percent(value) {
  return value >= 0.95 ? String(Math.round(value)) : value >= 0.05 ? value.toFixed(1) : "0";
}

// Gives a token's map through each head: level [frames * tokens] in [0, 1] and share [frames] in percent. A recording has them all; of a
// live run each token is asked for, and remembered.
function finder(lesson) {
  const { data } = lesson.step,
    tokens = data.rows * data.columns,
    size = data.frames.length * tokens;
  if (data.heads.every((head) => head.maps)) {
    const maps = data.heads.map((head) => bytes(head.maps));
    return async (place) =>
      data.heads.map((head, which) => ({
        level: Array.from(maps[which].subarray(place * size, (place + 1) * size), (value) => value / 255),
        share: head.share[place],
      }));
  }
  const known = new Map(),
    heads = data.heads.map(({ layer, head }) => [layer, head]);
  return async (place) => {
    if (known.has(place)) return known.get(place);
    const answer = await lesson.ask("token", { chunk: data.chunk, heads, row: Math.floor(place / data.columns), column: place % data.columns });
    if (!answer.ok) return { error: answer.error };
    const found = answer.maps.map((map) => {
      const values = Array.from(unpack(map.weights).values, (value) => value || 0),
        most = Math.max(...values) || 1;
      return { level: values.map((value) => Math.sqrt(value / most)), share: map.share.map((share) => 100 * (share || 0)) };
    });
    known.set(place, found);
    return found;
  };
}

const SCENES = {
  chunks(lesson, box) {
    const { data } = lesson.step,
      mine = lesson.mine(),
      count = data.lanes.A.stored.length;
    const counter = el("b", {}, "0 B"),
      words = el("span", {}, "stored"),
      button = el("button", { type: "button", class: "button ink" }, "Draw the first chunk");
    const columns = Array.from({ length: count }, (_, chunk) => {
      const shot = data.pictures[chunk] ? el("img", { src: data.pictures[chunk], alt: "" }) : "";
      const bar = (lane) =>
        data.lanes[lane] ? el("i", { class: `bar ${lane.toLowerCase()}`, style: `--share:${(data.lanes[lane].stored[chunk] || 0) / data.most}` }) : "";
      return el("li", {}, el("div", { class: "bars" }, bar("A"), bar("B")), shot, el("span", {}, String(chunk + 1)));
    });
    const strip = el("ol", { class: "chunks", "aria-hidden": "true", style: `--count:${count}` }, ...columns);
    const draw = () => {
      const drawn = mine.done ? count : mine.drawn || 0;
      columns.forEach((column, chunk) => column.classList.toggle("there", chunk < drawn));
      strip.classList.toggle("both", Boolean(mine.done));
      counter.textContent = drawn ? data.lanes.A.text[drawn - 1] : "0 B";
      words.textContent = drawn ? `stored beside chunk ${drawn}: ${data.frames[drawn - 1]} past frames` : "stored";
      button.textContent = drawn ? `Draw chunk ${drawn + 1}` : "Draw the first chunk";
      button.hidden = Boolean(mine.done) || drawn >= data.shown;
      keys.hidden = !mine.done;
    };
    button.addEventListener("click", () => {
      mine.drawn = Math.min(data.shown, (mine.drawn || 0) + 1);
      lesson.keep();
      draw();
      lesson.say(`Chunk ${mine.drawn} drawn. Lane A stores ${counter.textContent}.`);
    });
    const keys = el("p", { class: "small legend" }, ...Object.entries(data.lanes).flatMap(([lane, one]) => [letter(lane), ` ${one.label}  `]));
    box.replaceChildren(
      card("Lane A's cache", "bytes of keys and values", el("p", { class: "counter" }, counter, " ", words), strip, keys, el("p", { class: "row" }, button)),
    );
    draw();
    return { reveal: draw };
  },

  token(lesson, box) {
    const { data } = lesson.step,
      { rows, columns } = data,
      tokens = rows * columns,
      images = pictures(data.pictures);
    const find = finder(lesson),
      films = data.heads.map(() => film(data, images));
    const cells = Array.from({ length: tokens }, (_, place) =>
      el("button", {
        type: "button", tabindex: "-1", "data-place": String(place), "aria-pressed": "false",
        "aria-label": `Token in row ${Math.floor(place / columns)}, column ${place % columns}`,
      }),
    );
    const grid = el("div", { class: "grid", role: "group", "aria-label": "Tokens of the newest frame; arrow keys move", style: `--columns:${columns}` }, ...cells);
    const told = el("p", { class: "small told", role: "status" });
    const name = (head) => `L${head.layer} H${head.head}`;
    const draw = (place, found) => {
      const most = found.map(({ share }) => share.indexOf(Math.max(...share)));
      data.heads.forEach((head, which) => {
        films[which].cells.forEach((cell, frame) => {
          lit(cell.canvas, cell.image, found[which].level.slice(frame * tokens, (frame + 1) * tokens), rows, columns);
          cell.share.textContent = percent(found[which].share[frame]);
        });
        films[which].node.dataset.map = [head.layer, head.head, data.chunk, Math.floor(place / columns), place % columns].join();
      });
      const says = data.heads.map((head, which) => `${name(head)} most at frame ${data.frames[most[which]]} (${percent(found[which].share[most[which]])} %)`);
      told.textContent = `Row ${Math.floor(place / columns) + 1}, column ${(place % columns) + 1} looks through ${says.join(", through ")}.`;
    };
    const choose = async (place) => {
      lesson.places[lesson.step.source.of] = place;
      cells.forEach((cell, index) => {
        cell.tabIndex = index === place ? 0 : -1;
        cell.classList.toggle("on", index === place);
        cell.setAttribute("aria-pressed", String(index === place));
      });
      const found = await find(place);
      if (lesson.places[lesson.step?.source?.of] !== place || !grid.isConnected) return;
      if (found.error) told.textContent = found.error;
      else draw(place, found);
    };
    let soon = null;
    const aim = (target, wait) => {
      clearTimeout(soon);
      if (target.dataset.place) soon = setTimeout(() => choose(+target.dataset.place), wait);
    };
    grid.addEventListener("pointerover", (event) => aim(event.target, HOVER));
    for (const kind of ["focusin", "click"]) grid.addEventListener(kind, (event) => aim(event.target, 0));
    grid.addEventListener("keydown", (event) => {
      const by = { ArrowLeft: -1, ArrowRight: 1, ArrowUp: -columns, ArrowDown: columns }[event.key],
        to = +event.target.dataset.place + by;
      if (!by) return;
      event.preventDefault();
      event.stopPropagation();
      if (to >= 0 && to < tokens) cells[to].focus();
    });
    const newest = el("div", { class: "newest" }, el("img", { src: data.pictures.at(-1), alt: `Frame ${data.frames.at(-1)}, the newest` }), grid);
    box.replaceChildren(
      el(
        "div",
        { class: "looking" },
        card("The newest frame", `frame ${data.frames.at(-1)}`, newest, el("p", { class: "small" }, "Point at a token, or tab to the frame and use the arrow keys."), told),
        ...data.heads.map((head, which) => card(`Head ${name(head)}`, "where this token looks, oldest frame first", films[which].node)),
      ),
    );
    choose(lesson.places[lesson.step.source.of] ?? data.start);
    return {};
  },

  curve(lesson, box) {
    const { data } = lesson.step,
      { rows, columns, head } = data,
      tokens = rows * columns,
      shown = film(data, pictures(data.pictures)),
      level = Array.from(bytes(data.mean), (value) => value / 255);
    shown.cells.forEach((cell, frame) => lit(cell.canvas, cell.image, level.slice(frame * tokens, (frame + 1) * tokens), rows, columns));
    const curve = el("div", { class: "slot" });
    box.replaceChildren(card(`Head L${head.layer} H${head.head}`, "where it looks, oldest frame first; brightness is the square root of the weight", shown.node, curve));
    const reveal = () => {
      curve.replaceChildren(el("p", { class: "small" }, "Summed per frame, in percent:"), bars(data.bars, { kind: "plain", last: data.last, values: true }));
    };
    if (lesson.mine().done) reveal();
    return { reveal };
  },

  forget(lesson, box) {
    const { data } = lesson.step,
      mine = lesson.mine(),
      similar = data.residency.similarity,
      all = similar.bars.flat(),
      low = Math.min(...all),
      high = Math.max(...all),
      scene = { kept: (place) => similar.kept.flat()[place] };
    const buttons = [];
    const frames = similar.frames.map((frame, at) => {
      const bands = similar.bars[at].map((value, part) => {
        const place = buttons.length;
        const button = el(
          "button",
          { type: "button", class: "band", "aria-pressed": "false", "data-band": String(place), style: `--share:${high > low ? 0.08 + (0.92 * (value - low)) / (high - low) : 1}`, "aria-label": `Frame ${frame}, segment ${part + 1}: similarity ${value.toFixed(2)}` },
          el("i", {}),
          el("span", {}, value.toFixed(2)),
        );
        button.addEventListener("click", () => toggle(place));
        buttons.push(button);
        return button;
      });
      const shot = data.pictures[frame] ? el("img", { src: data.pictures[frame], alt: "" }) : el("div", { class: "noshot" });
      return el("div", { class: "segments" }, el("p", { class: "small" }, `Frame ${frame}`), el("div", { class: "pair" }, shot, el("div", { class: "bands" }, ...bands)));
    });
    const draw = () => {
      buttons.forEach((button, place) => {
        const on = (mine.answer || []).includes(place);
        button.setAttribute("aria-pressed", String(on));
        button.disabled = Boolean(mine.done);
        button.classList.toggle("kept", Boolean(mine.done) && scene.kept(place));
      });
    };
    const toggle = (place) => {
      const now = mine.answer || [];
      mine.answer = now.includes(place) ? now.filter((other) => other !== place) : now.length < data.count ? [...now, place] : [...now.slice(1), place];
      lesson.keep();
      draw();
      scene.changed?.();
    };
    const strip = el("div", { class: "slot" });
    scene.reveal = () => {
      draw();
      strip.replaceChildren(held(data.residency));
    };
    box.replaceChildren(card("Segments about to be forgotten", "bar: similarity to the same place one frame later", el("div", { class: "candidates" }, ...frames), strip));
    draw();
    if (mine.done) scene.reveal();
    return scene;
  },
};

// Which frames each class of heads holds, with the letters of the live page.
function held(residency) {
  const frames = [...new Set(residency.kept.flatMap((kept) => kept.frames.map(([frame]) => frame)))].sort((a, b) => a - b);
  const rows = residency.kept.map((kept) => {
    const by = new Map(kept.frames.map(([frame, mark, parts]) => [frame, { mark, parts }]));
    const cells = frames.map((frame) => {
      const one = by.get(frame);
      if (!one) return el("span", { class: "hold none", title: `frame ${frame}: forgotten` });
      const parts = one.parts.length > 1 && one.parts.some((share) => share < 1);
      return parts
        ? el("span", { class: "hold parts", title: `frame ${frame}` }, ...one.parts.map((share) => el("i", { class: share > 0 ? "D" : "" })))
        : el("span", { class: `hold ${one.mark}`, title: `frame ${frame}` }, one.mark);
    });
    return el("div", { class: "holding", style: `--count:${frames.length}` }, el("b", {}, kept.name), ...cells);
  });
  const axis = el("div", { class: "holding axis", style: `--count:${frames.length}` }, el("b", {}, "frame"), ...frames.map((frame) => el("span", {}, String(frame))));
  const key = ["S first frame", "L newest", "D segments kept", "C being drawn"].map((text) => el("span", {}, text));
  return el("div", { class: "residency" }, el("p", { class: "small" }, `What lane B holds beside chunk ${residency.chunk + 1}`), ...rows, axis, el("p", { class: "small legend" }, ...key));
}
