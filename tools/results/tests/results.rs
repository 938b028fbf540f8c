//! Posted results: what is refused, and that the table of docs/adapters.md is that of the files.

use std::fs;
use std::path::PathBuf;

use results::{BEGIN, Document, END, read, replaced, table};
use serde_json::{Value, json};

fn docs() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

/// Every file of docs/results, by its path from docs.
fn posted() -> Vec<(String, String)> {
    let mut files: Vec<_> = fs::read_dir(docs().join("results"))
        .unwrap()
        .map(|entry| entry.unwrap())
        .filter(|entry| entry.file_name().to_string_lossy().ends_with(".json"))
        .map(|entry| {
            let name = format!("results/{}", entry.file_name().to_string_lossy());
            (name, fs::read_to_string(entry.path()).unwrap())
        })
        .collect();
    files.sort();
    files
}

#[test]
fn the_table_is_that_of_the_files() {
    let documents: Vec<(String, Document)> =
        posted().into_iter().map(|(name, text)| (name, read(&text).unwrap())).collect();
    assert!(!documents.is_empty());
    let page = fs::read_to_string(docs().join("adapters.md")).unwrap();
    assert_eq!(replaced(&page, &table(&documents)).unwrap(), page, "cargo run --bin results");
}

#[test]
fn what_cannot_be_is_refused() {
    let (_, text) = posted().remove(0);
    let with = |at: &str, value: Value| {
        let mut document: Value = serde_json::from_str(&text).unwrap();
        *document.pointer_mut(at).unwrap_or_else(|| panic!("no {at}")) = value;
        read(&document.to_string()).err().unwrap_or_default()
    };
    read(&text).unwrap();
    for (at, value, why) in [
        ("/format", json!("other 1"), "format"),
        ("/date", json!("yesterday"), "date"),
        ("/complete", json!(false), "end"),
        ("/adapter/vendor", json!("<script>"), "no name"),
        ("/self_test", json!([]), "no probe"),
        ("/self_test/0/outcome", json!("failed"), "self-test"),
        ("/self_test/0/error", json!(1.0), "1 of"),
        ("/prefill", json!([]), "no times"),
        ("/prefill/0/ways/plain/gflops", json!(null), "null"),
        ("/prefill/0/ways/fused/ms", json!(1e-3), "operations"),
        ("/prefill/0/ways/fused/gflops", json!(1e9), "operations"),
        ("/prefill/0/ways/fused/error", json!(0.5), "off by"),
        ("/prefill/0/ways/fused/error", json!(null), "null"),
        ("/prefill/0/ways/fused/parts", json!(0), "no dispatch"),
        ("/prefill/0/ways", json!({ "faster": {} }), "missing field"),
        ("/steps/0/ms", json!(-1.0), "ms is -1"),
        ("/steps/0/name", json!("sort"), "no such step"),
    ] {
        let refused = with(at, value);
        assert!(refused.contains(why), "{at}: {refused:?}");
    }
    let whole: Value = serde_json::from_str(&text).unwrap();
    let mut more = whole.clone();
    more["owner"] = json!("me");
    assert!(read(&more.to_string()).unwrap_err().contains("unknown field"));
    let mut twice = whole.clone();
    twice["prefill"] = json!([whole["prefill"][0], whole["prefill"][0]]);
    assert!(read(&twice.to_string()).unwrap_err().contains("lengths"));
    assert!(read("{").is_err());
}

#[test]
fn the_table_stands_between_its_lines() {
    let page = format!("before\n{BEGIN}\nold\n{END}\nbehind\n");
    let new = replaced(&page, "new\n").unwrap();
    assert_eq!(new, format!("before\n{BEGIN}\n\nnew\n\n{END}\nbehind\n"));
    assert_eq!(replaced(&new, "new\n").unwrap(), new);
    for wrong in ["", BEGIN, &format!("{END}\n{BEGIN}"), &format!("{BEGIN}{BEGIN}{END}")] {
        assert!(replaced(wrong, "new\n").is_err(), "{wrong:?}");
    }
}
