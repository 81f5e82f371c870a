//! Validation and translation of composed modules by [naga], with the settings that wgpu uses: what a driver would be
//! given, without a driver.
//!
//! ```
//! use treillage_shaders::{check::{Checks, Validated}, compose};
//!
//! let module = Validated::new(&compose("add", &[("WG", "64")])?)?;
//! assert!(module.to_msl(Checks::Off)?.contains("kernel void main_"));
//! assert!(module.to_spirv(Checks::Off)?.starts_with(&[0x0723_0203]));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use naga::{
    ShaderStage,
    back::{self, pipeline_constants::process_overrides},
    front::wgsl,
    proc::{BoundsCheckPolicies, BoundsCheckPolicy},
    valid::{Capabilities, ModuleInfo, ShaderStages, ValidationFlags, Validator},
};

/// Entry point of every kernel.
pub const ENTRY_POINT: &str = "main";

/// Whether translations carry run-time checks: of indices, of loops, of divisors, and zeroes in workgroup memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Checks {
    /// As an untrusted module is compiled.
    On,
    /// As a trusted one is.
    Off,
}

/// Why naga refuses a module, with the place in its text.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{what}: {message}")]
pub struct CheckError {
    /// What was refused.
    what: &'static str,
    message: String,
}

impl CheckError {
    fn new(what: &'static str, message: impl ToString) -> Self {
        let message = message.to_string();
        Self { what, message }
    }
}

/// What kernels may ask of an adapter, each behind the wgpu feature of that name.
pub fn capabilities() -> Capabilities {
    Capabilities::IMMEDIATES
        | Capabilities::SHADER_FLOAT16
        | Capabilities::SHADER_FLOAT16_IN_FLOAT32
        | Capabilities::SHADER_INT16
        | Capabilities::SHADER_INT64
        | Capabilities::SUBGROUP
        | Capabilities::SUBGROUP_BARRIER
        | Capabilities::COOPERATIVE_MATRIX
}

/// A module that naga accepts.
#[derive(Debug)]
pub struct Validated {
    module: naga::Module,
    info: ModuleInfo,
}

impl Validated {
    /// Parses and validates a module.
    ///
    /// # Errors
    /// [`CheckError`] with naga's message, which shows the line.
    pub fn new(wgsl: &str) -> Result<Self, CheckError> {
        let module = wgsl::parse_str(wgsl)
            .map_err(|error| CheckError::new("does not parse", error.emit_to_string(wgsl)))?;
        let info = Validator::new(ValidationFlags::all(), capabilities())
            .subgroup_stages(ShaderStages::COMPUTE)
            .validate(&module)
            .map_err(|error| CheckError::new("is not valid", error.emit_to_string(wgsl)))?;
        Ok(Self { module, info })
    }

    /// The module as naga holds it.
    pub fn module(&self) -> &naga::Module {
        &self.module
    }

    /// What naga knows of it.
    pub fn info(&self) -> &ModuleInfo {
        &self.info
    }

    /// The kernel in the Metal Shading Language, version 3.1. Bindings are made up.
    ///
    /// # Errors
    /// [`CheckError`] if MSL cannot say it, or an override has no value.
    pub fn to_msl(&self, checks: Checks) -> Result<String, CheckError> {
        let on = checks == Checks::On;
        let options = back::msl::Options {
            lang_version: (3, 1),
            fake_missing_bindings: true,
            bounds_check_policies: policies(checks),
            zero_initialize_workgroup_memory: on,
            force_loop_bounding: on,
            emit_int_div_checks: on,
            ..Default::default()
        };
        let pipeline = back::msl::PipelineOptions {
            entry_point: Some((ShaderStage::Compute, ENTRY_POINT.to_owned())),
            ..Default::default()
        };
        let (module, info) = self.resolved()?;
        back::msl::write_string(&module, &info, &options, &pipeline)
            .map(|(text, _)| text)
            .map_err(|error| CheckError::new("has no MSL", error))
    }

    /// The kernel in SPIR-V, version 1.6.
    ///
    /// # Errors
    /// [`CheckError`] if SPIR-V cannot say it, or an override has no value.
    pub fn to_spirv(&self, checks: Checks) -> Result<Vec<u32>, CheckError> {
        let on = checks == Checks::On;
        let zeroes = if on {
            back::spv::ZeroInitializeWorkgroupMemoryMode::Polyfill
        } else {
            back::spv::ZeroInitializeWorkgroupMemoryMode::None
        };
        let options = back::spv::Options {
            lang_version: (1, 6),
            flags: back::spv::WriterFlags::empty(),
            bounds_check_policies: policies(checks),
            zero_initialize_workgroup_memory: zeroes,
            force_loop_bounding: on,
            emit_int_div_checks: on,
            ..Default::default()
        };
        let pipeline = back::spv::PipelineOptions {
            shader_stage: ShaderStage::Compute,
            entry_point: ENTRY_POINT.to_owned(),
        };
        let (module, info) = self.resolved()?;
        back::spv::write_vec(&module, &info, &options, Some(&pipeline))
            .map_err(|error| CheckError::new("has no SPIR-V", error))
    }

    fn resolved(&self) -> Result<Resolved<'_>, CheckError> {
        process_overrides(
            &self.module,
            &self.info,
            Some((ShaderStage::Compute, ENTRY_POINT)),
            &Default::default(),
        )
        .map_err(|error| CheckError::new("has an override without a value", error))
    }
}

type Resolved<'a> = (
    std::borrow::Cow<'a, naga::Module>,
    std::borrow::Cow<'a, ModuleInfo>,
);

fn policies(checks: Checks) -> BoundsCheckPolicies {
    let policy = match checks {
        Checks::On => BoundsCheckPolicy::Restrict,
        Checks::Off => BoundsCheckPolicy::Unchecked,
    };
    BoundsCheckPolicies {
        index: policy,
        buffer: policy,
        image_load: policy,
        binding_array: BoundsCheckPolicy::Unchecked,
    }
}
