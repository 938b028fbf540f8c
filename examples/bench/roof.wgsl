// Kernels that do one thing as fast as the adapter can.

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4<f32>>;

// 256 times 32 multiply-adds in 32 chains that do not wait for each other. The result is stored
// where it cannot be, so that no compiler drops the work.
@compute @workgroup_size(64)
fn fma_scalar(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = source[0].x + 0.5;
    let a = source[0].y;
    var x: array<f32, 32>;
    for (var i = 0u; i < 32u; i++) {
        x[i] = f32(id.x + i);
    }
    for (var n = 0u; n < 256u; n++) {
        for (var i = 0u; i < 32u; i++) {
            x[i] = fma(x[i], m, a);
        }
    }
    var sum = 0.0;
    for (var i = 0u; i < 32u; i++) {
        sum += x[i];
    }
    if (sum == 0.12345) {
        target_[id.x] = vec4(sum);
    }
}

@compute @workgroup_size(64)
fn fma_vec4(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = vec4(source[0].x + 0.5);
    let a = vec4(source[0].y);
    var x: array<vec4<f32>, 8>;
    for (var i = 0u; i < 8u; i++) {
        x[i] = vec4(f32(id.x + i)) + vec4(0.0, 1.0, 2.0, 3.0);
    }
    for (var n = 0u; n < 256u; n++) {
        for (var i = 0u; i < 8u; i++) {
            x[i] = fma(x[i], m, a);
        }
    }
    var sum = vec4(0.0);
    for (var i = 0u; i < 8u; i++) {
        sum += x[i];
    }
    if (sum.x + sum.y + sum.z + sum.w == 0.12345) {
        target_[id.x] = sum;
    }
}

@compute @workgroup_size(256)
fn copy(@builtin(global_invocation_id) id: vec3<u32>) {
    target_[id.x] = source[id.x];
}

@compute @workgroup_size(64)
fn nothing(@builtin(global_invocation_id) id: vec3<u32>) {
    if (id.x == 0xffffffffu) {
        target_[0] = source[0];
    }
}
