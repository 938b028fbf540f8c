//! Another program that runs dispatches: another implementation of WebGPU, spoken to in JSON.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use base64::{Engine as _, engine::general_purpose::STANDARD as BASE64};
use phasor::{Dispatch, Part, wgpu};
use serde_json::{Value, json};

use crate::cases::Result;
use crate::gpu::Gpu;

/// A program that reads one step of a call a line, runs it, and answers with one line: the buffers
/// as they are afterwards.
///
/// ```text
/// {"shader": Shader::to_json, "workgroups": [x, y], "buffers": [base64, …],
///  "bindings": [{"binding", "buffer": index, "offset", "size": bytes or null}, …]}
/// {"buffers": [base64 where it changed, null where not, …]}   or   {"error": text}
/// ```
///
/// Without `workgroups` the shader is only compiled, and without a `shader` the answer is the
/// device's `{"limits": …}`.
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

    /// Runs the steps of a call over there: what its buffers hold here goes in, and what they hold
    /// there comes back.
    pub(super) fn run(&mut self, gpu: &Gpu, call: &Dispatch) -> Result<()> {
        call.parts().try_for_each(|part| self.part(gpu, part))
    }

    fn part(&mut self, gpu: &Gpu, part: Part<'_>) -> Result<()> {
        let mut buffers: Vec<&wgpu::Buffer> = Vec::new();
        let mut bindings = Vec::new();
        for bound in part.bindings() {
            let known = buffers.iter().position(|&buffer| *buffer == bound.buffer);
            let index = known.unwrap_or_else(|| {
                buffers.push(&bound.buffer);
                buffers.len() - 1
            });
            bindings.push(json!({
                "binding": bound.binding,
                "buffer": index,
                "offset": bound.offset,
                "size": bound.size,
            }));
        }
        let contents: Vec<String> =
            buffers.iter().map(|buffer| BASE64.encode(gpu.download_bytes(buffer))).collect();
        let answer = self.ask(&json!({
            "shader": part.shader().to_json(),
            "workgroups": part.workgroups(),
            "buffers": contents,
            "bindings": bindings,
        }))?;
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
