// Compiles and runs phasor's shaders with Dawn, whose compiler is Tint: the other implementation of WGSL.
//
//     npm ci --prefix tools/tint          (once)
//     cargo run --release --bin replay -- --through "node tools/tint/run.mjs" tests/data
//
// Reads one JSON object a line and answers each with one line; `tests/kit/src/runner/remote.rs` describes
// them. Nothing is changed in the WGSL, but for the
// line `enable subgroups;`, which WGSL demands and naga 30 does not know.

import { readFileSync } from 'node:fs';
import { createInterface } from 'node:readline';
import { create, globals } from 'webgpu';

Object.assign(globalThis, globals);
const gpu = create([`backend=${process.env.DAWN_BACKEND ?? 'vulkan'}`]);
const adapter = await gpu.requestAdapter();
if (!adapter) throw new Error('Dawn finds no adapter');
const requiredLimits = {};
for (const name in adapter.limits) {
  if (typeof adapter.limits[name] === 'number') requiredLimits[name] = adapter.limits[name];
}
const requiredFeatures = ['subgroups'].filter((name) => adapter.features.has(name));
const device = await adapter.requestDevice({ requiredLimits, requiredFeatures });
const info = adapter.info;
const manifest = new URL('node_modules/webgpu/package.json', import.meta.url);
const { version } = JSON.parse(readFileSync(manifest));
console.error(`Dawn of npm webgpu ${version} on ${info.description || info.device}`);

// Messages of Tint and of Dawn's validation, or what a step threw, as one error.
async function checked(work) {
  device.pushErrorScope('validation');
  device.pushErrorScope('out-of-memory');
  let result, thrown;
  try {
    result = await work();
  } catch (error) {
    thrown = error;
  }
  const errors = [await device.popErrorScope(), await device.popErrorScope(), thrown];
  const first = errors.find((error) => error);
  if (first) throw new Error(first.message ?? String(first));
  return result;
}

const compiled = new Map();
async function pipeline(shader) {
  const key = JSON.stringify([shader.source, shader.entry, shader.overrides]);
  if (!compiled.has(key)) {
    const enables = /\bsubgroup/.test(shader.source) ? 'enable subgroups;\n' : '';
    const module = device.createShaderModule({ code: enables + shader.source, label: shader.label });
    const { messages } = await module.getCompilationInfo();
    const bad = messages.filter(({ type }) => type === 'error');
    if (bad.length) throw new Error(bad.map((m) => `${m.lineNum}:${m.linePos} ${m.message}`).join('\n'));
    const compute = { module, entryPoint: shader.entry, constants: shader.overrides };
    compiled.set(key, await device.createComputePipelineAsync({ layout: 'auto', compute }));
  }
  return compiled.get(key);
}

async function run({ shader, recipe, buffers }) {
  if (shader) {
    await pipeline(shader);
    return {};
  }
  if (!recipe) return { limits: requiredLimits };
  const { STORAGE, UNIFORM, COPY_SRC, COPY_DST, MAP_READ } = GPUBufferUsage;
  const holding = (bytes, usage) => {
    const size = Math.max(4, (bytes.length + 3) & ~3);
    const buffer = device.createBuffer({ size, usage: usage | COPY_DST });
    device.queue.writeBuffer(buffer, 0, bytes);
    return buffer;
  };
  const before = buffers.map((text) => Buffer.from(text, 'base64'));
  const there = before.map((bytes) => holding(bytes, STORAGE | COPY_SRC));
  const resource = ({ range, words, unused }) => {
    if (range) return { buffer: there[range.buffer], offset: range.offset, size: range.size };
    if (words) return { buffer: holding(Buffer.from(Uint32Array.from(words).buffer), UNIFORM | STORAGE) };
    return { buffer: device.createBuffer({ size: unused, usage: STORAGE }) };
  };
  const stages = [];
  for (const stage of recipe.stages) stages.push(await pipeline(stage));
  const encoder = device.createCommandEncoder();
  for (const { stage, workgroups, entries } of recipe.steps) {
    const bound = entries.map((entry) => ({ binding: entry.binding, resource: resource(entry) }));
    const group = device.createBindGroup({ layout: stages[stage].getBindGroupLayout(0), entries: bound });
    const pass = encoder.beginComputePass();
    pass.setPipeline(stages[stage]);
    pass.setBindGroup(0, group);
    pass.dispatchWorkgroups(...workgroups);
    pass.end();
  }
  const staging = there.map((buffer) => {
    const copy = device.createBuffer({ size: buffer.size, usage: MAP_READ | COPY_DST });
    encoder.copyBufferToBuffer(buffer, 0, copy, 0, buffer.size);
    return copy;
  });
  device.queue.submit([encoder.finish()]);
  const after = [];
  for (const [i, copy] of staging.entries()) {
    await copy.mapAsync(GPUMapMode.READ);
    const bytes = Buffer.from(copy.getMappedRange().slice(0, before[i].length));
    after.push(bytes.equals(before[i]) ? null : bytes.toString('base64'));
    copy.destroy();
    there[i].destroy();
  }
  return { buffers: after };
}

for await (const line of createInterface({ input: process.stdin, crlfDelay: Infinity })) {
  let answer;
  try {
    const request = JSON.parse(line);
    answer = await checked(() => run(request));
  } catch (error) {
    answer = { error: error.message };
  }
  process.stdout.write(JSON.stringify(answer) + '\n');
}
process.exit(0); // Dawn's threads would keep the process.
