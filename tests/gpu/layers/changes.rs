//! Forks, truncations and shifts: a sequence is what its tokens make it, however it came to them.

use super::{World, same};
use crate::harness::Result;

pub fn all(world: &mut World) -> Result {
    forks(world)?;
    truncations(world)?;
    shifts(world)
}

fn forks(world: &mut World) -> Result {
    let parent = world.start(1)?;
    world.checked(&[(parent, 19)])?;
    // In the middle of a page, at a page's end, and of all.
    for (rows, name) in [(13, 11), (16, 12), (19, 13)] {
        let fork = world.fork(parent, rows, name)?;
        assert_eq!(world.layers.rows(fork)?, rows);
        world.checked(&[(fork, 1), (parent, 1)])?;
        let went_on = world.checked(&[(parent, 2), (fork, 2)])?;
        // One that was never forked and has the same tokens has the same bits.
        let tokens = world.told(fork).clone();
        world.truncate(parent, 19)?;
        let twin = world.fork(parent, rows, name)?;
        world.step(&[(twin, 1)])?;
        let alone = world.step(&[(twin, 2)])?;
        assert_eq!(world.told(twin), &tokens);
        for (layer, alone) in went_on.iter().zip(&alone) {
            same(&layer[2..], &alone[..], "a fork")?;
        }
        world.end(twin)?;
        world.end(fork)?;
    }
    // A fork outlives the one it came from, whose slot and pages others take before it has moved.
    let fork = world.fork(parent, 19, 14)?;
    world.end(parent)?;
    let next = world.start(2)?;
    world.checked(&[(next, 30), (fork, 1)])?;
    world.checked(&[(next, 1), (fork, 1)])?;
    world.end(next)?;
    world.end(fork)
}

fn truncations(world: &mut World) -> Result {
    let sequence = world.start(3)?;
    world.checked(&[(sequence, 21)])?;
    for rows in [20, 16, 3, 0] {
        world.truncate(sequence, rows)?;
        world.checked(&[(sequence, 2)])?;
    }
    // One of two that share a page.
    world.checked(&[(sequence, 20)])?;
    let fork = world.fork(sequence, 22, 31)?;
    world.truncate(sequence, 12)?;
    world.checked(&[(sequence, 3), (fork, 1)])?;
    world.end(fork)?;
    world.end(sequence)
}

fn shifts(world: &mut World) -> Result {
    let sequence = world.start(4)?;
    world.checked(&[(sequence, 30)])?;
    world.shift(sequence, 4, 9)?;
    assert_eq!(world.layers.rows(sequence)?, 21);
    world.checked(&[(sequence, 1)])?;
    // A fork keeps what the shift moves; twice before a step; nothing behind what is dropped.
    let fork = world.fork(sequence, 22, 41)?;
    world.shift(sequence, 0, 1)?;
    world.shift(sequence, 2, 5)?;
    world.checked(&[(fork, 1), (sequence, 2)])?;
    world.shift(sequence, 15, 3)?;
    world.checked(&[(sequence, 1), (fork, 2)])?;
    world.end(fork)?;
    world.end(sequence)
}
