//! Devices, numbers and comparisons.

use std::sync::OnceLock;

use burn::tensor::wgpu::{MemoryConfiguration, WgpuSetup};
use burn::tensor::{Device, Tensor, TensorData};

struct Devices {
    pooled: Device,
    exclusive: Device,
    setup: WgpuSetup,
}

/// One wgpu device that Burn makes, with the memory that it has by default; and Burn once more on
/// the same device, handed to it, with a buffer for each tensor.
fn all() -> &'static Devices {
    static DEVICES: OnceLock<Devices> = OnceLock::new();
    DEVICES.get_or_init(|| {
        let (pooled, setup) = phasor_burn::init(Device::wgpu_options()).expect("an adapter");
        println!("adapter: {:?}", setup.adapter.get_info());
        let options = Device::wgpu_options().memory_config(MemoryConfiguration::ExclusivePages);
        let exclusive = phasor_burn::share(&setup, options).expect("the same device");
        Devices { pooled, exclusive, setup }
    })
}

/// Burn's default memory: many tensors in one buffer.
pub fn pooled() -> Device {
    all().pooled.clone()
}

/// Both memory configurations.
pub fn memories() -> [(&'static str, Device); 2] {
    [("default memory", pooled()), ("exclusive pages", all().exclusive.clone())]
}

pub fn setup() -> WgpuSetup {
    all().setup.clone()
}

/// The CPU, where the formula runs.
pub fn cpu() -> Device {
    Device::flex()
}

/// Numbers of about unit size, the same on every device.
pub struct Numbers(u64);

impl Numbers {
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    fn next(&mut self) -> f32 {
        // A sum of four uniform numbers, of variance 1.
        let mut sum = 0.0;
        for _ in 0..4 {
            self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
            sum += (self.0 >> 40) as f32 / (1u64 << 24) as f32 - 0.5;
        }
        sum * 3f32.sqrt()
    }

    pub fn take<const D: usize>(&mut self, shape: [usize; D]) -> TensorData {
        let values: Vec<f32> = (0..shape.iter().product()).map(|_| self.next()).collect();
        TensorData::new(values, shape)
    }
}

pub fn tensor<const D: usize>(data: &TensorData, device: &Device) -> Tensor<D> {
    Tensor::from_data(data.clone(), device)
}

pub fn values<const D: usize>(t: Tensor<D>) -> Vec<f32> {
    t.into_data().convert::<f32>().try_to_vec().expect("floats")
}

/// Panics where two tensors differ by more than `bound` of the larger of 1 and the largest element.
#[track_caller]
pub fn close<const D: usize>(what: &str, got: Tensor<D>, want: Tensor<D>, bound: f32) {
    assert_eq!(got.dims(), want.dims(), "{what}");
    close_to(what, &values(got), &values(want), bound);
}

#[track_caller]
pub fn close_to(what: &str, got: &[f32], want: &[f32], bound: f32) {
    assert_eq!(got.len(), want.len(), "{what}");
    let largest = want.iter().fold(1f32, |most, x| most.max(x.abs()));
    let worst = got.iter().zip(want).map(|(a, b)| if a == b { 0.0 } else { (a - b).abs() });
    // A NaN is never the larger one.
    let worst = worst.fold(0f32, |most, x| if x.is_nan() { f32::INFINITY } else { most.max(x) });
    assert!(worst <= bound * largest, "{what}: off by {worst:e}, bound {bound:e} of {largest}");
}
