//! Which pictures are drawn, of which heads.

use std::path::Path;

use phasor::{OutputHead, Phase};

use crate::{
    Result,
    distance::{self, Curves},
    layer::Layer,
    maps::{self, Map},
    reference::Reference,
    statistics::ByDistance,
};

/// A head's statistics, real and imaginary.
type Components = [ByDistance; 2];

/// Draws maps and curves of these query heads into a folder. With none given it takes the head
/// whose two components differ most in how far back they look on average.
pub fn draw(layer: &Layer, truth: &Reference<'_, f64>, chosen: &[u32], out: &Path) -> Result<()> {
    let heads = statistics_by_head(layer, truth)?;
    let difference =
        |[real, imaginary]: &Components| (imaginary.mean_distance() - real.mean_distance()).abs();
    let most = (0..layer.q_heads())
        .max_by(|&a, &b| difference(&heads[a as usize]).total_cmp(&difference(&heads[b as usize])))
        .ok_or("the layer has no heads")?;
    if chosen.is_empty() {
        println!("head      {most}, whose components differ most in how far back they look");
    }
    let chosen = if chosen.is_empty() { &[most] } else { chosen };

    let mut all = [(); 2].map(|()| ByDistance::new(layer.seq() as usize));
    for head in &heads {
        all[0].merge(&head[0]);
        all[1].merge(&head[1]);
    }
    let curves = |caption: String, [real, imaginary]: &Components| Curves {
        caption,
        real: real.curve(),
        imaginary: imaginary.curve(),
    };
    for &head in chosen {
        let pair = &heads[head as usize];
        let file = |kind: &str| out.join(format!("{kind}_head{head}.png"));
        draw_maps(&file("maps"), layer, truth, head, pair)?;
        let panels = [
            curves(format!("head {head}"), pair),
            curves(format!("mean of all {} heads", heads.len()), &all),
        ];
        let title = format!("Attention against distance: {}, {} tokens", layer.title, layer.seq());
        distance::picture(&title, &panels).save(&file("distance"))?;
    }
    Ok(())
}

fn draw_maps(
    path: &Path,
    layer: &Layer,
    truth: &Reference<'_, f64>,
    head: u32,
    pair: &Components,
) -> Result<()> {
    let seq = layer.seq() as usize;
    let weights = truth.probabilities(&components(head))?;
    let (real, imaginary) = weights.split_at(seq * seq);
    let map = |name, weights, statistics: &ByDistance| Map {
        caption: format!(
            "head {head}, {name}: {:.1} tokens back on average",
            statistics.mean_distance()
        ),
        weights,
    };
    let maps = [map("real", real, &pair[0]), map("imaginary", imaginary, &pair[1])];
    maps::picture(&format!("Attention of {}", layer.title), &maps, seq).save(path)
}

fn statistics_by_head(layer: &Layer, truth: &Reference<'_, f64>) -> Result<Vec<Components>> {
    let seq = layer.seq() as usize;
    let heads = (0..layer.q_heads()).map(|head| {
        let weights = truth.probabilities(&components(head))?;
        let (real, imaginary) = weights.split_at(seq * seq);
        Ok([real, imaginary].map(|map| {
            let mut statistics = ByDistance::new(seq);
            statistics.add(map);
            statistics
        }))
    });
    heads.collect()
}

/// The two output heads of a query head.
fn components(source: u32) -> [OutputHead; 2] {
    [Phase::REAL, Phase::IMAGINARY].map(|phase| OutputHead { source, phase })
}
