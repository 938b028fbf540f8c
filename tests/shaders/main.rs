//! Every shader variant, without a device: valid with nothing but what every device has, as large
//! as its plan says, and translatable to the language of every backend.

mod attention;
mod compiled;
mod external;
mod matrix;
mod serving;
mod translate;
mod variants;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::LazyLock;
use std::sync::atomic::{AtomicUsize, Ordering};

use naga::AddressSpace;
use naga::back::hlsl::ShaderModel;
use phasor::shader::Shader;
use phasor::{Error, KernelKind, MatrixSide};

use compiled::Compiled;
use variants::{Refusal, Variant};

static PLANNED: LazyLock<(Vec<Variant>, Vec<Refusal>)> = LazyLock::new(variants::all);

static COMPILED: LazyLock<Vec<(&Variant, Result<Compiled, String>)>> =
    LazyLock::new(|| in_parallel(&PLANNED.0, |variant| (variant, Compiled::new(variant))));

fn in_parallel<'a, T: Sync, R: Send>(items: &'a [T], f: impl Fn(&'a T) -> R + Sync) -> Vec<R> {
    let threads = std::thread::available_parallelism().map_or(1, |n| n.get());
    let next = AtomicUsize::new(0);
    let work = || {
        let claim = || items.get(next.fetch_add(1, Ordering::Relaxed));
        std::iter::from_fn(claim).map(&f).collect::<Vec<R>>()
    };
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers.into_iter().flat_map(|worker| worker.join().expect("no panic")).collect()
    })
}

/// A cell of the matrix for every variant, from what can be done here.
fn every_cell(check: impl Fn(&Compiled) -> Result<(), String>) -> external::Column {
    let cell = |compiled: &Result<Compiled, String>| {
        compiled.as_ref().map_err(String::clone).and_then(&check)
    };
    Ok(COMPILED.iter().map(|(_, compiled)| cell(compiled).into()).collect())
}

/// The same of a target that has no matrix units.
fn every_cell_but_matrices(check: impl Fn(&Compiled) -> Result<(), String>) -> external::Column {
    let mut column = every_cell(|compiled| match compiled.matrices {
        true => Ok(()),
        false => check(compiled),
    })?;
    for (cell, (_, compiled)) in column.iter_mut().zip(COMPILED.iter()) {
        if compiled.as_ref().is_ok_and(|compiled| compiled.matrices) {
            *cell = external::Cell::TooLarge(NO_MATRICES.into());
        }
    }
    Ok(column)
}

/// Why a target is not asked for a variant on matrix units.
const NO_MATRICES: &str = "it multiplies matrices, which the target does not have";

/// Runs `check` on every variant, and fails with the names of those that did not pass.
fn every_variant(check: impl Fn(&Variant, &Compiled) -> Result<(), String>) {
    assert!(!COMPILED.is_empty());
    let failures: Vec<String> = COMPILED
        .iter()
        .filter_map(|(variant, compiled)| {
            let result = match compiled {
                Ok(compiled) => check(variant, compiled),
                Err(error) => Err(error.clone()),
            };
            result.err().map(|error| format!("{}\n    {error}", variant.name))
        })
        .collect();
    println!("{} variants", COMPILED.len());
    let (n, all) = (failures.len(), COMPILED.len());
    assert!(failures.is_empty(), "{n} of {all} variants failed:\n{}", failures.join("\n"));
}

fn same<T: PartialEq + std::fmt::Debug>(what: &str, shader: T, plan: T) -> Result<(), String> {
    if shader == plan {
        return Ok(());
    }
    Err(format!("{what}: the shader has {shader:?}, the plan says {plan:?}"))
}

