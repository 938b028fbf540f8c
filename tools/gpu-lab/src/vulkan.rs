//! Compiles SPIR-V with a Vulkan driver and asks what came of it
//! (`VK_KHR_pipeline_executable_properties`). Nothing is ever dispatched.
#![expect(unsafe_code, reason = "Vulkan by hand: wgpu does not hand out these statistics")]

use std::collections::BTreeMap;
use std::ffi::{CStr, CString};

use anyhow::{Context as _, Result, bail};
use ash::{ext, khr, vk};

use phasor::shader::{BindingType, Shader};

pub struct Driver {
    // Dropped last: it holds the library that the others call.
    _entry: ash::Entry,
    device: ash::Device,
    executables: khr::pipeline_executable_properties::Device,
    pub robust_buffers: bool,
    varying_subgroups: bool,
    /// Name and version.
    pub description: String,
}

/// Empties the buffers of the C library, into which drivers print.
pub fn flush_c_output() {
    unsafe extern "C" {
        fn fflush(stream: *mut std::ffi::c_void) -> std::ffi::c_int;
    }
    // SAFETY: a null stream means all of them (ISO C, 7.21.5.2).
    unsafe { fflush(std::ptr::null_mut()) };
}

/// What a driver says of one compiled kernel.
#[derive(Debug, Default)]
pub struct Compiled {
    pub subgroup_size: u32,
    pub statistics: BTreeMap<String, f64>,
    /// The last internal representation, which is the disassembly; empty where there is none.
    pub disassembly: String,
}

impl Driver {
    /// Opens the only device that the loader finds.
    pub fn open() -> Result<Self> {
        // SAFETY: valid usage of Vulkan as its specification has it: every structure is made by
        // ash's builders, handles are used with the device that they come from, and nothing is
        // destroyed before the process ends.
        unsafe {
            let entry = ash::Entry::load().context("no Vulkan loader")?;
            let app = vk::ApplicationInfo::default().api_version(vk::API_VERSION_1_3);
            let info = vk::InstanceCreateInfo::default().application_info(&app);
            let instance = entry.create_instance(&info, None).context("vkCreateInstance")?;
            let physical = *instance
                .enumerate_physical_devices()?
                .first()
                .context("the driver found no device")?;

            let mut driver = vk::PhysicalDeviceDriverProperties::default();
            let mut properties = vk::PhysicalDeviceProperties2::default().push_next(&mut driver);
            instance.get_physical_device_properties2(physical, &mut properties);
            let name = properties.properties.device_name_as_c_str()?.to_string_lossy().into_owned();
            let version = driver.driver_info_as_c_str()?.to_string_lossy().into_owned();

            let extensions = instance.enumerate_device_extension_properties(physical)?;
            let has = |name: &CStr| {
                extensions.iter().any(|e| e.extension_name_as_c_str().is_ok_and(|e| e == name))
            };
            if !has(khr::pipeline_executable_properties::NAME) {
                bail!("{name} has no VK_KHR_pipeline_executable_properties");
            }
            let mut names = vec![khr::pipeline_executable_properties::NAME.as_ptr()];
            let robustness = has(ext::robustness2::NAME);
            if robustness {
                names.push(ext::robustness2::NAME.as_ptr());
            }
            let matrices = has(khr::cooperative_matrix::NAME);
            if matrices {
                names.push(khr::cooperative_matrix::NAME.as_ptr());
            }
            let mut v11 = vk::PhysicalDeviceVulkan11Features::default();
            let mut v12 = vk::PhysicalDeviceVulkan12Features::default();
            let mut v13 = vk::PhysicalDeviceVulkan13Features::default();
            let mut robust = vk::PhysicalDeviceRobustness2FeaturesEXT::default();
            let mut executable =
                vk::PhysicalDevicePipelineExecutablePropertiesFeaturesKHR::default();
            let mut cooperative = vk::PhysicalDeviceCooperativeMatrixFeaturesKHR::default();
            let mut features = vk::PhysicalDeviceFeatures2::default()
                .push_next(&mut v11)
                .push_next(&mut v12)
                .push_next(&mut v13)
                .push_next(&mut executable);
            if robustness {
                features = features.push_next(&mut robust);
            }
            if matrices {
                features = features.push_next(&mut cooperative);
            }
            instance.get_physical_device_features2(physical, &mut features);
            let queue = [vk::DeviceQueueCreateInfo::default().queue_priorities(&[1.0])];
            let info = vk::DeviceCreateInfo::default()
                .queue_create_infos(&queue)
                .enabled_extension_names(&names)
                .push_next(&mut features);
            let device = instance.create_device(physical, &info, None).context("vkCreateDevice")?;
            Ok(Self {
                executables: khr::pipeline_executable_properties::Device::new(&instance, &device),
                robust_buffers: robust.robust_buffer_access2 == vk::TRUE,
                varying_subgroups: v13.subgroup_size_control == vk::TRUE,
                description: format!("{name}, {version}"),
                device,
                _entry: entry,
            })
        }
    }

