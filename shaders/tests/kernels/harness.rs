//! Running one kernel.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, OnceLock},
};

use treillage_shaders::{Specialization, check::Validated, kernel};
use wgpu::util::DeviceExt;

/// Bytes behind each binding that no kernel may touch.
const GUARD: usize = 256;
const MARK: u8 = 0xa5;

/// A device that can run kernels.
pub(crate) struct Device {
    device: wgpu::Device,
    queue: wgpu::Queue,
    subgroups: bool,
    /// A driver that computes on the CPU: it computes the same with checks and without.
    software: bool,
    pipelines: Mutex<HashMap<(String, bool), Arc<Compiled>>>,
}

type Compiled = (wgpu::ComputePipeline, wgpu::BindGroupLayout);

/// The device of all tests, `None` where there is none and none is required.
pub(crate) fn device() -> Option<&'static Device> {
    static DEVICE: OnceLock<Option<Device>> = OnceLock::new();
    let device = DEVICE.get_or_init(open).as_ref();
    if device.is_none() {
        let required = std::env::var_os("TREILLAGE_REQUIRE_GPU").is_some_and(|value| value == "1");
        assert!(!required, "no adapter, and TREILLAGE_REQUIRE_GPU=1");
        eprintln!("skipped: no adapter");
    }
    device
}

fn open() -> Option<Device> {
    let instance = wgpu::Instance::new(wgpu::InstanceDescriptor::new_without_display_handle());
    let adapters = pollster::block_on(instance.enumerate_adapters(wgpu::Backends::all()));
    let adapter = adapters
        .into_iter()
        .find(|adapter| adapter.features().contains(wgpu::Features::IMMEDIATES))?;
    let wanted = wgpu::Features::IMMEDIATES
        | wgpu::Features::SUBGROUP
        | wgpu::Features::SUBGROUP_BARRIER
        | wgpu::Features::SHADER_F16;
    let features = adapter.features() & wanted;
    let (device, queue) = pollster::block_on(adapter.request_device(&wgpu::DeviceDescriptor {
        required_features: features,
        required_limits: adapter.limits(),
        ..Default::default()
    }))
    .unwrap();
    Some(Device {
        device,
        queue,
        subgroups: features.contains(wgpu::Features::SUBGROUP),
        software: adapter.get_info().device_type == wgpu::DeviceType::Cpu,
        pipelines: Mutex::default(),
    })
}

/// Sets of constants of a kernel that `device` can run.
pub(crate) fn specializations(device: &Device, name: &str) -> Vec<Specialization> {
    let all = (kernel(name).unwrap().specializations)();
    let runs = |specialization: &Specialization| {
        let needs = specialization.constants().contains(&("REDUCE", "subgroup"));
        if needs && !device.subgroups {
            eprintln!("skipped: {name} {specialization:?} needs SUBGROUP");
        }
        device.subgroups || !needs
    };
    all.into_iter().filter(runs).collect()
}

/// The value of a numeric constant.
pub(crate) fn constant(specialization: &Specialization, name: &str) -> usize {
    text(specialization, name).parse().unwrap()
}

/// The value of a constant.
pub(crate) fn text<'s>(specialization: &'s Specialization, name: &str) -> &'s str {
    let constants = specialization.constants();
    constants.into_iter().find(|c| c.0 == name).unwrap().1
}

/// Bytes of values of any plain type.
pub(crate) fn bytes<T: bytemuck::NoUninit>(values: &[T]) -> Vec<u8> {
    bytemuck::cast_slice(values).to_vec()
}

/// What [`Device::run`] leaves in the buffers.
pub(crate) struct Results(Vec<Vec<u8>>);

impl Results {
    /// Those of one binding.
    pub(crate) fn of<T: bytemuck::Pod>(&self, binding: usize) -> Vec<T> {
        bytemuck::pod_collect_to_vec(&self.0[binding])
    }
}

/// Whether all words are alike as numbers in f32.
fn close(a: &[u8], b: &[u8]) -> bool {
    let [a, b] = [a, b].map(bytemuck::pod_collect_to_vec::<u8, f32>);
    a.iter().zip(&b).all(|(a, b)| {
        a.to_bits() == b.to_bits() || (a - b).abs() <= 1e-5 * a.abs().max(b.abs()).max(1e-2)
    })
}

