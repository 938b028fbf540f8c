// What must hold of the page, in a real browser: run by `scripts/browser.sh --check`, which opens
// it with ?check and prints what comes back.

import { app, openFile, refresh, start } from './page.js';
import { view } from './look.js';
import { limits, results } from './speed.js';

const $ = (id) => document.getElementById(id);
const lines = [];
let failed = false;
/** The results of the whole benchmark. */
let measured;

const post = (report) => fetch('/report', { method: 'POST', body: JSON.stringify(report) });
const sleep = (ms) => new Promise((resolve) => { setTimeout(resolve, ms); });
const must = (holds, why) => { if (!holds) throw new Error(why); };

/** Runs a check and says how it went. */
async function holds(name, check) {
  const started = performance.now();
  let line;
  try {
    const found = await check();
    line = `passed  ${name}${found ? `: ${found}` : ''}`;
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
/** The planes of φ and φ + π/2 against the formula in f64. */
const judge = (head, phi, both) => {
  const judged = app.maps.judge(head, phi, both);
  for (const [at, plane] of [[0, 'φ'], [2, 'φ + π/2']]) {
    must(judged[at] <= judged[at + 1], `plane of ${plane}: off by ${judged[at]}, allowed ${judged[at + 1]}`);
  }
  return Math.max(judged[0] / judged[1], judged[2] / judged[3]);
};

await holds('first picture', async () => {
  await until(() => app.firstPicture || !$('notice').hidden, 'a picture');
  must($('notice').hidden, $('notice-text').textContent);
  const filled = view.planes.real.filter((x) => x > 0).length;
  must(filled > view.size * view.size / 4, 'the real map is empty');
  must($('text').children.length === view.size, 'the text is not there');
  must($('distance').querySelectorAll('path').length >= 3, 'no curves');
  must(app.firstPicture <= 5000, `${app.firstPicture.toFixed(0)} ms, 5000 allowed`);
  return `${(app.firstPicture / 1000).toFixed(2)} s after the page began to load`;
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
  must(scrollWidth <= 390, `the page is ${scrollWidth} px wide`);
});

await post({
  failed,
  results: measured && JSON.stringify(measured, undefined, 1),
  text: `${lines.length} checks${failed ? ', some FAILED' : ' passed'}`,
});
