// What must hold of the page, in a real browser: run by `scripts/browser.sh --check`, which opens
// it with ?check and prints what comes back.

import { app, openFile, refresh, start } from './page.js';
import { view } from './look.js';
import { limits, results } from './speed.js';
import { takeModel, takeOwn, write, limits as writing } from './write.js';

const $ = (id) => document.getElementById(id);
/** What the repository's models write, as examples/smollm does natively on lavapipe. */
const CONTINUED = {
  rope: 'First Citizen: and the see the see the see the see the see the s',
  ec: 'First Citizen: I will the shall the shall the shall the shall th',
  eh: 'First Citizen: the shall the shall the shall the shall the shall',
};
const lines = [];
let failed = false;
/** The results of the whole benchmark. */
let measured;

/** Of all checks, those that are asked for; the first one is what the others begin with. */
const only = new RegExp(`first picture|${new URLSearchParams(location.search).get('check') || '.'}`);
let leftOut = 0;

const post = async (report) => {
  const answer = await fetch('/report', { method: 'POST', body: JSON.stringify(report) });
  if (!answer.ok) throw new Error(await answer.text());
};
const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const must = (holds, why) => { if (!holds) throw new Error(why); };

/** Runs a check and says how it went. */
async function holds(name, check) {
  if (!only.test(name)) return;
  const started = performance.now();
  let line;
  try {
    const found = await check();
    if (found?.missing) leftOut++;
    line = found?.missing ? `LEFT OUT  ${name}: ${found.missing}`
      : `passed  ${name}${found ? `: ${found}` : ''}`;
  } catch (error) {
    failed = true;
    line = `FAILED  ${name}: ${error.message ?? error}`;
  }
  line += ` (${((performance.now() - started) / 1000).toFixed(1)} s)`;
  lines.push(line);
  await post({ line });
}

async function until(condition, what, ms = 60_000) {
  for (const end = performance.now() + ms; !condition();) {
    must(performance.now() < end, `${what}: not within ${ms / 1000} s`);
    await sleep(20);
  }
}

const most = (a, b) => a.reduce((worst, x, i) => Math.max(worst, Math.abs(x - b[i])), 0);
const slide = async (id, value) => {
  $(id).value = value;
  $(id).dispatchEvent(new Event('input'));
  await refresh({ base: false, mixed: false });
};
/** A number of the pixels of a map: what is seen, not what was computed. */
const pixels = (name) => {
  const canvas = document.querySelector(`[data-map=${name}] canvas`);
  const { data } = canvas.getContext('2d').getImageData(0, 0, canvas.width, canvas.height);
  return data.reduce((sum, x, i) => (sum * 31 + x * (i % 7 + 1)) % 2147483647, 7);
};
const choose = async (name, value) => {
  $(`${name}-${value}`).click();
  await until(() => $(`${name}-${value}`).checked, name);
};
/** The planes of φ and φ + π/2 against the formula in f64: what of the bound they take. */
const judge = (head, phi, both) => {
  const [error, bound] = app.maps.judge(head, phi, both);
  must(error <= bound, `off by ${error}, allowed ${bound}`);
  return error / bound;
};

await holds('first picture', async () => {
  await until(() => app.firstPicture || !$('notice').hidden, 'a picture');
  must($('notice').hidden, $('notice-text').textContent);
  const filled = view.planes.real.filter((x) => x > 0).length;
  must(filled > view.size * view.size / 4, 'the real map is empty');
  must($('text').children.length === view.size, 'the text is not there');
  must($('distance').querySelectorAll('path').length >= 3, 'no curves');
  must(app.firstPicture <= 5000, `${app.firstPicture.toFixed(0)} ms, 5000 allowed`);
  // The map between the two.
  await refresh({ base: false, mixed: false });
  let before = 0;
  const steps = Object.entries({ ...app.reached, 'shaders and maps': app.firstPicture });
  const parts = steps.map(([step, at]) => {
    const part = `${step} ${((at - before) / 1000).toFixed(2)}`;
    before = at;
    return part;
  });
  return `${(app.firstPicture / 1000).toFixed(2)} s after the page began to load: ${parts.join(', ')}`;
});