impl Device {
    /// Runs a kernel on `buffers`, given what is in them, in the order of its bindings, with and without checks; gives
    /// what is in them afterwards.
    pub(crate) fn run(
        &self,
        name: &str,
        specialization: &Specialization,
        buffers: &[Vec<u8>],
        immediates: &[u8],
        grid: [usize; 3],
    ) -> Results {
        let what = format!("{name} {:?}", specialization.constants());
        let wgsl = specialization.compose(name).unwrap();
        let checked = self.run_one(&what, &wgsl, buffers, immediates, grid, false);
        let trusted = self.run_one(&what, &wgsl, buffers, immediates, grid, true);
        for (binding, (a, b)) in checked.iter().zip(&trusted).enumerate() {
            // Hardware's compilers fuse multiplications and additions as they see fit, around checks in other places.
            let same = a == b || !self.software && close(a, b);
            assert!(same, "{what}: binding {binding} depends on checks");
        }
        Results(trusted)
    }

    /// The pipeline of a module, compiled once, and the layout of its bindings.
    fn compiled(&self, what: &str, wgsl: &str, immediates: usize, trusted: bool) -> Arc<Compiled> {
        let key = (wgsl.to_owned(), trusted);
        let mut pipelines = self.pipelines.lock().unwrap();
        let compile = || Arc::new(self.compile(what, wgsl, immediates, trusted));
        Arc::clone(pipelines.entry(key).or_insert_with(compile))
    }

    fn compile(&self, what: &str, wgsl: &str, immediates: usize, trusted: bool) -> Compiled {
        let descriptor = wgpu::ShaderModuleDescriptor {
            label: Some(what),
            source: wgpu::ShaderSource::Wgsl(wgsl.into()),
        };
        let module = if trusted {
            // SAFETY: the kernels are the workspace's own; that they do without checks is what is tested here.
            unsafe {
                self.device.create_shader_module_trusted(
                    descriptor,
                    wgpu::ShaderRuntimeChecks::unchecked(),
                )
            }
        } else {
            self.device.create_shader_module(descriptor)
        };
        let read_only = read_only(wgsl);
        let entries: Vec<_> = (0..)
            .zip(&read_only)
            .map(|(binding, &read_only)| wgpu::BindGroupLayoutEntry {
                binding,
                visibility: wgpu::ShaderStages::COMPUTE,
                ty: wgpu::BindingType::Buffer {
                    ty: wgpu::BufferBindingType::Storage { read_only },
                    has_dynamic_offset: false,
                    min_binding_size: None,
                },
                count: None,
            })
            .collect();
        let layout = self
            .device
            .create_bind_group_layout(&wgpu::BindGroupLayoutDescriptor {
                label: None,
                entries: &entries,
            });
        let pipeline_layout = self
            .device
            .create_pipeline_layout(&wgpu::PipelineLayoutDescriptor {
                label: None,
                bind_group_layouts: &[Some(&layout)],
                immediate_size: immediates as u32,
            });
        let pipeline = self
            .device
            .create_compute_pipeline(&wgpu::ComputePipelineDescriptor {
                label: Some(what),
                layout: Some(&pipeline_layout),
                module: &module,
                entry_point: Some("main"),
                compilation_options: wgpu::PipelineCompilationOptions {
                    zero_initialize_workgroup_memory: !trusted,
                    ..Default::default()
                },
                cache: None,
            });
        (pipeline, layout)
    }

