//! Roofline and scaling curves.

use std::path::Path;

use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

use crate::Result;
use crate::ratios::{Comparison, WAYS};
use crate::roof::Roof;
use crate::rotation::Rotation;
use crate::scaling::Point;

const COLORS: [RGBColor; 4] = [
    RGBColor(0x33, 0x66, 0xcc),
    RGBColor(0xcc, 0x66, 0x33),
    RGBColor(0x77, 0x77, 0x77),
    RGBColor(0x22, 0x99, 0x55),
];

pub fn draw(
    path: &Path,
    roof: &Roof,
    rotations: &[Rotation],
    comparisons: &[Comparison],
    scaling: &[Point],
) -> Result<()> {
    register_font(
        "sans-serif",
        FontStyle::Normal,
        include_bytes!("../../analyze/font/DejaVuSans.ttf"),
    )
    .map_err(|_| "the font of the pictures cannot be read")?;
    let area = BitMapBackend::new(path, (1400, 600)).into_drawing_area();
    area.fill(&WHITE)?;
    let (left, right) = area.split_horizontally(700);
    roofline(&left, roof, rotations, comparisons)?;
    curves(&right, roof, scaling)?;
    area.present()?;
    Ok(())
}

type Area<'a> = DrawingArea<BitMapBackend<'a>, plotters::coord::Shift>;

fn roofline(
    area: &Area<'_>,
    roof: &Roof,
    rotations: &[Rotation],
    comparisons: &[Comparison],
) -> Result<()> {
    let low = roof.gflops / 1e3;
    let mut chart = ChartBuilder::on(area)
        .caption("Roofline", ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d((0.1..1e4).log_scale(), (low..2.0 * roof.gflops).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("operations a byte that must move")
        .y_desc("GFLOP/s")
        .light_line_style(TRANSPARENT)
        .draw()?;
    let line = (0..=100).map(|i| {
        let x = 10f64.powf(-1.0 + 5.0 * f64::from(i) / 100.0);
        (x, (x * roof.copy_gbs).min(roof.gflops))
    });
    chart.draw_series(LineSeries::new(line, BLACK.stroke_width(2)))?;
    // Six operations a pair, of two channels.
    let rope = rotations.iter().map(|r| {
        let flops = 3.0 * f64::from(r.seq) * f64::from(r.dim * (r.heads[0] + r.heads[1]));
        (flops / r.bytes as f64, flops / r.time.ms() * 1e-6)
    });
    chart
        .draw_series(rope.map(|at| TriangleMarker::new(at, 6, MAGENTA.filled())))?
        .label("RoPE")
        .legend(|(x, y)| TriangleMarker::new((x + 8, y), 6, MAGENTA.filled()));
    for (way, color) in COLORS.into_iter().enumerate() {
        let points = comparisons.iter().map(|c| {
            let (time, cost) = &c.ways[way];
            (cost.flops as f64 / cost.bytes as f64, cost.flops as f64 / time.ms() * 1e-6)
        });
        chart
            .draw_series(points.map(|at| Circle::new(at, 5, color.filled())))?
            .label(WAYS[way])
            .legend(move |(x, y)| Circle::new((x + 8, y), 5, color.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}

fn curves(area: &Area<'_>, roof: &Roof, scaling: &[Point]) -> Result<()> {
    let (Some(first), Some(last)) = (scaling.first(), scaling.last()) else { return Ok(()) };
    let lengths = f64::from(first.sizes.seq) / 1.3..f64::from(last.sizes.seq) * 1.3;
    let least = |p: &Point| p.cost.flops as f64 / roof.gflops * 1e-6;
    let times = least(first) / 2.0..last.time.ms() * 2.0;
    let mut chart = ChartBuilder::on(area)
        .caption("Causal prefill against length, D 64", ("sans-serif", 22))
        .margin(16)
        .x_label_area_size(44)
        .y_label_area_size(64)
        .build_cartesian_2d(lengths.log_scale(), times.log_scale())?;
    chart.configure_mesh().x_desc("S").y_desc("ms").light_line_style(TRANSPARENT).draw()?;
    let measured = || scaling.iter().map(|p| (f64::from(p.sizes.seq), p.time.ms()));
    let at_roof = scaling.iter().map(|p| (f64::from(p.sizes.seq), least(p)));
    chart
        .draw_series(LineSeries::new(at_roof, BLACK.stroke_width(1)))?
        .label("at the roof")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], BLACK));
    chart
        .draw_series(LineSeries::new(measured(), COLORS[0].stroke_width(2)))?
        .label("plain")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 16, y)], COLORS[0]));
    chart.draw_series(measured().map(|at| Circle::new(at, 5, COLORS[0].filled())))?;
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE)
        .border_style(BLACK)
        .draw()?;
    Ok(())
}
