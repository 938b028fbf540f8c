//! Two bars a head, real and imaginary, in a grid of panels.

use plotters::prelude::*;

use crate::{
    Result,
    pictures::{
        CAPTION, Canvas, GREY, GRID, IMAGINARY, INK, LABEL, Picture, REAL,
        axis::{Axis, Coordinate, Scale},
        text, titled,
    },
};

/// Mean and quartiles of a number over the rows of a head.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub quarter: f64,
    pub mean: f64,
    pub three_quarters: f64,
}

pub struct Bars {
    pub caption: String,
    pub unit: String,
    /// Real and imaginary, of every head.
    pub heads: Vec<[Spread; 2]>,
    /// A grey line to compare with.
    pub reference: Option<f64>,
}

/// Panels two by two, over the same heads.
pub struct BarsPicture {
    pub title: String,
    pub subtitle: String,
    pub panels: [Bars; 4],
}

impl Picture for BarsPicture {
    fn size(&self) -> (u32, u32) {
        (1590, 1030)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let body = titled(canvas, &self.title, &self.subtitle)?;
        let (width, _) = canvas.dim_in_pixel();
        legend(canvas, width as i32 - 330)?;
        let areas = body.split_evenly((2, 2));
        areas.iter().zip(&self.panels).try_for_each(|(area, bars)| bars.draw(area))
    }
}

fn legend<DB: DrawingBackend>(canvas: &Canvas<DB>, mut x: i32) -> Result<()>
where
    DB::ErrorType: 'static,
{
    for (name, colour, width) in [("real", REAL, 110), ("imaginary", IMAGINARY, 170)] {
        canvas.draw(&Rectangle::new([(x, 64), (x + 22, 84)], colour.filled()))?;
        canvas.draw_text(name, &text(LABEL), (x + 32, 64))?;
        x += width;
    }
    Ok(())
}

impl Bars {
    fn draw<DB: DrawingBackend>(&self, area: &Canvas<DB>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let spreads = || self.heads.iter().flatten();
        let top = spreads().map(|s| s.mean.max(s.three_quarters)).fold(0.0, f64::max);
        let top = self.reference.as_ref().map_or(top, |line| top.max(*line)).max(1e-6);
        let y = Axis::new(&self.unit, Scale::Linear, [0.0, 1.08 * top]);
        let n = self.heads.len();
        // Every head has a label as long as there is room for them.
        let heads = (0..n).step_by(n.div_ceil(16).max(1)).map(|h| h as f64).collect();
        let mut chart = ChartBuilder::on(area)
            .caption(&self.caption, text(CAPTION))
            .margin_top(12)
            .x_label_area_size(62)
            .y_label_area_size(95)
            .margin_right(25)
            .build_cartesian_2d(Coordinate::new(-0.6..n as f64 - 0.4, heads), y.coordinate())?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .axis_style(INK)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc("query head")
            .y_desc(&self.unit)
            .x_label_formatter(&|x| format!("{x:.0}"))
            .y_label_formatter(&|&at| y.label(at))
            .label_style(text(LABEL))
            .axis_desc_style(text(CAPTION))
            .draw()?;
        for (head, pair) in self.heads.iter().enumerate() {
            for (i, (spread, colour)) in pair.iter().zip([REAL, IMAGINARY]).enumerate() {
                let left = head as f64 - 0.38 + 0.38 * i as f64;
                let bar = [(left, 0.0), (left + 0.38, spread.mean)];
                let middle = left + 0.19;
                let quartiles = vec![(middle, spread.quarter), (middle, spread.three_quarters)];
                chart.draw_series([Rectangle::new(bar, colour.filled())])?;
                // Light on dark bars, dark on light ground.
                for style in [WHITE.stroke_width(6), INK.stroke_width(2)] {
                    chart.draw_series([PathElement::new(quartiles.clone(), style)])?;
                }
            }
        }
        if let Some(line) = &self.reference {
            let ends = vec![(-0.6, *line), (n as f64 - 0.4, *line)];
            chart.draw_series([PathElement::new(ends, GREY.stroke_width(2))])?;
        }
        Ok(())
    }
}
