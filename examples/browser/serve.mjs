// Serves the page, or, with --check, lets a headless Chromium open it and waits for what it found.
//
//     node serve.mjs
//     node serve.mjs --check CHROMIUM [its options]

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { extname, join } from 'node:path';

const folder = import.meta.dirname;
const types = { '.html': 'text/html', '.js': 'text/javascript', '.wasm': 'application/wasm' };
const files = new Set(['index.html', 'pkg/phasor_browser.js', 'pkg/phasor_browser_bg.wasm']);
const minutes = 5;

const options = process.argv.slice(2);
const check = options[0] === '--check' ? options.slice(1) : undefined;
const port = check ? 0 : 8000;
let finish;
const finished = new Promise((resolve) => { finish = resolve; });

const server = createServer((request, response) => {
  const path = new URL(request.url, 'http://localhost').pathname.slice(1) || 'index.html';
  if (request.method === 'POST' && path === 'report') {
    let body = '';
    request.on('data', (chunk) => { body += chunk; });
    request.on('end', () => { response.end(); finish(JSON.parse(body)); });
  } else if (files.has(path)) {
    response.setHeader('Content-Type', types[extname(path)]);
    response.end(readFileSync(join(folder, path)));
  } else {
    response.writeHead(404).end();
  }
});
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
    '--enable-unsafe-webgpu', ...given, `${address}?report`,
  ], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  browser.stderr.on('data', (chunk) => { log += chunk; });
  browser.on('error', (error) => finish({ failed: true, text: String(error) }));
  browser.on('exit', (code) => finish({ failed: true, text: `the browser ended with ${code}\n${log}` }));
  const late = () => finish({ failed: true, text: `nothing within ${minutes} minutes\n${log}` });
  setTimeout(late, minutes * 60_000).unref();
  const { failed, text } = await finished;
  console.log(text);
  browser.removeAllListeners('exit');
  browser.on('exit', () => {
    rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
    process.exit(failed ? 1 : 0);
  });
  browser.kill();
});
