//! Panels of lines with bands, as PNG and SVG files: the curves of `train`.

use std::ops::Range;
use std::path::Path;

use plotters::coord::Shift;
use plotters::coord::ranged1d::{AsRangedCoord, ValueFormatter};
use plotters::prelude::*;
use plotters::style::{FontStyle, register_font};

/// What can fail is writing a file.
pub type Result<T, E = Box<dyn std::error::Error>> = core::result::Result<T, E>;

const FONT: &str = "sans-serif";
const INK: RGBColor = RGBColor(40, 40, 40);
const GRID: RGBColor = RGBColor(225, 225, 225);

/// Colours from dark to light, so that a grey print tells them apart.
const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 51, 119),
    RGBColor(150, 30, 90),
    RGBColor(0, 135, 120),
    RGBColor(230, 120, 20),
    RGBColor(120, 120, 120),
    RGBColor(120, 175, 230),
    RGBColor(190, 190, 60),
];

/// A line through (x, least, mean, largest).
pub struct Line {
    /// In the legend.
    pub label: String,
    /// Which of the colours.
    pub colour: usize,
    /// Bands are drawn where least and largest differ.
    pub points: Vec<[f64; 4]>,
}

/// One pair of axes.
pub struct Panel {
    /// Above it.
    pub caption: String,
    /// Below it.
    pub x_title: String,
    /// Beside it.
    pub y_title: String,
    /// Whether x goes by factors of two.
    pub doubling: bool,
    /// From the first to the last drawn.
    pub lines: Vec<Line>,
}

/// Writes `NAME.png` and `NAME.svg`.
///
/// # Errors
/// Where a file cannot be written.
pub fn save(folder: &Path, name: &str, panels: &[Panel]) -> Result<()> {
    register_font(
        FONT,
        FontStyle::Normal,
        include_bytes!("../../../tools/analyze/font/DejaVuSans.ttf"),
    )
    .map_err(|_| "the font of the pictures cannot be read")?;
    let size = (620 * panels.len() as u32, 460);
    let svg = folder.join(format!("{name}.svg"));
    draw(&SVGBackend::new(&svg, size).into_drawing_area(), panels)?;
    let png = folder.join(format!("{name}.png"));
    draw(&BitMapBackend::new(&png, size).into_drawing_area(), panels)
}

fn draw<DB: DrawingBackend>(canvas: &DrawingArea<DB, Shift>, panels: &[Panel]) -> Result<()>
where
    DB::ErrorType: 'static,
{
    canvas.fill(&WHITE)?;
    for (area, panel) in canvas.split_evenly((1, panels.len().max(1))).iter().zip(panels) {
        let (x, y) = panel.ranges();
        if panel.doubling {
            panel.draw(area, (x.start.log2()..x.end.log2()).step(1.0), y, f64::log2)?;
        } else {
            panel.draw(area, x, y, |x| x)?;
        }
    }
    Ok(canvas.present()?)
}

impl Panel {
    /// Of all points, with some room above and below.
    fn ranges(&self) -> (Range<f64>, Range<f64>) {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let ends = |least: fn(&[f64; 4]) -> f64, largest: fn(&[f64; 4]) -> f64| {
            let low = points().map(least).fold(f64::INFINITY, f64::min);
            let high = points().map(largest).fold(f64::NEG_INFINITY, f64::max);
            if low < high { (low, high) } else { (low - 1.0, low + 1.0) }
        };
        let (x, (low, high)) = (ends(|p| p[0], |p| p[0]), ends(|p| p[1], |p| p[3]));
        let room = (high - low) / 20.0;
        (x.0..x.1, low - room..high + room)
    }

    /// Where the lines are not: they rise or fall.
    fn legend(&self) -> SeriesLabelPosition {
        let rises = self.lines.iter().filter(|line| match line.points.as_slice() {
            [first, .., last] => first[2] < last[2],
            _ => false,
        });
        match 2 * rises.count() > self.lines.len() {
            true => SeriesLabelPosition::UpperLeft,
            false => SeriesLabelPosition::UpperRight,
        }
    }

    fn draw<DB, X, Y>(
        &self,
        area: &DrawingArea<DB, Shift>,
        x: X,
        y: Y,
        place: fn(f64) -> f64,
    ) -> Result<()>
    where
        DB: DrawingBackend,
        DB::ErrorType: 'static,
        X: AsRangedCoord<Value = f64>,
        Y: AsRangedCoord<Value = f64>,
        X::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
        Y::CoordDescType: ValueFormatter<f64> + Ranged<ValueType = f64>,
    {
        let text = |size: u32| (FONT, size).into_font().color(&INK);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.caption, text(19))
            .x_label_area_size(52)
            .y_label_area_size(62)
            .margin(12)
            .build_cartesian_2d(x, y)?;
        let label = |at: f64| if at.fract() == 0.0 { format!("{at}") } else { format!("{at:.2}") };
        chart
            .configure_mesh()
            .axis_style(INK)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc(&self.x_title)
            .y_desc(&self.y_title)
            .x_label_formatter(&|&at| label(if self.doubling { at.exp2().round() } else { at }))
            .y_label_formatter(&|&at| label(at))
            .label_style(text(15))
            .axis_desc_style(text(16))
            .draw()?;
        for line in &self.lines {
            let colour = COLOURS[line.colour % COLOURS.len()];
            let at = |n: usize| line.points.iter().map(move |p| (place(p[0]), p[n]));
            let band: Vec<_> = at(1).chain(at(3).collect::<Vec<_>>().into_iter().rev()).collect();
            if line.points.iter().any(|p| p[1] < p[3]) {
                chart.draw_series([Polygon::new(band, colour.mix(0.18))])?;
            }
            chart
                .draw_series(LineSeries::new(at(2), colour.stroke_width(2)))?
                .label(&line.label)
                .legend(move |(x, y)| {
                    PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(3))
                });
        }
        chart
            .configure_series_labels()
            .position(self.legend())
            .background_style(WHITE.mix(0.85))
            .label_font(text(15))
            .draw()?;
        Ok(())
    }
}
