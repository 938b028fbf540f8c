//! Prints a RoPE++ attention call as JSON for a host in another language: buffers 0 to 3 are q, k,
//! v and out.
//!
//!     cargo run --manifest-path examples/hosts/recipes/Cargo.toml

use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::recipe::{AttentionBindings, Plan as _, Range, Tensor};
use phasor::shader::Shader;
use phasor::{Capabilities, DType, HeadMap, Layout, Result};

const HEADS: u32 = 4;
const KV_HEADS: u32 = 2;
const ROWS: u32 = 100;
const DIM: u32 = 64;

fn main() -> Result<()> {
    let problem = AttentionProblem::new(HeadMap::ropepp(HEADS)?, KV_HEADS, DIM);
    let plan = problem.plan(&Capabilities::webgpu_default())?;
    let tensor = |buffer, heads| {
        let layout = Layout::bhsd([1, heads, ROWS, DIM])?;
        Tensor::at(Range::new(buffer, 0, 4 * layout.elements()), DType::F32, layout)
    };
    let (q, out) = (tensor(0, HEADS)?, tensor(3, 2 * HEADS)?);
    let bindings = AttentionBindings::new(q, tensor(1, KV_HEADS)?, tensor(2, KV_HEADS)?, out);
    let recipe = plan.recipe(&AttentionShape::new(1, ROWS, ROWS), &bindings)?;
    let text = |shader: &Shader| shader.with_overrides_written().renumbered();
    let json = serde_json::json!({
        "heads": HEADS,
        "kv_heads": KV_HEADS,
        "rows": ROWS,
        "dim": DIM,
        "softmax_scale": plan.problem().softmax_scale,
        "recipe": recipe.to_json(&plan, text),
    });
    println!("{json}");
    Ok(())
}
