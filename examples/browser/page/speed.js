// How fast the device is: checked, timed, stopped, copied and saved.

import { Trial, version } from './pkg/phasor_browser.js';
import { app } from './page.js';

const $ = (id) => document.getElementById(id);

const WAYS = ['plain', 'two passes', 'packed', 'fused'];
const LENGTHS = [512, 1024, 2048, 4096, 8192, 16384, 32768];
const ROWS = 4096;
const CACHES = [4096, 32768];
/** Milliseconds of timing, at least, and of one run at most. */
const LONG_ENOUGH = 300;
export const limits = { oneRun: 20_000 };

/** The trial under way, to be stopped. */
let running;
let stopped = false;
/** The device that tested itself, and what it found. */
let tested = {};
/** What was found last, as it is saved. */
export let results;

const number = (x, digits = 3) => Number(x.toPrecision(digits));

function say(text, share) {
  $('speed-said').textContent = text;
  $('speed-bar').value = share ?? 0;
}

/** Checks a trial, times it, and gives its place in the results. */
async function measure(trial, what, share) {
  running = trial;
  try {
    const progress = (part) => { $('speed-bar').value = share + part / 100; };
    say(`${what}: compiles and checks`, share);
    const [error, bound] = await trial.check(progress);
    if (!(error <= bound)) throw new Error(`${what}: off by ${error}, allowed ${bound}`);
    say(`${what}: times`, share);
    const ms = await trial.time(LONG_ENOUGH, progress);
    return {
      ms: number(ms, 4),
      gflops: number(trial.flops / ms / 1e6),
      gbs: number(trial.bytes / ms / 1e6),
      parts: trial.parts,
      error: number(error),
      bound: number(bound),
    };
  } finally {
    running = undefined;
    trial.free();
  }
}

async function adapter() {
  const { info } = await navigator.gpu.requestAdapter();
  const { vendor, architecture, device, description } = info;
  return { vendor, architecture, device, description, software: info.isFallbackAdapter ?? false };
}

function browser() {
  const brands = navigator.userAgentData?.brands?.filter(({ brand }) => !/Not.?A.?Brand/i.test(brand));
  return {
    agent: navigator.userAgent,
    brands: (brands ?? []).map(({ brand, version: number }) => `${brand} ${number}`),
    platform: navigator.userAgentData?.platform ?? '',
  };
}

/** Runs everything. `only` may shorten the list, for the check of the page. */
export async function run() {
  const { gpu } = app;
  if (!gpu || running) return;
  stopped = false;
  $('speed-run').disabled = true;
  $('speed-stop').disabled = false;
  $('speed-table').tBodies[0].replaceChildren();
  badge('tests itself …', '');
  const found = {
    format: 'phasor browser results 1',
    phasor: version(),
    date: new Date().toISOString().slice(0, 10),
    adapter: await adapter(),
    browser: browser(),
    budget_ms: 8,
    self_test: [],
    model: { heads: 8, kv_heads: 2, head_dim: 64, dtype: 'f32', causal: true },
    prefill: [],
    steps: [],
    left_out: [],
    complete: false,
  };
  try {
    say('The self-test compiles its shaders. That takes seconds, on software adapters minutes.');
    if (tested.gpu !== gpu) tested = { gpu, findings: JSON.parse(await gpu.self_test()) };
    found.self_test = tested.findings;
    const failures = found.self_test.filter(({ outcome }) => outcome === 'failed');
    const passed = found.self_test.filter(({ outcome }) => outcome === 'passed').length;
    badge(failures.length ? `self-test: ${failures.length} failed` : `self-test passed: ${passed} probes`,
      failures.length ? 'bad' : 'good');
    if (failures.length) throw new Error(failures.map((f) => `${f.probe}: ${f.reason}`).join('; '));
    await everything(gpu, found);
    found.complete = true;
    say('Done.', 1);
  } catch (error) {
    say(stopped ? 'Stopped.' : `It ended early: ${error.message ?? error}`, 0);
  } finally {
    $('speed-run').disabled = false;
    $('speed-stop').disabled = true;
  }
  results = found;
  $('speed-line').textContent = line(found);
  $('speed-results').hidden = !found.prefill.length;
}

