// The first view: maps of a head, the text that they are of, and attention against distance.

import { byDistance, chart, gradient, halfWithin, map, onScheme } from './draw.js';

const $ = (id) => document.getElementById(id);
const figures = Object.fromEntries(['real', 'mixed', 'imaginary'].map((name) => {
  const figure = document.querySelector(`[data-map=${name}]`);
  const [canvas, row, column] = ['canvas', '.row', '.column'].map((s) => figure.querySelector(s));
  return [name, { canvas, row, column }];
}));
const percent = (weight) => {
  const share = 100 * weight;
  return share >= 9.95 ? `${share.toFixed(0)} %` : `${share.toFixed(1)} %`;
};

/** What is drawn now. Planes are weights [S, S]. */
export const view = {
  size: 0,
  pieces: [],
  planes: { real: undefined, mixed: undefined, imaginary: undefined },
  phi: 45,
  query: 0,
  key: undefined,
};

/** A row of radio buttons that look like one control. */
export function segments(fieldset, name, choices, chosen, onChoice) {
  fieldset.querySelector('.segments')?.remove();
  const box = document.createElement('div');
  box.className = 'segments';
  for (const [value, text] of choices) {
    const input = Object.assign(document.createElement('input'), {
      type: 'radio', name, value, id: `${name}-${value}`, checked: value === chosen,
    });
    input.addEventListener('change', () => onChoice(value));
    const label = Object.assign(document.createElement('label'), { htmlFor: input.id });
    label.textContent = text;
    box.append(input, label);
  }
  fieldset.append(box);
}

/** Takes another text. */
export function setText(pieces) {
  view.pieces = pieces;
  view.size = pieces.length;
  // Those of the text before.
  view.planes = { real: undefined, mixed: undefined, imaginary: undefined };
  view.key = undefined;
  // A place in the middle of the text that has something to look back at.
  const rabbit = pieces.lastIndexOf(' Rabbit');
  view.query = rabbit >= 0 ? rabbit : Math.floor(pieces.length * 0.6);
  const spans = pieces.map((piece, place) => {
    const span = document.createElement('span');
    span.textContent = piece;
    span.dataset.place = place;
    return span;
  });
  $('text').replaceChildren(...spans);
}

/** Shows planes as they come; `planes` may have some of them. */
export function show(planes, phi) {
  Object.assign(view.planes, planes);
  view.phi = phi;
  const { size } = view;
  const degrees = { real: 0, mixed: phi, imaginary: 90 };
  for (const [name, weights] of Object.entries(planes)) {
    map(figures[name].canvas, weights, size, degrees[name]);
  }
  $('mixed-name').className = { 0: 'real', 90: 'imaginary' }[phi] ?? 'mixed';
  $('mixed-name').textContent = { 0: 'Real', 90: 'Imaginary' }[phi] ?? 'Between';
  const [cos, sin] = [Math.cos, Math.sin].map((f) => f(phi * Math.PI / 180).toFixed(2));
  $('mixed-formula').textContent = `${cos} Re z + ${sin} Im z`;
  document.querySelector('.scale i').style.background = gradient(0);
  drawDistance();
  drawChoice();
}

/** Curves of the head's mean weights. */
function drawDistance() {
  const { planes, size, phi } = view;
  if (!planes.real) return;
  const kinds = ['real', 'imaginary'].concat(planes.mixed && phi > 0 && phi < 90 ? ['mixed'] : []);
  const curves = kinds.map((kind) => ({ kind, points: smooth(byDistance(planes[kind], size)) }));
  // What a row without preference gives each of its keys, as a mean over the rows.
  const even = new Float64Array(size);
  for (let row = size - 1, sum = 0; row >= 0; row--) {
    sum += 1 / (row + 1);
    even[row] = sum / (size - row);
  }
  curves.unshift({ kind: 'grey', points: smooth(even) });
  const ticks = [[1, '100 %'], [0.1, '10 %'], [0.01, '1 %'], [0.001, '0.1 %'], [0.0001, '0.01 %']];
  const [real, imaginary] = ['real', 'imaginary'].map((kind) => halfWithin(planes[kind], size));
  const said = `Half of the real part’s attention lies within ${real} tokens, half of the imaginary `
    + `part’s within ${imaginary}.`;
  const y = { from: 0.0001, to: 1, ticks, at: (v) => Math.log10(Math.max(v, 1e-9)) };
  chart($('distance'), { farthest: size - 1, y, curves, label: said });
  $('distance-said').textContent = `${said} Dashed: no preference.`;
}

