//! WGSL of the caller's that becomes part of a kernel. It is parsed here, and whatever could hang,
//! race or write memory is refused with the reason, before a device sees it.

use crate::{Error, Result};

/// A positive function of one number, as WGSL text that was checked.
///
/// ```
/// use phasor::linear_attention::FeatureHook;
///
/// let softplus = FeatureHook::new(
///     "fn feature_map(x: f32) -> f32 { return max(x, 0.0) + log(1.0 + exp(-abs(x))); }",
/// );
/// assert!(softplus.is_ok());
/// let endless = FeatureHook::new("fn feature_map(x: f32) -> f32 { loop {} }");
/// assert!(endless.unwrap_err().to_string().contains("loop"));
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct FeatureHook {
    wgsl: String,
}

impl FeatureHook {
    /// Takes WGSL that defines `fn feature_map(x: f32) -> f32`. Functions, constants and types
    /// beside it have names that begin with `feature_map_`, so that they meet none of a kernel's.
    ///
    /// The function has to be positive for every x; that cannot be checked, and where it is not,
    /// denominators may vanish.
    ///
    /// # Errors
    /// [`Error::Hook`] for text that is no valid WGSL, lacks the function, has loops, barriers,
    /// stores, or variables outside of functions, or uses a feature beyond plain WGSL; and for any
    /// hook where there is no WGSL parser: on the web, and without the feature `wgpu`.
    pub fn new(wgsl: impl Into<String>) -> Result<Self> {
        Ok(Self { wgsl: checked(&FEATURE_MAP, wgsl.into())? })
    }

    /// The text.
    pub fn wgsl(&self) -> &str {
        &self.wgsl
    }
}

/// A modification of single scores, as WGSL text that was checked.
///
/// ```
/// use phasor::ScoreHook;
///
/// // A bias that grows with the distance, for even heads only.
/// let hook = ScoreHook::new(
///     "fn score_mod(score: f32, batch: u32, head: u32, query: i32, key: i32) -> f32 {
///          return select(score, score + 0.1 * f32(key - query), head % 2u == 0u);
///      }",
/// );
/// assert!(hook.is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct ScoreHook {
    wgsl: String,
}

impl ScoreHook {
    /// Takes WGSL that defines
    /// `fn score_mod(score: f32, batch: u32, head: u32, query: i32, key: i32) -> f32`: the score
    /// that takes the place of a scaled score (in units of the natural logarithm). `head` counts
    /// output heads, `query` is the query's place among the keys (its row, without a causal mask).
    /// Other names begin with `score_mod_`.
    ///
    /// A NaN makes the row NaN, +∞ as well; −∞ takes the key's weight, and a finite number may have
    /// any size. A key that a bias or mask hides stays hidden, whatever the function gives.
    ///
    /// # Errors
    /// [`Error::Hook`], as [`FeatureHook::new`].
    pub fn new(wgsl: impl Into<String>) -> Result<Self> {
        Ok(Self { wgsl: checked(&SCORE_MOD, wgsl.into())? })
    }

    /// The text.
    pub fn wgsl(&self) -> &str {
        &self.wgsl
    }
}

/// A mask over single scores, as WGSL text that was checked.
///
/// ```
/// use phasor::MaskHook;
///
/// // Keys of the same run of 64.
/// let hook = MaskHook::new(
///     "fn mask_mod(batch: u32, head: u32, query: i32, key: i32) -> bool {
///          return query / 64 == key / 64;
///      }",
/// );
/// assert!(hook.is_ok());
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct MaskHook {
    wgsl: String,
}

impl MaskHook {
    /// Takes WGSL that defines `fn mask_mod(batch: u32, head: u32, query: i32, key: i32) -> bool`:
    /// whether the query may see the key, beyond what all other masks hide. The arguments are those
    /// of [`ScoreHook`]. Other names begin with `mask_mod_`.
    ///
    /// # Errors
    /// [`Error::Hook`], as [`FeatureHook::new`].
    pub fn new(wgsl: impl Into<String>) -> Result<Self> {
        Ok(Self { wgsl: checked(&MASK_MOD, wgsl.into())? })
    }

    /// The text.
    pub fn wgsl(&self) -> &str {
        &self.wgsl
    }
}

/// What a hook has to define.
#[cfg_attr(
    any(not(feature = "wgpu"), all(target_arch = "wasm32", not(target_os = "emscripten"))),
    expect(dead_code, reason = "without a parser, nothing reads them")
)]
struct Form {
    name: &'static str,
    arguments: &'static [&'static str],
    result: &'static str,
}

const FEATURE_MAP: Form = Form { name: "feature_map", arguments: &["f32"], result: "f32" };
const SCORE_MOD: Form =
    Form { name: "score_mod", arguments: &["f32", "u32", "u32", "i32", "i32"], result: "f32" };
