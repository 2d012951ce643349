// What every chart draws around its data: axes, the last values at the right edge, a word while there is nothing.

const LEFT = 40,
  RIGHT = 64,
  TOP = 22,
  BOTTOM = 22;

function blank(pen, colours, width, height) {
  pen.fillStyle = colours["ink-3"];
  pen.font = `13px ${FONT}`;
  pen.textAlign = "center";
  pen.fillText("Measured while the lanes run", width / 2, height / 2);
  pen.fillStyle = colours["line-2"];
  pen.fillRect(LEFT, height - BOTTOM, width - LEFT - RIGHT, 1);
}

function axes(plot, top) {
  const { pen, colours } = plot,
    step = niceStep(Math.max(top, 1e-9), 4);
  plot.top = Math.max(step * Math.ceil((top * 1.04) / step), step);
  plot.y = (value) => plot.y0 - (value / plot.top) * (plot.y0 - plot.y1);
  pen.font = `11px ${FONT}`;
  pen.textBaseline = "middle";
  pen.lineWidth = 1;
  for (let value = 0; value <= plot.top + step / 2; value += step) {
    pen.strokeStyle = value ? colours.grid : colours["line-2"];
    pen.beginPath();
    pen.moveTo(plot.x0, Math.round(plot.y(value)) + 0.5);
    pen.lineTo(plot.x1, Math.round(plot.y(value)) + 0.5);
    pen.stroke();
    pen.fillStyle = colours["ink-3"];
    pen.textAlign = "right";
    pen.fillText(grouped(value), plot.x0 - 8, plot.y(value));
  }
  pen.textAlign = "center";
  const span = plot.last - plot.first,
    every = [1, 2, 5, 10, 20].find((n) => span / n <= 6) || 20;
  for (let chunk = plot.first; chunk <= plot.last; chunk++) {
    const number = chunk + 1,
      edge = chunk === plot.first;
    if (edge || (number % every === 0 && plot.x(chunk) - plot.x(plot.first) > 44))
      pen.fillText(edge ? `chunk ${number}` : `${number}`, Math.max(plot.x(chunk), 28), plot.y0 + 13);
  }
}

// Lane letters and last values at the right edge, pushed apart where they would overlap.
function ends(plot, labels) {
  const placed = labels.filter(Boolean).sort((a, b) => a.y - b.y),
    { pen, colours } = plot;
  if (placed.length === 2 && placed[1].y - placed[0].y < 17) {
    const middle = (placed[0].y + placed[1].y) / 2;
    placed[0].y = middle - 8.5;
    placed[1].y = middle + 8.5;
  }
  for (const { lane, y, text } of placed) {
    const left = plot.x1 + 8;
    pen.fillStyle = colours[lane.toLowerCase()];
    pen.beginPath();
    pen.roundRect(left, y - 7, 14, 14, 3);
    pen.fill();
    pen.fillStyle = colours.card;
    pen.font = `bold 10px ${FONT}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    pen.fillText(lane, left + 7, y + 0.5);
    pen.fillStyle = colours.ink;
    pen.font = `bold 11px ${FONT}`;
    pen.textAlign = "left";
    pen.fillText(text, left + 18, y + 0.5);
  }
}
