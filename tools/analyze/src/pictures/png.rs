//! PNG files with a palette: a third of the size of what plotters writes.

use std::{collections::HashMap, fs::File, io::BufWriter, path::Path};

use crate::Result;

/// Writes RGB pixels. Where there are more than 256 colours, as smooth edges of lines make them,
/// channels are rounded to as few bits as it takes.
pub fn write(path: &Path, (width, height): (u32, u32), rgb: &[u8]) -> Result<()> {
    let (palette, indices) =
        (1..=8).rev().find_map(|bits| indexed(rgb, bits)).ok_or("a picture of too many colours")?;
    let mut encoder = png::Encoder::new(BufWriter::new(File::create(path)?), width, height);
    encoder.set_color(png::ColorType::Indexed);
    encoder.set_palette(palette);
    encoder.set_compression(png::Compression::Best);
    encoder.set_filter(png::FilterType::NoFilter);
    encoder.write_header()?.write_image_data(&indices)?;
    Ok(())
}

/// A palette and an index for every pixel, with channels of this many bits.
fn indexed(rgb: &[u8], bits: u32) -> Option<(Vec<u8>, Vec<u8>)> {
    let most = (1u32 << bits) - 1;
    let rounded = |x: u8| ((u32::from(x) * most + 127) / 255 * 255 / most) as u8;
    let (mut palette, mut known) = (Vec::new(), HashMap::new());
    let mut indices = Vec::with_capacity(rgb.len() / 3);
    for pixel in rgb.chunks_exact(3) {
        let colour = [pixel[0], pixel[1], pixel[2]].map(rounded);
        let next = known.len();
        let index = *known.entry(colour).or_insert_with(|| {
            palette.extend_from_slice(&colour);
            next
        });
        indices.push(u8::try_from(index).ok()?);
    }
    Some((palette, indices))
}
