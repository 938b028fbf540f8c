//! How much memory a model takes, held to what a device has before it is asked for any: Burn panics
//! where there is too little, or the system ends the program.

use std::fs::read_to_string;
use std::path::Path;

use burn::tensor::wgpu::WgpuSetup;
use burn::tensor::wgpu::wgpu::DeviceType;
use phasor_burn::Implementation;

use crate::Result;
use crate::model::Sizes;

/// What a device says of its memory, in bytes.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Memory {
    /// Free of it, where that is known: graphics cards with memory of their own do not say.
    pub free: Option<f64>,
    /// The most that one tensor may take.
    pub tensor: Option<f64>,
}

impl Memory {
    /// Of the machine, as Linux tells it; in a container at most what that leaves.
    pub fn of_system() -> Self {
        let available = read_to_string("/proc/meminfo").ok();
        let available = available.and_then(|text| number(&text, "MemAvailable:"));
        let group = read_to_string("/proc/self/cgroup").ok();
        let group = group.as_deref().and_then(|text| Some(text.strip_prefix("0::/")?.trim_end()));
        let left = group.and_then(|group| left(Path::new("/sys/fs/cgroup"), group));
        let free = [available.map(|kilobytes| 1024.0 * kilobytes), left].into_iter().flatten();
        Self { free: free.reduce(f64::min), tensor: None }
    }

    /// Of a wgpu device; one without memory of its own takes the machine's.
    pub fn of_gpu(setup: &WgpuSetup) -> Self {
        let limits = setup.device.limits();
        let tensor = limits.max_buffer_size.min(limits.max_storage_buffer_binding_size) as f64;
        let own = setup.adapter.get_info().device_type == DeviceType::DiscreteGpu;
        let free = if own { None } else { Self::of_system().free };
        Self { free, tensor: Some(tensor) }
    }
}

/// The number that stands behind a word in a line of its own.
fn number(text: &str, word: &str) -> Option<f64> {
    let found = text.lines().find_map(|line| line.strip_prefix(word));
    found?.split_whitespace().next()?.parse().ok()
}

/// What limits of a control group and of those that it is in leave; files that are cached give way.
fn left(root: &Path, group: &str) -> Option<f64> {
    let of = |group: &Path| {
        let read = |file: &str| read_to_string(root.join(group).join(file)).ok();
        let bytes = |file: &str| read(file)?.trim().parse::<f64>().ok();
        let stat = read("memory.stat").unwrap_or_default();
        let cached = ["inactive_file", "active_file"].map(|word| number(&stat, word));
        let used = bytes("memory.current")? - cached.into_iter().flatten().sum::<f64>();
        Some((bytes("memory.max")? - used).max(0.0))
    };
    Path::new(group).ancestors().filter_map(of).reduce(f64::min)
}

/// What a model takes, in bytes, by the tensors that its layers leave.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Need {
    weights: f64,
    activations: f64,
    largest: f64,
}

/// f32.
const BYTES: f64 = 4.0;

impl Need {
    /// Of a step of training with so many sequences of so many tokens.
    pub fn training(
        sizes: &Sizes,
        [batch, seq]: [usize; 2],
        implementation: Implementation,
    ) -> Self {
        let of_row = Row::of(sizes, seq, implementation);
        let Row { width, qkv, outputs, mlp, scores, logits } = of_row;
        // Kept for the way back: norms and sums; q and k before and after they are rotated, v, and
        // what attention gives before and after it is divided; five of SwiGLU; exponentials.
        let layer = 7.0 * width + 2.0 * qkv + 3.0 * outputs + 5.0 * mlp + scores;
        // What the largest operation needs beside them.
        let passing = (2.0 * scores).max(2.0 * mlp);
        let row = sizes.layers as f64 * layer + 2.0 * width + 4.0 * logits + passing;
        let rows = batch as f64 * seq as f64;
        let largest = of_row.largest() * rows;
        let weights = sizes.parameters();
        // Weights, their change, both moments, and the new ones of each; gradients, one by one and
        // as a vector.
        Self {
            weights: 9.0 * weights * BYTES,
            activations: row * rows * BYTES,
            largest: largest.max(weights) * BYTES,
        }
    }

    /// Of reading alone.
    pub fn reading(
        sizes: &Sizes,
        [batch, seq]: [usize; 2],
        implementation: Implementation,
    ) -> Self {
        let of_row = Row::of(sizes, seq, implementation);
        let Row { width, qkv, outputs, mlp, scores, logits } = of_row;
        let passing = (2.0 * qkv + 2.0 * outputs + 3.0 * scores).max(4.0 * mlp).max(3.0 * logits);
        let rows = batch as f64 * seq as f64;
        let largest = of_row.largest() * rows;
        let weights = sizes.parameters();
        Self {
            weights: weights * BYTES,
            activations: (3.0 * width + passing) * rows * BYTES,
            largest: largest.max(width * sizes.vocabulary as f64) * BYTES,
        }
    }

    /// All of it, in MB.
    pub fn megabytes(&self) -> f64 {
        (self.weights + self.activations) / 1e6
    }

