// Serves a folder that scripts/browser.sh made, or, with --check, lets a headless Chromium open it
// there and waits for what the page's own check.js found.
//
//     node serve.mjs FOLDER
//     node serve.mjs FOLDER --check CHROMIUM [its options]

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createServer } from 'node:http';
import { tmpdir } from 'node:os';
import { extname, join, normalize } from 'node:path';

const types = {
  '.css': 'text/css', '.html': 'text/html', '.js': 'text/javascript', '.json': 'application/json',
  '.svg': 'image/svg+xml', '.wasm': 'application/wasm',
};
const minutes = 20;

const [folder, ...options] = process.argv.slice(2);
const check = options[0] === '--check' ? options.slice(1) : undefined;
const port = check ? 0 : 8000;
let finish;
const finished = new Promise((resolve) => { finish = resolve; });

const server = createServer((request, response) => {
  const path = new URL(request.url, 'http://localhost').pathname;
  if (check && request.method === 'POST' && path === '/report') {
    let body = '';
    request.on('data', (chunk) => { body += chunk; });
    request.on('end', () => {
      response.end();
      const report = JSON.parse(body);
      if (report.line) console.log(report.line);
      else finish(report);
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
    '--window-size=1280,900', ...given, `${address}?check`,
  ], { stdio: ['ignore', 'ignore', 'pipe'] });
  let log = '';
  browser.stderr.on('data', (chunk) => { log += chunk; });
  browser.on('error', (error) => finish({ failed: true, text: String(error) }));
  browser.on('exit', (code) => finish({ failed: true, text: `the browser ended with ${code}\n${log}` }));
  const late = () => finish({ failed: true, text: `nothing within ${minutes} minutes\n${log}` });
  setTimeout(late, minutes * 60_000).unref();
  const { failed, text, results } = await finished;
  console.log(text);
  if (results) writeFileSync(join(folder, 'results.json'), results);
  browser.removeAllListeners('exit');
  browser.on('exit', () => {
    rmSync(profile, { recursive: true, force: true, maxRetries: 10 });
    process.exit(failed ? 1 : 0);
  });
  browser.kill();
});
