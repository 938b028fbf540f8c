//! Attention maps side by side, as in Fig. 5 of the RoPE++ paper (arXiv 2512.07525).

use plotters::{prelude::*, style::colors::colormaps::ViridisRGB};

use super::{CAPTION, Canvas, INK, LABEL, Picture, power_of_ten, text, titled};
use crate::Result;

/// One causal map.
pub struct Map<'a> {
    pub caption: String,
    /// Attention weights `[S, S]`, a row a query.
    pub weights: &'a [f64],
}

/// Side of a map in pixels.
const SIDE: u32 = 768;
const PANEL: u32 = SIDE + 120;
const BAR: u32 = 190;

/// Two maps of the same size under one colour bar. The colour is the logarithm of the weight.
pub struct MapsPicture<'a> {
    pub title: String,
    pub subtitle: String,
    pub maps: [Map<'a>; 2],
    /// S.
    pub seq: usize,
}

impl Picture for MapsPicture<'_> {
    fn size(&self) -> (u32, u32) {
        (2 * PANEL + BAR + 30, SIDE + 250)
    }

    fn draw<DB: DrawingBackend>(&self, canvas: &Canvas<DB>) -> Result<()>
    where
        DB::ErrorType: 'static,
    {
        let body = titled(canvas, &self.title, &self.subtitle)?;
        let (left, rest) = body.split_horizontally(PANEL);
        let (right, bar) = rest.split_horizontally(PANEL);
        let decades = decades(&self.maps);
        draw_map(&left, &self.maps[0], self.seq, decades)?;
        draw_map(&right, &self.maps[1], self.seq, decades)?;
        draw_bar(&bar, decades)
    }
}

/// Decades of colour: from 1 down to the one below which a fifth of the visible weights lie.
fn decades(maps: &[Map<'_>]) -> i32 {
    let mut visible: Vec<f64> =
        maps.iter().flat_map(|map| map.weights).copied().filter(|&w| w > 0.0).collect();
    visible.sort_unstable_by(f64::total_cmp);
    let fifth = visible.get(visible.len() / 5).copied().unwrap_or(1.0);
    (-fifth.log10()).ceil().clamp(2.0, 6.0) as i32
}

/// Steps of colour a decade: as many as an eye can tell apart and find again in the bar.
const STEPS: f64 = 4.0;

/// Colour of a share of the bar's height.
fn colour(share: f64, decades: i32) -> RGBColor {
    let steps = STEPS * f64::from(decades);
    let step = (share.clamp(0.0, 1.0) * steps).floor().min(steps - 1.0);
    ViridisRGB::get_color(step / (steps - 1.0))
}

fn draw_map<DB: DrawingBackend>(
    area: &Canvas<DB>,
    map: &Map<'_>,
    seq: usize,
    decades: i32,
) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let mut chart = ChartBuilder::on(area)
        .caption(&map.caption, text(CAPTION))
        .x_label_area_size(70)
        .y_label_area_size(85)
        .margin_right(35)
        .build_cartesian_2d(0..seq as i32, seq as i32..0)?;
    chart
        .configure_mesh()
        .disable_mesh()
        .axis_style(INK)
        .x_desc("key position s")
        .y_desc("query position t")
        .label_style(text(LABEL))
        .axis_desc_style(text(CAPTION))
        .draw()?;

    // A picture element shows the mean of the weights that it covers, so that any length fits.
    let plot = chart.plotting_area().strip_coord_spec();
    let (width, height) = plot.dim_in_pixel();
    let cells = |pixel: u32, pixels: u32| {
        let start = (pixel as usize * seq / pixels as usize).min(seq - 1);
        start..((pixel as usize + 1) * seq / pixels as usize).max(start + 1)
    };
    let mut pixels = vec![255u8; (3 * width * height) as usize];
    for y in 0..height {
        for x in 0..width {
            let (rows, columns) = (cells(y, height), cells(x, width));
            if columns.start > rows.start {
                continue; // masked
            }
            let count = rows.len() * columns.len();
            let sum: f64 =
                rows.map(|t| map.weights[t * seq..][columns.clone()].iter().sum::<f64>()).sum();
            let share = 1.0 + (sum / count as f64).log10() / f64::from(decades);
            let RGBColor(r, g, b) = colour(share, decades);
            pixels[(3 * (y * width + x)) as usize..][..3].copy_from_slice(&[r, g, b]);
        }
    }
    let image: BitMapElement<'_, (i32, i32)> =
        BitMapElement::with_owned_buffer((0, 0), (width, height), pixels)
            .ok_or("the map does not fit its picture")?;
    plot.draw(&image)?;
    Ok(())
}

fn draw_bar<DB: DrawingBackend>(area: &Canvas<DB>, decades: i32) -> Result<()>
where
    DB::ErrorType: 'static,
{
    let level = |share: f64| 10f64.powf(f64::from(decades) * (share - 1.0));
    let bottom = 10f64.powi(-decades);
    let ticks: Vec<f64> = (-decades..=0).map(|e| 10f64.powi(e)).collect();
    let mut chart = ChartBuilder::on(area)
        .caption(" ", text(CAPTION)) // as high as the captions of the maps
        .margin_left(20)
        .margin_bottom(70)
        .right_y_label_area_size(125)
        .build_cartesian_2d(0.0..1.0, (bottom..1.0).log_scale().with_key_points(ticks))?;
    chart.draw_series((0..SIDE).map(|i| {
        let [low, high] = [i, i + 1].map(|i| f64::from(i) / f64::from(SIDE));
        Rectangle::new([(0.0, level(low)), (1.0, level(high))], colour(low, decades).filled())
    }))?;
    chart
        .configure_mesh()
        .disable_mesh()
        .disable_x_axis()
        .axis_style(INK)
        .y_desc("attention weight p(t, s)")
        .y_label_formatter(&|&weight| {
            let power = power_of_ten(weight.log10().round() as i32);
            if weight == bottom { format!("≤ {power}") } else { power }
        })
        .label_style(text(LABEL))
        .axis_desc_style(text(CAPTION))
        .draw()?;
    Ok(())
}