    /// Refuses what a device has no memory for.
    ///
    /// # Errors
    /// With what is needed, what there is, and what would take less.
    pub fn fits(&self, memory: &Memory, less: &str) -> Result<()> {
        match *memory {
            Memory { free: Some(free), .. } if free < self.weights + self.activations => {
                let [all, weights, activations, free] =
                    [self.weights + self.activations, self.weights, self.activations, free]
                        .map(|bytes| bytes / 1e6);
                Err(format!(
                    "about {all:.0} MB of memory are needed, {weights:.0} for weights and \
                     {activations:.0} for activations, and {free:.0} MB are free: {less} takes less"
                )
                .into())
            }
            Memory { tensor: Some(most), .. } if most < self.largest => Err(format!(
                "a tensor of {:.0} MB is needed, and the device takes {:.0} MB: {less} takes less",
                self.largest / 1e6,
                most / 1e6
            )
            .into()),
            _ => Ok(()),
        }
    }
}

/// Numbers of a row in tensors of a layer.
struct Row {
    width: f64,
    /// Channels of q, k and v.
    qkv: f64,
    /// Channels of all output heads.
    outputs: f64,
    mlp: f64,
    /// None where kernels compute.
    scores: f64,
    logits: f64,
}

impl Row {
    fn of(sizes: &Sizes, seq: usize, implementation: Implementation) -> Self {
        let [q, kv, outputs] = sizes.projected();
        let channels = |heads: usize| heads as f64 * sizes.head_dim as f64;
        Self {
            width: sizes.width as f64,
            qkv: channels(q) + 2.0 * channels(kv),
            outputs: channels(outputs),
            mlp: sizes.mlp as f64,
            scores: match implementation {
                Implementation::Kernels => 0.0,
                Implementation::Formula => outputs as f64 * seq as f64,
            },
            logits: sizes.vocabulary as f64,
        }
    }

    /// Of the largest tensor that steps make.
    fn largest(&self) -> f64 {
        let Self { width, outputs, mlp, scores, logits, .. } = *self;
        width.max(mlp).max(scores).max(logits).max(outputs)
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;
    use crate::config::{Chosen, ModelConfig, Variant};
    use crate::model::Lm;

    fn config(mode: Variant) -> ModelConfig {
        let chosen = Chosen {
            layers: 2,
            hidden: 64,
            heads: 2,
            kv_heads: None,
            mlp: None,
            ctx: 64,
            theta: 1e4,
        };
        ModelConfig::new(mode, &chosen, ('a'..='z').collect()).unwrap()
    }

    #[test]
    fn parameters_are_counted_without_a_model() {
        for mode in [Variant::Rope, Variant::Ec, Variant::Eh, Variant::Control] {
            let (config, device) = (config(mode), Device::flex());
            let (sizes, rope) = (config.sizes(64), config.rope().unwrap());
            let mut model = Lm::new(&sizes, &rope, Implementation::Formula, &device).unwrap();
            assert_eq!(sizes.parameters(), model.parameters() as f64, "{mode:?}");
        }
    }

    #[test]
    fn too_little_memory_is_refused() {
        let sizes = config(Variant::Rope).sizes(64);
        let need = Need::training(&sizes, [1000, 64], Implementation::Formula);
        let refused = |free, tensor| {
            let error = need.fits(&Memory { free, tensor }, "a smaller model");
            error.err().map(|error| error.to_string()).unwrap_or_default()
        };
        let all = need.megabytes() * 1e6;
        assert_eq!(refused(None, None), "");
        assert_eq!(refused(Some(1.01 * all), Some(all)), "");
        let error = refused(Some(2e8), None);
        assert!(error.starts_with(&format!("about {:.0} MB", all / 1e6)), "{error}");
        assert!(error.ends_with("200 MB are free: a smaller model takes less"), "{error}");
        // The MLP's 192 channels of 64,000 rows.
        let error = refused(None, Some(1e7));
        assert!(
            error.starts_with("a tensor of 49 MB is needed, and the device takes 10 MB"),
            "{error}"
        );
    }

    /// As Linux writes them: `max` is no limit, and a group is in another one.
    #[test]
    fn groups_leave_what_their_limits_say() {
        let name = format!("phasor-train-groups-{}", std::process::id());
        let root = std::env::temp_dir().join(name);
        let group = |path: &str, max: &str, current: &str, stat: &str| {
            let folder = root.join(path);
            std::fs::create_dir_all(&folder).unwrap();
            let files = [("memory.max", max), ("memory.current", current), ("memory.stat", stat)];
            for (file, text) in files {
                std::fs::write(folder.join(file), text).unwrap();
            }
        };
        group("a", "1000\n", "600\n", "anon 400\ninactive_file 150\nactive_file 50\n");
        assert_eq!(left(&root, "a"), Some(600.0));
        group("a/b", "max\n", "600\n", "");
        assert_eq!(left(&root, "a/b"), Some(600.0));
        group("a/b", "500\n", "600\n", "");
        assert_eq!(left(&root, "a/b"), Some(0.0));
        assert_eq!(left(&root, "c"), None);
        std::fs::remove_dir_all(&root).unwrap();
        let free = Memory::of_system().free;
        assert!(!cfg!(target_os = "linux") || free.is_some_and(|free| free > 1e6), "{free:?}");
    }

    /// A score takes its share with the formula alone, which is what kernels are for.
    #[test]
    fn kernels_take_no_scores() {
        let sizes = config(Variant::Rope).sizes(64);
        let of = |seq, implementation| Need::training(&sizes, [1, seq], implementation).megabytes();
        let [short, long] = [1 << 10, 1 << 14].map(|seq| of(seq, Implementation::Kernels));
        assert!(long < 16.0 * short);
        let [short, long] = [1 << 10, 1 << 14].map(|seq| of(seq, Implementation::Formula));
        assert!(long > 100.0 * short);
    }
}
