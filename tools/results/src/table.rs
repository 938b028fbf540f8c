//! Documents as a table of docs/adapters.md.

use crate::Document;

/// The line before the table.
pub const BEGIN: &str = "<!-- results: written by `cargo run --bin results` -->";
/// The line behind it.
pub const END: &str = "<!-- end of results -->";

/// A row for each document, with the name of its file: its longest prefill.
pub fn table(documents: &[(String, Document)]) -> String {
    let mut text = String::from(
        "| adapter | browser | self-test | tokens | plain, ms | fused, ms | fused, GFLOP/s | \
         fused / two passes, time | file |\n|---|---|---|---|---|---|---|---|---|\n",
    );
    for (name, document) in documents {
        let Some(row) = document.prefill.iter().rev().find(|row| row.ways.contains_key("fused"))
        else {
            continue;
        };
        let of = |way: &str| row.ways.get(way);
        let ms = |way: &str| of(way).map_or("-".to_owned(), |timed| rounded(timed.ms));
        let ratio = match (of("fused"), of("two passes")) {
            (Some(fused), Some(two)) => format!("{:.2}", fused.ms / two.ms),
            _ => "-".to_owned(),
        };
        text += &format!(
            "| {} | {} | {} probes | {} | {} | {} | {} | {ratio} | [{}]({name}) |\n",
            adapter(document),
            browser(document),
            document.passed(),
            row.seq,
            ms("plain"),
            ms("fused"),
            of("fused").map_or("-".to_owned(), |timed| rounded(timed.gflops)),
            document.date,
        );
    }
    text
}

/// Three digits that count.
fn rounded(x: f64) -> String {
    let digits = (2 - x.abs().max(1e-9).log10().floor() as i32).clamp(0, 6) as usize;
    format!("{x:.digits$}")
}

fn adapter(document: &Document) -> String {
    let adapter = &document.adapter;
    let name = [&adapter.vendor, &adapter.architecture].map(String::as_str);
    let name: Vec<&str> = name.into_iter().filter(|part| !part.is_empty()).collect();
    let name = if name.is_empty() { "not named".to_owned() } else { name.join(" ") };
    if adapter.software { format!("{name} (on the CPU)") } else { name }
}

fn browser(document: &Document) -> String {
    let plain = |text: &str| text.replace(['|', '<', '>', '[', ']', '`'], " ");
    match document.browser.brands.last() {
        Some(brand) => plain(brand),
        // Firefox and Safari name themselves at the end of the agent.
        None => plain(document.browser.agent.rsplit(' ').next().unwrap_or_default()),
    }
}

/// `page` with `table` between the two lines.
///
/// # Errors
/// Where the lines are not there, each once and in order.
pub fn replaced(page: &str, table: &str) -> Result<String, String> {
    let place = |line: &str| match page.matches(line).count() {
        1 => page.find(line).ok_or_else(|| format!("no line {line:?}")),
        n => Err(format!("{n} lines {line:?}, where one is needed")),
    };
    let (begin, end) = (place(BEGIN)? + BEGIN.len(), place(END)?);
    if begin > end {
        return Err(format!("{END:?} stands before {BEGIN:?}"));
    }
    Ok(format!("{}\n\n{table}\n{}", &page[..begin], &page[end..]))
}