await holds('a row of a map adds up to 1', async () => {
  for (const plane of Object.values(view.planes)) {
    for (const row of [0, 17, view.size - 1]) {
      const sum = plane.subarray(row * view.size, (row + 1) * view.size).reduce((a, b) => a + b);
      must(Math.abs(sum - 1) < 1e-4, `row ${row}: ${sum}`);
    }
  }
});

await holds('maps equal the oracle', async () => {
  let worst = 0;
  for (const head of [0, 4, 8]) {
    for (const phi of [0, 0.6, Math.PI / 2]) {
      worst = Math.max(worst, judge(head, phi, await app.maps.draw(head, phi)));
    }
  }
  return `9 maps of two planes, at worst ${(100 * worst).toFixed(0)} % of the bound`;
});

await holds('phi 0 and 90 are the real and the imaginary map', async () => {
  const both = await app.maps.draw(0, 0);
  const [real, imaginary] = [both.slice(0, both.length / 2), both.slice(both.length / 2)];
  must(most(real, imaginary) > 0.1, 'the two maps are alike');
  const turned = (await app.maps.draw(0, Math.PI / 2)).slice(0, real.length);
  const off = most(turned, imaginary);
  must(off < 1e-5, `at 90 degrees ${off} off`);
  await choose('head', 0);
  await slide('phi', 0);
  must(most(view.planes.mixed, real) === 0, 'the page at 0 degrees is not the real map');
  must(pixels('mixed') === pixels('real'), 'not the pixels of the real map');
  await slide('phi', 90);
  must(most(view.planes.mixed, view.planes.imaginary) < 1e-5, 'the page at 90 degrees');
  return `the turned query's map is within ${off.toExponential(1)}`;
});

await holds('the slider, layers and heads redraw', async () => {
  const seen = new Set();
  for (const phi of [10, 30, 60]) {
    await slide('phi', phi);
    seen.add(pixels('mixed'));
  }
  must(seen.size === 3, 'the map between did not change with the slider');
  const heads = new Set();
  for (const head of [1, 5, 8]) {
    await choose('head', head);
    await refresh();
    heads.add(pixels('real'));
  }
  must(heads.size === 3, 'the real map did not change with the head');
  const before = pixels('real');
  const { bytes } = app;
  // In the middle of a drawing.
  refresh();
  await choose('layer', 0);
  await until(() => app.bytes !== bytes, 'another layer');
  await refresh();
  must(pixels('real') !== before, 'the real map did not change with the layer');
});

await holds('rules reach curves and maps', async () => {
  const curve = () => $('curves').querySelector('path.real').getAttribute('d');
  const seen = new Set([curve()]);
  const maps = new Set([pixels('real')]);
  for (const name of ['linear', 'ntk', 'yarn', 'longrope']) {
    await choose('rule', name);
    await refresh();
    judge(app.head, 0, await app.maps.draw(app.head, 0));
    seen.add(curve());
    maps.add(pixels('real'));
  }
  must(seen.size === 5 && maps.size === 5, `${seen.size} curves and ${maps.size} maps of 5`);
  await slide('theta', 4);
  await refresh();
  must(!seen.has(curve()), 'the base does not reach the curve');
  $('reset').click();
  await refresh();
  must(seen.has(curve()), 'not back at the model');
});

await holds('keys choose tokens, and words say where they look', async () => {
  const before = $('said').textContent;
  const press = (target, key) => target.dispatchEvent(new KeyboardEvent('keydown', { key, bubbles: true }));
  const { query } = view;
  press($('text'), 'ArrowRight');
  must(view.query === query + 1, 'the text does not take arrow keys');
  press(document.querySelector('[data-map=real] canvas'), 'ArrowLeft');
  must(view.key === query, 'the map does not take arrow keys');
  must($('said').textContent !== before, 'nothing is said');
  must($('text').querySelectorAll('.chosen').length === 1, 'no token is marked');
});

