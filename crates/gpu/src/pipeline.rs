//! Kernels, compiled.

use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use wgpu::naga::{self, AddressSpace, StorageAccess, front::wgsl};

use crate::{Error, Gpu, Mode};

/// Most bytes of immediate data that a kernel reads: what every adapter accepts.
pub const MAX_IMMEDIATES: u32 = 128;
/// Most buffers that a kernel binds: what every adapter accepts.
pub const MAX_BINDINGS: usize = 8;

/// A compiled kernel. Cloning copies the handle.
#[derive(Clone, Debug)]
pub struct Pipeline(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    id: u32,
    name: String,
    raw: wgpu::ComputePipeline,
    layout: wgpu::BindGroupLayout,
    bindings: usize,
}

impl Pipeline {
    /// What it was called when it was compiled.
    pub fn name(&self) -> &str {
        &self.0.name
    }

    /// How many buffers it binds.
    pub fn bindings(&self) -> usize {
        self.0.bindings
    }

    pub(crate) fn id(&self) -> u32 {
        self.0.id
    }

    pub(crate) fn raw(&self) -> &wgpu::ComputePipeline {
        &self.0.raw
    }

    pub(crate) fn layout(&self) -> &wgpu::BindGroupLayout {
        &self.0.layout
    }
}

/// All that was compiled on a device, by source and constants. A kernel's own lock is held while it is compiled, so that two
/// threads that want the same compile it once, and others need not wait.
#[derive(Debug, Default)]
pub(crate) struct Pipelines(Mutex<HashMap<Key, Arc<Mutex<Option<Pipeline>>>>>);

#[derive(Debug, PartialEq, Eq, Hash)]
struct Key {
    source: String,
    overrides: Vec<(String, u64)>,
}

impl Gpu {
    /// Compiles `source`, composed WGSL with the entry point `main`, once: asked again, it gives the same pipeline.
    /// `overrides` are values of its `override` constants; `name` is for messages and profiles.
    ///
    /// # Errors
    /// [`Error::Kernel`] if the device's compiler refuses it, it binds more than kernels may, or takes more workgroup memory than the
    /// device has.
    pub fn pipeline(
        &self,
        name: &str,
        source: &str,
        overrides: &[(&str, f64)],
    ) -> Result<Pipeline, Error> {
        let key = Key {
            source: source.to_owned(),
            overrides: overrides
                .iter()
                .map(|&(constant, value)| (constant.to_owned(), value.to_bits()))
                .collect(),
        };
        let mut all = (self.pipelines().0.lock()).unwrap_or_else(PoisonError::into_inner);
        let place = all.entry(key).or_default().clone();
        drop(all);
        let mut compiled = place.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(pipeline) = &*compiled {
            return Ok(pipeline.clone());
        }
        let pipeline = self.compile(name, source, overrides)?;
        Ok(compiled.insert(pipeline).clone())
    }

