"""RoPE++ attention from Python: numpy arrays in, both attentions out, by the wgpu package from PyPI.

    pip install wgpu numpy
    cargo run --manifest-path examples/hosts/recipes/Cargo.toml | python3 examples/hosts/attention.py

The call comes as a recipe from a program without wgpu; this one knows nothing of the kernel. The result
is compared with numpy in f64.
"""

import json
import sys

import numpy as np
import wgpu


def run(device, recipe, arrays):
    """Runs the steps of a recipe over buffers that hold `arrays`, and returns the buffers."""
    usage = wgpu.BufferUsage
    storage = usage.STORAGE | usage.COPY_SRC | usage.COPY_DST
    buffers = [device.create_buffer_with_data(data=array, usage=storage) for array in arrays]

    def resource(entry):
        if "range" in entry:
            part = entry["range"]
            return {"buffer": buffers[part["buffer"]], "offset": part["offset"], "size": part["size"]}
        if "words" in entry:
            data = np.array(entry["words"], dtype=np.uint32)
            buffer = device.create_buffer_with_data(data=data, usage=usage.UNIFORM | usage.STORAGE)
        else:
            buffer = device.create_buffer(size=entry["unused"], usage=usage.STORAGE)
        return {"buffer": buffer, "offset": 0, "size": buffer.size}

    pipelines = []
    for stage in recipe["stages"]:
        module = device.create_shader_module(code=stage["source"])
        compute = {"module": module, "entry_point": stage["entry"], "constants": stage["overrides"]}
        pipelines.append(device.create_compute_pipeline(layout="auto", compute=compute))
    encoder = device.create_command_encoder()
    for step in recipe["steps"]:
        pipeline = pipelines[step["stage"]]
        entries = [{"binding": e["binding"], "resource": resource(e)} for e in step["entries"]]
        group = device.create_bind_group(layout=pipeline.get_bind_group_layout(0), entries=entries)
        compute_pass = encoder.begin_compute_pass()
        compute_pass.set_pipeline(pipeline)
        compute_pass.set_bind_group(0, group)
        compute_pass.dispatch_workgroups(*step["workgroups"], 1)
        compute_pass.end()
    device.queue.submit([encoder.finish()])
    return buffers


def attention(q, k, v, scale):
    """Causal attention of [H, S, D] queries over [H_kv, S, D] keys and values, in f64."""
    group = q.shape[0] // k.shape[0]
    k, v = np.repeat(k, group, axis=0), np.repeat(v, group, axis=0)
    scores = scale * q @ k.swapaxes(1, 2)
    scores[:, np.triu(np.ones(scores.shape[1:], dtype=bool), 1)] = -np.inf
    weights = np.exp(scores - scores.max(axis=2, keepdims=True))
    return weights / weights.sum(axis=2, keepdims=True) @ v


def main():
    call = json.load(sys.stdin)
    heads, kv_heads, rows, dim = (call[key] for key in ("heads", "kv_heads", "rows", "dim"))
    rng = np.random.default_rng(1)
    q = rng.standard_normal((heads, rows, dim), dtype=np.float32)
    k, v = rng.standard_normal((2, kv_heads, rows, dim), dtype=np.float32)
    out = np.full((2 * heads, rows, dim), np.nan, dtype=np.float32)

    adapter = wgpu.gpu.request_adapter_sync(power_preference="high-performance")
    device = adapter.request_device_sync()
    buffers = run(device, call["recipe"], [q, k, v, out])
    got = np.frombuffer(device.queue.read_buffer(buffers[3]), dtype=np.float32).reshape(out.shape)

    # The imaginary score is that of the query turned by -pi/2: (a, b) becomes (b, -a).
    a, b = np.split(q.astype(np.float64), 2, axis=2)
    turned = np.concatenate([b, -a], axis=2)
    k, v, scale = k.astype(np.float64), v.astype(np.float64), call["softmax_scale"]
    # Output heads come in pairs, real and imaginary.
    worst = 0.0
    for name, query, mine in [("real", q.astype(np.float64), got[0::2]), ("imaginary", turned, got[1::2])]:
        error = np.abs(mine - attention(query, k, v, scale)).max()
        print(f"{name}: largest error {error:.1e}")
        worst = max(worst, error) if error == error else np.inf
    print(f"on {adapter.info['device']}, wgpu {wgpu.__version__}")
    sys.exit(0 if worst < 5e-6 else "attention is wrong")


main()
