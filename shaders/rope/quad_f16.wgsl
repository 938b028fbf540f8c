// Four channels an entry, f16.
alias Stored = vec2<u32>;

fn decode(x: Stored) -> vec4<f32> {
    return vec4(unpack2x16float(x.x), unpack2x16float(x.y));
}

fn encode(x: vec4<f32>) -> Stored {
    return vec2(pack2x16float(x.xy), pack2x16float(x.zw));
}

