//! Structs that shaders read from uniform buffers.

/// A struct of a shader, spelled once on this side: `#[repr(C)]`, plain data, and comparable to the
/// WGSL of the same fields by [`assert_uniform`](crate::reflect::assert_uniform).
macro_rules! uniform {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident {
            $($(#[$field_meta:meta])* $field_vis:vis $field:ident: $type:ty),* $(,)?
        }
    ) => {
        $(#[$meta])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, Default, PartialEq, bytemuck::Pod, bytemuck::Zeroable)]
        $vis struct $name {
            $($(#[$field_meta])* $field_vis $field: $type,)*
        }

        #[cfg(test)]
        impl $crate::reflect::Host for $name {
            fn lines(at: usize, path: &str, lines: &mut Vec<String>) {
                let dot = if path.is_empty() { "" } else { "." };
                $(
                    let path_of_field = format!("{path}{dot}{}", stringify!($field));
                    let offset = core::mem::offset_of!($name, $field);
                    <$type as $crate::reflect::Host>::lines(at + offset, &path_of_field, lines);
                )*
            }
        }
    };
}
pub(crate) use uniform;