async function everything(gpu, found) {
  const halted = () => { if (stopped) throw new Error('stopped'); };
  const rates = {};
  const all = LENGTHS.length * WAYS.length + 2 + 2 * CACHES.length;
  let count = 0;
  const attempt = async (make, what) => {
    halted();
    // Lets the page draw between two trials.
    await new Promise((resolve) => { setTimeout(resolve); });
    try {
      return await measure(make(), what, count++ / all);
    } catch (error) {
      if (stopped || app.gpu !== gpu) throw error;
      found.left_out.push(`${what}: ${error.message ?? error}`);
      return undefined;
    }
  };
  for (const seq of LENGTHS) {
    const row = { seq, ways: {} };
    for (const way of WAYS) {
      const what = `${way}, S ${seq}`;
      // Four times the work of half the length.
      const before = found.prefill.at(-1)?.ways[way];
      if (seq > LENGTHS[0] && (!before || 4 * before.ms > limits.oneRun)) {
        found.left_out.push(`${what}: ${before ? `would take ${(4 * before.ms / 1000).toFixed(0)} s` : 'half of it was left out'}`);
        continue;
      }
      const got = await attempt(() => Trial.prefill(gpu, way, seq, rates[way] ?? 0), what);
      if (!got) continue;
      rates[way] = got.gflops * 1e6;
      row.ways[way] = got;
      draw(row);
    }
    if (!Object.keys(row.ways).length) break;
    found.prefill.push(row);
  }
  const step = async (name, way, rows, make) => {
    const got = await attempt(make, `${name} ${way} ${rows}`.replace('  ', ' '));
    if (!got) return;
    found.steps.push({ name, way, rows, ...got });
    drawStep(name, way, rows, got);
  };
  await step('rotation', '', ROWS, () => Trial.rope(gpu, ROWS));
  await step('append', '', ROWS, () => Trial.append(gpu, ROWS));
  for (const kv of CACHES) {
    for (const way of ['plain', 'fused']) {
      await step('decode', way, kv, () => Trial.decode(gpu, way, kv));
    }
  }
}

const ms = (x) => (x >= 100 ? x.toFixed(0) : x >= 10 ? x.toFixed(1) : x.toFixed(2));

function draw(row) {
  const body = $('speed-table').tBodies[0];
  let tr = body.querySelector(`[data-row="${row.seq}"]`);
  if (!tr) {
    const cells = `<th scope="row">${row.seq}</th>${'<td></td>'.repeat(WAYS.length + 2)}`;
    tr = Object.assign(document.createElement('tr'), { innerHTML: cells });
    tr.dataset.row = row.seq;
    body.append(tr);
    $('speed-times').hidden = false;
  }
  WAYS.forEach((way, i) => {
    if (row.ways[way]) tr.cells[i + 1].textContent = ms(row.ways[way].ms);
  });
  const { fused, 'two passes': two } = row.ways;
  if (!fused) return;
  tr.cells[WAYS.length + 1].textContent = fused.gflops >= 1000
    ? `${number(fused.gflops / 1000)} T` : `${fused.gflops} G`;
  if (two) tr.cells[WAYS.length + 2].textContent = (fused.ms / two.ms).toFixed(2);
}

function drawStep(name, way, rows, got) {
  const item = document.createElement('li');
  const of = { rotation: `${rows} rows`, append: `${rows} rows`, decode: `over ${rows} keys` }[name];
  const what = [way, name].filter(Boolean).join(' ');
  item.textContent = `${what} ${of}: ${ms(got.ms)} ms, ${got.gbs} GB/s`;
  $('speed-steps').append(item);
}

function badge(text, kind) {
  $('badge').textContent = text;
  $('badge').className = `badge ${kind}`;
}

/** One line that says it all. */
function line(found) {
  const at = found.prefill.findLast(({ ways }) => ways.fused);
  if (!at) return '';
  const { vendor, architecture, description } = found.adapter;
  const name = description || [vendor, architecture].filter(Boolean).join(' ') || 'unnamed adapter';
  const { fused, 'two passes': two } = at.ways;
  return `phasor ${found.phasor} on ${name}, ${found.browser.brands.at(-1) ?? 'WebGPU'}: RoPE++ prefill of `
    + `${at.seq} tokens (8 heads, D 64, f32) in ${ms(fused.ms)} ms, ${fused.gflops} GFLOP/s`
    + `${two ? `, ${(fused.ms / two.ms).toFixed(2)} of two passes` : ''}; ${
      found.self_test.filter(({ outcome }) => outcome === 'passed').length} probes passed`;
}

$('speed-run').addEventListener('click', () => { $('speed-steps').replaceChildren(); run(); });
$('speed-stop').addEventListener('click', () => {
  stopped = true;
  running?.stop();
  say('Stops after what is under way.');
});
$('speed-copy').addEventListener('click', async () => {
  await navigator.clipboard.writeText($('speed-line').textContent);
  $('speed-copy').textContent = 'Copied';
});
$('speed-save').addEventListener('click', () => {
  const blob = new Blob([JSON.stringify(results, undefined, 1)], { type: 'application/json' });
  const link = Object.assign(document.createElement('a'), {
    href: URL.createObjectURL(blob), download: 'phasor-results.json',
  });
  link.click();
  URL.revokeObjectURL(link.href);
});
