//! Whatever a host can get wrong is a typed error, and leaves all as it was.

use phasor::layers::{LayerBindings, Layers, Model, Rows};
use phasor::{Capabilities, Error};

use super::{CAPACITY, MAX_ROWS, World, bare, full, model};
use crate::harness::{Result, lab};

fn error<T>(result: phasor::Result<T>) -> Error {
    match result {
        Ok(_) => panic!("the call was accepted"),
        Err(error) => error,
    }
}

#[test]
fn numbers_that_no_plan_fits() {
    let caps = Capabilities::webgpu_default();
    let base = || model(vec![full()], Rows::Contiguous);
    let paged = |page_size, pages| Model { rows: Rows::Paged { page_size, pages }, ..base() };
    for (what, model) in [
        ("layers", Model { layers: Vec::new(), ..base() }),
        ("sequences", Model { sequences: 0, ..base() }),
        ("capacity", Model { capacity: 0, ..base() }),
        ("capacity", Model { capacity: u32::MAX, ..base() }),
        ("max_rows", Model { max_rows: 0, ..base() }),
        ("decode_rows", Model { decode_rows: 0, ..base() }),
        ("decode_rows", Model { decode_rows: 17, ..base() }),
        ("page_size", paged(12, 4)),
        ("pages", paged(8, 0)),
    ] {
        match error(model.plan(&caps)) {
            Error::Invalid { what: got, .. } => assert_eq!(got, what),
            other => panic!("{what}: {other}"),
        }
    }
    let large = Model { capacity: 1 << 22, sequences: 1, ..base() };
    assert!(matches!(error(large.plan(&caps)), Error::Limit { what: "K cache", .. }));
}

#[test]
fn calls_at_the_wrong_time_or_of_the_wrong_size() -> Result {
    let gpu = &lab().gpu;
    let plan = Model {
        rows: Rows::Paged { page_size: 8, pages: 6 },
        moves: false,
        ..model(vec![bare(), bare()], Rows::Contiguous)
    };
    let mut world = World::new(&plan)?;
    let queue = &gpu.queue;
    // Without tensors, and with those of another layer.
    let mut unbound = Layers::new(&gpu.device, &plan.plan(&gpu.capabilities())?)?;
    let sequence = unbound.start()?;
    assert_eq!(error(unbound.advance(queue, &[(sequence, 1)])), Error::Unbound { layer: 0 });
    let [q, k, _, out] = &world.tensors[0];
    let tensor = |buffer| {
        let layout = phasor::Layout::bhsd([1, 2, MAX_ROWS, super::DIM]).unwrap();
        phasor::Tensor::new(buffer, phasor::DType::F32, layout)
    };
    let bind = |layers: &mut Layers, layer, [q, k, v, out]: [_; 4]| {
        layers.bind(layer, &LayerBindings::new(tensor(q), tensor(k), tensor(v), tensor(out)))
    };
    let overlap = error(bind(&mut unbound, 0, [q, k, k, q]));
    assert!(matches!(overlap, Error::Overlap { .. }), "{overlap}");
    let unknown = Error::UnknownLayer { layer: 2, layers: 2 };
    assert_eq!(error(bind(&mut unbound, 2, [q, k, k, out])), unknown);
    bind(&mut unbound, 0, [q, k, k, out])?;
    assert_eq!(error(unbound.advance(queue, &[(sequence, 1)])), Error::Unbound { layer: 1 });
    let short = gpu.upload(&[0.0; 64], phasor::DType::F32);
    let short = error(bind(&mut unbound, 1, [q, k, &short, out]));
    assert!(matches!(short, Error::BindingTooSmall { tensor: "v", .. }), "{short}");

    let layers = &mut world.layers;
    // A sequence of other layers, one that has ended, one too many, one twice.
    assert_eq!(error(layers.rows(sequence)), Error::UnknownSequence);
    let [a, b, c] = [layers.start()?, layers.start()?, layers.start()?];
    assert_eq!(error(layers.start()), Error::NoSequence { sequences: 3 });
    layers.end(c)?;
    assert_eq!(error(layers.advance(queue, &[(a, 1), (c, 1)])), Error::UnknownSequence);
    assert_eq!(error(layers.end(c)), Error::UnknownSequence);
    let twice = error(layers.advance(queue, &[(a, 1), (a, 1)]));
    assert!(matches!(twice, Error::Invalid { what: "sequences of a step", .. }), "{twice}");
    // Sizes.
    let rows = error(layers.advance(queue, &[(a, 30), (b, 11)]));
    assert_eq!(rows, Error::TooManyRows { needed: 41, available: MAX_ROWS });
    let full = error(layers.advance(queue, &[(a, CAPACITY + 1)]));
    assert!(matches!(full, Error::CacheFull { needed: 65, capacity: 64, .. }), "{full}");
    let more = error(layers.advance(queue, &[(a, u32::MAX), (b, u32::MAX)]));
    assert!(matches!(more, Error::CacheFull { .. }), "{more}");
    assert_eq!(layers.free_pages(), Some(6));
    // Times.
    let encoder = &mut gpu.device.create_command_encoder(&Default::default());
    let order = |error: Error, at| {
        assert!(matches!(error, Error::Order { layer, .. } if layer == at), "{error}");
    };
    order(error(layers.encode(1, encoder)), 1);
    layers.advance(queue, &[(a, 33)])?;
    assert_eq!(error(layers.encode(2, encoder)), unknown);
    layers.encode(0, encoder)?;
    order(error(layers.encode(0, encoder)), 0);
    order(error(layers.advance(queue, &[(a, 1)])), 1);
    order(error(layers.truncate(a, 0)), 1);
    order(error(layers.fork(a, 0)), 1);
    order(error(layers.shift(a, 0, 1)), 1);
    layers.encode(1, encoder)?;
    order(error(layers.encode(1, encoder)), 1);
    // Pages: a has 5 of 6.
    let pages = error(layers.advance(queue, &[(a, 1), (b, 9)]));
    assert_eq!(pages, Error::OutOfPages { needed: 2, free: 1 });
    assert_eq!((layers.rows(a)?, layers.rows(b)?, layers.free_pages()), (33, 0, Some(1)));
    layers.advance(queue, &[(a, 1), (b, 8)])?;
    assert_eq!((layers.rows(a)?, layers.rows(b)?, layers.free_pages()), (34, 8, Some(0)));
    // Taken back: the lengths are the old ones, and the step can be had again.
    layers.abandon();
    assert_eq!((layers.rows(a)?, layers.rows(b)?), (33, 0));
    layers.advance(queue, &[(a, 1), (b, 8)])?;
    layers.encode(0, encoder)?;
    layers.encode(1, encoder)?;
    // Rows that are not there, and moves that were not planned.
    for wrong in [
        error(layers.truncate(a, 35)),
        error(layers.fork(a, 35)),
        error(layers.shift(a, 30, 5)),
        error(layers.shift(a, u32::MAX, u32::MAX)),
    ] {
        assert!(matches!(wrong, Error::Invalid { what: "rows", .. }), "{wrong}");
    }
    for wrong in [error(layers.shift(a, 0, 8)), error(layers.fork(a, 33))] {
        assert!(matches!(wrong, Error::Invalid { what: "moves", .. }), "{wrong}");
    }
    // Full pages need none, but a page that is shared cannot be cut then.
    let fork = layers.fork(a, 32)?;
    let cut = error(layers.truncate(a, 31));
    assert!(matches!(cut, Error::Invalid { what: "moves", .. }), "{cut}");
    layers.end(fork)?;
    layers.truncate(a, 31)?;
    Ok(())
}
