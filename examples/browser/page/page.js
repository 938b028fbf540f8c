// The page: asks for a device, loads a layer, and draws what the sliders say.

import init, { Gpu, Maps } from './pkg/phasor_browser.js';
import { segments, setText, show, view } from './look.js';
import { followed, layerIs, rule } from './position.js';
import './speed.js';
import { takeModel } from './write.js';

const $ = (id) => document.getElementById(id);

/** Layers that come with the page; 10 is in the middle of the model. */
const LAYERS = [['0', 'first'], ['10', 'middle'], ['29', 'last']];

/** Everything that changes, for the check of the page as well. */
export const app = {
  wasm: undefined,
  gpu: undefined,
  maps: undefined,
  layer: '10',
  head: 0,
  phi: 45,
  /** The bytes of the layer, to start again from; none where a model wrote what is drawn. */
  bytes: undefined,
  /** The pieces of the text, where the file does not spell them. */
  pieces: undefined,
  /** Milliseconds from the start of the load to the first picture, and to steps before it. */
  firstPicture: undefined,
  reached: {},
};
const reached = (step) => { app.reached[step] ??= performance.now(); };

// ---- Drawing: one at a time, and always what was asked for last.

let stale = { base: false, mixed: false };
let drawing;

/** Asks for a drawing; resolves when all that was asked for is drawn. */
export function refresh(what = { base: true, mixed: true }) {
  stale = { base: stale.base || what.base, mixed: stale.mixed || what.mixed };
  drawing ??= draw().finally(() => { drawing = undefined; });
  return drawing;
}

async function draw() {
  while (stale.base || stale.mixed) {
    const { maps, head, phi } = app;
    if (!maps) return;
    const now = stale;
    stale = { base: false, mixed: false };
    const started = performance.now();
    try {
      const planes = {};
      if (now.base) {
        maps.rotate(...rule());
        const both = await maps.draw(head, 0);
        [planes.real, planes.imaginary] = halves(both);
        if (!app.firstPicture && maps === app.maps) {
          // These first, while the one between is computed.
          show(planes, phi);
          app.firstPicture = performance.now();
        }
      }
      planes.mixed = halves(await maps.draw(head, phi * Math.PI / 180))[0];
      if (maps !== app.maps) continue;
      show(planes, phi);
      followed(view);
    } catch (error) {
      // Of a device or a layer that is gone; what came in its place is still to be drawn.
      if (maps !== app.maps) continue;
      notice('That did not work', String(error.message ?? error), true);
      return;
    }
    const ms = performance.now() - started;
    $('ran').textContent = `Drawn by your device in ${ms.toFixed(0)} ms: three kernels a map. `
      + `First picture ${(app.firstPicture / 1000).toFixed(1)} s after the page began to load.`;
  }
}

const halves = (both) => [both.subarray(0, both.length / 2), both.subarray(both.length / 2)];

// ---- The device and the layer.

/** Says what is wrong, with a button to start again where that may help. */
function notice(title, text, again) {
  $('notice').hidden = false;
  $('notice-title').textContent = title;
  $('notice-text').textContent = text;
  $('again').hidden = !again;
}

/** Asks for a device, of all that it has or within WebGPU's default limits, and draws on it. */
export async function start(defaultLimits = false) {
  $('notice').hidden = true;
  app.maps = app.gpu = undefined;
  let gpu;
  try {
    gpu = await Gpu.request(defaultLimits);
  } catch (error) {
    return notice('No device for this page', `WebGPU is here, but the browser gives no device: ${
      error.message}. A driver on the browser’s block list is a common reason; chrome://gpu or `
      + 'about:support says more.', true);
  }
  app.gpu = gpu;
  reached('device');
  gpu.lost().then((reason) => {
    if (app.gpu !== gpu) return;
    app.maps = app.gpu = undefined;
    notice('The device was lost', `The browser says: ${reason}`, true);
  });
  try {
    if (!app.bytes) $(`layer-${app.layer}`).checked = true;
    open(app.bytes ?? await fetched(app.layer));
    reached('layer');
  } catch (error) {
    return notice('The layer did not load', String(error.message ?? error), true);
  }
  await refresh();
}

/** Takes the layer in a file in the place of the one that is open. */
function open(bytes) {
  take(new Maps(app.gpu, bytes), app.bytes !== bytes);
  app.bytes = bytes;
}

