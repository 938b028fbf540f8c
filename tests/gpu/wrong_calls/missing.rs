//! Tensors too many and too few, tables that do not fit, and calls that a device is too small for.

use phasor::attention::{AttentionProblem, AttentionShape};
use phasor::rotary::{Positions, Rotation};
use phasor::{DType, HeadMap, Layout, Tensor};

use super::{
    attention::{Call, World, Wrong, kernel, problem, wrong},
    error,
};
use crate::harness::{NARROW_BINDING, lab, narrow, run_table};

/// Replaces the table's sizes.
macro_rules! table_shape {
    ($($field:ident: $value:expr),*) => {
        |w: &_, c: &mut Call<'_>| {
            let _: &World = w;
            if let Some(rotation) = &mut c.bindings.rotation {
                $(rotation.table.shape.$field = $value;)*
            }
        }
    };
}

#[test]
fn missing_tensors_and_short_tables() {
    let table = [
        wrong(
            "no out_im",
            |_, c| c.bindings.out_im = None,
            error!(Binding { tensor: "out_im", .. }),
        ),
        wrong("no lse", |_, c| c.bindings.lse = None, error!(Binding { tensor: "lse", .. })),
        wrong(
            "no table",
            |_, c| c.bindings.rotation = None,
            error!(Binding { tensor: "rotation", .. }),
        ),
        wrong(
            "a table of another rotary_dim",
            table_shape!(pairs: 4),
            error!(Shape { tensor: "cos_sin", needed: [1, 1, 64, 8], got: [1, 1, 64, 4] }),
        ),
        wrong(
            "a table that says it is longer",
            table_shape!(positions: 65),
            error!(BindingTooSmall { tensor: "cos_sin", needed: 4160, available: 4096 }),
        ),
        wrong(
            "a table of no planes",
            table_shape!(planes: 0),
            error!(Invalid { what: "planes of the cos/sin table", .. }),
        ),
        wrong(
            "a table of three planes",
            table_shape!(planes: 3, positions: 8),
            error!(Invalid { what: "planes of the cos/sin table", .. }),
        ),
        wrong(
            "a table past 32 bits",
            table_shape!(positions: u32::MAX),
            error!(IndexOverflow { tensor: "cos_sin", .. }),
        ),
        wrong(
            "ids and an empty table",
            table_shape!(positions: 0),
            error!(TableTooShort { needed: 0, available: 0 }),
        ),
        wrong(
            "a position past the table",
            |w, c| c.bindings.rotation = Some(Rotation::new(w.table(), Positions::From(60))),
            error!(TableTooShort { needed: 64, available: 64 }),
        ),
        wrong(
            "a position past 32 bits",
            |w, c| c.bindings.rotation = Some(Rotation::new(w.table(), Positions::From(u32::MAX))),
            error!(TableTooShort { needed: 4294967299, available: 64 }),
        ),
        wrong(
            "too few ids",
            |w, c| {
                let binding = w.wrong.tiny.as_entire_buffer_binding();
                let ids = Positions::Ids { binding, batch_stride: 0, stream_stride: 0 };
                c.bindings.rotation = Some(Rotation::new(w.table(), ids));
            },
            error!(BindingTooSmall { tensor: "position_ids", needed: 20, available: 4 }),
        ),
        wrong(
            "ids past 32 bits",
            |w, c| {
                let binding = w.ids.as_entire_buffer_binding();
                let ids = Positions::Ids { binding, batch_stride: u32::MAX, stream_stride: 0 };
                c.bindings.rotation = Some(Rotation::new(w.table(), ids));
            },
            error!(IndexOverflow { tensor: "position_ids", .. }),
        ),
        wrong(
            "a table without STORAGE",
            |w, c| {
                let mut table = w.table();
                table.binding.buffer = &w.wrong.no_storage;
                c.bindings.rotation = Some(Rotation::new(table, w.ids()));
            },
            error!(Usage { tensor: "cos_sin", .. }),
        ),
        wrong(
            "a table in out",
            |w, c| {
                let mut table = w.table();
                table.binding.buffer = &w.wrong.large;
                c.bindings.out.binding.buffer = &w.wrong.large;
                c.bindings.rotation = Some(Rotation::new(table, w.ids()));
            },
            error!(Overlap { a: "cos_sin", b: "out" }),
        ),
        wrong(
            "ids in lse",
            |w, c| {
                let binding = w.lse.as_entire_buffer_binding();
                let ids = Positions::Ids { binding, batch_stride: 0, stream_stride: 0 };
                c.bindings.rotation = Some(Rotation::new(w.table(), ids));
            },
            error!(Overlap { a: "position_ids", b: "lse" }),
        ),
    ];
    let (world, kernel) = (World::new(lab()).unwrap(), kernel(lab(), &problem().unwrap()).unwrap());
    run_table(&table, |wrong| world.refuse(lab(), &kernel, World::full, wrong));
}

#[test]
fn tensors_that_a_call_has_no_use_for() {
    let table = [
        wrong(
            "out_im",
            |w, c| {
                c.bindings.out_im = Some(Tensor::new(&w.out_im, DType::F32, c.bindings.out.layout))
            },
            error!(Binding { tensor: "out_im", .. }),
        ),
        wrong(
            "lse",
            |w, c| c.bindings.lse = Some(w.lse.as_entire_buffer_binding()),
            error!(Binding { tensor: "lse", .. }),
        ),
        wrong(
            "a table",
            |w, c| c.bindings.rotation = Some(Rotation::new(w.table(), w.ids())),
            error!(Binding { tensor: "rotation", .. }),
        ),
    ];
    let plain = AttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 16);
    let (world, kernel) = (World::new(lab()).unwrap(), kernel(lab(), &plain).unwrap());
    run_table(&table, |wrong| world.refuse(lab(), &kernel, World::plain, wrong));
}

/// A device with little room: 8 storage buffers, small bindings, few workgroups.
#[test]
fn calls_that_are_too_large() {
    let table: [(String, Wrong); 2] = [
        wrong(
            "a binding past the limit",
            |w, c| {
                // The layout needs a fraction of it: what counts is what is bound.
                c.bindings.q.binding = w.wrong.large.as_entire_buffer_binding();
            },
            error!(Limit {
                limit: "max_storage_buffer_binding_size",
                needed: 524288,
                available: 262144,
                ..
            }),
        ),
        wrong(
            "workgroups past the limit",
            |w, c| {
                // 26 tiles of two query heads of a batch, where 49 workgroups are the most.
                c.shape = AttentionShape::new(1, 201, 7);
                let shape = [1, 2, 201, 16];
                let rows = Layout { shape, strides: [0, 3216, 16], offset: 0 };
                c.bindings.q = Tensor {
                    layout: rows,
                    binding: super::range(&w.wrong.large, 0, 1 << 16),
                    ..c.bindings.q.clone()
                };
                c.bindings.out = Tensor {
                    layout: rows,
                    binding: super::range(&w.wrong.larger, 0, 1 << 16),
                    ..c.bindings.out.clone()
                };
                c.bindings.cache.k.layout.shape[0] = 1;
                c.bindings.cache.v.layout.shape[0] = 1;
            },
            error!(Limit {
                limit: "max_compute_workgroups_per_dimension",
                needed: 8,
                available: 7,
                ..
            }),
        ),
    ];
    assert_eq!(NARROW_BINDING, 262144, "as the table says");
    let plain = AttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 16);
    let (world, kernel) = (World::new(narrow()).unwrap(), kernel(narrow(), &plain).unwrap());
    run_table(&table, |wrong| world.refuse(narrow(), &kernel, World::plain, wrong));
}
