//! The pictures: what they share.

pub mod axis;
mod distance;
pub mod lines;
mod maps;
mod png;
pub mod stroke;

use std::path::Path;

use plotters::{
    coord::Shift,
    prelude::*,
    style::{FontStyle, register_font},
};

use crate::Result;

pub use distance::{Curves, distance_picture};
pub use maps::{Map, MapsPicture};

pub type Canvas<DB> = DrawingArea<DB, Shift>;

const FONT: &str = "sans-serif";
const TITLE: u32 = 30;
pub const CAPTION: u32 = 24;
pub const LABEL: u32 = 21;
/// Of frames, ticks and text.
pub const INK: RGBColor = RGBColor(40, 40, 40);
/// Dark and light, so that a grey print tells them apart as well as their dashes and markers do.
pub const REAL: RGBColor = RGBColor(0, 51, 119);
pub const IMAGINARY: RGBColor = RGBColor(230, 120, 20);
/// Of what is there to compare with.
pub const GREY: RGBColor = RGBColor(130, 130, 130);
pub const GRID: RGBColor = RGBColor(225, 225, 225);

/// Something that can be drawn into any kind of file.
pub trait Picture {
    /// Width and height in pixels.
    fn size(&self) -> (u32, u32);

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()>
    where
        DB::ErrorType: 'static;
}

/// Writes a picture: as SVG where the path ends so, else as PNG.
pub fn save(picture: &impl Picture, path: &Path) -> Result<()> {
    if path.extension().is_some_and(|extension| extension == "svg") {
        let canvas = SVGBackend::new(path, picture.size()).into_drawing_area();
        picture.draw(&canvas)?;
        canvas.present()?;
    } else {
        let (width, height) = picture.size();
        let mut pixels = vec![0; 3 * (width * height) as usize];
        let canvas = BitMapBackend::with_buffer(&mut pixels, picture.size()).into_drawing_area();
        picture.draw(&canvas)?;
        canvas.present()?;
        drop(canvas);
        png::write(path, picture.size(), &pixels)?;
    }
    Ok(())
}

/// Makes the font known to plotters; it comes with the example, so that none need be installed.
pub fn load_font() -> Result<()> {
    register_font(FONT, FontStyle::Normal, include_bytes!("../../font/DejaVuSans.ttf"))
        .map_err(|_| "the font of the pictures cannot be read".into())
}

pub fn text(size: u32) -> TextStyle<'static> {
    (FONT, size).into_font().color(&INK)
}

/// Writes two lines at the top of a picture and returns the area below them.
pub fn titled<DB: DrawingBackend>(
    canvas: &Canvas<DB>,
    title: &str,
    subtitle: &str,
) -> Result<Canvas<DB>>
where
    DB::ErrorType: 'static,
{
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
        1 => "10".into(),
        _ => {
            let digits = exponent.unsigned_abs().to_string();
            let sign = if exponent < 0 { "⁻" } else { "" };
            let raised = digits.bytes().map(|d| DIGITS[usize::from(d - b'0')]);
            format!("10{sign}{}", raised.collect::<String>())
        }
    }
}
