//! Calls in several pieces: chunks of a prompt, rows that decode takes 16 at a time, budgets.

use phasor::Budget;
use phasor::cache::CacheType;
use phasor::layers::{Many, Model, Rows};

use super::{PAGED, World, full, local, model, same};
use crate::harness::{Result, lab};

/// All rows of a prompt that comes in these steps, in every layer.
fn prompt(world: &mut World, steps: &[u32]) -> Result<Vec<Vec<Vec<f32>>>> {
    let sequence = world.start(5)?;
    let mut all = vec![Vec::new(); world.tensors.len()];
    for &rows in steps {
        for (all, new) in all.iter_mut().zip(world.step(&[(sequence, rows)])?) {
            all.extend(new);
        }
    }
    world.end(sequence)?;
    Ok(all)
}

#[test]
fn budgets_and_chunks_give_the_same_bits() -> Result {
    let model = Model { resumable: true, moves: false, ..model(vec![local()], PAGED) };
    // What WebGPU promises, with which prefill binds lengths and block table as one buffer.
    let mut caps = lab().gpu.capabilities();
    caps.max_storage_buffers = 8;
    let mut world = World::with(&model, &caps)?;
    let many = world.layers.plan().layer(0).and_then(|layer| layer.many.clone());
    assert!(matches!(many, Some(Many::Prefill(plan)) if plan.one_buffer_of_lists()));
    let sequence = world.start(5)?;
    world.checked(&[(sequence, 37)])?;
    world.end(sequence)?;
    let whole = prompt(&mut world, &[37, 20])?;
    same(&prompt(&mut world, &[5, 32, 7, 13])?, &whole, "chunks")?;
    let least = world.layers.least_budget();
    assert!(world.layers.set_budget(Budget::flops(least.limit() - 1)).is_err());
    world.layers.set_budget(least)?;
    same(&prompt(&mut world, &[37, 20])?, &whole, "the least budget")?;
    // One dispatch a submission.
    let sequence = world.start(5)?;
    let gpu = &lab().gpu;
    world.layers.advance(&gpu.queue, &[(sequence, 37)])?;
    let new = world.grow(&[(sequence, 37)]);
    world.write(&new);
    let mut parts = 0;
    for layer in 0..world.tensors.len() {
        for part in world.layers.parts(layer)? {
            assert!(part.flops().is_none_or(|flops| flops <= least.limit()));
            gpu.run(|encoder| part.encode(encoder));
            parts += 1;
        }
    }
    assert!(parts > 8, "{parts} parts");
    for (got, whole) in world.read(37)?.iter().zip(&whole) {
        same(&got[..], &whole[..37], "parts")?;
    }
    Ok(())
}

#[test]
fn quantised_caches() -> Result {
    let layer = full().stored(CacheType::Int8, CacheType::Int8);
    let model = Model { moves: false, ..model(vec![layer], Rows::Contiguous) };
    let mut world = World::new(&model)?;
    let sequence = world.start(5)?;
    for rows in [37, 3, 1] {
        world.checked(&[(sequence, rows)])?;
    }
    Ok(())
}

#[test]
fn rows_that_decode_takes_in_pieces() -> Result {
    // A buffer less than resumable prefill wants.
    let mut caps = lab().gpu.capabilities();
    caps.max_storage_buffers = 7;
    let model = Model { resumable: true, moves: false, ..model(vec![full()], Rows::Contiguous) };
    let mut world = World::with(&model, &caps)?;
    let many = world.layers.plan().layer(0).and_then(|layer| layer.many.clone());
    assert!(matches!(many, Some(Many::Decode(_))));
    let sequence = world.start(5)?;
    let mut whole = world.checked(&[(sequence, 37)])?;
    for (whole, new) in whole.iter_mut().zip(world.checked(&[(sequence, 3)])?) {
        whole.extend(new);
    }
    world.checked(&[(sequence, 1)])?;
    world.end(sequence)?;
    same(&prompt(&mut world, &[16, 16, 5, 3])?, &whole, "pieces")?;
    // Two at once: one has pieces, the other a token.
    let [a, b] = [world.start(6)?, world.start(5)?];
    let first = world.checked(&[(a, 2), (b, 32)])?;
    let both = world.checked(&[(b, 5), (a, 1)])?;
    for ((first, both), whole) in first.iter().zip(&both).zip(&whole) {
        same(&first[2..], &whole[..32], "beside another")?;
        same(&both[..5], &whole[32..37], "beside another")?;
    }
    Ok(())
}

#[test]
fn what_attends_with_many_rows_is_said() -> Result {
    let many = |resumable, rows, max_storage_buffers| -> Result<_> {
        let model = Model { resumable, moves: false, ..model(vec![full()], rows) };
        let mut caps = phasor::Capabilities::webgpu_default();
        caps.max_storage_buffers = max_storage_buffers;
        let plan = model.plan(&caps)?;
        let many = plan.layer(0).and_then(|layer| layer.many.clone());
        Ok(many.ok_or("no more rows than decode takes")?)
    };
    for rows in [Rows::Contiguous, PAGED] {
        assert!(matches!(many(true, rows, 8)?, Many::Prefill(_)));
    }
    assert!(matches!(many(false, Rows::Contiguous, 7)?, Many::Prefill(_)));
    // A query to rotate and states between parts are a buffer more than 7.
    assert!(matches!(many(true, Rows::Contiguous, 7)?, Many::Decode(_)));
    Ok(())
}
