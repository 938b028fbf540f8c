//! What the kernels do with numbers at the edge, and how far off they may be. There is no code
//! here.
//!
//! # Numbers at the edge
//!
//! Held by `tests/gpu/edges`. Infinities and NaNs are found by their bits where a kernel has to
//! find them, since WGSL lets a compiler assume that there are none; what arithmetic does with them
//! in between is the device's, and on every adapter of the README's table it is IEEE 754's.
//!
//! | number | result |
//! |---|---|
//! | NaN in q | the outputs and log-sum-exps of that query row are NaN |
//! | NaN in k | those of the rows that see the key are NaN |
//! | NaN in v | that channel of the rows that see the key is NaN |
//! | anything in a key that a row does not see (causal, window, prefix, mask, length, page) | nothing: the row's bits do not change |
//! | a score of −∞, or below −3.4·10³⁸ in base 2 | the key has no weight; a NaN in its value may show all the same |
//! | a score of +∞ | the row is NaN |
//! | ±∞ in v | that channel of the rows that see the key is ±∞, or NaN where both meet |
//! | ±∞ in q or k | the scores that IEEE 754 gives; NaN where the kernel also turns or mixes by a phase. In three f16 products for one also NaN where the other number has no high part: q below 2⁻¹⁶ of its row's largest, k below 6·10⁻⁵, ±∞; or q is in f16 and k in f32 |
//! | on matrix units: k and v past ±65504, q too with one f16 product | as ±∞ |
//! | a row that sees no key, or whose scores are all −∞ | output 0, log-sum-exp −∞, whatever the keys hold |
//! | a bias of −∞ | the key is masked, whatever its score, and whatever a hook makes of it |
//! | a finite bias of any size, the lowest of f16 and f32 among them | it is added and hides nothing: beside keys without it, a key with f32's lowest has no weight; a row all of whose keys have it is the mean of their values, log-sum-exp that number. Between −10⁵ and there it takes digits of the score as f32 does |
//! | a hook that gives NaN or +∞ | the row is NaN |
//! | a hook that gives −∞, or a finite number of any size | as a score of −∞; as a bias of that size |
//! | a sink of −∞ | no sink: the bits of a call without; +∞ and NaN are refused |
//! | a finite sink of any size | it joins as it is: beside the lowest, a row keeps its bits; beside the largest, its output is 0 and its log-sum-exp the sink |
//! | scores all alike | the mean of the values; log-sum-exp the score + ln n |
//! | large scores (±10⁴ and beyond) | softmax of the scores as rounded to f32; the maximum is taken out first, nothing overflows |
//! | denormals | kept, or flushed to zero; the device decides |
//! | f16 past ±65504 when stored | WGSL leaves it open; ±∞ where it was tested, NaN on SwiftShader. Sums are f32 and do not overflow earlier |
//! | merge: a part whose log-sum-exp is NaN or +∞ | the merged row is NaN |
//! | merge: a part whose log-sum-exp is −∞ | it has no keys, and its output is not read |
//! | merge: finite log-sum-exps of any size (±3·10³⁸) | parts that are smaller than the largest by more than f32 tells have no weight, equal ones the same. Decode's splits hand over maximum and sum instead, so that they merge to what one split gives |
//! | NaN or ±∞ in a pair that rotates | both channels of that pair, no other |
//! | a row that `kv_move` moves | its numbers go with it; the two lines above and below hold where its key turns |
//! | NaN or ±∞ on its way into an int8 row, or a q4 block of 32 | all of the row or block reads as NaN, for codes cannot say more |
//! | q4 past ±524032 | its scale is past f16, see there |
//! | linear attention: NaN in k | the rows that see the key; in v: that channel of them |
//! | gradients of linear attention: NaN or ±∞ in `d_out` | dq of that row; dk and dv of the keys that it sees, and of other keys of its chunk too |
//! | a query row before key 0 (a sequence shorter than the call) | its place is negative, for mask, window, ALiBi, hooks and rotation alike: it turns by −\|p\|, R(−p) = R(p)ᵀ, and under the causal mask sees no key |
//! | sizes of 0 | a call without outputs is an empty dispatch; one without keys writes rows that see none |
//!
//! # Error bounds
//!
//! `cargo run --release --bin certify` measures the largest error of every kernel and dtype on the
//! adapter at hand, against the f64 oracle, and holds each element to the bound that follows from
//! these rules. u = 2⁻²⁴ is half an ulp of 1 in f32.
//!
//! * WGSL (§15.7.4) rounds +, −, · correctly: relative error u. A division has 2.5 ulp, `exp2(x)`
//!   and `exp(x)` have 3 + 2|x| ulp, `log2` 3 ulp or 2⁻²¹ near 1; an ulp is at most 2u of the
//!   value. An `fma` may round once or twice.
//! * A sum of n products is within γₙ₊₁ Σ|xᵢyᵢ| of itself, γₙ = nu / (1 − nu), in whatever order it
//!   is added up (Higham, *Accuracy and Stability of Numerical Algorithms*, §3.1 and §4.2).
//! * **Rotation** `a cos − b sin`: the table is within an ulp, 2u; two products and a sum: 4u
//!   (|a cos| + |b sin|).
//! * **Score** in base 2: D products, of a query scaled by a rounded c log₂e (and turned, two
//!   more): δⱼ = γ_{D+8} |c| log₂e Σ|q k|.
//! * **Weight** exp2(sⱼ − m): relative error ρⱼ = ln 2 (δⱼ + u|xⱼ|) + (3 + 2|xⱼ|) 2u with xⱼ = sⱼ −
//!   m, and for each of the T key tiles a rescaling by exp2 of how far the maximum moved, at most
//!   8u + 4u·(how far), together ρⱼ + 8Tu + 4u·(sₘₐₓ − sₘᵢₙ).  The maximum itself cancels between
//!   numerator and denominator, so its error does not count.
//! * **Output** Σ Pⱼ vⱼ with weights and their sum both off: Σ Pⱼ|vⱼ| (ρⱼ + ρ̄ + 2γ_S + 8u), ρ̄ = Σ
//!   Pⱼ ρⱼ.
//! * **On matrix units**, h = 2⁻¹¹. With f16 products q, k and v are off by h each and weights by h
//!   in numerator and denominator: (2h + h²) Σ|q k| more for a score, 3 (h + h²) Σ Pⱼ|vⱼ| for an
//!   output. With three for one, a number is within h² of the sum of its parts, and the product of
//!   what is small is left out: 3h² Σ|q k| and 3h² Σ Pⱼ|vⱼ|, sums of three times as many terms.
//!   This counts on sums in f32 that round as WGSL's do, and on f16's subnormals.
//! * **Log-sum-exp**: ρ̄ + γ_S + 2⁻²¹ + 4u (|lse| + |m|).
//! * **Merge** of P parts: the same with weights exp2(log₂e · lseₚ − M), whose logarithms are off
//!   by 4u|lseₚ|.
//! * **Gradients of attention**, given out and log-sum-exp: a weight is off by ρ = ln 2 (δⱼ + 3u
//!   |lse log₂e| + u|x|) + (3 + 2|x|) 2u of itself, dP by γ_{Dᵥ+1} Σ|dO v|, δ by γ_{Dᵥ+1} Σ|dO out|
//!   and the rounding of the stored out; so dS = P (dP − δ) by ε = P (1 + ρ) (both) + |dS| (ρ +
//!   4u). Then dq is off by scale Σⱼ (ε + γ_{n+8} |dS|) |k|, n terms of all keys and streams, dk
//!   alike with |q| and n terms of all queries of its heads, and dv by Σ P (ρ + γ_{n+8}) |dO|.
//! * **Linear attention**: features within (3 + 2|x|) 2u, rotated by 4u; numerator and denominator
//!   are sums of F·S products, so relative to Σ|weights · v| and to the denominator γ_{F+S+64}.
//! * **Its gradients**, given out: every term has four features (one may be the derivative of the
//!   feature map), a denominator and two sums at most, so it is off by ρ = γ_{2(F+S)+64} + 4 (3 +
//!   2|x|) 2u + 48u of itself; with e = |dO| / den, dq by Σⱼ (ρ (e·|v|) |Rφ(k)| + ε φ(k)), dk alike
//!   with φ(q), dv by Σ ρ |weights| e, where ε = ρ Σ e|out| and the rounding of the stored out, and
//!   |Rφ| is the sum of the pair's members.
//! * **Storage** adds half an ulp of what is stored (f16: 2⁻¹¹ of the value); int8 half a step, a
//!   254th of the row's largest; q4 up to a step, an eighth of the block's largest, since the far
//!   end of the scale has no code.
