//! How lines are told apart: by colours of different lightness, by dashes and by markers, so that a
//! grey print still tells.

use plotters::prelude::*;

use super::{Canvas, GREY, IMAGINARY, REAL};
use crate::Result;

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Marker {
    None,
    Circle,
    Triangle,
    Square,
    Cross,
}

#[derive(Debug, Clone, Copy)]
pub struct Stroke {
    pub colour: RGBColor,
    pub width: u32,
    /// Pixels drawn and left out by turns.
    pub dash: Option<[u32; 2]>,
    pub marker: Marker,
}

impl Stroke {
    const fn new(colour: RGBColor, width: u32, dash: Option<[u32; 2]>, marker: Marker) -> Self {
        Self { colour, width, dash, marker }
    }

    pub const REAL: Self = Self::new(REAL, 3, None, Marker::Circle);
    pub const IMAGINARY: Self = Self::new(IMAGINARY, 3, Some([9, 6]), Marker::Triangle);
    /// What there is to compare with.
    pub const REFERENCE: Self = Self::new(GREY, 2, Some([3, 5]), Marker::None);
    /// Of many lines, from dark to light.
    pub const MANY: [Self; 7] = [
        Self::new(RGBColor(20, 20, 20), 3, None, Marker::None),
        Self::new(RGBColor(0, 51, 119), 3, Some([12, 5]), Marker::Circle),
        Self::new(RGBColor(150, 30, 90), 3, None, Marker::Triangle),
        Self::new(RGBColor(0, 135, 120), 3, Some([4, 4]), Marker::Square),
        Self::new(RGBColor(230, 120, 20), 3, None, Marker::Cross),
        Self::new(RGBColor(120, 175, 230), 3, Some([12, 5]), Marker::Square),
        Self::new(RGBColor(190, 190, 60), 3, None, Marker::Circle),
    ];

    pub fn without_marker(self) -> Self {
        Self { marker: Marker::None, ..self }
    }

    /// Draws a line through these pixels; of its markers, those at `every`-th points.
    pub fn draw<DB: DrawingBackend>(
        &self,
        area: &Canvas<DB>,
        points: &[(i32, i32)],
        every: usize,
    ) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let style = self.colour.stroke_width(self.width);
        match self.dash {
            None => area.draw(&PathElement::new(points, style))?,
            Some(dash) => {
                for piece in dashes(points, dash) {
                    area.draw(&PathElement::new(piece, style))?;
                }
            }
        }
        let skip = if points.len() > every { every / 2 } else { 0 };
        for &at in points.iter().skip(skip).step_by(every.max(1)) {
            self.draw_marker(area, at)?;
        }
        Ok(())
    }

    pub fn draw_marker<DB: DrawingBackend>(&self, area: &Canvas<DB>, at: (i32, i32)) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let (x, y) = at;
        let filled = self.colour.filled();
        match self.marker {
            Marker::None => {}
            Marker::Circle => area.draw(&Circle::new(at, 5, filled))?,
            Marker::Triangle => area.draw(&TriangleMarker::new(at, 8, filled))?,
            Marker::Square => {
                area.draw(&Rectangle::new([(x - 5, y - 5), (x + 5, y + 5)], filled))?
            }
            Marker::Cross => area.draw(&Cross::new(at, 6, self.colour.stroke_width(3)))?,
        }
        Ok(())
    }
}

/// The drawn pieces of a dashed line.
fn dashes(points: &[(i32, i32)], [drawn, left_out]: [u32; 2]) -> Vec<Vec<(i32, i32)>> {
    let (drawn, period) = (f64::from(drawn), f64::from(drawn + left_out));
    let (mut pieces, mut piece) = (Vec::new(), Vec::new());
    let mut along = 0.0;
    for ends in points.windows(2) {
        let [a, b] = [ends[0], ends[1]].map(|(x, y)| (f64::from(x), f64::from(y)));
        let length = (b.0 - a.0).hypot(b.1 - a.1);
        // Half a pixel a step.
        let steps = (2.0 * length).ceil().max(1.0) as u32;
        for step in 0..=steps {
            let share = f64::from(step) / f64::from(steps);
            if (along + share * length) % period < drawn {
                let at = (a.0 + share * (b.0 - a.0), a.1 + share * (b.1 - a.1));
                let at = (at.0.round() as i32, at.1.round() as i32);
                if piece.last() != Some(&at) {
                    piece.push(at);
                }
            } else if !piece.is_empty() {
                pieces.push(std::mem::take(&mut piece));
            }
        }
        along += length;
    }
    pieces.push(piece);
    // Only the bends matter.
    pieces.into_iter().filter(|piece| piece.len() > 1).collect()
}
