//! Attention maps side by side, as in Fig. 5 of the RoPE++ paper (arXiv 2512.07525).

use embedded_graphics::{pixelcolor::Rgb888, prelude::*, text::Alignment};

use crate::picture::{CAPTION, LABEL, Picture};

/// One causal map.
pub struct Map<'a> {
    pub caption: String,
    /// Attention weights `[S, S]`, a row a query.
    pub weights: &'a [f64],
}

/// Side of a map in pixels.
const SIDE: i32 = 640;
const TOP: i32 = 100;
const LEFT: i32 = 70;
const PITCH: i32 = SIDE + 60;

/// Two maps of S × S under one colour bar. The colour is the logarithm of the weight.
pub fn picture(title: &str, maps: &[Map<'_>; 2], seq: usize) -> Picture {
    let bar = LEFT + 2 * PITCH;
    let mut picture = Picture::new((bar + 110) as u32, (TOP + SIDE + 50) as u32, title);
    let decades = decades(maps);
    for (map, left) in maps.iter().zip([LEFT, LEFT + PITCH]) {
        picture.text(&map.caption, Point::new(left, TOP - 24), CAPTION, Alignment::Left);
        draw(&mut picture, map, seq, decades, Point::new(left, TOP));
        let below = Point::new(left + SIDE / 2, TOP + SIDE + 20);
        let axis = format!("key 0 to {}", seq - 1);
        picture.text(&axis, below, LABEL, Alignment::Center);
    }
    picture.text("query", Point::new(LEFT - 8, TOP + SIDE / 2), LABEL, Alignment::Right);
    for y in 0..SIDE {
        let colour = colour(1.0 - f64::from(y) / f64::from(SIDE), decades);
        let at = Point::new(bar, TOP + y);
        picture.line(at, at + Point::new(24, 0), colour);
    }
    picture.text("weight", Point::new(bar, TOP - 24), LABEL, Alignment::Left);
    for exponent in 0..=decades {
        let at = Point::new(bar + 30, TOP + SIDE * exponent / decades);
        let label = if exponent == 0 { "1".to_owned() } else { format!("1e-{exponent}") };
        picture.text(&label, at, LABEL, Alignment::Left);
    }
    picture
}

/// Every pixel is the mean of the weights behind it; masked ones stay white.
fn draw(picture: &mut Picture, map: &Map<'_>, seq: usize, decades: i32, origin: Point) {
    let cells = |pixel: i32| {
        let start = pixel as usize * seq / SIDE as usize;
        start..((pixel as usize + 1) * seq / SIDE as usize).max(start + 1)
    };
    for y in 0..SIDE {
        for x in 0..SIDE {
            let (rows, columns) = (cells(y), cells(x));
            if columns.start > rows.start {
                continue;
            }
            let count = (rows.len() * columns.len()) as f64;
            let sums = rows.map(|t| map.weights[t * seq..][columns.clone()].iter().sum::<f64>());
            let share = 1.0 + (sums.sum::<f64>() / count).log10() / f64::from(decades);
            picture.pixel(origin + Point::new(x, y), colour(share, decades));
        }
    }
}

/// Decades of colour: from 1 down to the one below which a fifth of the visible weights lie.
fn decades(maps: &[Map<'_>]) -> i32 {
    let mut visible: Vec<f64> =
        maps.iter().flat_map(|map| map.weights).copied().filter(|&w| w > 0.0).collect();
    visible.sort_unstable_by(f64::total_cmp);
    let fifth = visible.get(visible.len() / 5).copied().unwrap_or(1.0);
    (-fifth.log10()).ceil().clamp(2.0, 6.0) as i32
}

/// Colour of a share of the bar's height, in four steps a decade: dark violet to yellow.
fn colour(share: f64, decades: i32) -> Rgb888 {
    const VIRIDIS: [[f64; 3]; 5] = [
        [68.0, 1.0, 84.0],
        [59.0, 82.0, 139.0],
        [33.0, 145.0, 140.0],
        [94.0, 201.0, 98.0],
        [253.0, 231.0, 37.0],
    ];
    let steps = 4.0 * f64::from(decades);
    let step = (share.clamp(0.0, 1.0) * steps).floor().min(steps - 1.0);
    let along = step / (steps - 1.0) * (VIRIDIS.len() - 1) as f64;
    let below = (along as usize).min(VIRIDIS.len() - 2);
    let part = along - below as f64;
    let mix = |c: usize| (VIRIDIS[below][c] * (1.0 - part) + VIRIDIS[below + 1][c] * part) as u8;
    Rgb888::new(mix(0), mix(1), mix(2))
}
