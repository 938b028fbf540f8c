//! The GPUs of the lab, and the environment in which a process finds one of them.

use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};

/// The driver of a GPU, and with it the form of its statistics and of its disassembly.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Vendor {
    Amd,
    Nvidia,
    Adreno,
    Apple,
    Intel,
}

/// A GPU whose compiler the lab can ask.
#[derive(Debug, Clone, Copy)]
pub struct Gpu {
    /// As it is written on the command line and in reports.
    pub name: &'static str,
    pub vendor: Vendor,
    /// What the driver's shim calls it.
    chip: &'static str,
}

const fn gpu(name: &'static str, vendor: Vendor, chip: &'static str) -> Gpu {
    Gpu { name, vendor, chip }
}

pub const GPUS: [Gpu; 13] = [
    gpu("vega10", Vendor::Amd, "vega10"),
    gpu("navi21", Vendor::Amd, "navi21"),
    gpu("navi31", Vendor::Amd, "navi31"),
    gpu("gfx1201", Vendor::Amd, "gfx1201"),
    gpu("turing", Vendor::Nvidia, "164"),
    gpu("ampere", Vendor::Nvidia, "172"),
    gpu("ada", Vendor::Nvidia, "192"),
    gpu("adreno750", Vendor::Adreno, "750"),
    gpu("m1", Vendor::Apple, ""),
    gpu("tgl", Vendor::Intel, "tgl"),
    gpu("dg2", Vendor::Intel, "dg2"),
    gpu("lnl", Vendor::Intel, "lnl"),
    gpu("bmg", Vendor::Intel, "bmg"),
];

impl Gpu {
    pub fn named(name: &str) -> Result<Self> {
        let known = || GPUS.map(|gpu| gpu.name).join(", ");
        GPUS.into_iter()
            .find(|gpu| gpu.name == name)
            .with_context(|| format!("no GPU `{name}` in the lab, which has {}", known()))
    }

    /// A command that runs `program` with this GPU's driver, and with nothing else to be found.
    pub fn command(&self, root: &Path, program: &Path) -> Result<Command> {
        let (shim, icd, variable) = match self.vendor {
            Vendor::Amd => ("amdgpu", "radeon", "AMDGPU_GPU_ID"),
            Vendor::Nvidia => ("nouveau", "nouveau", "NOUVEAU_CHIPSET"),
            Vendor::Adreno => ("freedreno", "freedreno", "FD_GPU_ID"),
            Vendor::Apple => ("asahi", "asahi", "ASAHI_GPU"),
            Vendor::Intel => ("intel", "intel", "INTEL_STUB_GPU_PLATFORM"),
        };
        let shim = format!("lib{shim}_noop_drm_shim.so");
        // Intel's shim goes with the driver of another release, which has a folder of its own.
        let root = match self.vendor {
            Vendor::Intel => PathBuf::from(format!("{}-intel", root.display())),
            _ => root.to_owned(),
        };
        let libraries = root.join("usr/lib/x86_64-linux-gnu");
        let mut command = if libraries.join(&shim).is_file() {
            // The folder's own loader with the folder's own libraries: no root, no container.
            let mut command = Command::new(loader(&root)?);
            command.arg("--preload").arg(libraries.join(&shim));
            let path = format!("{}:{}/lib/x86_64-linux-gnu", libraries.display(), root.display());
            command.args(["--library-path", &path]).arg(program);
            command.env("VK_DRIVER_FILES", manifest(&root.join("usr/share/vulkan/icd.d"), icd)?);
            command
        } else if root.join(&shim).is_file() {
            // A shim alone goes with the driver that the system has.
            let mut command = Command::new(program);
            command.env("LD_PRELOAD", root.join(&shim));
            command.env("VK_DRIVER_FILES", manifest(Path::new("/usr/share/vulkan/icd.d"), icd)?);
            command
        } else {
            bail!("no {shim} in {}: run tools/gpu-lab/setup.sh", libraries.display());
        };
        command
            .env(variable, self.chip)
            .env("MESA_SHADER_CACHE_DISABLE", "true")
            .env("XDG_RUNTIME_DIR", std::env::temp_dir())
            .env("LC_ALL", "C");
        match self.vendor {
            // These two write their disassembly to standard output and not into the pipeline.
            Vendor::Apple => command.env("AGX_MESA_DEBUG", "shaders"),
            Vendor::Adreno => command.env("IR3_SHADER_DEBUG", "cs"),
            _ => &mut command,
        };
        Ok(command)
    }
}

/// The dynamic loader, whose place depends on the release.
fn loader(root: &Path) -> Result<PathBuf> {
    ["usr/lib/x86_64-linux-gnu", "lib/x86_64-linux-gnu", "usr/lib64", "lib64"]
        .map(|folder| root.join(folder).join("ld-linux-x86-64.so.2"))
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("no dynamic loader in {}", root.display()))
}

/// The driver's manifest, which some builds of Mesa name after the architecture as well.
fn manifest(folder: &Path, icd: &str) -> Result<PathBuf> {
    [format!("{icd}_icd.json"), format!("{icd}_icd.x86_64.json")]
        .map(|name| folder.join(name))
        .into_iter()
        .find(|path| path.is_file())
        .with_context(|| format!("no {icd} driver in {}", folder.display()))
}

/// The folder that `setup.sh` filled.
pub fn root() -> Result<PathBuf> {
    if let Some(root) = std::env::var_os("GPU_LAB_ROOT") {
        return Ok(root.into());
    }
    let home = std::env::home_dir().context("no home folder: set GPU_LAB_ROOT")?;
    Ok(home.join(".cache/gpu-lab"))
}
