// Four channels an entry, f32.
alias Stored = vec4<f32>;

fn decode(x: Stored) -> vec4<f32> {
    return x;
}

fn encode(x: vec4<f32>) -> Stored {
    return x;
}

