//! Disassembly as each vendor's compiler prints it.

use super::{Class, Listing};
use crate::gpus::Vendor;

impl Listing {
    pub(super) fn parse(vendor: Vendor, text: &str) -> Self {
        let mut listing = Self::default();
        let text = match vendor {
            Vendor::Nvidia => &loops_in_place(text),
            _ => text,
        };
        for line in text.lines() {
            match vendor {
                Vendor::Amd => listing.amd(line),
                Vendor::Nvidia => listing.nvidia(line),
                Vendor::Intel => listing.intel(line),
                Vendor::Adreno => listing.adreno(line),
                Vendor::Apple => listing.apple(line),
            }
        }
        listing
    }

    /// `BB12:` and `v_dual_fmac_f32 v1, v2, v3 :: v_dual_fmac_f32 v4, v5, v6 ; bytes`.
    pub(super) fn amd(&mut self, line: &str) {
        let text = line.split(';').next().unwrap_or_default();
        if let Some(label) = text.strip_suffix(':').filter(|l| l.starts_with("BB")) {
            return self.label(label);
        }
        if !line.starts_with('\t') {
            return;
        }
        for half in text.split("::") {
            let mut words = half.split_whitespace();
            let Some(op) = words.next() else { continue };
            let fma = ["v_fma_f", "v_fmac", "v_dual_fma", "v_pk_fma_f", "v_mad_f32", "v_mac_f32"];
            let hint = ["s_nop", "s_delay_alu", "s_waitcnt", "s_wait_", "s_clause", "s_sleep"];
            let class = match op {
                _ if fma.iter().any(|p| op.starts_with(p)) => Class::Fma,
                _ if op.starts_with("v_exp_f32") => Class::Exp,
                _ if op.starts_with("v_wmma") => Class::Matrix,
                _ if op.starts_with("s_barrier") => Class::Barrier,
                _ if hint.iter().any(|p| op.starts_with(p)) => Class::Hint,
                _ => Class::Other,
            };
            self.push(class, 1);
            if (op.starts_with("s_cbranch") || op == "s_branch")
                && let Some(target) = words.next()
            {
                self.jump(target);
            }
            if op == "s_branch" || op == "s_endpgm" {
                self.ends.push(self.code.len());
            }
        }
    }

    /// `block 7 L3 [6] -> {`, `r1 = ffma r2 r3 r4 // delay=4` and `} -> [7, 8]`.
    pub(super) fn nvidia(&mut self, line: &str) {
        if let Some(block) = line.strip_prefix("block") {
            if let Some(number) = block.split_whitespace().find(|w| w.parse::<u32>().is_ok()) {
                self.label(number);
                self.push(Class::Hint, 1); // so that no block is empty
            }
        } else if let Some(next) = line.strip_prefix("} -> [") {
            for number in next.trim_end_matches(']').split(", ") {
                self.jump(number);
            }
            self.ends.push(self.code.len());
        } else if line.starts_with(' ') {
            let text = line.split("//").next().unwrap_or_default();
            let text = text.split_once('=').map_or(text, |(_, right)| right);
            let op = text.split_whitespace().find(|w| !w.starts_with(['@', '!'])).unwrap_or("");
            let class = match op.split('.').next().unwrap_or_default() {
                "ffma" => Class::Fma,
                "hmma" => Class::Matrix,
                "mufu" if op.contains("ex") => Class::Exp,
                "bar" => Class::Barrier,
                "nop" | "" => Class::Hint,
                _ => Class::Other,
            };
            self.push(class, 1);
        }
    }

    /// `LABEL3:`, `mad(16) g1<1>F ...` and `while(16) JIP: LABEL3`.
    pub(super) fn intel(&mut self, line: &str) {
        if let Some(label) = line.strip_suffix(':').filter(|l| l.starts_with("LABEL")) {
            return self.label(label);
        }
        if !line.starts_with(|c: char| c.is_ascii_lowercase() || c == '(') {
            return;
        }
        let text = match line.strip_prefix('(') {
            Some(predicated) => predicated.split_once(") ").map_or("", |(_, rest)| rest),
            None => line,
        };
        let op = text.split(['(', ' ']).next().unwrap_or_default();
        let class = match op.split('.').next().unwrap_or_default() {
            "mad" | "mac" => Class::Fma,
            "math" if text.starts_with("math exp") => Class::Exp,
            "sync" if text.starts_with("sync bar") => Class::Barrier,
            "sync" | "nop" => Class::Hint,
            _ => Class::Other,
        };
        self.push(class, 1);
        if op == "while"
            && let Some(target) = text.split_whitespace().find(|w| w.starts_with("LABEL"))
        {
            self.jump(target);
        }
    }