const MASK_MOD: Form =
    Form { name: "mask_mod", arguments: &["u32", "u32", "i32", "i32"], result: "bool" };

fn checked(form: &Form, wgsl: String) -> Result<String> {
    match check(form, &wgsl) {
        Ok(()) => Ok(wgsl),
        Err(reason) => Err(Error::Hook { name: form.name, reason }),
    }
}

#[cfg(any(not(feature = "wgpu"), all(target_arch = "wasm32", not(target_os = "emscripten"))))]
fn check(_: &Form, _: &str) -> Result<(), String> {
    Err("there is no WGSL parser here to check it with: not on the web, nor without the feature wgpu"
        .to_owned())
}

#[cfg(all(feature = "wgpu", not(all(target_arch = "wasm32", not(target_os = "emscripten")))))]
mod check;
#[cfg(all(feature = "wgpu", not(all(target_arch = "wasm32", not(target_os = "emscripten")))))]
use check::check;

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(wgsl: &str) -> String {
        FeatureHook::new(wgsl).unwrap_err().to_string()
    }

    #[test]
    fn functions_of_their_argument_alone_are_taken() {
        for wgsl in [
            "fn feature_map(x: f32) -> f32 { return exp(x); }",
            "const feature_map_a: f32 = 2.0;
             fn feature_map_helper(x: f32) -> f32 { return feature_map_a * x * x + 0.5; }
             fn feature_map(x: f32) -> f32 { return feature_map_helper(x); }",
            "fn feature_map(x: f32) -> f32 {
                 var y = 1.0;
                 if (x > 0.0) { y = x + 1.0; } else { y = exp(x); }
                 switch (i32(y)) { case 3: { y += 0.25; } default: {} }
                 return y;
             }",
        ] {
            assert_eq!(FeatureHook::new(wgsl).unwrap().wgsl(), wgsl);
        }
    }

    #[test]
    fn what_hangs_waits_or_writes_is_refused_with_the_reason() {
        let body = |body: &str| format!("fn feature_map(x: f32) -> f32 {{ {body} return x; }}");
        let all = [
            ("var y = x; for (var i = 0; i < 3; i++) { y += 1.0; }", "loop"),
            ("while (x > 0.0) { }", "loop"),
            ("workgroupBarrier();", "barrier"),
            ("storageBarrier();", "barrier"),
        ];
        for (text, reason) in all {
            assert!(refused(&body(text)).contains(reason), "{text}: {}", refused(&body(text)));
        }
        let helper = "fn feature_map_h() { loop { break; } }";
        assert!(refused(&format!("{helper}{}", body("feature_map_h();"))).contains("loop"));
        let store = "@group(0) @binding(20) var<storage, read_write> o: array<f32>;";
        assert!(refused(&format!("{store}{}", body("o[0] = x;"))).contains("store"));
        let pointer = "fn feature_map_p(p: ptr<function, f32>) { *p = 1.0; }";
        assert!(refused(&format!("{pointer}{}", body(""))).contains("store"));
        let shared = "var<workgroup> w: f32;";
        assert!(refused(&format!("{shared}{}", body(""))).contains("var w"));
    }

    #[test]
    fn every_hook_has_its_own_form() {
        let score = "fn score_mod(s: f32, b: u32, h: u32, q: i32, k: i32) -> f32 { return s; }";
        let mask = "fn mask_mod(b: u32, h: u32, q: i32, k: i32) -> bool { return q > k; }";
        assert!(ScoreHook::new(score).is_ok() && MaskHook::new(mask).is_ok());
        assert!(ScoreHook::new(mask).is_err() && MaskHook::new(score).is_err());
        let unsigned = mask.replace("k: i32", "k: u32").replace("q > k", "true");
        let refusal = MaskHook::new(unsigned).unwrap_err().to_string();
        assert!(refusal.contains("mask_mod(u32, u32, i32, i32) -> bool"), "{refusal}");
        let stuck = mask.replace("return", "loop {} return");
        assert!(MaskHook::new(stuck).unwrap_err().to_string().contains("loop"));
    }

    #[test]
    fn text_that_is_no_such_function_is_refused() {
        assert!(refused("fn feature_map(x: f32) -> f32 { return y; }").contains("y"));
        assert!(refused("fn map(x: f32) -> f32 { return x; }").contains("does not begin"));
        assert!(refused("").contains("does not define"));
        assert!(refused("fn feature_map(x: u32) -> f32 { return 1.0; }").contains("signature"));
        assert!(refused("fn feature_map(x: f32) { }").contains("signature"));
        let clash = "fn rotate() {} fn feature_map(x: f32) -> f32 { return x; }";
        assert!(refused(clash).contains("rotate"));
        let entry = "@compute @workgroup_size(1) fn feature_map_main() {}";
        assert!(refused(entry).contains("entry point"));
    }
}