await holds('a bad file is refused', async () => {
  const before = pixels('real');
  const { bytes } = app;
  const header = (json) => {
    const text = new TextEncoder().encode(JSON.stringify(json));
    const whole = new Uint8Array(8 + text.length + 16);
    new DataView(whole.buffer).setBigUint64(0, BigInt(text.length), true);
    whole.set(text, 8);
    return whole;
  };
  const one = { dtype: 'F32', shape: [2, 2], data_offsets: [0, 16] };
  for (const [name, contents, wanted] of [
    ['noise.safetensors', new Uint8Array(100).fill(77), 'no safetensors file'],
    ['cut.safetensors', bytes.slice(0, 5000), 'no safetensors file'],
    ['empty.safetensors', new Uint8Array(), 'no safetensors file'],
    ['other.safetensors', header({ weight: one }), 'no tensor q'],
    ['shape.safetensors', header({ q: one }), 'q must be [1, H, S, D]'],
  ]) {
    await openFile(new File([contents], name));
    const said = $('file-said').textContent;
    must(said.includes(wanted), `${name}: “${said}”`);
  }
  must(pixels('real') === before, 'the maps changed');
  await openFile(new File([bytes], 'right.safetensors'));
  must($('file-said').textContent === '', 'a right file is refused, too');
});

await holds('200 slider moves leave memory where it was', async () => {
  const move = async (count) => {
    for (let i = 0; i < count; i++) await slide('phi', i % 91);
  };
  const measure = async () => {
    for (let i = 0; i < 3; i++) {
      globalThis.gc?.();
      await sleep(50);
    }
    return [app.wasm.memory.buffer.byteLength, performance.memory?.usedJSHeapSize ?? 0];
  };
  await move(10);
  const before = await measure();
  await move(200);
  const after = await measure();
  must(after[0] === before[0], `memory of the wasm: ${before[0]} to ${after[0]} bytes`);
  const grown = after[1] - before[1];
  must(!globalThis.gc || grown < 1 << 20, `the heap of the page grew by ${grown} bytes`);
  return `${(after[0] / 2 ** 20).toFixed(1)} MiB of wasm; heap ${grown >= 0 ? '+' : '−'}${
    (Math.abs(grown) / 1024).toFixed(0)} KiB`;
});

await holds('the benchmark ends, and leaves the page alive', async () => {
  limits.oneRun = 400;
  let ticks = 0;
  let longest = 0;
  let last = performance.now();
  const clock = setInterval(() => {
    longest = Math.max(longest, performance.now() - last);
    last = performance.now();
    ticks++;
  }, 10);
  $('speed-run').click();
  await until(() => $('speed-stop').disabled === false, 'the start', 5000);
  await until(() => $('speed-run').disabled === false, 'the end', 900_000);
  clearInterval(clock);
  must(results.complete, `${$('speed-said').textContent}`);
  must($('badge').className.includes('good'), $('badge').textContent);
  must(results.prefill.length >= 1 && results.steps.length === 6, results.left_out.join('; '));
  must($('speed-table').tBodies[0].rows.length === results.prefill.length, 'the table is not it');
  must($('speed-line').textContent.includes('RoPE++ prefill'), $('speed-line').textContent);
  must(ticks > 50, 'the page stood still');
  return `${$('badge').textContent}; ${$('speed-line').textContent}; the page stood still for ${
    longest.toFixed(0)} ms at most`;
});

await holds('the benchmark can be stopped', async () => {
  const whole = results;
  limits.oneRun = 1e6;
  $('speed-run').click();
  await until(() => $('speed-said').textContent.includes('times'), 'a time');
  $('speed-stop').click();
  await until(() => !$('speed-run').disabled, 'the end');
  must($('speed-said').textContent === 'Stopped.', $('speed-said').textContent);
  must(results !== whole && !results.complete, 'it claims to be complete');
  measured = whole;
});

const said = () => $('write-said').textContent;
const heat = (value) => {
  $('heat').value = value;
  $('heat').dispatchEvent(new Event('input'));
};
/** Back from what a model wrote. */
const alice = async () => {
  await choose('layer', 10);
  await until(() => app.bytes, 'the layer of before');
  await refresh();
};

