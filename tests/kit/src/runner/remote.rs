//! Another program that runs dispatches: another implementation of WebGPU, spoken to in JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use phasor::recipe::{Plan, Range, Recipe};
use phasor::shader::Shader;
use phasor::wgpu;
use serde_json::{Value, json};

use crate::cases::Result;
use crate::gpu::Gpu;

/// A program that reads one call a line, runs it, and answers with one line: the buffers as they
/// are afterwards.
///
/// ```text
/// {"recipe": Recipe::to_json, "buffers": [base64, …]}
/// {"buffers": [base64 where it changed, null where not, …]}   or   {"error": text}
/// ```
///
/// `{"shader": Shader::to_json}` is only compiled, and `{}` asks for the device's `{"limits": …}`.
#[derive(Debug)]
pub struct Remote {
    child: Child,
    requests: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Remote {
    /// Starts the program.
    pub fn start(program: &str, arguments: &[String]) -> Result<Self> {
        let mut child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .map_err(|e| format!("{program} does not start: {e}"))?;
        let requests = child.stdin.take();
        let answers = BufReader::new(child.stdout.take().ok_or("no standard output")?);
        Ok(Self { child, requests, answers })
    }

    /// Runs a call over there: what its buffers hold here goes in, and what they hold there comes
    /// back.
    pub(super) fn run<P: Plan>(
        &mut self,
        gpu: &Gpu,
        plan: &P,
        recipe: &Recipe<wgpu::BufferBinding<'_>>,
    ) -> Result<()> {
        let mut buffers: Vec<&wgpu::Buffer> = Vec::new();
        let recipe = recipe.map(|mine| {
            let known = buffers.iter().position(|&buffer| buffer == mine.buffer);
            let index = known.unwrap_or_else(|| {
                buffers.push(mine.buffer);
                buffers.len() - 1
            });
            let size = mine.size.map_or(mine.buffer.size() - mine.offset, u64::from);
            Range::new(index as u64, mine.offset, size)
        });
        let contents: Vec<String> =
            buffers.iter().map(|buffer| BASE64.encode(gpu.download_bytes(buffer))).collect();
        let recipe = recipe.to_json(plan, Shader::clone);
        let answer = self.ask(&json!({ "recipe": recipe, "buffers": contents }))?;
        if let Some(error) = answer["error"].as_str() {
            return Err(error.into());
        }
        let after = answer["buffers"].as_array().ok_or("an answer without buffers")?;
        if after.len() != buffers.len() {
            return Err(format!("{} buffers, not {}", after.len(), buffers.len()).into());
        }
        for (buffer, bytes) in buffers.into_iter().zip(after) {
            if let Some(bytes) = bytes.as_str() {
                gpu.queue.write_buffer(buffer, 0, &BASE64.decode(bytes)?);
            }
        }
        Ok(())
    }

    /// Sends one line and waits for the answer.
    pub fn ask(&mut self, request: &Value) -> Result<Value> {
        let requests = self.requests.as_mut().ok_or("the program's input is closed")?;
        writeln!(requests, "{request}")?;
        requests.flush()?;
        let mut line = String::new();
        if self.answers.read_line(&mut line)? == 0 {
            return Err("the program ended without an answer".into());
        }
        Ok(serde_json::from_str(&line)?)
    }
}

impl Drop for Remote {
    fn drop(&mut self) {
        // Its input ends, and so does it.
        drop(self.requests.take());
        let _ = self.child.wait();
    }
}