    /// `MESA: info: l12:` and `MESA: info: (ss)(rpt1)mad.f32 r1.x, ...`.
    pub(super) fn adreno(&mut self, line: &str) {
        let Some(line) = line.strip_prefix("MESA: info: ") else { return };
        if let Some(label) = line.strip_suffix(':').filter(|l| is_number(l.strip_prefix('l'))) {
            return self.label(label);
        }
        let mut text = line;
        let mut count = 1;
        while let Some((mark, rest)) = text.strip_prefix('(').and_then(|t| t.split_once(')')) {
            if let Some(repeats) = mark.strip_prefix("rpt") {
                count += repeats.parse::<u32>().unwrap_or(0);
            }
            text = rest;
        }
        let Some(op) = text.split_whitespace().next() else { return };
        if !op.starts_with(|c: char| c.is_ascii_lowercase()) || op.ends_with(':') {
            return;
        }
        let class = match op {
            "mad.f32" => Class::Fma,
            "exp2" => Class::Exp,
            _ if op.starts_with("bar.") || op == "bar" => Class::Barrier,
            "nop" => Class::Hint,
            _ => Class::Other,
        };
        self.push(class, if class == Class::Hint { 1 } else { count });
        if let Some((_, target)) = text.split_once('#') {
            self.jump(target.trim());
        }
    }

    /// `  1a: 8e15...  ffma  r1, r2, r3, r4`: a jump names the distance from its own address.
    pub(super) fn apple(&mut self, line: &str) {
        let Some((address, rest)) = line.trim_start().split_once(": ") else { return };
        let mut words = rest.split_whitespace();
        let (Some(bytes), Some(op)) = (words.next(), words.next()) else { return };
        let Ok(address) = i64::from_str_radix(address, 16) else { return };
        if !bytes.bytes().all(|b| b.is_ascii_hexdigit()) {
            return;
        }
        self.label(&address.to_string());
        let class = match op {
            "ffma" => Class::Fma,
            "exp2" => Class::Exp,
            "barrier" => Class::Barrier,
            "wait" | "nop" => Class::Hint,
            _ => Class::Other,
        };
        self.push(class, 1);
        if op == "jmp_any"
            && let Some(distance) = words.next().and_then(|w| w.parse::<i64>().ok())
        {
            self.jump(&(address + distance).to_string());
        }
    }
}

/// NAK moves the body of a loop of one block to the end of the listing: puts it back behind the
/// block that it comes from and returns to.
fn loops_in_place(text: &str) -> String {
    let number = |word: &str| word.trim_matches(['[', ']', ',']).parse::<usize>().ok();
    let mut blocks: Vec<(usize, Option<usize>, String)> = Vec::new();
    for line in text.lines() {
        if line.starts_with("block") {
            let own = line.split_whitespace().skip(1).find_map(number).unwrap_or(blocks.len());
            let from = line.split_once('[').and_then(|(_, rest)| rest.split_once(']'));
            blocks.push((own, from.and_then(|(from, _)| number(from)), String::new()));
        }
        let Some((own, from, body)) = blocks.last_mut() else { continue };
        body.push_str(line);
        body.push('\n');
        if let Some((_, next)) = line.split_once("} -> ")
            && !(number(next).is_some() && number(next) == *from && from.is_some_and(|f| f < *own))
        {
            *from = None;
        }
    }
    let mut order: Vec<usize> = (0..blocks.len()).collect();
    order.sort_by_key(|&i| match blocks[i].1 {
        Some(from) => (from, 1, i),
        None => (blocks[i].0, 0, i),
    });
    order.into_iter().map(|i| blocks[i].2.as_str()).collect()
}

fn is_number(text: Option<&str>) -> bool {
    text.is_some_and(|t| !t.is_empty() && t.bytes().all(|b| b.is_ascii_digit()))
}
