//! Rotation of vectors, and the queries that output heads attend with.

use super::{Real, check_len};
use crate::{Error, OutputHead, Result, rotary::Pairing};

/// Rotates each pair `(a, b)` of `x` by its angle: `(a cos − b sin, b cos + a sin)` (RoFormer,
/// arXiv 2104.09864, eq. 34). Channels from `rotary_dim` on pass through.
///
/// `x` and the result are `[B, H, S, D]` of `shape`. `cos_sin(b, s, pair)` gives cosine and sine
/// at place `s` of the sequence (attention scaling included, if there is any), so that offsets,
/// explicit ids, several position streams and xPos planes are all the caller's to say.
///
/// # Errors
/// [`Error::Invalid`] when `x` has another length than `shape`, `rotary_dim` is above D, or
/// `rotary_dim` cannot be cut into such pairs.
pub fn rope<R: Real>(
    x: &[R],
    shape: [u32; 4],
    rotary_dim: u32,
    pairing: Pairing,
    cos_sin: impl Fn(u32, u32, u32) -> (R, R),
) -> Result<Vec<R>> {
    check(x, shape, rotary_dim, pairing)?;
    Ok(map_pairs(
        x,
        shape,
        rotary_dim,
        |pair| pairing.input(pair, rotary_dim),
        |pair| pairing.output(pair, rotary_dim),
        |batch, place, pair, (a, b)| {
            let (cos, sin) = cos_sin(batch, place, pair);
            (a * cos - b * sin, b * cos + a * sin)
        },
    ))
}

/// The transpose of [`rope`]: each pair turns by minus its angle, `(a cos + b sin, b cos − a sin)`,
/// read from where [`rope`] writes it and written to where [`rope`] reads it.
///
/// It is the gradient of [`rope`], and undoes it up to the square of the attention scaling.
///
/// # Errors
/// As [`rope`].
pub fn unrope<R: Real>(
    x: &[R],
    shape: [u32; 4],
    rotary_dim: u32,
    pairing: Pairing,
    cos_sin: impl Fn(u32, u32, u32) -> (R, R),
) -> Result<Vec<R>> {
    check(x, shape, rotary_dim, pairing)?;
    Ok(map_pairs(
        x,
        shape,
        rotary_dim,
        |pair| pairing.output(pair, rotary_dim),
        |pair| pairing.input(pair, rotary_dim),
        |batch, place, pair, (a, b)| {
            let (cos, sin) = cos_sin(batch, place, pair);
            (a * cos + b * sin, b * cos - a * sin)
        },
    ))
}

/// The queries `[B, heads.len(), S, D]` whose plain dot products with the rotated keys are the
/// scores of `heads`: each pair of the rotated query turned by −φ, `(a cos φ + b sin φ,
/// b cos φ − a sin φ)`, and the un-rotated tail times cos φ.
///
/// For the imaginary head this is `(b, −a)` and a tail of zeros (RoPE++, arXiv 2512.07525 §3.1;
/// the tail has no imaginary part). A kernel never builds these; tests and libraries that store
/// them do. `q` is `[B, Hq, S, D]` of `shape`, rotated.
///
/// # Errors
/// As [`rope`], and [`Error::Invalid`] when a source is no query head.
pub fn output_queries<R: Real>(
    q: &[R],
    shape: [u32; 4],
    rotary_dim: u32,
    pairing: Pairing,
    heads: &[OutputHead],
) -> Result<Vec<R>> {
    check(q, shape, rotary_dim, pairing)?;
    let [batch, q_heads, seq, dim] = shape.map(|n| n as usize);
    let plane = seq * dim;
    let mut out = Vec::with_capacity(batch * heads.len() * plane);
    for b in 0..batch {
        for head in heads {
            if head.source as usize >= q_heads {
                return Err(Error::Invalid {
                    what: "source of an output head",
                    needed: "below q_heads",
                    got: format!("{} of {q_heads}", head.source),
                });
            }
            let start = (b * q_heads + head.source as usize) * plane;
            let (cos, sin) = (R::from_f64(head.phase.cos()), R::from_f64(head.phase.sin()));
            let place = |pair| pairing.output(pair, rotary_dim);
            let mut turned = map_pairs(
                &q[start..start + plane],
                [1, 1, shape[2], shape[3]],
                rotary_dim,
                place,
                place,
                |_, _, _, (a, b)| (a * cos + b * sin, b * cos - a * sin),
            );
            for row in turned.chunks_exact_mut(dim.max(1)) {
                row[rotary_dim as usize..].iter_mut().for_each(|x| *x = *x * cos);
            }
            out.append(&mut turned);
        }
    }
    Ok(out)
}

/// Refuses what no rotation fits.
fn check<R>(x: &[R], shape: [u32; 4], rotary_dim: u32, pairing: Pairing) -> Result<()> {
    check_len("x", x.len(), shape)?;
    check_rotary_dim(rotary_dim, shape[3], pairing)
}

