// Kernels that do one thing as fast as the adapter can.

@group(0) @binding(0) var<storage, read> source: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read_write> target_: array<vec4<f32>>;

// 256 times 32 multiply-adds in 32 chains that do not wait for each other. The chains have names,
// since an indexed array would be left in memory by some compilers. The result is stored where it
// cannot be, so that no compiler drops the work.
@compute @workgroup_size(64)
fn fma_vec4(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = vec4(source[0].x + 0.5);
    let t = vec4(source[0].y);
    let x = vec4(f32(id.x)) + vec4(0.0, 1.0, 2.0, 3.0);
    var a = x + 0.0;
    var b = x + 1.0;
    var c = x + 2.0;
    var d = x + 3.0;
    var e = x + 4.0;
    var f = x + 5.0;
    var g = x + 6.0;
    var h = x + 7.0;
    for (var n = 0u; n < 256u; n++) {
        a = fma(a, m, t);
        b = fma(b, m, t);
        c = fma(c, m, t);
        d = fma(d, m, t);
        e = fma(e, m, t);
        f = fma(f, m, t);
        g = fma(g, m, t);
        h = fma(h, m, t);
    }
    let sum = ((a + b) + (c + d)) + ((e + f) + (g + h));
    if (sum.x + sum.y + sum.z + sum.w == 0.12345) {
        target_[id.x] = sum;
    }
}

// The same with scalars, which suit adapters that keep vectors in memory: 16 chains, twice a turn.
@compute @workgroup_size(64)
fn fma_scalar(@builtin(global_invocation_id) id: vec3<u32>) {
    let m = source[0].x + 0.5;
    let t = source[0].y;
    let x = f32(id.x);
    var a = x + 0.0;
    var b = x + 1.0;
    var c = x + 2.0;
    var d = x + 3.0;
    var e = x + 4.0;
    var f = x + 5.0;
    var g = x + 6.0;
    var h = x + 7.0;
    var i = x + 8.0;
    var j = x + 9.0;
    var k = x + 10.0;
    var o = x + 11.0;
    var p = x + 12.0;
    var q = x + 13.0;
    var r = x + 14.0;
    var s = x + 15.0;
    for (var n = 0u; n < 256u; n++) {
        a = fma(a, m, t);
        b = fma(b, m, t);
        c = fma(c, m, t);
        d = fma(d, m, t);
        e = fma(e, m, t);
        f = fma(f, m, t);
        g = fma(g, m, t);
        h = fma(h, m, t);
        i = fma(i, m, t);
        j = fma(j, m, t);
        k = fma(k, m, t);
        o = fma(o, m, t);
        p = fma(p, m, t);
        q = fma(q, m, t);
        r = fma(r, m, t);
        s = fma(s, m, t);
        a = fma(a, m, t);
        b = fma(b, m, t);
        c = fma(c, m, t);
        d = fma(d, m, t);
        e = fma(e, m, t);
        f = fma(f, m, t);
        g = fma(g, m, t);
        h = fma(h, m, t);
        i = fma(i, m, t);
        j = fma(j, m, t);
        k = fma(k, m, t);
        o = fma(o, m, t);
        p = fma(p, m, t);
        q = fma(q, m, t);
        r = fma(r, m, t);
        s = fma(s, m, t);
    }
    let sum = (((a + b) + (c + d)) + ((e + f) + (g + h)))
        + (((i + j) + (k + o)) + ((p + q) + (r + s)));
    if (sum == 0.12345) {
        target_[id.x] = vec4(sum);
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
