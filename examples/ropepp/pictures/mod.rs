//! The pictures: what they share.

mod curves;
mod maps;

use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

use crate::Result;

pub use curves::{Curves, draw as draw_curves};
pub use maps::{Map, draw as draw_maps};

type Canvas<'a> = DrawingArea<BitMapBackend<'a>, Shift>;

const FONT: &str = "sans-serif";
const TITLE: u32 = 30;
const CAPTION: u32 = 24;
const LABEL: u32 = 21;
/// Of frames, ticks and text.
const INK: RGBColor = RGBColor(40, 40, 40);

/// Makes the font known to plotters; it comes with the example, so that none need be installed.
pub fn load_font() -> Result<()> {
    register_font(FONT, FontStyle::Normal, include_bytes!("../font/DejaVuSans.ttf"))
        .map_err(|_| "the font of the pictures cannot be read".into())
}

fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

/// Writes two lines at the top of a picture and returns the area below them.
fn titled<'a>(canvas: &Canvas<'a>, title: &str, subtitle: &str) -> Result<Canvas<'a>> {
    canvas.fill(&WHITE)?;
    canvas.draw_text(title, &text(TITLE), (30, 22))?;
    canvas.draw_text(subtitle, &text(LABEL), (30, 64))?;
    Ok(canvas.margin(100, 15, 15, 15))
}

/// `10⁻³` for −3.
fn power_of_ten(exponent: i32) -> String {
    const DIGITS: [char; 10] = ['⁰', '¹', '²', '³', '⁴', '⁵', '⁶', '⁷', '⁸', '⁹'];
    match exponent {
        0 => "1".into(),
        _ => {
            let digits = exponent.unsigned_abs().to_string();
            let sign = if exponent < 0 { "⁻" } else { "" };
            let raised = digits.bytes().map(|d| DIGITS[usize::from(d - b'0')]);
            format!("10{sign}{}", raised.collect::<String>())
        }
    }
}