    /// `subgroups`: the device was made with subgroup operations, for which wgpu lets the driver
    /// choose the subgroup size.
    pub fn compile(&self, shader: &Shader, words: &[u32], subgroups: bool) -> Result<Compiled> {
        // SAFETY: as in `open`.
        unsafe {
            let bindings: Vec<_> = shader
                .bindings()
                .iter()
                .map(|one| {
                    let kind = match one.ty {
                        BindingType::Uniform => vk::DescriptorType::UNIFORM_BUFFER,
                        _ => vk::DescriptorType::STORAGE_BUFFER,
                    };
                    vk::DescriptorSetLayoutBinding::default()
                        .binding(one.binding)
                        .descriptor_type(kind)
                        .descriptor_count(1)
                        .stage_flags(vk::ShaderStageFlags::COMPUTE)
                })
                .collect();
            let info = vk::DescriptorSetLayoutCreateInfo::default().bindings(&bindings);
            let sets = [self.device.create_descriptor_set_layout(&info, None)?];
            let info = vk::PipelineLayoutCreateInfo::default().set_layouts(&sets);
            let layout = self.device.create_pipeline_layout(&info, None)?;
            let info = vk::ShaderModuleCreateInfo::default().code(words);
            let module = self.device.create_shader_module(&info, None)?;
            let name = CString::new(shader.entry)?;
            let mut stage = vk::PipelineShaderStageCreateInfo::default()
                .stage(vk::ShaderStageFlags::COMPUTE)
                .module(module)
                .name(&name);
            if subgroups && self.varying_subgroups {
                stage =
                    stage.flags(vk::PipelineShaderStageCreateFlags::ALLOW_VARYING_SUBGROUP_SIZE);
            }
            let info = vk::ComputePipelineCreateInfo::default()
                .flags(
                    vk::PipelineCreateFlags::CAPTURE_STATISTICS_KHR
                        | vk::PipelineCreateFlags::CAPTURE_INTERNAL_REPRESENTATIONS_KHR,
                )
                .stage(stage)
                .layout(layout);
            let pipeline = self
                .device
                .create_compute_pipelines(vk::PipelineCache::null(), &[info], None)
                .map_err(|(_, error)| error)
                .context("vkCreateComputePipelines")?[0];
            let compiled = self.read(pipeline);
            self.device.destroy_pipeline(pipeline, None);
            compiled
        }
    }

    /// # Safety
    /// The pipeline belongs to this device and keeps its statistics.
    unsafe fn read(&self, pipeline: vk::Pipeline) -> Result<Compiled> {
        // SAFETY: as the function's own.
        unsafe {
            let all = self.executables.get_pipeline_executable_properties(
                &vk::PipelineInfoKHR::default().pipeline(pipeline),
            )?;
            // Intel lists one executable for each width that it compiled; the widest, which is the
            // last, runs.
            let index = all.len().checked_sub(1).context("no executable")?;
            let info = vk::PipelineExecutableInfoKHR::default()
                .pipeline(pipeline)
                .executable_index(u32::try_from(index)?);
            let mut compiled =
                Compiled { subgroup_size: all[index].subgroup_size, ..Compiled::default() };
            for s in self.executables.get_pipeline_executable_statistics(&info)? {
                use vk::PipelineExecutableStatisticFormatKHR as Format;
                let value = match s.format {
                    Format::BOOL32 => f64::from(s.value.b32),
                    Format::INT64 => s.value.i64 as f64,
                    Format::UINT64 => s.value.u64 as f64,
                    _ => s.value.f64,
                };
                let name = s.name_as_c_str()?.to_string_lossy().into_owned();
                compiled.statistics.insert(name, value);
            }
            let query = self.executables.fp().get_pipeline_executable_internal_representations_khr;
            let handle = self.device.handle();
            let mut count = 0;
            query(handle, &info, &mut count, std::ptr::null_mut()).result()?;
            let mut texts =
                vec![vk::PipelineExecutableInternalRepresentationKHR::default(); count as usize];
            query(handle, &info, &mut count, texts.as_mut_ptr()).result()?;
            let mut bytes: Vec<Vec<u8>> = texts.iter().map(|t| vec![0; t.data_size]).collect();
            for (text, bytes) in texts.iter_mut().zip(&mut bytes) {
                text.p_data = bytes.as_mut_ptr().cast();
            }
            query(handle, &info, &mut count, texts.as_mut_ptr()).result()?;
            if let Some(last) = bytes.last() {
                let text = last.split(|&b| b == 0).next().unwrap_or_default();
                compiled.disassembly = String::from_utf8_lossy(text).into_owned();
            }
            Ok(compiled)
        }
    }
}
