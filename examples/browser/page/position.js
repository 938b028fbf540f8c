// The rotation's rule: sliders, curves, and small copies of the maps.

import { curves } from './pkg/phasor_browser.js';
import { chart, onScheme } from './draw.js';
import { segments } from './look.js';
import { refresh } from './page.js';

const $ = (id) => document.getElementById(id);
const RULES = [
  ['plain', 'plain'], ['linear', 'linear'], ['ntk', 'NTK-aware'], ['yarn', 'YaRN'],
  ['longrope', 'LongRoPE'],
];
const SAID = {
  plain: 'Pair j turns by θ^(−2j/D) radians a token.',
  linear: 'Every pair turns s times slower.',
  ntk: 'A larger base: slow pairs turn up to s times slower, fast ones hardly.',
  yarn: 'Pairs that turn often within L₀ stay, those that turn less than once turn s times '
    + 'slower; scores grow by (0.1 ln s + 1)².',
  longrope: 'A divisor for every pair, searched for a model; here they rise from 1 to s. Scores '
    + 'grow by 1 + ln s / ln L₀.',
};
const FARTHEST = 65535;
/** Distances that are drawn, and those around each that its point is the mean of: the sums shake. */
const points = (() => {
  const all = new Set();
  for (let x = 0; x <= 16; x += 0.1) all.add(Math.round(2 ** x) - 1);
  return [...all].map((distance) => {
    const around = new Set();
    for (let i = -6; i <= 6; i++) around.add(Math.round(distance * (1 + i / 80)));
    return { distance, around: [...around] };
  });
})();
const distances = Uint32Array.from(points.flatMap(({ around }) => around));

const state = { name: 'plain', model: { theta: 1e5, headDim: 64 } };
const values = () => ({
  theta: state.exact ?? 10 ** Number($('theta').value),
  factor: 2 ** Number($('factor').value),
  original: 2 ** Number($('original').value),
});

/** What `Maps.rotate` takes. */
export function rule() {
  const { theta, factor, original } = values();
  return [state.name, theta, factor, original];
}

/** The model whose layer is open: its own base is where the slider starts. */
export function layerIs(model) {
  state.model = model;
  reset();
}

function reset() {
  state.name = 'plain';
  state.exact = state.model.theta;
  $('theta').value = Math.log10(state.model.theta);
  segments($('rules'), 'rule', RULES, state.name, (name) => { state.name = name; changed(); });
  draw();
}

function draw() {
  const { theta, factor, original } = values();
  const round = (x) => Number(x.toPrecision(3)).toLocaleString('en');
  for (const [id, text] of [
    ['theta', round(theta)], ['factor', `× ${round(factor)}`], ['original', String(original)],
  ]) {
    document.querySelector(`output[for=${id}]`).textContent = text;
    $(id).setAttribute('aria-valuetext', text);
  }
  const unused = {
    theta: false,
    factor: state.name === 'plain',
    original: !['yarn', 'longrope'].includes(state.name),
  };
  for (const [id, off] of Object.entries(unused)) {
    $(id).disabled = off;
    $(id).parentElement.classList.toggle('unused', off);
  }
  $('rule-said').textContent = SAID[state.name];

  const { headDim } = state.model;
  const of = (...given) => {
    const both = curves(...given, headDim, distances);
    return [0, both.length / 2].map((from) => {
      let at = from;
      return points.map(({ distance, around }) => {
        const sum = around.reduce((total) => total + both[at++], 0);
        return [distance, sum / around.length];
      });
    });
  };
  const [real, imaginary] = of(...rule());
  const trained = of('plain', state.model.theta, 1, 1);
  const ticks = [[1, '1'], [0.5, '0.5'], [0, '0']];
  const most = Math.max(1, ...real.map(([, v]) => v), ...imaginary.map(([, v]) => v));
  const peak = imaginary.reduce((best, point) => (point[1] > best[1] ? point : best));
  chart($('curves'), {
    farthest: FARTHEST,
    y: { from: -0.25, to: most, ticks, at: (v) => v },
    curves: [
      ...trained.map((points) => ({ kind: 'grey', points })),
      { kind: 'real', points: real },
      { kind: 'imaginary', points: imaginary },
    ],
    label: `The real curve falls from ${real[0][1].toFixed(2)} at distance 0; the imaginary one `
      + `starts at 0 and is largest, ${peak[1].toFixed(2)}, at distance ${peak[0]}.`,
  });
}

function changed() {
  draw();
  refresh();
}

/** Copies of the maps, where the sliders are in sight and the maps are not. */
export function followed() {
  for (const copy of document.querySelectorAll('[data-copy]')) {
    const canvas = document.querySelector(`[data-map=${copy.dataset.copy}] canvas`);
    [copy.width, copy.height] = [canvas.width, canvas.height];
    copy.getContext('2d').drawImage(canvas, 0, 0);
  }
}

$('theta').addEventListener('input', () => { state.exact = undefined; changed(); });
for (const id of ['factor', 'original']) $(id).addEventListener('input', changed);
$('reset').addEventListener('click', () => { reset(); refresh(); });
onScheme(() => requestAnimationFrame(followed));
