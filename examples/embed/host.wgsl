// The host's own shader: a matrix product, y = x Wᵀ. One invocation: one element of y.

struct Shape {
    rows: u32,
    inputs: u32,
    outputs: u32,
    pad: u32,
}

@group(0) @binding(0) var<uniform> shape: Shape;
@group(0) @binding(1) var<storage, read> x: array<f32>;       // [rows, inputs]
@group(0) @binding(2) var<storage, read> w: array<f32>;       // [outputs, inputs]
@group(0) @binding(3) var<storage, read_write> y: array<f32>; // [rows, outputs]

@compute @workgroup_size(64)
fn product(@builtin(global_invocation_id) id: vec3<u32>) {
    let row = id.y;
    let column = id.x;
    if (column >= shape.outputs || row >= shape.rows) {
        return;
    }
    var sum = 0.0;
    for (var i = 0u; i < shape.inputs; i++) {
        sum = fma(x[row * shape.inputs + i], w[column * shape.inputs + i], sum);
    }
    y[row * shape.outputs + column] = sum;
}
