//! The share of multiply-adds in a kernel's hot loops, read off its disassembly.
//!
//! The rule: a *hot loop* is an innermost loop that holds multiply-adds and no barrier, and counts
//! whole. Multiply-adds outside of such loops, where a compiler unrolled the walk over channels or
//! keys altogether, count in runs from the first to the last between two barriers, which leaves the
//! staging of tiles out; a run with under a tenth of the part's multiply-adds is not hot. What
//! comes before the first exponential of the walk over key tiles belongs to Q·Kᵀ, and what comes
//! behind the last to P·V. Every instruction counts once; an AMD dual instruction counts as the two
//! that it is, and an Adreno repeat as often as it repeats. Waits, delays, nops, clause and yield
//! marks are not counted: they take no issue slot of an arithmetic unit.
//!
//! Where products run on matrix units, a *step* is the innermost loop around all matrix
//! instructions: what leads back to its head, wherever a compiler placed it. It is counted without
//! pieces that a jump leaves out and that have barriers and no matrix instruction: there
//! accumulators are rescaled, which is rare. What else a jump may leave out, such as masks, counts.

mod dialects;

use std::collections::HashMap;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::gpus::Vendor;

/// Parts that a kernel's hot loops fall into.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Parts {
    /// No multiply-adds to speak of.
    None,
    /// Q·Kᵀ before the first exponential of the key loop, P·V behind the last.
    QkAndPv,
}

/// Multiply-adds among the instructions of one part.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Share {
    pub fma: u32,
    pub all: u32,
}

