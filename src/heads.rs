//! Which output heads an attention call computes: EC, EH, the ablations, and any other mixture.

use crate::{Error, OutputHead, Phase, Result};

/// The output heads of an attention call, in the order in which they are written.
///
/// `q_heads` counts the query heads that enter, that is the heads of W_q. Output head `o` reads
/// query head `heads()[o].source`, and with it K and V of kv head `source / (q_heads / kv_heads)`.
/// Each output head has its own softmax; nothing is mixed before the output projection.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct HeadMap {
    q_heads: u32,
    heads: Vec<OutputHead>,
}

impl HeadMap {
    /// Any output heads, in any order; a query head may feed none, one or several of them.
    ///
    /// # Errors
    /// [`Error::Invalid`] when there is no head, a source is not below `q_heads`, or a phase has a
    /// weight that is not finite.
    pub fn new(q_heads: u32, heads: Vec<OutputHead>) -> Result<Self> {
        if heads.is_empty() {
            return Err(Error::Invalid {
                what: "output heads",
                needed: "at least one",
                got: "none".to_owned(),
            });
        }
        for (o, head) in heads.iter().enumerate() {
            if head.source >= q_heads {
                return Err(Error::Invalid {
                    what: "source of an output head",
                    needed: "below q_heads",
                    got: format!("{} of {q_heads} (output head {o})", head.source),
                });
            }
            if !(head.phase.cos().is_finite() && head.phase.sin().is_finite()) {
                return Err(Error::Invalid {
                    what: "phase of an output head",
                    needed: "finite",
                    got: format!("({}, {}) (output head {o})", head.phase.cos(), head.phase.sin()),
                });
            }
        }
        Ok(Self { q_heads, heads })
    }

    /// Plain attention: one real head per query head.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `q_heads` is 0; likewise for the other named maps.
    pub fn plain(q_heads: u32) -> Result<Self> {
        Self::one_each(q_heads, |_| Phase::REAL)
    }

    /// RoPE++ (arXiv 2512.07525 §3.2): both components of every query head, interleaved
    /// re0, im0, re1, im1, … as the authors stack them.
    ///
    /// This is EC as well as EH. They differ in how many query and kv heads the model projects,
    /// which is not this map's business: `q_heads` is what W_q really has (for EH, half of the
    /// configuration's `num_attention_heads`).
    ///
    /// # Errors
    /// [`Error::Invalid`] when `q_heads` is 0.
    pub fn ropepp(q_heads: u32) -> Result<Self> {
        let both =
            |source| [Phase::REAL, Phase::IMAGINARY].map(|phase| OutputHead { source, phase });
        Self::new(q_heads, (0..q_heads).flat_map(both).collect())
    }

    /// The ablation `imagh`: the second half of the heads (from `q_heads / 2` on) is imaginary.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `q_heads` is 0.
    pub fn imagh(q_heads: u32) -> Result<Self> {
        Self::one_each(q_heads, |h| Self::imaginary_if(h >= q_heads / 2))
    }

    /// The ablation `imago`: every head is imaginary.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `q_heads` is 0.
    pub fn imago(q_heads: u32) -> Result<Self> {
        Self::one_each(q_heads, |_| Phase::IMAGINARY)
    }

    /// The ablation `imagx`: every odd head is imaginary.
    ///
    /// # Errors
    /// [`Error::Invalid`] when `q_heads` is 0.
    pub fn imagx(q_heads: u32) -> Result<Self> {
        Self::one_each(q_heads, |h| Self::imaginary_if(h % 2 == 1))
    }

    /// Query heads that enter.
    pub fn q_heads(&self) -> u32 {
        self.q_heads
    }

    /// The output heads, in order.
    pub fn heads(&self) -> &[OutputHead] {
        &self.heads
    }

    fn imaginary_if(imaginary: bool) -> Phase {
        if imaginary { Phase::IMAGINARY } else { Phase::REAL }
    }

    fn one_each(q_heads: u32, phase: impl Fn(u32) -> Phase) -> Result<Self> {
        let head = |source| OutputHead { source, phase: phase(source) };
        Self::new(q_heads, (0..q_heads).map(head).collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spelled(map: &HeadMap) -> String {
        let name = |h: &OutputHead| match h.phase {
            phase if phase == Phase::REAL => format!("re{}", h.source),
            phase if phase == Phase::IMAGINARY => format!("im{}", h.source),
            other => format!("{other:?}"),
        };
        map.heads().iter().map(name).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn named_maps_order_heads_as_the_authors_do() {
        let n = 4;
        assert_eq!(spelled(&HeadMap::plain(n).unwrap()), "re0 re1 re2 re3");
        assert_eq!(spelled(&HeadMap::ropepp(n).unwrap()), "re0 im0 re1 im1 re2 im2 re3 im3");
        assert_eq!(spelled(&HeadMap::imagh(n).unwrap()), "re0 re1 im2 im3");
        assert_eq!(spelled(&HeadMap::imago(n).unwrap()), "im0 im1 im2 im3");
        assert_eq!(spelled(&HeadMap::imagx(n).unwrap()), "re0 im1 re2 im3");
    }

    #[test]
    fn heads_that_cannot_be_computed_are_refused() {
        let head = |source, phase| vec![OutputHead { source, phase }];
        assert!(HeadMap::new(2, head(1, Phase::REAL)).is_ok());
        assert!(HeadMap::new(2, head(2, Phase::REAL)).is_err());
        assert!(HeadMap::new(2, head(0, Phase::radians(f64::NAN))).is_err());
        assert!(HeadMap::new(2, Vec::new()).is_err());
        assert!(HeadMap::plain(0).is_err());
    }
}
