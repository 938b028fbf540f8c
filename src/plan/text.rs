//! Shaders rewritten for hosts that want them otherwise. Every declaration of this crate's shaders
//! is one line that begins at the margin, so a rewrite looks at no other; `tests/shaders` holds it
//! for all of them.

use std::fmt::Write as _;

use super::shader::BindingType;
use super::{Shader, Sharing};

/// `@group(0) @binding(NUMBER) var<SPACE> NAME: …`, taken apart.
struct Global<'a> {
    number: u32,
    space: &'a str,
    name: &'a str,
    /// The type, and what is behind it.
    rest: &'a str,
}

impl<'a> Global<'a> {
    fn of(line: &'a str) -> Option<Self> {
        let line = line.strip_prefix("@group(0) @binding(")?;
        let (number, line) = line.split_once(") var<")?;
        let (space, line) = line.split_once("> ")?;
        let (name, rest) = line.split_once(':')?;
        Some(Self { number: number.parse().ok()?, space, name, rest })
    }

    fn write(&self, text: &mut String) {
        let Self { number, space, name, rest } = self;
        // Writing to a String cannot fail.
        let _ = writeln!(text, "@group(0) @binding({number}) var<{space}> {name}:{rest}");
    }
}

/// One binding of a shader, in group 0.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Declared {
    /// `@binding`.
    pub binding: u32,
    /// The variable's name, which says what it holds: `q`, `params`.
    pub name: &'static str,
    /// How it is bound.
    pub ty: BindingType,
}

impl Shader {
    /// The bindings that the entry point uses, in the order of their numbers.
    pub fn bindings(&self) -> Vec<Declared> {
        let mut bindings = self.declared();
        let uniform = |one: &Declared| one.ty == BindingType::Uniform;
        // Files that several passes share declare the table for all of them.
        if self.table_bytes == 0 {
            bindings.retain(|one| !uniform(one) || one.name == "params");
        }
        let storage = bindings.iter().filter(|one| !uniform(one)).count();
        // The rotation's file declares its own for all, and shaders that do not rotate use none of
        // them.
        if storage > self.storage_buffers as usize {
            bindings.retain(|one| !matches!(one.name, "cos_sin" | "position_ids"));
        }
        bindings
    }

    fn declared(&self) -> Vec<Declared> {
        let declared = self.source.lines().filter_map(|line| {
            let global = Global::of(line)?;
            let &(name, _) = super::binding::ALL.iter().find(|(name, _)| *name == global.name)?;
            let ty = match global.space {
                "uniform" => BindingType::Uniform,
                "storage, read" => BindingType::ReadOnlyStorage,
                _ => BindingType::Storage,
            };
            Some(Declared { binding: global.number, name, ty })
        });
        let mut bindings: Vec<_> = declared.collect();
        bindings.sort_unstable_by_key(|one| one.binding);
        bindings
    }

    /// The same shader with the values of its overrides written into its text, for hosts that
    /// cannot set them.
    #[must_use]
    pub fn with_overrides_written(&self) -> Self {
        let value = |name: &str| {
            self.overrides.iter().find(|(known, _)| *known == name).map(|&(_, value)| value)
        };
        let source = self.rewritten(|line, text| {
            let declared = line.strip_prefix("override ").and_then(|line| line.split_once(':'));
            let Some((name, rest)) = declared else { return false };
            let (Some(value), Some((ty, rest))) = (value(name), rest.split_once(';')) else {
                return false;
            };
            let ty = ty.trim();
            let _ = match ty {
                "bool" => writeln!(text, "const {name}: bool = {};{rest}", value != 0.0),
                _ => writeln!(text, "const {name}: {ty} = {ty}({value});{rest}"),
            };
            true
        });
        Self { source, overrides: Vec::new(), ..self.clone() }
    }

    /// The same shader with its bindings numbered 0, 1, 2 and so on, in the order they had; what it
    /// declares and does not use comes behind them.
    #[must_use]
    pub fn renumbered(&self) -> Self {
        let used: Vec<u32> = self.bindings().iter().map(|one| one.binding).collect();
        let source = self.rewritten_globals(|global| {
            // There are fewer than 2^32 of them.
            global.number = match used.binary_search(&global.number) {
                Ok(place) => place as u32,
                Err(_) => used.len() as u32 + global.number,
            };
        });
        Self { source, ..self.clone() }
    }

    /// The same shader with parameters and tables in read-only storage buffers, for hosts that have
    /// no uniform buffers.
    #[must_use]
    pub fn with_params_in_storage(&self) -> Self {
        let mut uniforms = self.bindings();
        uniforms.retain(|one| one.ty == BindingType::Uniform);
        let source = self.rewritten_globals(|global| {
            if uniforms.iter().any(|one| one.name == global.name) {
                global.space = "storage, read";
            }
        });
        let storage_buffers = self.storage_buffers + uniforms.len() as u32;
        Self { source, storage_buffers, table_bytes: 0, ..self.clone() }
    }

    /// The same shader for buffers that are shared so.
    pub(crate) fn shared(self, sharing: Sharing) -> Self {
        if sharing == Sharing::Apart {
            return self;
        }
        let source = self.rewritten_globals(|global| {
            if global.space == "storage, read" && !sharing.stays_read_only(global.name) {
                global.space = "storage, read_write";
            }
        });
        Self { source, ..self }
    }

    fn rewritten_globals(&self, change: impl Fn(&mut Global<'_>)) -> String {
        self.rewritten(|line, text| {
            let Some(mut global) = Global::of(line) else { return false };
            change(&mut global);
            global.write(text);
            true
        })
    }

    /// The text, each line of it as `rewrite` writes it, or as it is where that returns false.
    fn rewritten(&self, rewrite: impl Fn(&str, &mut String) -> bool) -> String {
        let mut text = String::with_capacity(self.source.len() + 1024);
        for line in self.source.lines() {
            if !rewrite(line, &mut text) {
                text.push_str(line);
                text.push('\n');
            }
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Capabilities;
    use crate::plan::rope::RopeProblem;

    #[test]
    fn declarations_alone_change() {
        let plan = RopeProblem::new(2, 1, 64).plan(&Capabilities::webgpu_default()).unwrap();
        let shader = plan.shader();
        let names = |shader: &Shader| shader.bindings().iter().map(|b| b.name).collect::<Vec<_>>();
        let all = ["params", "q_in", "k_in", "q_out", "k_out", "cos_sin", "position_ids"];
        assert_eq!(names(shader), all);
        let other = shader.with_overrides_written().renumbered().with_params_in_storage();
        assert_eq!(names(&other), all);
        let numbers: Vec<u32> = other.bindings().iter().map(|b| b.binding).collect();
        assert_eq!(numbers, [0, 1, 2, 3, 4, 5, 6]);
        assert!(other.bindings().iter().all(|b| b.ty != BindingType::Uniform));
        assert_eq!(other.storage_buffers, shader.storage_buffers + 1);
        assert!(!other.source.contains("override ") && other.overrides.is_empty());
        let kept = |line: &&str| shader.source.lines().any(|one| one == *line);
        let changed: Vec<&str> = other.source.lines().filter(|line| !kept(line)).collect();
        let declares = |line: &&&str| line.starts_with("@group(0)") || line.starts_with("const ");
        assert_eq!(changed.iter().filter(declares).count(), changed.len(), "{changed:?}");
    }
}
