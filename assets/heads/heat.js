// A token's map as picture: opening what was sent, colours by level, cells of heat, and what lane B no longer holds.

function same(one, other) {
  return Boolean(one && other) && one.frame === other.frame && one.row === other.row && one.column === other.column;
}

function opened(map) {
  const { shape, values } = unpack(map.weights);
  return { ...map, values, rows: shape[1], columns: shape[2] };
}

function top(map, wanted = () => true) {
  if (!map) return 0;
  const size = map.rows * map.columns;
  let most = 0;
  map.frames.forEach((frame, place) => {
    if (wanted(frame)) for (let i = place * size; i < (place + 1) * size; i++) if (map.values[i] > most) most = map.values[i];
  });
  return most;
}

function pctOf(share) {
  const value = 100 * share;
  return value === 0 ? "0 %" : value < 0.1 ? `${value.toFixed(2)} %` : value < 10 ? `${value.toFixed(1)} %` : `${Math.round(value)} %`;
}

function heatColour(level, colours) {
  const stops = [0, 1, 2, 3].map((stop) => colours[`heat-${stop}`]),
    at = Math.max(0, Math.min(2.999, level * 3)),
    low = Math.floor(at);
  return mix(stops[low], stops[low + 1], at - low);
}

// Diagonal strokes over a token that is gone.
function dashes(pen, [x, y, wide, high], colour) {
  pen.save();
  pen.beginPath();
  pen.rect(x, y, wide, high);
  pen.clip();
  pen.strokeStyle = colour;
  pen.lineWidth = 1;
  for (let at = x - high; at < x + wide; at += 5) {
    pen.beginPath();
    pen.moveTo(at, y + high);
    pen.lineTo(at + high, y);
    pen.stroke();
  }
  pen.restore();
}

// A dashed line around everything that is gone.
function border(pen, rows, columns, wide, high, lost, colour) {
  pen.save();
  pen.strokeStyle = colour;
  pen.lineWidth = 1.5;
  pen.setLineDash([4, 3]);
  pen.beginPath();
  const out = (row, column) => row >= 0 && row < rows && column >= 0 && column < columns && lost(row, column);
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      if (!lost(row, column)) continue;
      const [x, y] = [column * wide, row * high];
      const side = (open, x0, y0, x1, y1) => open && (pen.moveTo(x0, y0), pen.lineTo(x1, y1));
      side(!out(row - 1, column), x, y + 1, x + wide, y + 1);
      side(!out(row + 1, column), x, y + high - 1, x + wide, y + high - 1);
      side(!out(row, column - 1), x + 1, y, x + 1, y + high);
      side(!out(row, column + 1), x + wide - 1, y, x + wide - 1, y + high);
    }
  pen.stroke();
  pen.restore();
}

// One frame's cells. level: weight to [0, 1]; lost: whether lane B no longer holds a cell (or null); least: the weight worth hatching.
function heatmap(pen, map, place, { size, level, lost, least }, colours) {
  const { rows, columns } = map,
    wide = size[0] / columns,
    high = size[1] / rows;
  for (let row = 0; row < rows; row++)
    for (let column = 0; column < columns; column++) {
      const weight = map.values[(place * rows + row) * columns + column],
        held = !Number.isNaN(weight),
        shown = held ? Math.min(1, level(weight)) : 0,
        box = [column * wide, row * high, wide, high];
      pen.fillStyle = held ? heatColour(shown, colours) : colours.sunk;
      pen.globalAlpha = held ? 0.1 + 0.8 * Math.sqrt(shown) : 0.85;
      pen.fillRect(...box);
      pen.globalAlpha = 1;
      if (lost && weight > least && lost(row, column)) dashes(pen, box, colours.gone);
    }
  if (lost) border(pen, rows, columns, wide, high, lost, colours.gone);
}

// The map on the frame on screen itself: only what is bright, so that the picture stays.
function glow(pen, { rows, columns, values }, place, level, colours) {
  const { width, height } = pen.canvas;
  for (let index = 0; index < rows * columns; index++) {
    const shown = Math.min(1, level(values[place * rows * columns + index]));
    if (!(shown > 0.1)) continue;
    pen.fillStyle = heatColour(shown, colours);
    pen.globalAlpha = 0.7 * Math.sqrt(shown);
    pen.fillRect(((index % columns) * width) / columns, (Math.floor(index / columns) * height) / rows, width / columns, height / rows);
  }
  pen.globalAlpha = 1;
}