    fn run_one(
        &self,
        what: &str,
        wgsl: &str,
        contents: &[Vec<u8>],
        immediates: &[u8],
        grid: [usize; 3],
        trusted: bool,
    ) -> Vec<Vec<u8>> {
        let compiled = self.compiled(what, wgsl, immediates.len(), trusted);
        let (pipeline, layout) = &*compiled;
        let buffers: Vec<wgpu::Buffer> = contents
            .iter()
            .map(|content| {
                let mut guarded = content.clone();
                guarded.resize(content.len() + GUARD, MARK);
                self.device
                    .create_buffer_init(&wgpu::util::BufferInitDescriptor {
                        label: None,
                        contents: &guarded,
                        usage: wgpu::BufferUsages::STORAGE | wgpu::BufferUsages::COPY_SRC,
                    })
            })
            .collect();
        let bindings: Vec<_> = (0..)
            .zip(&buffers)
            .zip(contents)
            .map(|((binding, buffer), content)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer,
                    offset: 0,
                    size: wgpu::BufferSize::new(content.len() as u64),
                }),
            })
            .collect();
        let group = self.device.create_bind_group(&wgpu::BindGroupDescriptor {
            label: None,
            layout,
            entries: &bindings,
        });
        let mut encoder = self.device.create_command_encoder(&Default::default());
        {
            let mut pass = encoder.begin_compute_pass(&Default::default());
            pass.set_pipeline(pipeline);
            pass.set_bind_group(0, &group, &[]);
            pass.set_immediates(0, immediates);
            let [x, y, z] = grid.map(|n| n as u32);
            pass.dispatch_workgroups(x, y, z);
        }
        let hosts: Vec<wgpu::Buffer> = buffers
            .iter()
            .map(|buffer| {
                let host = self.device.create_buffer(&wgpu::BufferDescriptor {
                    label: None,
                    size: buffer.size(),
                    usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                    mapped_at_creation: false,
                });
                encoder.copy_buffer_to_buffer(buffer, 0, &host, 0, buffer.size());
                host
            })
            .collect();
        self.queue.submit([encoder.finish()]);
        for host in &hosts {
            host.map_async(wgpu::MapMode::Read, .., |result| result.unwrap());
        }
        self.device
            .poll(wgpu::PollType::wait_indefinitely())
            .unwrap();
        let mut results = Vec::new();
        for (host, content) in hosts.iter().zip(contents) {
            let all = host.get_mapped_range(..).unwrap().to_vec();
            let (own, guard) = all.split_at(content.len());
            assert!(
                guard.iter().all(|&byte| byte == MARK),
                "{what}: wrote behind binding {}",
                results.len()
            );
            results.push(own.to_vec());
        }
        results
    }
}

/// For each binding, whether the kernel only reads it.
fn read_only(wgsl: &str) -> Vec<bool> {
    let validated = Validated::new(wgsl).unwrap();
    let mut bindings: Vec<(u32, bool)> = validated
        .module()
        .global_variables
        .iter()
        .filter_map(|(_, variable)| match variable.space {
            naga::AddressSpace::Storage { access } => {
                let writes = access.contains(naga::StorageAccess::STORE);
                Some((variable.binding?.binding, !writes))
            }
            _ => None,
        })
        .collect();
    bindings.sort_unstable();
    bindings
        .into_iter()
        .map(|(_, read_only)| read_only)
        .collect()
}

/// Immediates, field by field.
#[derive(Clone, Default)]
pub(crate) struct Params(Vec<u8>);

impl Params {
    pub(crate) fn u(mut self, value: usize) -> Self {
        self.0.extend((value as u32).to_le_bytes());
        self
    }

    pub(crate) fn f(mut self, value: f32) -> Self {
        self.0.extend(value.to_le_bytes());
        self
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Reproducible numbers.
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    pub(crate) fn bits(&mut self) -> u32 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 32) as u32
    }

    pub(crate) fn below(&mut self, n: usize) -> usize {
        self.bits() as usize % n
    }

    /// Between -1 and 1.
    pub(crate) fn value(&mut self) -> f32 {
        self.bits() as f32 / 2f32.powi(31) - 1.0
    }

    pub(crate) fn values(&mut self, count: usize) -> Vec<f32> {
        (0..count).map(|_| self.value()).collect()
    }
}

/// Runs kernel `name` with the constants that matter most.
pub(crate) fn run(
    device: &Device,
    name: &str,
    buffers: &[Vec<u8>],
    params: &Params,
    grid: [usize; 3],
) -> Results {
    let specialization = &specializations(device, name)[0];
    device.run(name, specialization, buffers, params.bytes(), grid)
}

/// Asserts that values agree within `tolerance` times the largest expected magnitude.
pub(crate) fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let largest = expected.iter().fold(0f64, |m, x| m.max(x.abs()));
    for (i, (&a, &b)) in found.iter().zip(expected).enumerate() {
        assert!(
            (f64::from(a) - b).abs() <= tolerance * largest.max(1e-30),
            "{what}: {a} instead of {b} at {i}"
        );
    }
}