#[test]
fn shaders_are_as_their_plans_say() {
    every_variant(|variant, compiled| {
        let plan = &variant.shader;
        let (entry, _) = compiled.entry_point();
        same("entry points", compiled.module.entry_points.len(), 1)?;
        same("entry point", entry.name.as_str(), plan.entry)?;
        same("workgroup size", entry.workgroup_size, [plan.workgroup_size, 1, 1])?;
        same("workgroup memory", compiled.workgroup_bytes(), plan.workgroup_bytes)?;
        let is_storage = |space: &AddressSpace| matches!(space, AddressSpace::Storage { .. });
        let storage = compiled.bound().iter().filter(|(_, space)| is_storage(space)).count();
        same("storage buffers", storage, plan.storage_buffers as usize)?;
        let types = &compiled.module.types;
        let table = |global: &naga::GlobalVariable| match global.space {
            AddressSpace::Uniform if global.name.as_deref() != Some("params") => {
                u64::from(types[global.ty].inner.size(compiled.module.to_ctx()))
            }
            _ => 0,
        };
        same("table", compiled.used().map(|(_, global)| table(global)).sum(), plan.table_bytes)?;
        let declared: BTreeSet<&str> = compiled.overrides.iter().map(String::as_str).collect();
        let given: BTreeSet<&str> = plan.overrides.iter().map(|&(name, _)| name).collect();
        same("number of overrides", given.len(), plan.overrides.len())?;
        same("overrides", declared, given)
    });
}

/// What hosts are told of bindings is what the text says, and rewritten texts are the same program.
#[test]
fn bindings_and_rewritten_texts_are_the_shaders() {
    every_variant(|variant, compiled| {
        let shader = &variant.shader;
        let names = |shader: &Shader| -> Vec<_> {
            shader.bindings().iter().map(|one| (one.binding, one.name.to_owned())).collect()
        };
        let mut bound: Vec<_> = compiled
            .used()
            .filter_map(|(_, global)| Some((global.binding?.binding, global.name.clone()?)))
            .collect();
        bound.sort();
        same("bindings", &names(shader), &bound)?;
        let other = shader.with_overrides_written().renumbered().with_params_in_storage();
        let numbers: Vec<u32> = other.bindings().iter().map(|one| one.binding).collect();
        same("numbers", numbers, (0..bound.len() as u32).collect())?;
        let (name, device) = (variant.name.clone(), variant.device.clone());
        let again = Compiled::new(&Variant { name, device, f16: variant.f16, shader: other })?;
        same("overrides left", again.overrides.len(), 0)?;
        let sizes = |c: &Compiled| (c.entry_point().0.workgroup_size, c.workgroup_bytes());
        same("sizes", sizes(&again), sizes(compiled))
    });
}

#[test]
fn shaders_fit_the_device_they_were_planned_for() {
    every_variant(|variant, compiled| {
        let within = |what: &str, needed: u64, limit: u64| match needed <= limit {
            true => Ok(()),
            false => Err(format!("{what}: {needed} of {limit}")),
        };
        let device = &variant.device;
        let [invocations, ..] = compiled.entry_point().0.workgroup_size.map(u64::from);
        within("invocations", invocations, device.max_invocations.into())?;
        within("workgroup size", invocations, device.max_workgroup_size.into())?;
        let bytes = compiled.workgroup_bytes();
        within("workgroup memory", bytes.into(), device.max_workgroup_bytes.into())?;
        let mut slots = BTreeSet::new();
        let mut storage = 0;
        for (_, global) in compiled.used() {
            let Some(binding) = global.binding else { continue };
            same("bind group", binding.group, 0)?;
            if !slots.insert(binding.binding) {
                return Err(format!("two buffers at binding {}", binding.binding));
            }
            let size = compiled.module.types[global.ty].inner.size(compiled.module.to_ctx());
            match global.space {
                AddressSpace::Uniform => {
                    within("uniform buffer", size.into(), device.max_uniform_binding)?;
                }
                _ => storage += 1,
            }
        }
        within("storage buffers", storage, device.max_storage_buffers.into())
    });
}

#[test]
fn every_kernel_has_variants() {
    for &kernel in KernelKind::ALL {
        let n = PLANNED.0.iter().filter(|variant| variant.shader.kernel == kernel).count();
        assert!(n > 0, "no variant of {kernel}");
        println!("{kernel}: {n} variants");
    }
}

