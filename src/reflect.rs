//! Proof, without a GPU, that host structs are those of the shaders. What stands in for "must be
//! kept in sync" comments. Binding numbers are held by `tests/shaders`.
//!
//! Code of tests: what does not fit panics, and fails the test that asked.

use naga::{ArraySize, Handle, Module, ScalarKind, Type, TypeInner, VectorSize};

/// A host type that a shader reads from a uniform buffer.
pub(crate) trait Host {
    /// Adds one line for every scalar, vector or array from byte `at` on, nested structs spelled
    /// out: `"48 q.offset: u32"`.
    fn lines(at: usize, path: &str, lines: &mut Vec<String>);
}

macro_rules! leaves {
    ($($host:ty = $wgsl:literal),* $(,)?) => {$(
        impl Host for $host {
            fn lines(at: usize, path: &str, lines: &mut Vec<String>) {
                lines.push(format!("{at} {path}: {}", $wgsl));
            }
        }
    )*};
}

leaves! {
    u32 = "u32",
    i32 = "i32",
    f32 = "f32",
    [u32; 4] = "vec4<u32>",
    [f32; 2] = "vec2<f32>",
    [f32; 4] = "vec4<f32>",
    [[u32; 4]; 4] = "array<vec4<u32>, 4>",
}

/// Holds a [`uniform!`](crate::uniform::uniform) to the struct `name` of a shader.
#[track_caller]
pub(crate) fn assert_uniform<T: Host>(source: &str, name: &str) {
    assert_eq!(host_layout::<T>(), wgsl_layout(source, name), "struct {name}");
}

/// The layout of a host struct, its size last.
fn host_layout<T: Host>() -> Vec<String> {
    let mut lines = Vec::new();
    T::lines(0, "", &mut lines);
    lines.push(format!("{} bytes", size_of::<T>()));
    lines
}

/// The layout of a WGSL struct, in the form of [`host_layout`].
fn wgsl_layout(source: &str, name: &str) -> Vec<String> {
    let module = parse(source);
    let is_it = |ty: &Type| ty.name.as_deref() == Some(name);
    let (handle, ty) = module
        .types
        .iter()
        .find(|(_, ty)| is_it(ty))
        .unwrap_or_else(|| panic!("no struct {name} in the shader"));
    let mut lines = Vec::new();
    wgsl_lines(&module, handle, 0, "", &mut lines);
    lines.push(format!("{} bytes", ty.inner.size(module.to_ctx())));
    lines
}

fn wgsl_lines(module: &Module, ty: Handle<Type>, at: u32, path: &str, lines: &mut Vec<String>) {
    if let TypeInner::Struct { members, .. } = &module.types[ty].inner {
        let dot = if path.is_empty() { "" } else { "." };
        for member in members {
            let path = format!("{path}{dot}{}", member.name.as_deref().unwrap_or("?"));
            wgsl_lines(module, member.ty, at + member.offset, &path, lines);
        }
    } else {
        lines.push(format!("{at} {path}: {}", spelled(module, ty)));
    }
}

fn spelled(module: &Module, ty: Handle<Type>) -> String {
    let scalar = |s: naga::Scalar| {
        let kind = match s.kind {
            ScalarKind::Uint => "u",
            ScalarKind::Sint => "i",
            ScalarKind::Float => "f",
            other => panic!("{other:?} has no host type"),
        };
        format!("{kind}{}", 8 * s.width)
    };
    match module.types[ty].inner {
        TypeInner::Scalar(s) => scalar(s),
        TypeInner::Vector { size: VectorSize::Bi, scalar: s } => format!("vec2<{}>", scalar(s)),
        TypeInner::Vector { size: VectorSize::Quad, scalar: s } => format!("vec4<{}>", scalar(s)),
        TypeInner::Array { base, size: ArraySize::Constant(n), .. } => {
            format!("array<{}, {n}>", spelled(module, base))
        }
        ref other => panic!("{other:?} has no host type"),
    }
}

fn parse(source: &str) -> Module {
    naga::front::wgsl::parse_str(source).unwrap_or_else(|e| panic!("{}", e.emit_to_string(source)))
}

mod tests {
    use super::*;
    use crate::uniform::uniform;

    uniform! {
        struct Inner {
            a: u32,
            b: f32,
        }
    }

    uniform! {
        struct Outer {
            x: i32,
            y: [f32; 4],
            inner: Inner,
        }
    }

    #[test]
    fn layouts_name_every_scalar_and_its_place() {
        let lines =
            ["0 x: i32", "4 y: vec4<f32>", "20 inner.a: u32", "24 inner.b: f32", "28 bytes"];
        assert_eq!(host_layout::<Outer>(), lines);
        let source = "struct Inner { a: u32, b: f32, c: vec4<u32> }
            struct Outer { x: i32, y: array<vec4<f32>, 3>, inner: Inner }
            @group(0) @binding(3) var<uniform> outer: Outer;";
        let lines = [
            "0 x: i32",
            "16 y: array<vec4<f32>, 3>",
            "64 inner.a: u32",
            "68 inner.b: f32",
            "80 inner.c: vec4<u32>",
            "96 bytes",
        ];
        assert_eq!(wgsl_layout(source, "Outer"), lines);
    }
}
