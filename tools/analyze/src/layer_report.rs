//! Everything about one layer: its numbers and its pictures.

use std::path::{Path, PathBuf};

use phasor::scores::RowStatistics;
use phasor_kit::gpu::Gpu;

use crate::{
    Args, Result,
    bars::{Bars, BarsPicture, Spread},
    device::Session,
    gallery::{Figure, Gallery},
    layer::Layer,
    noise,
    pictures::{Curves, Map, MapsPicture, distance_picture},
    progress,
    statistics::ByDistance,
};

/// Real and imaginary.
type Components<T> = [T; 2];

pub struct LayerReport {
    pub title: String,
    pub about: String,
    pub figures: Vec<Figure>,
    /// Heads of columns, then a row a head.
    pub table: (Vec<String>, Vec<Vec<String>>),
    /// Largest difference between a mean distance or entropy from the statistics kernel and the
    /// same number from the stored weights.
    pub disagreement: f64,
}

/// Analyses a layer and draws its pictures into `folder`.
pub fn of(gpu: &Gpu, layer: &Layer, args: &Args, folder: &Path) -> Result<LayerReport> {
    let session = Session::new(gpu, layer)?;
    for (i, line) in session.plans.lines().enumerate() {
        println!("{:10}{line}", if i == 0 { "plans" } else { "" });
    }
    let rows = session.statistics(args.near)?;
    let seq = layer.seq() as usize;

    let bar = progress::bar("attention weights, head", layer.q_heads())?;
    let mut heads: Vec<Components<ByDistance>> = Vec::new();
    let mut disagreement = 0.0f64;
    for head in 0..layer.q_heads() {
        let maps = session.weights(head)?;
        for (map, rows) in maps.iter().zip(&rows[head as usize]) {
            disagreement = disagreement.max(differs(map, rows));
        }
        heads.push(maps.each_ref().map(|map| {
            let mut sums = ByDistance::new(seq);
            sums.add(map);
            sums
        }));
        bar.inc(1);
    }
    bar.finish_and_clear();

    let chosen = match args.heads.as_slice() {
        [] => vec![most_different(&heads)],
        given => given.to_vec(),
    };
    let mut gallery = Gallery::new(folder, args.png_only)?;
    for &head in &chosen {
        let maps = session.weights(head)?;
        gallery.draw(named("attention", head, &chosen), &maps_picture(layer, head, &maps, &heads), &format!(
            "Every row is a query, every column a key. Left: ordinary RoPE attention. Right: the same \
             query turned by −90°, over the same keys and with a softmax of its own. Head {head} of {}.",
            layer.q_heads()
        ))?;
    }
    gallery.draw(
        "distance",
        &distances(layer, &chosen, &heads),
        "Mean weight that a query gives to a key Δ tokens back. Above the dotted line a distance gets \
         more than its share, below it less.",
    )?;
    gallery.draw(
        "statistics",
        &bars(layer, &rows, args.near),
        "Means over the rows of every head, the thin lines span their middle half. A row with n keys can \
         have an entropy of ln n at most.",
    )?;
    let noise = noise::measure(&session, layer, args)?;
    gallery.draw(
        "noise",
        &noise.picture(layer, chosen[0]),
        "The higher of two curves belongs to the component that the output depends on more. (In a model \
         trained without RoPE++ that says something about the scores alone: its imaginary heads were never \
         used.)",
    )?;
    let changes = [0, 1].map(|component| noise.layer_change(component, 1.0));
    Ok(LayerReport {
        title: layer.title.clone(),
        about: format!(
            "{} query heads, {} kv heads, {seq} tokens, D = {}, base {}, {:?} pairs. Noise of σ = 1 on \
             the real query changes the layer's output by {:.0} %, on the imaginary one by {:.0} %.",
            layer.q_heads(),
            layer.kv_heads(),
            layer.head_dim(),
            layer.theta,
            layer.pairing,
            100.0 * changes[0],
            100.0 * changes[1],
        ),
        figures: gallery.figures,
        table: table(&rows, args.near),
        disagreement,
    })
}

fn named(kind: &str, head: u32, chosen: &[u32]) -> PathBuf {
    if chosen.len() == 1 { kind.into() } else { format!("{kind}_head{head}").into() }
}

/// The head whose two components differ most in how far back they look.
fn most_different(heads: &[Components<ByDistance>]) -> u32 {
    let difference = |[real, imaginary]: &Components<ByDistance>| {
        (imaginary.mean_distance() - real.mean_distance()).abs()
    };
    let most =
        (0..heads.len()).max_by(|&a, &b| difference(&heads[a]).total_cmp(&difference(&heads[b])));
    most.unwrap_or(0) as u32
}

