//! Tensors too many and too few, tables that do not fit, and calls that a device is too small for.

use phasor::attention::{AttentionBindings, AttentionPlan, AttentionProblem, AttentionShape};
use phasor::rotary::{Positions, Rotation, TableShape};
use phasor::{DType, HeadMap, Layout, Tensor};

use super::{
    World as _,
    attention::{World, kernel, problem},
    calls, ids, range, whole,
};
use crate::harness::{NARROW_BINDING, lab, narrow};

/// The sizes of the table that a call has.
fn shape_of<'b>(b: &'b mut AttentionBindings<'static>) -> &'b mut TableShape {
    &mut b.rotation.as_mut().expect("a rotation").table.shape
}

#[test]
fn missing_tensors_and_short_tables() {
    let table = calls! { World, AttentionPlan, |w, s, b|
        "no out_im": b.out_im = None => Binding { tensor: "out_im", .. };
        "no lse": b.lse = None => Binding { tensor: "lse", .. };
        "no table": b.rotation = None => Binding { tensor: "rotation", .. };
        "a table of another rotary_dim": shape_of(b).pairs = 4
            => Shape { tensor: "cos_sin", needed: [1, 1, 64, 8], got: [1, 1, 64, 4] };
        "a table that says it is longer": shape_of(b).positions = 65
            => BindingTooSmall { tensor: "cos_sin", needed: 4160, available: 4096 };
        "a table of no planes": shape_of(b).planes = 0
            => Invalid { what: "planes of the cos/sin table", .. };
        "a table of three planes": { shape_of(b).planes = 3; shape_of(b).positions = 8 }
            => Invalid { what: "planes of the cos/sin table", .. };
        "a table past 32 bits": shape_of(b).positions = u32::MAX
            => IndexOverflow { tensor: "cos_sin", .. };
        "ids and an empty table": shape_of(b).positions = 0
            => TableTooShort { needed: 0, available: 0 };
        "a position past the table":
            b.rotation = Some(Rotation::new(w.table(), Positions::From(60)))
            => TableTooShort { needed: 64, available: 64 };
        "a position past 32 bits":
            b.rotation = Some(Rotation::new(w.table(), Positions::From(u32::MAX)))
            => TableTooShort { needed: 4294967299, available: 64 };
        "too few ids": b.rotation = Some(Rotation::new(w.table(), ids(whole(&w.wrong.tiny), 0)))
            => BindingTooSmall { tensor: "position_ids", needed: 20, available: 4 };
        "ids past 32 bits":
            b.rotation = Some(Rotation::new(w.table(), ids(whole(&w.ids), u32::MAX)))
            => IndexOverflow { tensor: "position_ids", .. };
        "a table without STORAGE": {
            let mut table = w.table();
            table.binding.buffer = &w.wrong.no_storage;
            b.rotation = Some(Rotation::new(table, w.ids()));
        } => Usage { tensor: "cos_sin", .. };
        "a table in out": {
            let mut table = w.table();
            table.binding.buffer = &w.wrong.large;
            b.out.binding.buffer = &w.wrong.large;
            b.rotation = Some(Rotation::new(table, w.ids()));
        } => Overlap { a: "cos_sin", b: "out" };
        "ids in lse": b.rotation = Some(Rotation::new(w.table(), ids(whole(&w.lse), 0)))
            => Overlap { a: "position_ids", b: "lse" };
    };
    let (world, kernel) = (World::new(lab()).unwrap(), kernel(lab(), &problem().unwrap()).unwrap());
    world.refuse(lab(), &kernel, World::full, &table);
}

#[test]
fn tensors_that_a_call_has_no_use_for() {
    let table = calls! { World, AttentionPlan, |w, s, b|
        "out_im": b.out_im = Some(Tensor::new(&w.out_im, DType::F32, b.out.layout))
            => Binding { tensor: "out_im", .. };
        "lse": b.lse = Some(whole(&w.lse)) => Binding { tensor: "lse", .. };
        "a table": b.rotation = Some(Rotation::new(w.table(), w.ids()))
            => Binding { tensor: "rotation", .. };
    };
    let plain = AttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 16);
    let (world, kernel) = (World::new(lab()).unwrap(), kernel(lab(), &plain).unwrap());
    world.refuse(lab(), &kernel, World::plain, &table);
}

/// A device with little room: 8 storage buffers, small bindings, few workgroups.
#[test]
fn calls_that_are_too_large() {
    let table = calls! { World, AttentionPlan, |w, s, b|
        // The layout needs a fraction of it: what counts is what is bound.
        "a binding past the limit": b.q.binding = whole(&w.wrong.large)
            => Limit {
                limit: "max_storage_buffer_binding_size", needed: 524288, available: 262144, ..
            };
        // 26 tiles of two query heads of a batch, where 49 workgroups are the most.
        "workgroups past the limit": {
            *s = AttentionShape::new(1, 201, 7);
            let rows = Layout { shape: [1, 2, 201, 16], strides: [0, 3216, 16], offset: 0 };
            (b.q.layout, b.out.layout) = (rows, rows);
            b.q.binding = range(&w.wrong.large, 0, 1 << 16);
            b.out.binding = range(&w.wrong.larger, 0, 1 << 16);
            (b.cache.k.layout.shape[0], b.cache.v.layout.shape[0]) = (1, 1);
        } => Limit {
            limit: "max_compute_workgroups_per_dimension", needed: 8, available: 7, ..
        };
    };
    assert_eq!(NARROW_BINDING, 262144, "as the table says");
    let plain = AttentionProblem::new(HeadMap::plain(2).unwrap(), 1, 16);
    let (world, kernel) = (World::new(narrow()).unwrap(), kernel(narrow(), &plain).unwrap());
    world.refuse(narrow(), &kernel, World::plain, &table);
}
