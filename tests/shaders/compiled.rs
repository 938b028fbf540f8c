//! A variant as a device would compile it: parsed, validated, its overrides filled in.

use naga::back::{PipelineConstants, pipeline_constants::process_overrides};
use naga::valid::{
    Capabilities, FunctionInfo, ModuleInfo, ShaderStages, SubgroupOperationSet, ValidationFlags,
    Validator,
};
use naga::{AddressSpace, GlobalVariable, Handle, Module, ShaderStage, TypeInner};

use crate::variants::Variant;

pub struct Compiled {
    /// Names of the overrides that the source declares.
    pub overrides: Vec<String>,
    /// The module of the one entry point, without overrides.
    pub module: Module,
    pub info: ModuleInfo,
    /// Whether it uses subgroup operations.
    pub subgroup: bool,
    /// Whether it multiplies matrices on matrix units, which neither HLSL nor GLSL have.
    pub matrices: bool,
}

impl Compiled {
    pub fn new(variant: &Variant) -> Result<Self, String> {
        let source = &variant.shader.source;
        let parsed = naga::front::wgsl::parse_str(source).map_err(|e| e.emit_to_string(source))?;
        // No optional feature of a device but subgroups and matrices, where the plan says so.
        // Storage in f16 needs pack2x16float alone, which all backends have but Vulkan on an
        // llvmpipe without f16.
        let subgroup = variant.shader.subgroup.is_some();
        let mut claimed = Capabilities::empty();
        claimed.set(Capabilities::SHADER_FLOAT16_IN_FLOAT32, variant.f16);
        claimed.set(Capabilities::SUBGROUP, subgroup);
        let matrices = variant.shader.matrices.is_some();
        claimed.set(Capabilities::COOPERATIVE_MATRIX | Capabilities::SHADER_FLOAT16, matrices);
        let mut validator = Validator::new(ValidationFlags::all(), claimed);
        if subgroup {
            validator.subgroup_stages(ShaderStages::COMPUTE);
            validator.subgroup_operations(SubgroupOperationSet::all());
        }
        let info = validator.validate(&parsed).map_err(|e| e.emit_to_string(source))?;
        let overrides = parsed.overrides.iter().filter_map(|(_, o)| o.name.clone()).collect();
        let values: PipelineConstants =
            variant.shader.overrides.iter().map(|&(name, x)| (name.to_owned(), x)).collect();
        let entry = Some((ShaderStage::Compute, variant.shader.entry));
        let (module, info) = process_overrides(&parsed, &info, entry, &values)
            .map_err(|e| format!("overrides: {e}"))?;
        let (module, info) = (module.into_owned(), info.into_owned());
        Ok(Self { overrides, module, info, subgroup, matrices })
    }

    /// Whether a struct has a matrix, or an array of some, over which lavapipe crashes.
    pub fn matrices_in_a_struct(&self) -> bool {
        let types = &self.module.types;
        let of_matrices = |mut ty: Handle<naga::Type>| {
            while let TypeInner::Array { base, .. } = types[ty].inner {
                ty = base;
            }
            matches!(types[ty].inner, TypeInner::CooperativeMatrix { .. })
        };
        let has_some = |ty: &naga::Type| match &ty.inner {
            TypeInner::Struct { members, .. } => members.iter().any(|one| of_matrices(one.ty)),
            _ => false,
        };
        types.iter().any(|(_, ty)| has_some(ty))
    }

    pub fn entry_point(&self) -> (&naga::EntryPoint, &FunctionInfo) {
        (&self.module.entry_points[0], self.info.get_entry_point(0))
    }

    /// The module's variables that the entry point uses.
    pub fn used(&self) -> impl Iterator<Item = (Handle<GlobalVariable>, &GlobalVariable)> {
        let (_, info) = self.entry_point();
        self.module.global_variables.iter().filter(|&(handle, _)| !info[handle].is_empty())
    }

    /// Buffers that the entry point binds, by number: the order in which backends hand out their
    /// own slots.
    pub fn bound(&self) -> Vec<(naga::ResourceBinding, AddressSpace)> {
        let mut bound: Vec<_> =
            self.used().filter_map(|(_, g)| g.binding.map(|binding| (binding, g.space))).collect();
        bound.sort_by_key(|(binding, _)| (binding.group, binding.binding));
        bound
    }

    /// Workgroup memory of the entry point, as WebGPU counts it: each variable rounded up to 16.
    pub fn workgroup_bytes(&self) -> u32 {
        let size = |global: &GlobalVariable| {
            self.module.types[global.ty].inner.size(self.module.to_ctx()).next_multiple_of(16)
        };
        self.used().map(|(_, g)| g).filter(|g| g.space == AddressSpace::WorkGroup).map(size).sum()
    }
}
