//! A device that the host has made.

use burn::tensor::Device;
use burn::tensor::wgpu::{WgpuSetup, wgpu};
use cubecl::future::block_on;
use phasor_burn::{AttentionOptions, formula, ropepp_attention};

use crate::support::{Numbers, close, cpu, setup, tensor};

/// A host makes instance, adapter and device, runs its own work on them, and hands them to Burn.
#[test]
fn the_hosts_own() {
    let like = setup();
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor {
        backends: like.backend.into(),
        ..wgpu::InstanceDescriptor::new_without_display_handle()
    });
    let adapter = block_on(instance.request_adapter(&Default::default())).unwrap();
    // Burn asks the adapter what it may use.
    let features = adapter.features() - wgpu::Features::all_experimental_mask();
    let descriptor = wgpu::DeviceDescriptor {
        required_features: features - wgpu::Features::MAPPABLE_PRIMARY_BUFFERS,
        required_limits: adapter.limits(),
        ..Default::default()
    };
    let (device, queue) = block_on(adapter.request_device(&descriptor)).unwrap();
    let backend = adapter.get_info().backend;
    let setup = WgpuSetup { instance, adapter, device, queue, backend };
    let device = phasor_burn::share(&setup, Device::wgpu_options()).unwrap();
    let data = Numbers::new(1).take([1, 2, 20, 16]);
    let options = AttentionOptions::ropepp();
    let x = tensor::<4>(&data, &cpu());
    let want = formula::attention(x.clone(), x.clone(), x, &options).unwrap();
    let x = tensor::<4>(&data, &device);
    let got = ropepp_attention(x.clone(), x.clone() + 0.0, x * 1.0, &options).unwrap();
    close("out", tensor(&got.into_data(), &cpu()), want, 2e-5);
}