/// Refuses a rotary dimension above the head's, or one that the pairing cannot cut.
pub(super) fn check_rotary_dim(rotary_dim: u32, head_dim: u32, pairing: Pairing) -> Result<()> {
    pairing.check(rotary_dim)?;
    if rotary_dim > head_dim {
        return Err(Error::Invalid {
            what: "rotary_dim",
            needed: "at most head_dim",
            got: format!("{rotary_dim} of {head_dim}"),
        });
    }
    Ok(())
}

/// Maps every pair of every row from one pair of places to another; other channels are copied.
fn map_pairs<R: Real>(
    x: &[R],
    [_, heads, seq, dim]: [u32; 4],
    rotary_dim: u32,
    from: impl Fn(u32) -> (u32, u32),
    to: impl Fn(u32) -> (u32, u32),
    f: impl Fn(u32, u32, u32, (R, R)) -> (R, R),
) -> Vec<R> {
    let mut out = x.to_vec();
    let dim = dim.max(1) as usize;
    for (n, (old, new)) in x.chunks_exact(dim).zip(out.chunks_exact_mut(dim)).enumerate() {
        let (seq, heads) = (seq as usize, heads as usize);
        let (place, batch) = ((n % seq) as u32, (n / (seq * heads)) as u32);
        for pair in 0..rotary_dim / 2 {
            let (i, j) = from(pair);
            let turned = f(batch, place, pair, (old[i as usize], old[j as usize]));
            let (i, j) = to(pair);
            (new[i as usize], new[j as usize]) = turned;
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Phase;

    const SHAPE: [u32; 4] = [2, 3, 5, 12];
    const ROTARY: u32 = 8;
    const PAIRINGS: [Pairing; 4] =
        [Pairing::Half, Pairing::Interleaved, Pairing::InterleavedToHalf, Pairing::HalfBlocks(2)];

    fn ramp() -> Vec<f64> {
        (0..360).map(|i| (f64::from(i) * 0.37).sin()).collect()
    }

    fn angle(b: u32, s: u32, pair: u32) -> (f64, f64) {
        let (sin, cos) = (f64::from(s + 7 * b) * 0.3f64.powi(pair as i32)).sin_cos();
        (cos, sin)
    }

    #[test]
    fn one_pair_turns_counterclockwise() {
        let (sin, cos) = 0.25f64.sin_cos();
        let y =
            rope(&[1.0, 0.0, 9.0], [1, 1, 1, 3], 2, Pairing::Half, |_, _, _| (cos, sin)).unwrap();
        assert_eq!(y, [cos, sin, 9.0]);
    }

    #[test]
    fn rotating_back_gives_the_input_in_every_pairing() {
        let x = ramp();
        for pairing in PAIRINGS {
            let y = rope(&x, SHAPE, ROTARY, pairing, angle).unwrap();
            assert_ne!(x, y);
            let back = unrope(&y, SHAPE, ROTARY, pairing, angle).unwrap();
            for (a, b) in x.iter().zip(&back) {
                assert!((a - b).abs() < 1e-14, "{pairing:?}: {a} {b}");
            }
        }
    }

    #[test]
    fn pairings_are_permutations_of_one_another() {
        let x = ramp();
        // Interleaved in, half-split out: the pairs agree, only their places differ.
        let pairs = rope(&x, SHAPE, ROTARY, Pairing::Interleaved, angle).unwrap();
        let halves = rope(&x, SHAPE, ROTARY, Pairing::InterleavedToHalf, angle).unwrap();
        for (p, h) in pairs.chunks(12).zip(halves.chunks(12)) {
            for j in 0..4 {
                assert_eq!((p[2 * j], p[2 * j + 1]), (h[j], h[j + 4]));
            }
            assert_eq!(p[8..], h[8..]);
        }
    }

    #[test]
    fn the_imaginary_query_is_turned_clockwise_twice_negates() {
        let x = ramp();
        let im = OutputHead { source: 0, phase: Phase::IMAGINARY };
        let shape = [30, 1, 1, 12];
        let once = output_queries(&x, shape, ROTARY, Pairing::Half, &[im]).unwrap();
        assert_eq!((once[0], once[4], once[8]), (x[4], -x[0], 0.0));
        let twice = output_queries(&once, shape, ROTARY, Pairing::Half, &[im]).unwrap();
        for (row, back) in x.chunks(12).zip(twice.chunks(12)) {
            assert!(row[..8].iter().zip(back).all(|(a, b)| *a == -*b));
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_and_nothing_is_empty() {
        let rotate = |len: usize, shape, rotary| {
            rope(&vec![0.0; len], shape, rotary, Pairing::Half, |_, _, _| (1.0, 0.0))
        };
        assert!(rotate(7, [1, 1, 2, 4], 4).is_err());
        assert!(rotate(8, [1, 1, 2, 4], 3).is_err());
        assert!(rotate(8, [1, 1, 2, 4], 6).is_err());
        assert!(rotate(0, [1, 0, 2, 4], 4).unwrap().is_empty());
        assert!(rotate(0, [1, 2, 2, 0], 0).unwrap().is_empty());
    }
}
