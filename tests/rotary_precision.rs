//! The promise on tables: 1 ulp of f32 up to position 2^20, against angles that mpmath reduced with
//! 60 digits. `data/reference/rope_angles.py` writes the file, and says what is in it.

use std::{collections::HashMap, error::Error};

use phasor::rotary::{RopeConfig, RopeRule, YarnParams};

type Test = Result<(), Box<dyn Error>>;

const REFERENCE: &str = include_str!("data/reference/rope_angles.csv");

/// Context length before the extension, in all of the file's cases.
const L0: u64 = 4096;

struct Row {
    config: RopeConfig,
    pair: usize,
    position: u32,
    exact: [f64; 2],
}

fn rows() -> Result<Vec<Row>, Box<dyn Error>> {
    REFERENCE.lines().skip(1).map(row).collect()
}

fn row(line: &str) -> Result<Row, Box<dyn Error>> {
    let [rule, theta, rotary_dim, factor, pair, position, cos, sin] =
        line.split(',').collect::<Vec<_>>()[..]
    else {
        return Err(format!("eight columns: {line}").into());
    };
    let factor = factor.parse()?;
    let rule = match rule {
        "default" => RopeRule::Default,
        "linear" => RopeRule::Linear { factor },
        "ntk" => RopeRule::NtkAware { factor },
        "yarn" => RopeRule::Yarn(YarnParams {
            attention_factor: Some(1.0),
            ..YarnParams::new(factor, L0)
        }),
        "yarn_rotations" => RopeRule::yarn_rotations(factor),
        "llama3" => RopeRule::Llama3 {
            factor,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_max_position_embeddings: L0,
        },
        other => return Err(format!("rule {other}").into()),
    };
    Ok(Row {
        config: RopeConfig { rule, ..RopeConfig::new(rotary_dim.parse()?, theta.parse()?) },
        pair: pair.parse()?,
        position: position.parse()?,
        exact: [cos.parse()?, sin.parse()?],
    })
}

fn by_config() -> Result<HashMap<String, Vec<Row>>, Box<dyn Error>> {
    let mut by_config: HashMap<String, Vec<Row>> = HashMap::new();
    for row in rows()? {
        by_config.entry(format!("{:?}", row.config)).or_default().push(row);
    }
    Ok(by_config)
}

/// Distance in units of the last place that f32 has at `exact`.
fn ulps(ours: f32, exact: f64) -> f64 {
    let magnitude = (exact.abs() as f32).max(f32::MIN_POSITIVE);
    let below = f32::from_bits(magnitude.to_bits() - 1);
    (f64::from(ours) - exact).abs() / f64::from(magnitude - below)
}

#[test]
fn single_values_are_right_in_f64() -> Test {
    let rows = rows()?;
    assert!(rows.len() > 500);
    let (mut worst, mut smallest) = (0f64, 1f64);
    for Row { config, pair, position, exact } in rows {
        let frequencies = config.frequencies(1)?;
        let (cos, sin) = frequencies.cos_sin(position, pair);
        let m = frequencies.attention_scaling();
        for (ours, exact) in [cos, sin].into_iter().zip(exact.map(|x| x * m)) {
            let error = (ours - exact).abs();
            let relative = if exact == 0.0 { error } else { error / exact.abs() };
            assert!(relative < 1e-15, "{config:?} pair {pair} at {position}: {ours} for {exact}");
            worst = worst.max(relative);
            smallest = if exact == 0.0 { smallest } else { smallest.min(exact.abs()) };
        }
    }
    println!("largest relative error {worst:e}; smallest value {smallest:e}");
    assert!(smallest < 1e-7, "the file has no hard cases");
    Ok(())
}

#[test]
fn tables_are_right_to_one_ulp_of_f32() -> Test {
    // A table as long as each configuration's last position would take gigabytes for the wide ones:
    // those are checked over a short table, the narrow ones to the end.
    let (mut checked, mut last, mut worst) = (0, 0, 0f64);
    for rows in by_config()?.values() {
        let config = &rows[0].config;
        let positions = if config.rotary_dim <= 4 { (1 << 20) + 1 } else { 1 << 12 };
        let table = config.table(positions, 1)?;
        let m = table.attention_scaling();
        for Row { pair, position, exact, .. } in rows.iter().filter(|row| row.position < positions)
        {
            let entry = table.entries()[*position as usize * table.pairs() as usize + pair];
            for (ours, exact) in entry.into_iter().zip(exact.map(|x| x * m)) {
                worst = worst.max(ulps(ours, exact));
            }
            checked += 1;
            last = last.max(*position);
        }
    }
    println!("{checked} entries up to position {last}: largest error {worst} ulp of f32");
    assert!(checked > 100 && last == 1 << 20);
    assert!(worst <= 1.0, "{worst} ulp");
    Ok(())
}

/// Over whole tables of 2^20 positions; about a minute and 512 MiB.
#[test]
#[ignore = "slow"]
fn wide_tables_are_the_rounded_values_to_the_end() -> Test {
    for rows in by_config()?.values() {
        let table = rows[0].config.table((1 << 20) + 1, 1)?;
        let m = table.attention_scaling();
        for Row { config, pair, position, exact } in rows {
            let entry = table.entries()[*position as usize * table.pairs() as usize + pair];
            for (ours, exact) in entry.into_iter().zip(exact.map(|x| x * m)) {
                assert!(ulps(ours, exact) <= 1.0, "{config:?} pair {pair} at {position}");
            }
        }
    }
    Ok(())
}
