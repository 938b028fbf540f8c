//! A picture: what its parts are drawn into, and the PNG file that it becomes.

use std::{convert::Infallible, fs::File, io::BufWriter, path::Path};

use embedded_graphics::{
    mono_font::{MonoFont, MonoTextStyle, ascii::FONT_7X13, ascii::FONT_10X20},
    pixelcolor::Rgb888,
    prelude::*,
    primitives::{Line, Polyline, PrimitiveStyle},
    text::{Alignment, Baseline, Text, TextStyleBuilder},
};

use crate::Result;

pub const INK: Rgb888 = Rgb888::new(40, 40, 40);
pub const GRID: Rgb888 = Rgb888::new(225, 225, 225);
/// Dark and light, so that a grey print tells them apart.
pub const REAL: Rgb888 = Rgb888::new(0, 51, 119);
pub const IMAGINARY: Rgb888 = Rgb888::new(230, 120, 20);
pub const GREY: Rgb888 = Rgb888::new(130, 130, 130);
pub const CAPTION: MonoFont<'static> = FONT_10X20;
pub const LABEL: MonoFont<'static> = FONT_7X13;

pub struct Picture {
    size: Size,
    rgb: Vec<u8>,
}

impl Picture {
    /// A white one, with a title.
    pub fn new(width: u32, height: u32, title: &str) -> Self {
        let size = Size::new(width, height);
        let mut picture = Self { size, rgb: vec![255; 3 * (width * height) as usize] };
        picture.text(title, Point::new(20, 24), CAPTION, Alignment::Left);
        picture
    }

    /// Text in ASCII; `at` is the middle of its height.
    pub fn text(&mut self, text: &str, at: Point, font: MonoFont<'static>, side: Alignment) {
        let style = TextStyleBuilder::new().alignment(side).baseline(Baseline::Middle).build();
        let text = Text::with_text_style(text, at, MonoTextStyle::new(&font, INK), style);
        let Ok(_) = text.draw(self);
    }

    pub fn line(&mut self, from: Point, to: Point, colour: Rgb888) {
        let style = PrimitiveStyle::with_stroke(colour, 1);
        let Ok(()) = Line::new(from, to).into_styled(style).draw(self);
    }

    pub fn curve(&mut self, points: &[Point], colour: Rgb888) {
        let style = PrimitiveStyle::with_stroke(colour, 3);
        let Ok(()) = Polyline::new(points).into_styled(style).draw(self);
    }

    pub fn pixel(&mut self, at: Point, colour: Rgb888) {
        let Ok(()) = Pixel(at, colour).draw(self);
    }

    pub fn save(&self, path: &Path) -> Result<()> {
        let file = BufWriter::new(File::create(path)?);
        let mut encoder = png::Encoder::new(file, self.size.width, self.size.height);
        encoder.set_color(png::ColorType::Rgb);
        encoder.write_header()?.write_image_data(&self.rgb)?;
        println!("picture   {}", path.display());
        Ok(())
    }
}

impl OriginDimensions for Picture {
    fn size(&self) -> Size {
        self.size
    }
}

impl DrawTarget for Picture {
    type Color = Rgb888;
    type Error = Infallible;

    fn draw_iter<I>(&mut self, pixels: I) -> std::result::Result<(), Infallible>
    where
        I: IntoIterator<Item = Pixel<Rgb888>>,
    {
        let inside = self.bounding_box();
        for Pixel(at, colour) in pixels.into_iter().filter(|pixel| inside.contains(pixel.0)) {
            let first = 3 * (at.y as usize * self.size.width as usize + at.x as usize);
            self.rgb[first..first + 3].copy_from_slice(&[colour.r(), colour.g(), colour.b()]);
        }
        Ok(())
    }
}
