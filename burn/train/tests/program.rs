//! The program as people start it: killed and started again, and given what it cannot use.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use serde_json::Value;

/// A folder of a test's own, empty.
fn folder(name: &str) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR")).join(name);
    let _ = fs::remove_dir_all(&folder);
    fs::create_dir_all(&folder).unwrap();
    folder
}

/// Some text of so many characters.
fn text(folder: &Path, characters: usize) -> PathBuf {
    let line = "The quick brown fox jumps over the lazy dog. Pack my box with five dozen jugs!\n";
    let text: String = line.chars().cycle().take(characters).collect();
    let path = folder.join("text.txt");
    fs::write(&path, text).unwrap();
    path
}

const STEPS: usize = 300;

/// A very small model on the CPU.
fn train(folder: &Path, text: &Path, out: &str, more: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    let sizes = "--backend cpu --mode ec --layers 1 --hidden 16 --heads 2 --ctx 16 --batch 2";
    command
        .args(sizes.split(' '))
        .args(["--steps", &STEPS.to_string()])
        .arg("--text")
        .arg(text)
        .arg("--out")
        .arg(folder.join(out))
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null());
    command
}

fn record(run: &Path) -> Value {
    serde_json::from_slice(&fs::read(run.join("training.json")).unwrap()).unwrap()
}

/// Names in the folder of a run.
fn names(run: &Path) -> Vec<String> {
    let Ok(entries) = fs::read_dir(run) else { return Vec::new() };
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn whole(run: &Path) -> usize {
    let name = |name: &String| name.strip_prefix("step-").is_some_and(|n| n.parse::<u32>().is_ok());
    names(run).iter().filter(|found| name(found)).count()
}

fn partial(run: &Path) -> bool {
    names(run).iter().any(|name| name.ends_with(".partial"))
}

/// Whether a checkpoint came before the program ended.
fn until_more(run: &Path, child: &mut Child, before: usize) -> bool {
    let end = Instant::now() + Duration::from_secs(120);
    while whole(run) <= before {
        if child.try_wait().unwrap().is_some() {
            return false;
        }
        assert!(Instant::now() < end, "no checkpoint");
        sleep(Duration::from_millis(1));
    }
    true
}

#[test]
fn killed_it_goes_on_to_the_same_curve() {
    let folder = folder("killed");
    let text = text(&folder, 2000);
    assert!(train(&folder, &text, "whole", &[]).status().unwrap().success());
    let run = folder.join("killed");
    let (mut lives, mut in_a_checkpoint) = (0, false);
    while lives < 3 || !in_a_checkpoint {
        let before = whole(&run);
        let mut child =
            train(&folder, &text, "killed", &["--checkpoint-every", "1"]).spawn().unwrap();
        assert!(until_more(&run, &mut child, before), "{lives} lives did all {STEPS} steps");
        sleep(Duration::from_micros(700 * (lives % 8)));
        child.kill().unwrap();
        child.wait().unwrap();
        in_a_checkpoint |= partial(&run);
        lives += 1;
    }
    assert!(train(&folder, &text, "killed", &[]).status().unwrap().success());
    let (one, other) = (record(&folder.join("whole")), record(&run));
    for what in ["loss", "norm", "step"] {
        assert_eq!(one[what], other[what], "{what}");
    }
    let last = |record: &Value| record["held_out"].as_array().unwrap().last().unwrap().clone();
    assert_eq!(last(&one), last(&other));
    let losses = one["loss"].as_array().unwrap();
    assert_eq!(losses.len(), STEPS);
    assert!(losses[STEPS - 1].as_f64().unwrap() < 0.7 * losses[0].as_f64().unwrap());
}

#[test]
fn half_a_checkpoint_is_not_read() {
    let folder = folder("half");
    let text = text(&folder, 2000);
    let short = ["--steps", "4", "--checkpoint-every", "2"];
    let small = |steps: &[&str]| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        command.args("--backend cpu --layers 1 --hidden 16 --heads 2 --ctx 16".split(' '));
        command.arg("--text").arg(&text).arg("--out").arg(folder.join("run")).args(steps);
        command.output().unwrap()
    };
    assert!(small(&short).status.success());
    let run = folder.join("run");
    // As if the program had died while it wrote the next one.
    let half = run.join("step-000006.partial");
    fs::create_dir(&half).unwrap();
    fs::write(half.join("model.safetensors"), b"half").unwrap();
    let again = small(&short);
    assert!(again.status.success());
    assert!(String::from_utf8_lossy(&again.stdout).contains("4 steps are done"));
    // Weights of another shape, where a whole one was.
    fs::copy(
        run.join("step-000004/optimizer.safetensors"),
        run.join("step-000004/model.safetensors"),
    )
    .unwrap();
    refused(&small(&short), "step-000004/model.safetensors: model.embed_tokens.weight");
}