    fn compile(
        &self,
        name: &str,
        source: &str,
        overrides: &[(&str, f64)],
    ) -> Result<Pipeline, Error> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let refuse = |reason: String| Error::Kernel {
            kernel: name.to_owned(),
            reason,
        };
        let module =
            wgsl::parse_str(source).map_err(|error| refuse(error.emit_to_string(source)))?;
        let Interface {
            bindings,
            immediates,
            workgroup_bytes,
        } = Interface::of(&module);
        if bindings.len() > MAX_BINDINGS {
            return Err(refuse(format!(
                "{} buffers, at most {MAX_BINDINGS}",
                bindings.len()
            )));
        }
        // Nobody else asks: a driver that is given more does as it pleases.
        let most = self.limits().max_compute_workgroup_storage_size;
        if workgroup_bytes > most {
            return Err(refuse(format!(
                "{workgroup_bytes} bytes of workgroup memory, the device has {most}"
            )));
        }
        let device = self.device();
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        let internal = device.push_error_scope(wgpu::ErrorFilter::Internal);
        let entries: Vec<_> = (0..)
            .zip(&bindings)
            .map(|(binding, &access)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage {
                        read_only: access == Access::Read,
                    },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = device.create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
            label: Some(name),
            entries: &entries,
        });
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(name),
            source: wgpu::ShaderSource::Naga(Cow::Owned(module)),
        };
        let trusted = self.options().mode == Mode::Trusted;
        let module = match trusted {
            // SAFETY: kernels of this workspace index within what their dispatch binds, bound their loops and guard their
            // divisions by themselves; each is tested to give the same in both modes.
            true => unsafe {
                device.create_shader_module_trusted(
                    descriptor,
                    wgpu::ShaderRuntimeChecks::unchecked(),
                )
            },
            false => device.create_shader_module(descriptor),
        };
        let pipeline_layout = device.create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
            label: Some(name),
            bind_group_layouts: &[Some(&layout)],
            immediate_size: if immediates { MAX_IMMEDIATES } else { 0 },
        });
        let raw = device.create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
            label: Some(name),
            layout: Some(&pipeline_layout),
            module: &module,
            entry_point: Some("main"),
            compilation_options: wgpu::PipelineCompilationOptions {
                constants: overrides,
                zero_initialize_workgroup_memory: !trusted,
            },
            cache: self.cache(),
        });
        let errors = [internal, scope].map(|scope| pollster::block_on(scope.pop()));
        if let Some(error) = errors.into_iter().flatten().next() {
            return Err(refuse(error.to_string()));
        }
        Ok(Pipeline(Arc::new(Inner {
            id: NEXT.fetch_add(1, Ordering::Relaxed),
            name: name.to_owned(),
            raw,
            layout,
            bindings: bindings.len(),
        })))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Access {
    Read,
    Write,
}

/// What a kernel asks of whoever dispatches it.
#[derive(Debug, PartialEq, Eq)]
struct Interface {
    /// How it accesses its buffers, in the order of their bindings, which are numbered from 0 on without gaps.
    bindings: Vec<Access>,
    immediates: bool,
    /// Workgroup memory, each variable at a place that suits all types.
    workgroup_bytes: u32,
}

impl Interface {
    fn of(module: &naga::Module) -> Self {
        let mut bindings = Vec::new();
        let mut immediates = false;
        let mut workgroup_bytes = 0;
        for (_, variable) in module.global_variables.iter() {
            match variable.space {
                AddressSpace::Storage { access } => {
                    let number = variable.binding.map(|at| at.binding);
                    let access = match access.contains(StorageAccess::STORE) {
                        true => Access::Write,
                        false => Access::Read,
                    };
                    bindings.push((number, access));
                }
                AddressSpace::Immediate => immediates = true,
                AddressSpace::WorkGroup => {
                    let bytes = module.types[variable.ty].inner.size(module.to_ctx());
                    workgroup_bytes += bytes.next_multiple_of(16);
                }
                _ => {}
            }
        }
        bindings.sort_by_key(|(number, _)| *number);
        Self {
            bindings: bindings.into_iter().map(|(_, access)| access).collect(),
            immediates,
            workgroup_bytes,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_kernels_ask_for_is_read_from_them() {
        let source = "
            @group(0) @binding(1) var<storage,read_write> y: array<f32>;
            @group(0) @binding(0) var<storage, read> x: array<f32>;
            var<immediate> p: vec4<u32>;
            var<workgroup> sums: array<vec4<f32>, 3>;
            var<workgroup> arrived: u32;";
        let interface = Interface::of(&wgsl::parse_str(source).unwrap());
        let expected = Interface {
            bindings: vec![Access::Read, Access::Write],
            immediates: true,
            workgroup_bytes: 64,
        };
        assert_eq!(interface, expected);
        let nothing = Interface::of(&wgsl::parse_str("fn main() {}").unwrap());
        assert_eq!((nothing.bindings, nothing.immediates), (vec![], false));
    }
}
