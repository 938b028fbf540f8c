//! Mean attention weight against distance, for the real and the imaginary component.

use plotters::{element::DashedPathElement, prelude::*};

use super::{
    CAPTION, Canvas, GREY, GRID, IMAGINARY, INK, LABEL, Picture, REAL, power_of_ten, text, titled,
};
use crate::{Result, statistics::Point};

/// The curves of one panel.
pub struct Curves {
    pub caption: String,
    pub real: Vec<Point>,
    pub imaginary: Vec<Point>,
}

/// Where the distance 0 stands on the logarithmic axis.
const ZERO: f64 = 0.5;

/// Two panels side by side over common axes, both logarithmic.
pub struct DistancePicture {
    pub title: String,
    pub subtitle: String,
    pub panels: [Curves; 2],
}

impl Picture for DistancePicture {
    fn size(&self) -> (u32, u32) {
        (1840, 900)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let panels = &self.panels;
        let body = titled(canvas, &self.title, &self.subtitle)?;
        let (left, right) = body.split_horizontally(905);

        let points = || panels.iter().flat_map(|p| p.real.iter().chain(&p.imaginary));
        let exponent = |w: f64| w.log10();
        let lowest =
            points().map(|p| exponent(p.weight.min(p.uniform))).fold(0.0, f64::min).floor();
        let highest =
            points().map(|p| exponent(p.weight.max(p.uniform))).fold(-9.0, f64::max).ceil();
        let farthest = points().map(|p| p.distance).fold(1.0, f64::max);
        let highest = highest.min(0.0) as i32;
        let range = ((lowest.max(-9.0) as i32).min(highest - 1), highest, farthest);
        draw_panel(&left, &panels[0], range)?;
        draw_panel(&right, &panels[1], range)
    }
}

fn draw_panel<DB: DrawingBackend>(
    area: &Canvas<DB>,
    curves: &Curves,
    (lowest, highest, farthest): (i32, i32, f64),
) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let place = |distance: f64| if distance == 0.0 { ZERO } else { distance };
    let mut distances = vec![ZERO];
    for decade in 0..=farthest.log10() as i32 {
        distances.extend([1.0, 2.0, 5.0].map(|step| step * 10f64.powi(decade)));
    }
    distances.retain(|&d| d <= farthest);
    let weights: Vec<f64> = (lowest..=highest).map(|e| 10f64.powi(e)).collect();

    let mut chart = ChartBuilder::on(area)
        .caption(&curves.caption, text(CAPTION))
        .x_label_area_size(75)
        .y_label_area_size(95)
        .margin_right(25)
        .build_cartesian_2d(
            (ZERO * 0.85..farthest * 1.15).log_scale().with_key_points(distances),
            (10f64.powi(lowest)..10f64.powi(highest)).log_scale().with_key_points(weights),
        )?;
    chart
        .configure_mesh()
        .axis_style(INK)
        .light_line_style(TRANSPARENT)
        .bold_line_style(GRID)
        .x_desc("distance Δ = t − s, tokens")
        .y_desc("mean attention weight")
        .x_label_formatter(&|&d| if d == ZERO { "0".into() } else { format!("{d}") })
        .y_label_formatter(&|w| power_of_ten(w.log10().round() as i32))
        .label_style(text(LABEL))
        .axis_desc_style(text(CAPTION))
        .draw()?;

    let line = |curve: &[Point], weight: fn(&Point) -> f64| -> Vec<(f64, f64)> {
        // 0 is a lone point: the axis is broken between it and 1.
        curve.iter().map(|p| (place(p.distance), weight(p))).collect()
    };
    let real = line(&curves.real, |p| p.weight);
    let imaginary = line(&curves.imaginary, |p| p.weight);
    let uniform = line(&curves.real, |p| p.uniform);

    let thin = GREY.stroke_width(2);
    chart
        .draw_series(DashedLineSeries::new(uniform[1..].to_vec(), 3, 5, thin))?
        .label("no preference: mean of 1/(t + 1)")
        .legend(move |(x, y)| DashedPathElement::new(vec![(x, y), (x + 40, y)], 3, 5, thin));

    let solid = REAL.stroke_width(3);
    chart.draw_series(LineSeries::new(real[1..].to_vec(), solid))?.label("real").legend(
        move |(x, y)| {
            EmptyElement::at((x, y))
                + PathElement::new(vec![(0, 0), (40, 0)], solid)
                + Circle::new((20, 0), 5, REAL.filled())
        },
    );
    chart.draw_series(real.iter().map(|&at| Circle::new(at, 5, REAL.filled())))?;

    let dashed = IMAGINARY.stroke_width(3);
    chart
        .draw_series(DashedLineSeries::new(imaginary[1..].to_vec(), 9, 6, dashed))?
        .label("imaginary")
        .legend(move |(x, y)| {
            EmptyElement::at((x, y))
                + PathElement::new(vec![(0, 0), (13, 0)], dashed)
                + PathElement::new(vec![(27, 0), (40, 0)], dashed)
                + TriangleMarker::new((20, 0), 8, IMAGINARY.filled())
        });
    chart
        .draw_series(imaginary.iter().map(|&at| TriangleMarker::new(at, 8, IMAGINARY.filled())))?;

    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerLeft)
        .legend_area_size(50)
        .background_style(WHITE)
        .border_style(GREY)
        .label_font(text(LABEL))
        .draw()?;
    Ok(())
}
