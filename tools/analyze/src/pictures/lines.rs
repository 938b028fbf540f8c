//! Panels of lines side by side.

use plotters::prelude::*;

use super::{
    CAPTION, Canvas, GREY, GRID, INK, LABEL, Picture,
    axis::{Axis, Scale},
    stroke::Stroke,
    text, titled,
};
use crate::Result;

pub struct Line {
    pub label: String,
    pub stroke: Stroke,
    /// From left to right; what is no number is left out.
    pub points: Vec<(f64, f64)>,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Corner {
    LowerLeft,
    UpperLeft,
    UpperRight,
}

pub struct Panel {
    pub caption: String,
    pub x: Axis,
    pub y: Axis,
    pub lines: Vec<Line>,
    /// Places on the x axis that have a name.
    pub marks: Vec<(f64, String)>,
    pub legend: Option<Corner>,
}

/// One row of panels of the same size.
pub struct LinesPicture {
    pub title: String,
    pub subtitle: String,
    /// Width and height of a panel in pixels.
    pub panel: (u32, u32),
    pub panels: Vec<Panel>,
}

impl Picture for LinesPicture {
    fn size(&self) -> (u32, u32) {
        (self.panels.len() as u32 * self.panel.0 + 30, self.panel.1 + 115)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let body = titled(canvas, &self.title, &self.subtitle)?;
        let areas = body.split_evenly((1, self.panels.len()));
        areas.iter().zip(&self.panels).try_for_each(|(area, panel)| panel.draw(area))
    }
}

/// Markers of a line at most.
const MARKERS: usize = 40;

impl Panel {
    fn draw<DB: DrawingBackend>(&self, area: &Canvas<DB>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let (x, y) = (&self.x, &self.y);
        let mut chart = ChartBuilder::on(area)
            .caption(&self.caption, text(CAPTION))
            .x_label_area_size(75)
            .y_label_area_size(95)
            .margin_right(25)
            .build_cartesian_2d(x.coordinate(), y.coordinate())?;
        chart
            .configure_mesh()
            .axis_style(INK)
            .light_line_style(TRANSPARENT)
            .bold_line_style(GRID)
            .x_desc(&x.title)
            .y_desc(&y.title)
            .x_label_formatter(&|&at| x.label(at))
            .y_label_formatter(&|&at| y.label(at))
            .label_style(text(LABEL))
            .axis_desc_style(text(CAPTION))
            .draw()?;
        let plot = chart.plotting_area();
        let pixels = plot.strip_coord_spec();
        let (left, top) = pixels.get_base_pixel();
        let to_pixel = |(px, py): (f64, f64)| {
            let (px, py) = plot.map_coordinate(&(x.place(px), y.place(py)));
            (px - left, py - top)
        };
        let height = pixels.dim_in_pixel().1 as i32;
        for (at, name) in &self.marks {
            let (at, _) = to_pixel((*at, y.ends[0]));
            for from in (0..height).step_by(10) {
                let dot = vec![(at, from), (at, from + 4)];
                pixels.draw(&PathElement::new(dot, GREY.stroke_width(2)))?;
            }
            pixels.draw_text(name, &text(LABEL), (at + 6, 6))?;
        }
        for line in &self.lines {
            let mut points: Vec<(i32, i32)> = Vec::new();
            for &point in line.points.iter().filter(|(px, py)| px.is_finite() && py.is_finite()) {
                // 0 is a lone point: the axis is broken between it and 1.
                if x.scale == Scale::LogFromZero && point.0 == 0.0 {
                    line.stroke.draw_marker(&pixels, to_pixel(point))?;
                } else {
                    points.push(to_pixel(point));
                }
            }
            line.stroke.draw(&pixels, &points, points.len().div_ceil(MARKERS).max(1))?;
        }
        self.legend.map_or(Ok(()), |corner| self.draw_legend(&pixels, corner))
    }

    fn draw_legend<DB: DrawingBackend>(&self, area: &Canvas<DB>, corner: Corner) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        const ROW: i32 = 29;
        const SAMPLE: i32 = 54;
        let named: Vec<&Line> = self.lines.iter().filter(|line| !line.label.is_empty()).collect();
        let style = text(LABEL);
        let mut widest = 0;
        for line in &named {
            widest = widest.max(area.estimate_text_size(&line.label, &style)?.0 as i32);
        }
        let (width, height) = (SAMPLE + widest + 24, ROW * named.len() as i32 + 12);
        let (all_x, all_y) = area.dim_in_pixel();
        let left = if corner == Corner::UpperRight { all_x as i32 - width - 8 } else { 8 };
        let top = if corner == Corner::LowerLeft { all_y as i32 - height - 8 } else { 8 };
        let corners = [(left, top), (left + width, top + height)];
        area.draw(&Rectangle::new(corners, WHITE.mix(0.85).filled()))?;
        area.draw(&Rectangle::new(corners, GREY))?;
        for (line, row) in named.iter().zip(0..) {
            let y = top + 6 + ROW * row + ROW / 2;
            let ends = [(left + 10, y), (left + 10 + SAMPLE - 10, y)];
            line.stroke.without_marker().draw(area, &ends, 1)?;
            line.stroke.draw_marker(area, ((ends[0].0 + ends[1].0) / 2, y))?;
            area.draw_text(&line.label, &style, (left + SAMPLE + 10, y - 6))?;
        }
        Ok(())
    }
}
