//! The report: one HTML file with its pictures inside, that needs no network.

use std::{fmt::Write as _, fs, path::Path};

use base64::{Engine as _, prelude::BASE64_STANDARD};

use crate::{Result, gallery::Figure, layer_report::LayerReport};

const STYLE: &str = "body{max-width:76rem;margin:2rem auto;padding:0 1rem;font:16px/1.5 sans-serif;color:#222}\
h1,h2{line-height:1.2}h2{margin-top:3rem;border-top:1px solid #ccc;padding-top:1rem}\
figure{margin:1.5rem 0}img{width:100%;height:auto;border:1px solid #ddd}figcaption{color:#444}\
pre,code{font-family:monospace;background:#f4f4f4}pre{padding:.7rem;overflow-x:auto}\
table{border-collapse:collapse;font-variant-numeric:tabular-nums}td,th{padding:.15rem .8rem;text-align:right;border-bottom:1px solid #ddd}";

const THEORY: &str = "<p>RoPE turns the pair n of a query at position t by the angle tθ<sub>n</sub>, and that of a key at s \
by sθ<sub>n</sub>. With the pairs as complex numbers q<sub>n</sub> and k<sub>n</sub>, one product holds two scores:</p>\
<pre>Σ q&#x2099; conj(k&#x2099;) e^(iθ&#x2099;(t − s)) = S_re + i S_im</pre>\
<p>Ordinary attention uses the real part and drops the other. RoPE++ gives the imaginary part a softmax and an output \
head of its own: it is the score of the same query turned by −90°, over the same keys and values. For content that \
does not depend on position the real score falls with the distance as c_Re does, a sum of cosines; the imaginary one \
follows a sum of sines, which starts at 0 and stays up at distances where the cosines have cancelled.</p>";

pub struct Report<'a> {
    pub adapter: String,
    /// The command line that was run.
    pub command: String,
    pub theory: &'a [Figure],
    pub layers: &'a [LayerReport],
}

impl Report<'_> {
    pub fn write(&self, path: &Path) -> Result<()> {
        let mut page = String::new();
        let title = match self.layers {
            [] => "Characteristic curves".to_owned(),
            layers => {
                let titles: Vec<_> = layers.iter().map(|layer| layer.title.as_str()).collect();
                format!("Real and imaginary attention: {}", titles.join("; "))
            }
        };
        let title = escape(&title);
        write!(
            page,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width\"><title>{title}</title>\
             <style>{STYLE}</style></head><body>\n<h1>{title}</h1>\n{THEORY}\n\
             <p>Computed on {}.</p><pre>{}</pre>\n",
            escape(&self.adapter),
            escape(&self.command)
        )?;
        for layer in self.layers {
            writeln!(page, "<h2>{}</h2><p>{}</p>", escape(&layer.title), escape(&layer.about))?;
            layer.figures.iter().try_for_each(|figure| write_figure(&mut page, figure))?;
            write_table(&mut page, layer)?;
        }
        page.push_str("<h2>Characteristic curves</h2>\n");
        self.theory.iter().try_for_each(|figure| write_figure(&mut page, figure))?;
        page.push_str("</body></html>\n");
        Ok(fs::write(path, page)?)
    }
}

fn write_figure(page: &mut String, figure: &Figure) -> Result<()> {
    let svg = figure.file.extension().is_some_and(|extension| extension == "svg");
    let kind = if svg { "svg+xml" } else { "png" };
    let data = BASE64_STANDARD.encode(fs::read(&figure.file)?);
    let text = escape(&figure.text);
    writeln!(
        page,
        "<figure><img alt=\"{text}\" src=\"data:image/{kind};base64,{data}\"><figcaption>{text}</figcaption></figure>"
    )?;
    Ok(())
}

fn write_table(page: &mut String, layer: &LayerReport) -> Result<()> {
    let (head, body) = &layer.table;
    let cells = |cells: &[String], tag: &str| -> String {
        cells.iter().map(|cell| format!("<{tag}>{}</{tag}>", escape(cell))).collect()
    };
    write!(page, "<table><tr>{}</tr>", cells(head, "th"))?;
    for row in body {
        write!(page, "<tr>{}</tr>", cells(row, "td"))?;
    }
    page.push_str("</table>\n");
    Ok(())
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}