impl Share {
    pub fn percent(&self) -> Option<f64> {
        (self.all > 0).then(|| 100.0 * f64::from(self.fma) / f64::from(self.all))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Class {
    Fma,
    Exp,
    Matrix,
    Barrier,
    Hint,
    Other,
}

/// One instruction: its class, how many it stands for, and its mnemonic.
#[derive(Debug, Clone)]
struct Instruction {
    class: Class,
    count: u32,
}

/// Instructions in their order, and the loops among them as ranges of instructions.
#[derive(Debug, Default)]
struct Listing {
    code: Vec<Instruction>,
    labels: HashMap<String, usize>,
    loops: Vec<(usize, usize)>,
    /// Jumps forward, and where to.
    ahead: Vec<(usize, String)>,
    /// Behind these nothing is reached but by a jump.
    ends: Vec<usize>,
}

impl Listing {
    fn label(&mut self, name: &str) {
        self.labels.insert(name.to_owned(), self.code.len());
    }

    fn push(&mut self, class: Class, count: u32) {
        self.code.push(Instruction { class, count });
    }

    /// A jump from the instruction last pushed; only a jump back makes a loop.
    fn jump(&mut self, target: &str) {
        if let Some(&start) = self.labels.get(target) {
            self.loops.push((start, self.code.len()));
        } else {
            self.ahead.push((self.code.len(), target.to_owned()));
        }
    }

    /// Instructions and matrix instructions of a step.
    fn matrices(&self) -> Option<Share> {
        let count = |class, range| self.find(class, range).count();
        let of = |&(start, end): &(usize, usize)| count(Class::Matrix, start..end);
        let (start, end) = self
            .loops
            .iter()
            .copied()
            .max_by_key(|body| (of(body), core::cmp::Reverse(body.1 - body.0)))?;
        let fma = count(Class::Matrix, start..end) as u32;
        let body = self.body(start);
        let mut rare: Vec<Range<usize>> = Vec::new();
        for (from, to) in &self.ahead {
            let Some(&to) = self.labels.get(to) else { continue };
            let (from, piece) = (*from, || *from..to);
            if start <= from
                && from < to
                && to <= end
                && count(Class::Matrix, piece()) == 0
                && count(Class::Barrier, piece()) > 2
            {
                rare.push(piece());
            }
        }
        let is_rare = |piece: &Range<usize>| {
            rare.iter().any(|rare| rare.start <= piece.start && piece.end <= rare.end)
        };
        let body = body.into_iter().filter(|piece| !is_rare(piece));
        let all = body.map(|piece| self.share(piece).all).sum();
        (fma > 0).then_some(Share { fma, all })
    }

    /// The straight pieces of the loop that begins here: those that lead back to it.
    fn body(&self, head: usize) -> Vec<Range<usize>> {
        let target = |name: &String| self.labels.get(name).copied();
        let ahead = self.ahead.iter().filter_map(|(at, name)| Some((*at, target(name)?)));
        let jumps: Vec<(usize, usize)> =
            ahead.chain(self.loops.iter().map(|&(start, at)| (at, start))).collect();
        let mut cuts: Vec<usize> =
            self.labels.values().copied().chain([0, self.code.len()]).collect();
        cuts.extend(jumps.iter().map(|&(at, _)| at).chain(self.ends.iter().copied()));
        cuts.sort_unstable();
        cuts.dedup();
        let pieces: Vec<Range<usize>> = cuts.windows(2).map(|cut| cut[0]..cut[1]).collect();
        let leads_to = |piece: &Range<usize>, to: usize| {
            jumps.contains(&(piece.end, to)) || (piece.end == to && !self.ends.contains(&to))
        };
        let mut inside = vec![false; pieces.len()];
        let back = |piece: &Range<usize>| piece.start >= head && leads_to(piece, head);
        let mut open: Vec<usize> = (0..pieces.len()).filter(|&n| back(&pieces[n])).collect();
        while let Some(n) = open.pop() {
            if std::mem::replace(&mut inside[n], true) || pieces[n].start == head {
                continue;
            }
            open.extend((0..pieces.len()).filter(|&m| leads_to(&pieces[m], pieces[n].start)));
        }
        pieces
            .into_iter()
            .zip(inside)
            .filter_map(|(piece, inside)| inside.then_some(piece))
            .collect()
    }

    /// Instructions and multiply-adds of a range.
    fn share(&self, range: Range<usize>) -> Share {
        let mut share = Share::default();
        for instruction in &self.code[range] {
            if instruction.class != Class::Hint {
                share.all += instruction.count;
            }
            if instruction.class == Class::Fma {
                share.fma += instruction.count;
            }
        }
        share
    }

    /// Places of the instructions of one class in a range.
    fn find(&self, class: Class, range: Range<usize>) -> impl DoubleEndedIterator<Item = usize> {
        range.filter(move |&i| self.code[i].class == class)
    }

    /// The innermost loop around an instruction.
    fn innermost(&self, at: usize) -> Option<(usize, usize)> {
        let around = self.loops.iter().filter(|&&(start, end)| start <= at && at < end);
        around.copied().min_by_key(|(start, end)| end - start)
    }

    /// The hot loops and runs of a range, by the rule at the head of this file.
    fn hot(&self, range: Range<usize>) -> Share {
        let mut pieces: Vec<(usize, usize)> = Vec::new();
        let mut run: Option<(usize, usize)> = None;
        for at in range {
            match self.code[at].class {
                Class::Barrier => pieces.extend(run.take()),
                Class::Fma => match self.innermost(at) {
                    Some(own) if self.find(Class::Barrier, own.0..own.1).next().is_none() => {
                        if !pieces.contains(&own) {
                            pieces.push(own);
                        }
                    }
                    _ => run = Some((run.map_or(at, |(first, _)| first), at + 1)),
                },
                _ => {}
            }
        }
        pieces.extend(run);
        let shares = || pieces.iter().map(|&(start, end)| self.share(start..end));
        let all: u32 = shares().map(|share| share.fma).sum();
        shares().filter(|share| 10 * share.fma >= all).fold(Share::default(), |sum, share| Share {
            fma: sum.fma + share.fma,
            all: sum.all + share.all,
        })
    }
}

/// Matrix instructions and all instructions of a step over keys, where there are some.
pub fn matrices(vendor: Vendor, disassembly: &str) -> Option<Share> {
    Listing::parse(vendor, disassembly).matrices()
}

/// The shares of Q·Kᵀ and of P·V. `None` where the disassembly has no loop with multiply-adds
/// around exponentials.
pub fn qk_and_pv(vendor: Vendor, disassembly: &str) -> Option<(Share, Share)> {
    let listing = Listing::parse(vendor, disassembly);
    // The walk over key tiles: the loop with multiply-adds that holds the most exponentials.
    let exponentials =
        |&(start, end): &(usize, usize)| listing.find(Class::Exp, start..end).count();
    let body = listing
        .loops
        .iter()
        .copied()
        .filter(|&(start, end)| listing.find(Class::Fma, start..end).next().is_some())
        .max_by_key(|body| (exponentials(body), core::cmp::Reverse(body.1 - body.0)))?;
    let first = listing.find(Class::Exp, body.0..body.1).next()?;
    let last = listing.find(Class::Exp, body.0..body.1).next_back()?;
    Some((listing.hot(body.0..first), listing.hot(last..body.1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loops_of_their_own_are_counted_whole() {
        let text = "BB0:\n\ts_mov_b32 s0, 0\nBB1:\n\tv_mov_b32 v0, v1\nBB2:\n\tds_load_b128 v[0:3], v4\n\
            \ts_waitcnt lgkmcnt(0)\n\tv_fma_f32 v1, v2, v3, v1\n\
            \tv_dual_fmac_f32 v1, v2, v3 :: v_dual_mov_b32 v5, v6 ; 00\n\ts_cbranch_scc1 BB2 ; bf85\n\
            BB3:\n\tv_exp_f32_e32 v1, v1\n\ts_barrier\n\tv_fma_f32 v1, v2, v3, v1\n\
            \tds_load_b128 v[0:3], v4\n\tv_fma_f32 v1, v2, v3, v1\n\ts_branch BB1\nBB4:\n";
        let (qk, pv) = qk_and_pv(Vendor::Amd, text).unwrap();
        assert_eq!(qk, Share { fma: 2, all: 5 });
        assert_eq!(pv, Share { fma: 2, all: 3 });
    }

    #[test]
    fn a_step_is_counted_without_what_is_rare() {
        let text = "BB0:\n\ts_mov_b32 s0, 0\nBB1:\n\tv_wmma_f32_16x16x16_f16 v1, v2, v3, v1\n\
            \ts_barrier\n\ts_cbranch_scc1 BB3\nBB2:\n\ts_barrier\n\ts_barrier\n\ts_barrier\n\
            \tv_mul_f32 v1, v2, v3\nBB3:\n\tv_wmma_f32_16x16x16_f16 v4, v2, v3, v4\n\ts_branch BB1\n";
        assert_eq!(matrices(Vendor::Amd, text), Some(Share { fma: 2, all: 5 }));
    }

    #[test]
    fn nvidia_blocks_make_loops() {
        let text = "block.u 0 L0 [] -> {\n  r0 = mov r1 // delay=1\n} -> [1]\nblock 1 L1 [0, 2] -> {\n\
            \x20 r1 = ffma.ftz r2 r3 r4 // delay=1\n  r5 = lds.b32 [r1] // delay=1\n  nop // delay=1\n\
            \x20 r2 = mufu.exp2.f32 r1 // delay=2\n  bar.sync // delay=1\n  r1 = ffma r2 r3 r4 // delay=1\n\
            } -> [1, 2]\n";
        let (qk, pv) = qk_and_pv(Vendor::Nvidia, text).unwrap();
        assert_eq!((qk, pv), (Share { fma: 1, all: 1 }, Share { fma: 1, all: 1 }));
    }

    #[test]
    fn repeats_and_hints_count_as_stated() {
        let mut listing = Listing::default();
        listing.adreno("MESA: info: l3:");
        listing.adreno("MESA: info: (ss)(rpt1)mad.f32 r19.z, r25.w, (r)r23.x, (r)(last)r19.z");
        listing.adreno("MESA: info: (rpt5)nop");
        listing.adreno("MESA: info: br p0.y, #l3");
        assert_eq!(listing.share(0..3), Share { fma: 2, all: 3 });
        assert_eq!(listing.loops, [(0, 3)]);
        let mut listing = Listing::default();
        listing.intel("LABEL6:");
        listing.intel(
            "(+f0.0) if(8)   JIP:  LABEL0          UIP:  LABEL0              { align1 1Q };",
        );
        listing.intel("mad(16)         g1<1>F          g2<8,8,1>F      g3<8,8,1>F  { align1 1H };");
        listing.intel("sync nop(1)                     null<0,1,0>UB   { align1 WE_all 1N };");
        listing.intel(
            "while(8)        JIP:  LABEL6                                    { align1 1Q };",
        );
        assert_eq!(listing.share(0..4), Share { fma: 1, all: 3 });
        assert_eq!(listing.loops, [(0, 4)]);
    }
}