/// A name has one number in all kernels, and the list has no name that no shader has.
#[test]
fn bindings_have_the_numbers_of_their_names() {
    let seen = std::sync::Mutex::new(BTreeSet::new());
    every_variant(|_, compiled| {
        for (_, global) in compiled.module.global_variables.iter() {
            let Some(binding) = global.binding else { continue };
            let name = global.name.as_deref().unwrap_or_default();
            same("bind group", binding.group, 0)?;
            if !Shader::BINDINGS.contains(&(name, binding.binding)) {
                return Err(format!("{name} is at binding {}", binding.binding));
            }
            seen.lock().unwrap().insert(name.to_owned());
        }
        Ok(())
    });
    let listed = Shader::BINDINGS.iter().map(|&(name, _)| name.to_owned());
    assert_eq!(listed.clone().collect::<BTreeSet<_>>(), seen.into_inner().unwrap());
    assert_eq!(
        listed.collect::<BTreeSet<_>>().len(),
        Shader::BINDINGS.len(),
        "a name stands twice"
    );
}

/// The WebGPU default limits have no room for calls of more than eight tensors. All else has to be
/// planned.
#[test]
fn refused_plans_are_the_known_ones() {
    let (_, refusals) = &*PLANNED;
    assert!(!refusals.is_empty(), "the limit of 8 was never met");
    for refusal in refusals {
        let Refusal { name, device, tensors, error } = refusal;
        let known = Error::Limit {
            limit: "max_storage_buffers_per_shader_stage",
            what: "attention",
            needed: u64::from(*tensors),
            available: u64::from(device.max_storage_buffers),
        };
        assert!(*tensors > 8, "{name}: {error}");
        assert_eq!(*error, known, "{name}");
        assert_eq!(device.max_storage_buffers, 8, "{name}");
    }
}

#[test]
fn translates_to_spirv() {
    every_variant(|_, compiled| {
        translate::spirv(compiled, (1, 0), false)?;
        translate::spirv(compiled, (1, 6), true)?;
        Ok(())
    });
}

#[test]
fn translates_to_msl() {
    every_variant(|_, compiled| translate::msl(compiled, (2, 0)).map(drop));
}

/// But for matrices, which Direct3D's language of wgpu does not have.
#[test]
fn translates_to_hlsl() {
    every_variant(|_, compiled| {
        if compiled.matrices {
            return Ok(());
        }
        translate::hlsl(compiled, ShaderModel::V5_1)?;
        translate::hlsl(compiled, ShaderModel::V6_0).map(drop)
    });
}

/// But for matrices, which OpenGL ES does not have.
#[test]
fn translates_to_glsl_es() {
    every_variant(|_, compiled| match compiled.matrices {
        true => Ok(()),
        false => translate::glsl(compiled, 310).map(drop),
    });
}

/// Kernels on matrix units keep clear of what drivers crash over or get wrong, and of what naga
/// translates to another program than was written: see `docs/adapters.md`.
#[test]
fn matrices_keep_clear_of_traps() {
    let sides = std::sync::Mutex::new(BTreeSet::new());
    every_variant(|variant, compiled| {
        let Some(side) = variant.shader.matrices else { return Ok(()) };
        sides.lock().unwrap().insert(side);
        let source = &variant.shader.source;
        same("subgroup operations", source.contains("subgroup") && compiled.subgroup, false)?;
        let entry = source.split("fn attention(").nth(1).ok_or("no kernel")?;
        same("early returns", entry.contains("return"), false)?;
        // Tiles come first, at multiples of 16 bytes; Metal has no product of a matrix and a
        // number.
        let shared = source.lines().find(|line| line.starts_with("var<workgroup>"));
        same("first tile", shared.is_some_and(|line| line.contains("half_tile")), true)?;
        same("matrices in a struct", compiled.matrices_in_a_struct(), false)?;
        let product = source.contains("* f16(");
        same("a product that Metal lacks", product && side == MatrixSide::M8, false)
    });
    let sides = sides.into_inner().unwrap();
    assert_eq!(sides, BTreeSet::from([MatrixSide::M8, MatrixSide::M16]));
}

#[test]
fn every_shader_file_is_in_use() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("shaders");
    let mut folders = vec![root];
    let mut files: Vec<PathBuf> = Vec::new();
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { folders.push(path) } else { files.push(path) }
        }
    }
    assert!(!files.is_empty());
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let (variants, _) = &*PLANNED;
        let used = variants.iter().any(|v| v.shader.source.contains(text.as_str()));
        assert!(used, "{} is part of no shader", file.display());
    }
}
