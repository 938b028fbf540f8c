//! phasor in a web page: the self-test of the browser's WebGPU device, and what plain and fused
//! attention take there. `scripts/browser.sh` builds and serves it.

mod attention;

use std::error::Error;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use gloo_timers::future::TimeoutFuture;
use phasor::selftest::SelfTest;
use phasor::{Capabilities, wgpu};
use wasm_bindgen::prelude::*;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

/// Everything, as text.
///
/// # Errors
/// Where there is no WebGPU device, where the self-test finds something wrong (the message is its
/// report), and where a call is refused.
#[wasm_bindgen]
pub async fn run() -> std::result::Result<String, JsError> {
    report().await.map_err(|error| JsError::new(&error.to_string()))
}

async fn report() -> Result<String> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapter = instance.request_adapter(&wgpu::RequestAdapterOptions::default()).await?;
    // All that the browser lets a page have.
    let descriptor =
        wgpu::DeviceDescriptor { required_limits: adapter.limits(), ..Default::default() };
    let (device, queue) = adapter.request_device(&descriptor).await?;

    let mut test = SelfTest::start(&device, &queue, &Capabilities::of(&device));
    let report = loop {
        match test.finish() {
            Some(report) => break report,
            None => TimeoutFuture::new(1).await,
        }
    };
    if !report.passed() {
        return Err(report.to_string().into());
    }
    let times = attention::times(&device, &queue).await?;
    Ok(format!("{report}\n\n{times}"))
}

/// Waits, without holding the page up, until the device has done all that was submitted.
async fn done(queue: &wgpu::Queue) {
    let finished = Arc::new(AtomicBool::new(false));
    let flag = Arc::clone(&finished);
    queue.on_submitted_work_done(move || flag.store(true, Ordering::Release));
    while !finished.load(Ordering::Acquire) {
        TimeoutFuture::new(1).await;
    }
}