#[track_caller]
fn refused(output: &Output, message: &str) {
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success(), "not refused");
    assert!(error.contains(message), "{error}");
    assert!(!error.contains("panicked"), "{error}");
}

#[test]
fn what_cannot_be_is_said() {
    let folder = folder("wrong");
    let text = text(&folder, 2000);
    let run = |arguments: &str| {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        command.args(arguments.split_whitespace()).current_dir(&folder).output().unwrap()
    };
    let text = text.display();
    refused(&run("--mode real"), "'real' for '--mode <MODE>'");
    refused(&run("--backend cpu --steps 0"), "--steps have to be at least 1");
    refused(&run("--backend cpu --hidden 60"), "15 channels a head");
    refused(&run("--backend cpu --text none.txt"), "none.txt: No such file");
    let short = run(&format!("--backend cpu --text {text} --ctx 200"));
    refused(&short, "200 characters held out, a window takes 201");
    let large = run("--backend cpu --batch 100000000");
    refused(&large, "MB are free: a smaller --batch, --ctx or --layers takes less");
    let sizes = format!("--backend cpu --text {text} --layers 1 --hidden 16 --heads 2 --ctx 16");
    let first = run(&format!("{sizes} --steps 2 --out a"));
    assert!(first.status.success(), "{}", String::from_utf8_lossy(&first.stderr));
    refused(&run(&format!("{sizes} --steps 3 --out a")), "--steps is 2 there, 3 here");
    refused(&run("evaluate --backend cpu b"), "b/config.json: No such file");
    refused(&run("--backend cpu --lr 1e30 --steps 20 --ctx 16 --out c"), "the loss is");
}

/// What a run says that it takes is what it takes, where rows of the MLP or where scores take most.
#[cfg(target_os = "linux")]
#[test]
fn memory_is_foretold() {
    let folder = folder("memory");
    for (name, sizes) in [
        ("rows", "--ctx 64 --batch 256"),
        ("scores", "--ctx 512 --batch 6 --heads 8"),
        ("parameters", "--ctx 16 --batch 4 --hidden 512 --mlp 2048 --heads 8"),
    ] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
        let mut child = command
            .args("--backend cpu --steps 4 --layers 1 --hidden 64 --heads 2".split(' '))
            .args(sizes.split(' '))
            .arg("--out")
            .arg(folder.join(name))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        // The most so far; a process that ended has no such line.
        let status = format!("/proc/{}/status", child.id());
        let peak = || -> Option<f64> {
            let status = fs::read_to_string(&status).ok()?;
            let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
            Some(line.trim().strip_suffix(" kB")?.parse::<f64>().ok()? * 1024.0 / 1e6)
        };
        let mut most = 0.0;
        while child.try_wait().unwrap().is_none() {
            most = peak().unwrap_or(most);
            sleep(Duration::from_millis(2));
        }
        let said = String::from_utf8(child.wait_with_output().unwrap().stdout).unwrap();
        let (before, _) = said.split_once(" MB of memory").unwrap();
        let foretold: f64 = before.rsplit_once("about ").unwrap().1.parse().unwrap();
        println!("{name}: {foretold} MB foretold, {most} MB taken");
        // The program itself takes about 25.
        assert!(foretold > 100.0 && most > 0.75 * foretold, "{name}: {foretold}, {most}");
        assert!(most < foretold + 40.0, "{name}: {foretold}, {most}");
    }
}

/// `| head` reads a line and goes: the program ends without a word.
#[test]
fn nobody_reads_on() {
    let folder = folder("pipe");
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/ec");
    let mut command = Command::new(env!("CARGO_BIN_EXE_train"));
    let mut child = command
        .args("evaluate --backend cpu --characters 64 --times 1".split(' '))
        .arg(model)
        .arg("--out")
        .arg(&folder)
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stderr), "");
    assert!(output.status.success());
}
