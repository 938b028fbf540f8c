// Serves a folder that scripts/browser.sh made, or, with --check, lets a headless Chromium open it
// there, takes the pictures that the page's own check.js asks for, and waits for what it found.
//
//     node serve.mjs FOLDER
//     node serve.mjs FOLDER --check CHROMIUM [its options]
//
// CHECK_ONLY, a regular expression, names the checks to run; all without it.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';

const types = {
  '.css': 'text/css', '.html': 'text/html', '.js': 'text/javascript', '.json': 'application/json',
  '.svg': 'image/svg+xml', '.wasm': 'application/wasm',
};
const minutes = 15;

const [folder, ...options] = process.argv.slice(2);
const check = options[0] === '--check' ? options.slice(1) : undefined;
const port = check ? 0 : 8000;
let finish;
const finished = new Promise((resolve) => { finish = resolve; });
let devtools;
let session;
let silence;
/** What the page threw and nobody caught. */
const thrown = [];

const server = createServer((request, response) => {
  const path = new URL(request.url, 'http://localhost').pathname;
  if (check && request.method === 'POST' && path === '/report') {
    let body = '';
    request.on('data', (chunk) => { body += chunk; });
    request.on('end', async () => {
      const report = JSON.parse(body);
      if (report.picture) {
        try {
          writeFileSync(join(folder, `${report.picture}.png`), await picture(report));
        } catch (error) {
          response.writeHead(500);
          response.write(String(error));
        }
      } else if (report.line) console.log(report.line);
      else finish(report);
      clearTimeout(silence);
      response.end();
    });
    return;
  }
  try {
    const file = normalize(path === '/' ? '/index.html' : path);
    const contents = readFileSync(join(folder, file));
    response.setHeader('Content-Type', types[extname(file)] ?? 'application/octet-stream');
    response.end(contents);
  } catch {
    response.writeHead(404).end();
  }
});

/** Chromium's protocol for tools, through a pipe: what to call, and with what. */
function protocol(browser, onEvent) {
  const [, , , to, from] = browser.stdio;
  from.setEncoding('utf8');
  const waiting = new Map();
  let count = 0;
  let rest = '';
  from.on('data', (chunk) => {
    const messages = (rest + chunk).split('\0');
    rest = messages.pop();
    for (const message of messages.map((text) => JSON.parse(text))) {
      const { id, result, error } = message;
      if (id === undefined) onEvent(message);
      const [resolve, reject] = waiting.get(id) ?? [];
      waiting.delete(id);
      if (error) reject?.(new Error(error.message));
      else resolve?.(result);
    }
  });
  return (method, params = {}, sessionId = undefined) => new Promise((resolve, reject) => {
    waiting.set(++count, [resolve, reject]);
    to.write(`${JSON.stringify({ id: count, method, params, sessionId })}\0`);
  });
}

/** Calls to the page. */
async function attached() {
  let page;
  while (!page) page = (await devtools('Target.getTargets')).targetInfos.find(({ type }) => type === 'page');
  const { targetId } = page;
  const { sessionId } = await devtools('Target.attachToTarget', { targetId, flatten: true });
  return (method, params) => devtools(method, params, sessionId);
}

/** The whole page as it looks in a window of this width. */
async function picture({ width, scale }) {
  const call = await session;
  const sized = (height) => call('Emulation.setDeviceMetricsOverride', {
    width, height, deviceScaleFactor: scale, mobile: false,
  });
  await sized(900);
  const { cssContentSize } = await call('Page.getLayoutMetrics');
  // A window as high as the page, and time to paint it: what is out of sight may be left white.
  await sized(Math.ceil(cssContentSize.height));
  await new Promise((resolve) => { setTimeout(resolve, 1000); });
  const { data } = await call('Page.captureScreenshot');
  await call('Emulation.clearDeviceMetricsOverride');
  return Buffer.from(data, 'base64');
}

server.listen(port, 'localhost', async () => {
  const address = `http://localhost:${server.address().port}/`;
  if (!check) {
    console.log(`Open ${address} in a browser with WebGPU.`);
    return;
  }
  const profile = mkdtempSync(join(tmpdir(), 'phasor-browser-'));
  const [program, ...given] = check;
  const browser = spawn(program, [
    '--headless=new', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync', `--user-data-dir=${profile}`,
    '--enable-unsafe-webgpu', '--js-flags=--expose-gc', '--enable-precise-memory-info',
    '--remote-debugging-pipe', '--window-size=1280,900', ...given,
    `${address}?check=${encodeURIComponent(process.env.CHECK_ONLY ?? '')}`,
  ], { stdio: ['ignore', 'ignore', 'pipe', 'pipe', 'pipe'] });
  let log = '';
  browser.stderr.on('data', (chunk) => { log += chunk; });
  devtools = protocol(browser, ({ method, params }) => {
    if (method !== 'Runtime.exceptionThrown') return;
    const { text, exception } = params.exceptionDetails;
    thrown.push(exception?.description ?? text);
    console.log(`FAILED  the page threw: ${thrown.at(-1)}`);
  });
  const ended = (error) => finish({ failed: true, text: String(error) });
  session = attached();
  session.then((call) => call('Runtime.enable')).catch(ended);
  browser.on('error', ended);
  browser.on('exit', (code) => finish({ failed: true, text: `the browser ended with ${code}\n${log}` }));
  const late = (text) => () => finish({ failed: true, text: `${text}\n${log}` });
  setTimeout(late(`nothing within ${minutes} minutes`), minutes * 60_000).unref();
  silence = setTimeout(late('the page does not check itself'), 90_000);
  const { failed, text, results } = await finished;
  console.log(text);
  if (results) writeFileSync(join(folder, 'results.json'), results);
  browser.removeAllListeners('exit');
  browser.on('exit', async () => {
    // Its other processes may still write there for a while; what is left is a folder of temporary files.
    for (let i = 0; i < 20; i++) {
      try {
        rmSync(profile, { recursive: true, force: true });
        break;
      } catch {
        await new Promise((resolve) => { setTimeout(resolve, 250); });
      }
    }
    process.exit(failed || thrown.length ? 1 : 0);
  });
  browser.kill();
});