/// Largest difference of mean distance, in shares of the sequence, and of entropy, in nats.
fn differs(map: &[f64], rows: &[RowStatistics]) -> f64 {
    let seq = rows.len();
    let mut most = 0.0f64;
    for (t, (row, weights)) in rows.iter().zip(map.chunks(seq)).enumerate() {
        let (mut distance, mut entropy) = (0.0, 0.0);
        for (s, &p) in weights.iter().enumerate().take(t + 1).filter(|(_, p)| **p > 0.0) {
            distance += p * (t - s) as f64;
            entropy -= p * p.ln();
        }
        let off = (distance - f64::from(row.mean_distance)).abs() / seq as f64;
        most = most.max(off).max((entropy - f64::from(row.entropy)).abs());
    }
    most
}

fn maps_picture<'a>(
    layer: &Layer,
    head: u32,
    maps: &'a Components<Vec<f64>>,
    heads: &[Components<ByDistance>],
) -> MapsPicture<'a> {
    let map = |name: &str, component: usize| Map {
        caption: format!(
            "head {head}, {name}: {:.1} tokens back on average",
            heads[head as usize][component].mean_distance()
        ),
        weights: &maps[component],
    };
    MapsPicture {
        title: format!("Attention of {}", layer.title),
        subtitle: "Softmax weights of a query head (real) and of the same query turned by −90° (imaginary) over the same keys".into(),
        maps: [map("real", 0), map("imaginary", 1)],
        seq: layer.seq() as usize,
    }
}

fn distances(
    layer: &Layer,
    chosen: &[u32],
    heads: &[Components<ByDistance>],
) -> crate::pictures::lines::LinesPicture {
    let mut all = [(); 2].map(|()| ByDistance::new(layer.seq() as usize));
    for head in heads {
        all[0].merge(&head[0]);
        all[1].merge(&head[1]);
    }
    let curves = |caption: String, [real, imaginary]: &Components<ByDistance>| Curves {
        caption,
        real: real.curve(),
        imaginary: imaginary.curve(),
    };
    let head = chosen[0];
    distance_picture(
        format!("How far back real and imaginary attention look: {}", layer.title),
        format!("{} tokens; distances from 7 on in ranges that grow by a seventh", layer.seq()),
        vec![
            curves(format!("head {head}"), &heads[head as usize]),
            curves(format!("mean of all {} heads", heads.len()), &all),
        ],
    )
}

/// What is shown of the rows: caption, unit, and the number.
type Shown = (String, &'static str, fn(&RowStatistics) -> f32);

fn shown(near: u32) -> [Shown; 4] {
    [
        ("mean attended distance".into(), "tokens", |row| row.mean_distance),
        ("entropy".into(), "nats", |row| row.entropy),
        (format!("weight within {near} tokens"), "share", |row| row.mass_within),
        ("weight on the first token".into(), "share", |row| row.mass_first),
    ]
}

fn bars(layer: &Layer, rows: &[Components<Vec<RowStatistics>>], near: u32) -> BarsPicture {
    let seq = layer.seq();
    let mean_log = (1..=seq).map(|n| f64::from(n).ln()).sum::<f64>() / f64::from(seq);
    let panels = shown(near).map(|(caption, unit, number)| {
        let reference = match unit {
            "tokens" => Some(f64::from(seq - 1) / 4.0),
            "nats" => Some(mean_log),
            _ => None,
        };
        let line = if reference.is_some() { " (grey: without any preference)" } else { "" };
        let spreads = |pair: &Components<Vec<RowStatistics>>| {
            pair.each_ref().map(|rows| spread(rows, number))
        };
        Bars {
            caption: format!("{caption}{line}"),
            unit: unit.into(),
            heads: rows.iter().map(spreads).collect(),
            reference,
        }
    });
    BarsPicture {
        title: format!("What rows attend to: {}", layer.title),
        subtitle: format!(
            "Means over the {seq} queries of each head; thin lines: the middle half of them"
        ),
        panels,
    }
}

fn spread(rows: &[RowStatistics], number: fn(&RowStatistics) -> f32) -> Spread {
    let mut all: Vec<f64> = rows.iter().map(|row| number(row).into()).collect();
    all.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| all[((all.len() - 1) as f64 * share).round() as usize];
    Spread {
        quarter: at(0.25),
        mean: all.iter().sum::<f64>() / all.len() as f64,
        three_quarters: at(0.75),
    }
}

fn table(rows: &[Components<Vec<RowStatistics>>], near: u32) -> (Vec<String>, Vec<Vec<String>>) {
    let mut head = vec!["head".to_owned(), "component".to_owned()];
    head.extend(shown(near).map(|(caption, unit, _)| format!("{caption}, {unit}")));
    let mut body = Vec::new();
    for (number, pair) in rows.iter().enumerate() {
        for (component, rows) in ["real", "imaginary"].iter().zip(pair) {
            let mut row = vec![number.to_string(), (*component).to_owned()];
            row.extend(shown(near).map(|(_, unit, number)| {
                let digits = if unit == "share" { 4 } else { 2 };
                format!("{:.digits$}", spread(rows, number).mean)
            }));
            body.push(row);
        }
    }
    (head, body)
}