/** Means over neighbouring distances, more of them further away. */
function smooth(values) {
  const points = [];
  for (let from = 0; from < values.length;) {
    const to = Math.min(Math.max(from + 1, Math.floor(from * 1.09)), values.length);
    let sum = 0;
    for (let i = from; i < to; i++) sum += values[i];
    points.push([(from + to - 1) / 2, sum / (to - from)]);
    from = to;
  }
  return points;
}

/** The chosen row and key: in the maps, in the text, in words. */
function drawChoice() {
  const { size, query, key, planes, pieces } = view;
  if (!size) return;
  for (const [name, { canvas, row, column }] of Object.entries(figures)) {
    const place = (i) => `${100 * (i + 0.5) / size}%`;
    row.style.top = place(query);
    row.style.width = `${100 * (query + 1) / size}%`;
    column.hidden = key === undefined;
    if (key !== undefined) {
      column.style.left = place(key);
      column.style.top = place(key);
    }
    canvas.setAttribute('aria-label', `${{
      real: 'Real map', mixed: `Map at ${view.phi} degrees`, imaginary: 'Imaginary map',
    }[name]}, ${size} by ${size} tokens. The arrow keys choose a token and a token before it.`);
  }
  if (!planes.real) return;
  const rows = ['real', 'imaginary'].map((name) =>
    planes[name].subarray(query * size, query * size + query + 1));
  const most = rows.map((weights) => weights.reduce((a, b) => Math.max(a, b), 0));
  [...$('text').children].forEach((span, place) => {
    span.classList.toggle('chosen', place === query);
    span.classList.toggle('later', place > query);
    // The tail of a softmax is long: what has less than 2 % of the most is left white.
    const share = (i) => {
      const part = place <= query ? rows[i][place] / most[i] : 0;
      return part < 0.02 ? 0 : (part ** 0.6).toFixed(3);
    };
    span.style.setProperty('--re', share(0));
    span.style.setProperty('--im', share(1));
  });
  const spell = (place) => `“${pieces[place].trim() || '⏎'}”`;
  const favourites = (weights) => {
    const places = [...weights.keys()].sort((a, b) => weights[b] - weights[a]).slice(0, 3);
    return places.map((place) => {
      const back = query - place;
      return `${spell(place)} ${back ? `${back} back` : 'itself'}, ${percent(weights[place])}`;
    }).join('; ');
  };
  const said = $('said');
  said.replaceChildren();
  const add = (tag, text, kind) => {
    const part = Object.assign(document.createElement(tag), { textContent: text });
    if (kind) part.className = kind;
    said.append(part);
  };
  add('span', `${spell(query)}: `);
  add('b', 'real', 'real');
  add('span', ` looks at ${favourites(rows[0])} · `);
  add('b', 'imaginary', 'imaginary');
  add('span', ` at ${favourites(rows[1])}.`);
  if (key !== undefined && key <= query) {
    add('span', ` Here ${spell(key)}, ${query - key} back: ${percent(rows[0][key])} and ${
      percent(rows[1][key])}.`);
  }
}

/** Chooses a token, and a token before it. */
export function choose(query, key) {
  const clamp = (i) => Math.min(Math.max(i, 0), view.size - 1);
  view.query = clamp(query);
  view.key = key === undefined ? undefined : Math.min(clamp(key), view.query);
  drawChoice();
}

for (const { canvas } of Object.values(figures)) {
  const at = (event) => {
    const box = canvas.getBoundingClientRect();
    const place = (x, length) => Math.floor(x / length * view.size);
    choose(place(event.clientY - box.top, box.height), place(event.clientX - box.left, box.width));
  };
  canvas.addEventListener('pointermove', at);
  canvas.addEventListener('pointerdown', at);
  canvas.addEventListener('keydown', (event) => {
    const step = event.shiftKey ? 10 : 1;
    const { query, key = view.query } = view;
    const to = {
      ArrowUp: [query - step, key], ArrowDown: [query + step, key],
      ArrowLeft: [query, key - step], ArrowRight: [query, key + step],
    }[event.key];
    if (!to) return;
    event.preventDefault();
    choose(...to);
  });
}

$('text').addEventListener('pointerover', (event) => {
  const place = event.target.dataset?.place;
  if (place !== undefined) choose(Number(place));
});
$('text').addEventListener('keydown', (event) => {
  const steps = { ArrowLeft: -1, ArrowUp: -1, ArrowRight: 1, ArrowDown: 1 };
  if (!(event.key in steps)) return;
  event.preventDefault();
  choose(view.query + steps[event.key]);
});
onScheme(() => { if (view.planes.real) show({ ...view.planes }, view.phi); });
