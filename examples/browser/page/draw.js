// Colours, maps and charts.

/** Weights below 10^-DECADES are as good as none. */
const DECADES = 4;

const dark = matchMedia('(prefers-color-scheme: dark)');

/** Colours from no attention to all of it, one list a map. */
const RAMPS = {
  light: {
    real: ['#f3f0ea', '#c4d3ec', '#5c8ad0', '#1d4a94', '#08204d'],
    mixed: ['#f3f0ea', '#e2cbea', '#b07cc4', '#6f2f86', '#33083f'],
    imaginary: ['#f3f0ea', '#f3d3b4', '#e09050', '#a8480b', '#4a1d00'],
  },
  dark: {
    real: ['#1c2025', '#22426f', '#3f78cf', '#94beff', '#f0f6ff'],
    mixed: ['#1c2025', '#4b2a59', '#9a55b3', '#dcabee', '#fbf2ff'],
    imaginary: ['#1c2025', '#63330f', '#c56a22', '#ffb273', '#fff3e6'],
  },
};

const STEPS = 256;
const channels = (hex) => [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
const between = (a, b, t) => a.map((x, i) => x + (b[i] - x) * t);

/** Calls `f` when light turns to dark or back. */
export const onScheme = (f) => dark.addEventListener('change', f);

/** A colour for each of STEPS weights. `phi` in degrees: the real ramp at 0, the mixed one at 45. */
function ramp(phi) {
  const { real, mixed, imaginary } = RAMPS[dark.matches ? 'dark' : 'light'];
  const [from, to, t] = phi <= 45
    ? [real, mixed, phi / 45] : [mixed, imaginary, (phi - 45) / 45];
  const stops = from.map((colour, i) => between(channels(colour), channels(to[i]), t));
  return Array.from({ length: STEPS }, (_, step) => {
    const place = (step / (STEPS - 1)) * (stops.length - 1);
    const i = Math.min(Math.floor(place), stops.length - 2);
    return between(stops[i], stops[i + 1], place - i).map(Math.round);
  });
}

/** The colours of a scale, as a background. */
export const gradient = (phi) =>
  `linear-gradient(90deg, ${ramp(phi).filter((_, i) => i % 15 === 0).map((c) => `rgb(${c})`)})`;

/** Draws weights [S, S] of a causal map; what no query sees stays clear. */
export function map(canvas, weights, size, phi) {
  if (canvas.width !== size) canvas.width = canvas.height = size;
  const context = canvas.getContext('2d');
  const image = context.createImageData(size, size);
  const words = new Uint32Array(image.data.buffer);
  const colours = ramp(phi).map(([r, g, b]) => (255 << 24 | b << 16 | g << 8 | r) >>> 0);
  const scale = (STEPS - 1) / DECADES;
  for (let row = 0; row < size; row++) {
    for (let at = row * size; at <= row * size + row; at++) {
      const step = (Math.log10(weights[at]) + DECADES) * scale;
      words[at] = colours[step > 0 ? Math.min(Math.round(step), STEPS - 1) : 0];
    }
  }
  context.putImageData(image, 0, 0);
}

/** Mean weight of the keys at each distance, of weights [S, S]. */
export function byDistance(weights, size) {
  const sums = new Float64Array(size);
  for (let row = 0; row < size; row++) {
    for (let key = 0; key <= row; key++) sums[row - key] += weights[row * size + key];
  }
  return sums.map((sum, distance) => sum / (size - distance));
}

/** So many tokens back lies half of the head's attention, of weights [S, S]. */
export function halfWithin(weights, size) {
  let sum = 0;
  return byDistance(weights, size).findIndex((mean, distance) =>
    (sum += mean * (size - distance)) >= size / 2);
}

const SVG = 'http://www.w3.org/2000/svg';

function element(name, attributes, text) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  if (text !== undefined) made.textContent = text;
  return made;
}

/**
 * Draws curves over distance, which is logarithmic with 0 at the left.
 * `y`: { from, to, ticks: [[value, label]], at(value): place between from and to }.
 * `curves`: [{ kind, points: [[distance, value]] }].
 */
export function chart(svg, { farthest, y, curves, label }) {
  const [, , width, height] = svg.getAttribute('viewBox').split(' ').map(Number);
  const [left, right, top, bottom] = [44, 6, 8, 34];
  const across = (distance) =>
    left + (width - left - right) * Math.log2(1 + distance) / Math.log2(1 + farthest);
  const up = (value) => {
    const share = (y.at(value) - y.at(y.from)) / (y.at(y.to) - y.at(y.from));
    return height - bottom - (height - top - bottom) * Math.min(Math.max(share, 0), 1);
  };
  const parts = [];
  for (let distance = 1, last = -99; distance <= farthest; distance *= 2) {
    const x = across(distance);
    if (x - last < 46 || x > width - 14) continue;
    last = x;
    parts.push(element('line', { class: 'grid', x1: x, x2: x, y1: top, y2: height - bottom }));
    const text = distance < 10000 ? distance : `${Math.round(distance / 1024)}k`;
    parts.push(element('text', { x, y: height - bottom + 15, 'text-anchor': 'middle' }, text));
  }
  for (const [value, text] of y.ticks) {
    const at = up(value);
    parts.push(element('line', { class: 'grid', x1: left, x2: width - right, y1: at, y2: at }));
    parts.push(element('text', { x: left - 6, y: at + 4, 'text-anchor': 'end' }, text));
  }
  parts.push(element('text', {
    x: (left + width) / 2, y: height - 3, 'text-anchor': 'middle',
  }, 'tokens back'));
  for (const { kind, points } of curves) {
    const path = points.map(([distance, value], i) =>
      `${i ? 'L' : 'M'}${across(distance).toFixed(1)} ${up(value).toFixed(1)}`).join('');
    parts.push(element('path', { class: kind, d: path }));
  }
  svg.replaceChildren(...parts);
  svg.setAttribute('aria-label', label);
}