await holds('a bad model is refused', async () => {
  const bytes = (...parts) => new Blob(parts.map((part) =>
    (typeof part === 'string' ? new TextEncoder().encode(part) : Uint8Array.from(part))));
  const [config, weights] = await Promise.all(['config.json', 'model.safetensors'].map(
    async (part) => (await fetch(`models/ec/${part}`)).blob()));
  const json = await config.text();
  for (const [name, contents, stated, wanted] of [
    ['noise.gguf', bytes(new Array(64).fill(7)), undefined, /./],
    ['head.gguf', bytes('GGUF', [3, 0, 0, 0]), undefined, /./],
    ['many.gguf', bytes('GGUF', [3, 0, 0, 0], new Array(16).fill(255)), undefined, /./],
    ['none.safetensors', weights, undefined, /no configuration/],
    ['cut.safetensors', weights.slice(0, 100_000), json, /./],
    ['other.safetensors', weights, json.replace('"head_dim": 32', '"head_dim": 16'), /W_q/],
    ['mute.safetensors', weights, json.replace('symbols', 'signs'), /vocabulary/],
  ]) {
    await takeModel(new File([contents], name), stated);
    must(said().startsWith(`${name}: `) && !said().includes('Ready') && wanted.test(said()),
      `${name}: “${said()}”`);
    must(!said().includes('unreachable'), `${name} ends the program: “${said()}”`);
    must($('write-run').disabled, `${name} is taken`);
  }
});

await holds('the trained models write, and their maps equal the oracle', async () => {
  const found = [];
  const sizes = new Set();
  const watch = setInterval(() => sizes.add(view.size), 5);
  let worst = 0;
  for (const [name, kind] of [['rope', 'RoPE,'], ['ec', 'RoPE++ EC'], ['eh', 'RoPE++ EH']]) {
    await takeOwn(name);
    must(said().includes(kind) && said().endsWith('Ready.'), said());
    writing.characters = 49;
    heat(0);
    const { text, tokens } = await write();
    must(tokens.length === 64 && text.length === 64, `${tokens.length} tokens, “${text}”`);
    must(text === CONTINUED[name], `${name}: “${text}”, not “${CONTINUED[name]}”`);
    must(view.size === 64 && view.pieces.join('') === text, 'the maps are of another text');
    must(document.querySelector('[data-copy=real]').width === 64, 'no copies beside the text');
    for (const phi of [0, 0.3]) worst = Math.max(worst, judge(0, phi, await app.maps.draw(0, phi)));
    found.push(`${name} ${said().split('.')[0]}`);
  }
  clearInterval(watch);
  // Of the text of before, and of these when they were whole: two.
  must(sizes.size > 2, 'the maps did not grow with the text');
  await post({ picture: 'written-1280', width: 1280, scale: 1 });
  heat(1);
  must((await write()).text !== CONTINUED.eh, 'it draws what is most probable');
  writing.characters = 200;
  const stopped = write();
  await until(() => $('written').textContent.length > 20, 'a text');
  $('write-stop').click();
  must((await stopped).tokens.length < 100, 'it does not stop');
  await alice();
  return `${found.join(', ')}; maps at worst ${(100 * worst).toFixed(0)} % of the bound`;
});

