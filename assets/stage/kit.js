// Small things every part of the stage uses: elements, colours from CSS, sharp canvases, ticks.

const LANES = ["A", "B"];
const FONT = '-apple-system, BlinkMacSystemFont, "Segoe UI", Roboto, "Helvetica Neue", Arial, "Liberation Sans", system-ui, sans-serif';

function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

function letter(lane) {
  return el("b", { class: `letter ${lane.toLowerCase()}` }, lane);
}

function glyph(kind) {
  return el("i", { class: `glyph ${kind}`, "aria-hidden": "true" });
}

function palette(root) {
  const style = getComputedStyle(root);
  const colour = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = [
    "ink",
    "ink-2",
    "ink-3",
    "grid",
    "line",
    "line-2",
    "card",
    "sunk",
    "a",
    "b",
    "b-soft",
    "static",
    "dynamic",
    "sink",
    "probe",
    "middle",
    "last",
    "current",
    "gone",
    "heat-0",
    "heat-1",
    "heat-2",
    "heat-3",
  ];
  return Object.fromEntries(names.map((name) => [name, colour(name)]));
}

function rgb(hex) {
  const value = parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

function mix(from, to, share) {
  const a = rgb(from),
    b = rgb(to);
  return `rgb(${a.map((x, i) => Math.round(x + (b[i] - x) * share)).join(",")})`;
}

function contrast(colour) {
  const [r, g, b] = colour.match(/\d+/g).map((x) => {
    const c = x / 255;
    return c <= 0.03928 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000000" : "#ffffff"; // either way at least 4.5 to 1
}

function sharp(canvas) {
  const ratio = window.devicePixelRatio || 1,
    width = canvas.clientWidth,
    height = canvas.clientHeight;
  const wide = Math.round(width * ratio),
    high = Math.round(height * ratio);
  if (canvas.width !== wide || canvas.height !== high) {
    canvas.width = wide;
    canvas.height = high;
  }
  const pen = canvas.getContext("2d");
  pen.setTransform(ratio, 0, 0, ratio, 0, 0);
  pen.clearRect(0, 0, width, height);
  return { pen, width, height };
}

function niceStep(top, most) {
  const rough = top / most,
    power = 10 ** Math.floor(Math.log10(rough));
  return [1, 2, 2.5, 5, 10].map((m) => m * power).find((step) => step >= rough * 0.999);
}

function grouped(value) {
  return value.toLocaleString("en-US", { maximumFractionDigits: value < 10 ? 2 : 1 });
}

function choice(root, name, choose) {
  const group = root.querySelector(`[data-choice="${name}"]`);
  const set = (value) => {
    for (const button of group.querySelectorAll("button")) button.setAttribute("aria-pressed", String(button.dataset.value === value));
    choose(value);
  };
  group.addEventListener("click", (event) => {
    const button = event.target.closest("button");
    if (button) set(button.dataset.value);
  });
  return set;
}

// Numbers as the server packs them: 16 bits each, nan for what is not there.
function unpack({ shape, peak, data }) {
  const bytes = Uint8Array.from(atob(data), (c) => c.charCodeAt(0)),
    levels = new Uint16Array(bytes.buffer);
  return { shape, values: Float32Array.from(levels, (level) => (level === 65535 ? NaN : (level / 65534) * peak)) };
}
