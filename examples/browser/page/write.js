// A model that writes, and the maps of what it writes.

import { Maps, Writer } from './pkg/phasor_browser.js';
import { choose, segments } from './look.js';
import { app, refresh, take } from './page.js';

const $ = (id) => document.getElementById(id);

/** The repository's own models, in models/. */
const OWN = [['rope', 'RoPE'], ['ec', 'RoPE++, same cache'], ['eh', 'RoPE++, half the cache']];
/** New tokens at most, of the repository's models, whose tokens are characters, and of others. */
export const limits = { characters: 120, tokens: 48 };
/** What they begin with, and the temperature that shows what they can. */
const PROMPTS = { own: 'First Citizen: ', other: 'In mathematics, a prime number is' };
const HEATS = { own: 0.7, other: 0 };

/** The model under way: its file, to take it again on another device, and what was made of it. */
const model = { file: undefined, config: undefined, own: false, writer: undefined, gpu: undefined };
/** The writing under way. */
let running;
/** The layer that is drawn. */
let layer = 0;

const say = (text) => { $('write-said').textContent = text; };
/** Lets the page show what it says before it is busy. */
const shown = () => new Promise((resolve) => { setTimeout(resolve, 30); });

/** Takes a model file, and its configuration where that is not in it. A wrong one leaves everything
 *  as it is. */
export async function takeModel(file, config, own = false) {
  model.writer?.stop();
  await running;
  if (!await load(file, config, own)) return;
  if (!own) document.querySelectorAll('#models input').forEach((input) => { input.checked = false; });
  const kind = own ? 'own' : 'other';
  // Not what the reader wrote.
  if (Object.values(PROMPTS).includes($('prompt').value)) $('prompt').value = PROMPTS[kind];
  $('heat').value = HEATS[kind];
  sayHeat();
  const { layers, plans } = model.writer;
  layer = Math.floor(layers / 3);
  Object.assign($('write-layer'), { max: layers, value: layer + 1, disabled: false });
  sayLayer();
  $('write-plans').textContent = plans;
  $('write-run').disabled = false;
}

/** Makes a writer of a file, and says how that went. */
async function load(file, config, own) {
  say(`Reads ${file.name} …`);
  await shown();
  try {
    if (!app.gpu) throw new Error('there is no device for it');
    if (file.size > 2 ** 30) throw new Error('it is larger than 1 GiB');
    const writer = new Writer(app.gpu, new Uint8Array(await file.arrayBuffer()), config);
    model.writer?.free();
    Object.assign(model, { file, config, own, writer, gpu: app.gpu });
  } catch (error) {
    // The memory of a page is limited, and a model of 135 million numbers takes 540 MB of it.
    const why = error instanceof WebAssembly.RuntimeError
      ? `it cannot be read, or the page has no memory left for it (${error.message})` : error.message;
    say(`${file.name}: ${why ?? error}`);
    return false;
  }
  say(`${file.name}: ${model.writer.kind}, ${model.writer.layers} layers. Ready.`);
  return true;
}

/** Takes one of the repository's models. */
export async function takeOwn(name) {
  try {
    const answers = await Promise.all(['config.json', 'model.safetensors'].map(async (part) => {
      const answer = await fetch(`models/${name}/${part}`);
      if (!answer.ok) throw new Error(`${name}/${part}: the server answers ${answer.status}`);
      return answer;
    }));
    const file = new File([await answers[1].blob()], `${name}/model.safetensors`);
    await takeModel(file, await answers[0].text(), true);
  } catch (error) {
    say(String(error.message ?? error));
  }
}

/** Draws the chosen layer over what is there so far; `fresh`: of another text than before. */
async function draw(fresh) {
  take(Maps.written(app.gpu, model.writer, layer), fresh);
  choose(Infinity);
  document.querySelectorAll('#layers input').forEach((input) => { input.checked = false; });
  await refresh();
}

/** Writes; resolves to the new text and its tokens. */
export function write() {
  running ??= writing().finally(() => { running = undefined; });
  return running;
}

async function writing() {
  if (!model.writer) return undefined;
  if (model.gpu !== app.gpu) {
    // The device of before was lost.
    if (!await load(model.file, model.config, model.own)) return undefined;
  }
  $('write-run').disabled = true;
  $('write-stop').disabled = false;
  const prompt = $('prompt').value;
  const all = { text: '', tokens: [] };
  let drawing;
  let drawn = false;
  let due = 0;
  const drawSoon = async () => {
    const start = performance.now();
    try {
      await draw(!drawn);
      drawn = true;
    } catch {
      // Too short a text, or a rotation that maps do not have; said at the end.
    }
    // A quarter of the time, so that it writes on slow devices, too.
    due = performance.now() + 3 * (performance.now() - start);
    drawing = undefined;
  };
  try {
    say('Reads the words …');
    $('written').replaceChildren();
    const before = $('written').appendChild(document.createElement('b'));
    const after = $('written').appendChild(document.createTextNode(''));
    const count = model.own ? limits.characters : limits.tokens;
    const rate = await model.writer.write(prompt, count, Number($('heat').value), (piece, token) => {
      all.text += piece;
      all.tokens.push(token);
      before.textContent = all.text.slice(0, prompt.length);
      after.data = all.text.slice(prompt.length);
      if (!drawing && performance.now() >= due && all.tokens.length > 4) drawing = drawSoon();
    });
    await drawing;
    say(`${rate >= 10 ? rate.toFixed(0) : rate.toFixed(2)} tokens a second.`);
    await draw(!drawn);
  } catch (error) {
    await drawing;
    say(`${$('write-said').textContent} It ended: ${error.message ?? error}`);
  } finally {
    $('write-run').disabled = false;
    $('write-stop').disabled = true;
  }
  return all;
}

function sayHeat() {
  document.querySelector('output[for=heat]').textContent = Number($('heat').value).toFixed(1);
}

function sayLayer() {
  const text = `${layer + 1} of ${model.writer.layers}`;
  document.querySelector('output[for=write-layer]').textContent = text;
  $('write-layer').setAttribute('aria-valuetext', text);
}

segments($('models'), 'model', OWN, undefined, takeOwn);
$('model').addEventListener('change', (event) => {
  const [file] = event.target.files;
  if (file) takeModel(file);
});
$('write-form').addEventListener('submit', (event) => { event.preventDefault(); write(); });
$('write-stop').addEventListener('click', () => model.writer?.stop());
$('heat').addEventListener('input', sayHeat);
$('write-layer').addEventListener('input', () => {
  layer = Number($('write-layer').value) - 1;
  sayLayer();
  if (running || model.writer.tokens < 2 || model.gpu !== app.gpu) return;
  draw(false).catch((error) => say(error.message));
});