/** Draws these maps from now on. `fresh`: of another layer and text than those before, whose
 *  rotation is where the sliders start. What a model wrote has no bytes to start again from. */
export function take(maps, fresh) {
  // Not while it is being drawn from.
  const before = app.maps;
  Promise.resolve(drawing).finally(() => before?.free());
  app.maps = maps;
  app.bytes = undefined;
  app.head = Math.min(app.head, maps.heads - 1);
  const pieces = maps.pieces.length ? maps.pieces : app.pieces;
  const places = () => Array.from({ length: maps.tokens }, (_, i) => ` t${i}`);
  if (fresh || maps.tokens !== view.size) setText(pieces?.length === maps.tokens ? pieces : places());
  if (fresh) layerIs({ theta: maps.theta, headDim: maps.head_dim });
  if ($('heads').querySelectorAll('input').length !== maps.heads || !$(`head-${app.head}`).checked) {
    const heads = Array.from({ length: maps.heads }, (_, head) => [String(head), String(head + 1)]);
    segments($('heads'), 'head', heads, String(app.head), (head) => {
      app.head = Number(head);
      refresh();
    });
  }
  $('plans').textContent = `${maps.plans}\n\n${app.gpu.capabilities()}`;
}

async function fetched(layer) {
  app.pieces ??= await (await fetch('alice.json')).json();
  const answer = await fetch(`data/real_layer${layer}.safetensors`);
  if (!answer.ok) throw new Error(`layer ${layer}: the server answers ${answer.status}`);
  return new Uint8Array(await answer.arrayBuffer());
}

/** A layer that the reader gives. A wrong file leaves everything as it is. */
export async function openFile(file) {
  $('file-said').textContent = '';
  try {
    if (!app.gpu) throw new Error('there is no device to draw it on');
    if (file.size > 1 << 28) throw new Error('it is larger than 256 MiB');
    open(new Uint8Array(await file.arrayBuffer()));
  } catch (error) {
    $('file-said').textContent = `${file.name}: ${error.message ?? error}`;
    return;
  }
  document.querySelectorAll('#layers input').forEach((input) => { input.checked = false; });
  await refresh();
}

// ---- Controls.

segments($('layers'), 'layer', LAYERS, app.layer, async (layer) => {
  app.layer = layer;
  try {
    const bytes = await fetched(layer);
    if (app.layer !== layer) return;
    if (!app.gpu) {
      // The next start takes it.
      app.bytes = undefined;
      return;
    }
    open(bytes);
  } catch (error) {
    return notice('The layer did not load', String(error.message ?? error), true);
  }
  refresh();
});
const slide = () => {
  app.phi = Number($('phi').value);
  $('phi-value').textContent = `${app.phi}°`;
  $('phi').setAttribute('aria-valuetext', `${app.phi} degrees`);
};
$('phi').addEventListener('input', () => { slide(); refresh({ base: false, mixed: true }); });
slide();
$('again').addEventListener('click', () => start());
$('file').addEventListener('change', (event) => {
  const [file] = event.target.files;
  if (file) openFile(file);
});
document.addEventListener('dragover', (event) => event.preventDefault());
document.addEventListener('drop', (event) => {
  event.preventDefault();
  const [file] = event.dataTransfer.files;
  if (!file) return;
  if (file.size > 1 << 24) takeModel(file);
  else openFile(file);
});

// ---- Go.

/** What is missing where there is no WebGPU, in the reader's words. */
function missing() {
  if (!isSecureContext) {
    return 'WebGPU needs a page from https or from localhost; this one came another way.';
  }
  return 'The maps are computed on your GPU through WebGPU, which this browser does not have, or '
    + 'has switched off. Chrome and Edge have it from version 113 on, Safari from 26 on, Firefox '
    + 'from 141 on (Windows) and 145 on (macOS). The curves further down work without it.';
}

try {
  app.wasm = await init({ module_or_path: 'pkg/phasor_browser_bg.wasm' });
  reached('program');
  layerIs({ theta: 1e5, headDim: 64 });
  if (navigator.gpu) await start();
  else notice('This browser has no WebGPU', missing(), false);
} catch (error) {
  notice('The page did not start', String(error.message ?? error), false);
}
// Not awaited: it imports this very module.
if (new URLSearchParams(location.search).has('check')) import('./check.js');
