//! Mean attention weight against distance, for the real and the imaginary component.

use embedded_graphics::{pixelcolor::Rgb888, prelude::*, text::Alignment};

use crate::{
    picture::{CAPTION, GREY, GRID, IMAGINARY, INK, LABEL, Picture, REAL},
    statistics,
};

/// The curves of one panel.
pub struct Curves {
    pub caption: String,
    pub real: Vec<statistics::Point>,
    pub imaginary: Vec<statistics::Point>,
}

const WIDTH: i32 = 560;
const HEIGHT: i32 = 480;
const TOP: i32 = 100;
const LEFT: i32 = 90;
const PITCH: i32 = WIDTH + 100;

/// Both axes are logarithmic; distance 0 stands at the left edge, where 1/2 would.
struct Axes {
    left: i32,
    farthest: f64,
    /// Exponents of the weights below and above.
    lowest: i32,
    highest: i32,
}

impl Axes {
    fn at(&self, distance: f64, weight: f64) -> Point {
        let share = (2.0 * distance.max(0.5)).ln() / (2.0 * self.farthest).ln();
        let decades = f64::from(self.highest - self.lowest);
        let height = (weight.log10() - f64::from(self.lowest)) / decades;
        let x = share * f64::from(WIDTH);
        let y = (1.0 - height.clamp(0.0, 1.0)) * f64::from(HEIGHT);
        Point::new(self.left + x.round() as i32, TOP + y.round() as i32)
    }

    fn draw(&self, picture: &mut Picture) {
        let (lowest, highest) = (10f64.powi(self.lowest), 10f64.powi(self.highest));
        let mut distance = 1.0;
        while distance <= self.farthest {
            let (bottom, top) = (self.at(distance, lowest), self.at(distance, highest));
            picture.line(bottom, top, GRID);
            let label = format!("{distance}");
            picture.text(&label, bottom + Point::new(0, 12), LABEL, Alignment::Center);
            distance *= 4.0;
        }
        for exponent in self.lowest..=self.highest {
            let weight = 10f64.powi(exponent);
            let (left, right) = (self.at(0.0, weight), self.at(self.farthest, weight));
            picture.line(left, right, GRID);
            let label = if exponent == 0 { "1".to_owned() } else { format!("1e{exponent}") };
            picture.text(&label, left - Point::new(8, 0), LABEL, Alignment::Right);
        }
        picture.line(self.at(0.0, highest), self.at(0.0, lowest), INK);
        picture.line(self.at(0.0, lowest), self.at(self.farthest, lowest), INK);
        let below = Point::new(self.left + WIDTH / 2, TOP + HEIGHT + 36);
        picture.text("distance t - s in tokens, from 0", below, LABEL, Alignment::Center);
    }
}

/// Panels side by side over common axes.
pub fn picture(title: &str, panels: &[Curves; 2]) -> Picture {
    let points = || panels.iter().flat_map(|p| p.real.iter().chain(&p.imaginary));
    let least = points().map(|p| p.weight.min(p.uniform)).filter(|&w| w > 0.0).fold(1.0, f64::min);
    let most = points().map(|p| p.weight.max(p.uniform)).fold(0.0, f64::max);
    let highest = most.log10().ceil().clamp(-8.0, 0.0) as i32;
    let lowest = least.log10().floor().clamp(-9.0, f64::from(highest - 1)) as i32;
    let farthest = points().map(|p| p.distance).fold(1.0, f64::max);

    let mut picture = Picture::new((LEFT + 2 * PITCH) as u32, (TOP + HEIGHT + 110) as u32, title);
    for (panel, left) in panels.iter().zip([LEFT, LEFT + PITCH]) {
        picture.text(&panel.caption, Point::new(left, TOP - 24), CAPTION, Alignment::Left);
        let axes = Axes { left, farthest, lowest, highest };
        axes.draw(&mut picture);
        let mut curve =
            |of: &[statistics::Point], weight: fn(&statistics::Point) -> f64, colour| {
                let shown = of.iter().filter(|p| weight(p) > 0.0);
                let points: Vec<Point> = shown.map(|p| axes.at(p.distance, weight(p))).collect();
                picture.curve(&points, colour);
            };
        curve(&panel.real, |p| p.uniform, GREY);
        curve(&panel.real, |p| p.weight, REAL);
        curve(&panel.imaginary, |p| p.weight, IMAGINARY);
    }
    legend(&mut picture, Point::new(LEFT, TOP + HEIGHT + 76));
    picture
}

fn legend(picture: &mut Picture, mut at: Point) {
    let entries: [(&str, Rgb888); 3] =
        [("real", REAL), ("imaginary", IMAGINARY), ("no preference: mean of 1/(t + 1)", GREY)];
    for (label, colour) in entries {
        picture.curve(&[at, at + Point::new(40, 0)], colour);
        picture.text(label, at + Point::new(50, 0), LABEL, Alignment::Left);
        at.x += 80 + 7 * label.len() as i32;
    }
}