await holds('SmolLM2 writes what transformers does', async () => {
  const answer = await fetch('model.gguf');
  if (!answer.ok) return { missing: 'the model is not there; scripts/fetch-smollm.sh gets it' };
  const file = await answer.blob();
  await takeModel(new File([file.slice(0, 5e7)], 'half.gguf'));
  must(said().startsWith('half.gguf: ') && !said().includes('Ready'), said());
  let started = performance.now();
  await takeModel(new File([file], 'model.gguf'));
  const seconds = (performance.now() - started) / 1000;
  must(said().endsWith('Ready.'), said());
  writing.tokens = 12;
  const { cases } = await (await fetch('data/generation.json')).json();
  const [{ prompt, prompt_ids: given, output_ids: due }] = cases;
  must($('prompt').value === prompt, 'another prompt than the recorded one');
  heat(0);
  const { text, tokens } = await write();
  must(`${tokens}` === `${[...given, ...due.slice(0, 12)]}`, `“${text}”, tokens ${tokens}`);
  must(view.size === tokens.length && view.pieces.join('') === text, 'the maps are of another text');
  for (const at of [1, 30]) {
    const before = pixels('real');
    $('write-layer').value = at;
    $('write-layer').dispatchEvent(new Event('input'));
    await refresh({ base: false, mixed: false });
    must(pixels('real') !== before, `layer ${at} looks as the one before`);
    judge(app.head, 0.3, await app.maps.draw(app.head, 0.3));
  }
  const rate = said();
  await alice();
  return `${tokens.length} tokens equal; ${rate} Read in ${seconds.toFixed(1)} s; ${
    (app.wasm.memory.buffer.byteLength / 2 ** 20).toFixed(0)} MiB of wasm`;
});

await holds('a lost device is said, and a button starts again', async () => {
  await slide('phi', 20);
  const before = pixels('mixed');
  const lost = app.gpu;
  const slider = slide('phi', 70);
  lost.destroy();
  await until(() => !$('notice').hidden, 'a notice');
  await slider;
  await until(() => $('notice-title').textContent === 'The device was lost', 'the reason');
  must(!$('again').hidden, 'no button');
  $('again').click();
  await until(() => app.gpu && app.gpu !== lost, 'another device');
  await slide('phi', 20);
  await until(() => $('notice').hidden && pixels('mixed') === before, 'the same map');
});

await holds('a model writes again after a lost device', async () => {
  await takeOwn('ec');
  heat(0);
  writing.characters = 49;
  const broken = write();
  await until(() => $('written').textContent.length > 3, 'a text');
  const lost = app.gpu;
  lost.destroy();
  await broken;
  must(said().includes('It ended: '), said());
  await until(() => !$('again').hidden, 'a button');
  $('again').click();
  await until(() => app.gpu && app.gpu !== lost, 'another device');
  must((await write()).text === CONTINUED.ec, said());
  await alice();
  return said();
});

await holds('the same maps within the default limits of WebGPU', async () => {
  const before = { ...view.planes };
  const gpu = app.gpu;
  await start(true);
  must(app.gpu !== gpu && $('notice').hidden, $('notice-text').textContent);
  const plans = $('plans').textContent;
  must(plans.includes('storage buffers of a shader: 8\n'), plans);
  for (const [name, plane] of Object.entries(before)) {
    const off = most(plane, view.planes[name]);
    must(off < 1e-5, `${name}: ${off} off`);
  }
});

await holds('without WebGPU the page says what is missing; 390 px are wide enough', async () => {
  const text = await (await fetch('index.html')).text();
  const frame = document.createElement('iframe');
  frame.style.cssText = 'width: 390px; height: 800px; position: absolute; left: 0; top: 0';
  const hide = '<script>Object.defineProperty(navigator, "gpu", { value: undefined })</script>';
  frame.srcdoc = text.replace('<head>', `<head><base href="${location.origin}/">${hide}`);
  document.body.append(frame);
  const inside = () => frame.contentDocument;
  await until(() => inside()?.getElementById('notice')?.hidden === false, 'a notice');
  const said = inside().getElementById('notice').textContent;
  must(said.includes('has no WebGPU') && said.includes('Firefox'), said);
  must(inside().querySelectorAll('#curves path').length >= 4, 'no curves');
  const { scrollWidth } = inside().documentElement;
  frame.remove();
  await post({ picture: 'view-1280', width: 1280, scale: 1 });
  await post({ picture: 'view-390', width: 390, scale: 2 });
  must(scrollWidth <= 390, `the page is ${scrollWidth} px wide`);
});

await post({
  failed,
  results: measured && JSON.stringify(measured, undefined, 1),
  text: `${lines.length - leftOut} checks${failed ? ', some FAILED' : ' passed'}${
    leftOut ? `, ${leftOut} LEFT OUT` : ''}`,
});
