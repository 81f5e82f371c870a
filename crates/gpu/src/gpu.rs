//! The device, and what all that is made on it shares.

use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use wgpu::{Features, Limits};

use crate::buffer::{Buffer, BufferId};
use crate::cache::PipelineCache;
use crate::pipeline::Pipelines;
use crate::{Adapter, AdapterKind, Error};

/// Features that are used where the adapter has them.
const WANTED: Features = Features::SHADER_F16
    .union(Features::SHADER_I16)
    .union(Features::SHADER_INT64)
    .union(Features::SUBGROUP)
    .union(Features::SUBGROUP_BARRIER)
    .union(Features::PIPELINE_CACHE)
    .union(Features::TIMESTAMP_QUERY)
    .union(Features::TIMESTAMP_QUERY_INSIDE_ENCODERS)
    .union(Features::TIMESTAMP_QUERY_INSIDE_PASSES)
    .union(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);

/// A binding never reaches 2 GiB: no driver takes more, and Metal's sizes are 32 bits.
const MAX_BINDING: u64 = (1 << 31) - 1024;

/// Whether naga puts its checks into kernels.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum Mode {
    /// Every index clamped, every loop bounded: for tests.
    Checked,
    /// Kernels as they are written. Those of this crate are right in both, which tests show.
    #[default]
    Trusted,
}

/// Bits of a value in caches of keys and values.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub enum CacheBits {
    /// Whole numbers with a scale for each head and position: half the memory, and half of what attention reads.
    Eight,
    /// Half precision.
    #[default]
    Sixteen,
}

/// How a [`Gpu`] is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Options {
    /// Checks in kernels.
    pub mode: Mode,
    /// Time each kernel, where the adapter has timestamps.
    pub profile: bool,
    /// Multiply with exact activations also where bytes are faster, and by groups in f32 also where matrix units take halves.
    pub exact: bool,
    /// How caches keep keys and values.
    pub cache_bits: CacheBits,
    /// Do as if the adapter had no subgroup operations: for tests of the kernels that do without.
    pub without_subgroups: bool,
    /// Do as if the adapter had no cooperative matrices: for tests of the kernels that do without.
    pub without_matrices: bool,
    /// Do as if the adapter took halves below the normal ones for zero: for tests of the kernels that do without.
    pub without_tiny_halves: bool,
}

/// An open device. Cloning copies the handle.
#[derive(Clone)]
pub struct Gpu(Arc<Inner>);

struct Inner {
    adapter: Adapter,
    device: wgpu::Device,
    queue: wgpu::Queue,
    limits: Limits,
    features: Features,
    matrices: Vec<wgpu::CooperativeMatrixProperties>,
    options: Options,
    pipelines: Pipelines,
    cache: Option<PipelineCache>,
    /// Bytes of uploads that the device may not have taken yet.
    staged: AtomicU64,
    shared: Arc<Shared>,
}

impl Drop for Inner {
    fn drop(&mut self) {
        if let Some(cache) = &self.cache {
            cache.save();
        }
    }
}

/// What callbacks and dropped buffers reach without keeping the device alive.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    fault: Mutex<Option<Error>>,
    dead: Mutex<Vec<BufferId>>,
    allocated: AtomicU64,
}

/// What to ask an adapter for that has `there`.
fn features(adapter: &str, there: Features, options: Options) -> Result<Features, Error> {
    let needed = Features::IMMEDIATES;
    if !there.contains(needed) {
        return Err(Error::MissingFeature {
            adapter: adapter.to_owned(),
            feature: "immediate data (push constants)".to_owned(),
        });
    }
    let mut features = there & WANTED;
    if options.without_subgroups {
        features.remove(Features::SUBGROUP | Features::SUBGROUP_BARRIER);
    }
    if options.without_matrices || options.without_subgroups {
        features.remove(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
    }
    Ok(features | needed)
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Shared {
    /// Keeps the first fault: what follows comes of it. That the device is lost explains the calls that it refused before it said so.
    fn report(&self, error: Error) {
        let mut fault = lock(&self.fault);
        let explains =
            matches!(&*fault, Some(Error::Refused(_))) && matches!(error, Error::Lost(_));
        if fault.is_none() || explains {
            *fault = Some(error);
        }
    }

    pub(crate) fn born(&self, bytes: u64) {
        self.allocated.fetch_add(bytes, Ordering::Relaxed);
    }

    pub(crate) fn bury(&self, buffer: BufferId, bytes: u64) {
        self.allocated.fetch_sub(bytes, Ordering::Relaxed);
        lock(&self.dead).push(buffer);
    }

    pub(crate) fn take_dead(&self) -> Vec<BufferId> {
        std::mem::take(&mut *lock(&self.dead))
    }
}

impl Gpu {
    /// Opens `adapter`, with all of its limits and what kernels can use of its features.
    ///
    /// # Errors
    /// [`Error::MissingFeature`] if it has no immediates, [`Error::Open`] if the driver refuses.
    pub fn open(adapter: &Adapter, options: Options) -> Result<Self, Error> {
        Self::open_with(adapter, options, None)
    }

    /// As [`Gpu::open`], and keeps what the driver makes of kernels in `folder`, where the next one finds it: compiling is most
    /// of what the first token waits for. Only Vulkan has such a thing; a file that does not fit is ignored, and replaced.
    ///
    /// # Errors
    /// As [`Gpu::open`]; a folder that cannot be read or written is none.
    pub fn open_cached(adapter: &Adapter, options: Options, folder: &Path) -> Result<Self, Error> {
        Self::open_with(adapter, options, Some(folder))
    }

    fn open_with(
        adapter: &Adapter,
        options: Options,
        folder: Option<&Path>,
    ) -> Result<Self, Error> {
        let name = adapter.name().to_owned();
        let features = features(&name, adapter.features(), options)?;
        let limits = adapter.limits();
        let experimental = features.contains(Features::EXPERIMENTAL_COOPERATIVE_MATRIX);
        let descriptor = wgpu::DeviceDescriptor {
            label: Some("treillage"),
            required_features: features,
            required_limits: limits.clone(),
            experimental_features: match experimental {
                // SAFETY: asks us to accept that the one experimental feature in `WANTED`, cooperative matrices, may
                // have mistakes in it; kernels that use it are tested against those that do not.
                true => unsafe { wgpu::ExperimentalFeatures::enabled() },
                false => wgpu::ExperimentalFeatures::disabled(),
            },
            memory_hints: wgpu::MemoryHints::MemoryUsage,
            trace: wgpu::Trace::Off,
        };
        let opened = pollster::block_on(adapter.inner().request_device(&descriptor));
        let (device, queue) = opened.map_err(|error| Error::Open {
            adapter: name,
            reason: error.to_string(),
        })?;
        let shared = Arc::new(Shared::default());
        let faults = Arc::clone(&shared);
        device.on_uncaptured_error(Arc::new(move |error: wgpu::Error| {
            faults.report(Error::reported(error, "work in flight", 0));
        }));
        let faults = Arc::clone(&shared);
        device.set_device_lost_callback(move |reason, message| {
            faults.report(Error::Lost(match message.is_empty() {
                true => format!("{reason:?}"),
                false => message,
            }));
        });
        Ok(Self(Arc::new(Inner {
            matrices: match experimental {
                true => adapter.cooperative_matrices(),
                false => Vec::new(),
            },
            cache: folder.and_then(|folder| PipelineCache::open(&device, adapter, folder)),
            adapter: adapter.clone(),
            device,
            queue,
            limits,
            features,
            options,
            pipelines: Pipelines::default(),
            staged: AtomicU64::new(0),
            shared,
        })))
    }

    /// What it was opened from.
    pub fn adapter(&self) -> &Adapter {
        &self.0.adapter
    }

    /// How it was opened.
    pub fn options(&self) -> Options {
        self.0.options
    }

    /// What kernels may use.
    pub fn features(&self) -> Features {
        self.0.features
    }

    /// Whether kernels may use subgroup operations.
    pub fn has_subgroups(&self) -> bool {
        self.0.features.contains(Features::SUBGROUP)
    }

    /// Whether kernels may use half precision.
    pub fn has_f16(&self) -> bool {
        self.0.features.contains(Features::SHADER_F16)
    }

    /// Fewest and most invocations of a subgroup.
    pub fn subgroup_sizes(&self) -> (u32, u32) {
        self.0.adapter.subgroup_sizes()
    }

    /// Matrices that subgroups multiply together; none where there is no such unit, or kernels must not use it.
    pub fn cooperative_matrices(&self) -> &[wgpu::CooperativeMatrixProperties] {
        &self.0.matrices
    }

    /// The device's limits.
    pub fn limits(&self) -> &Limits {
        &self.0.limits
    }

    /// Most bytes that a kernel sees in one binding.
    pub fn max_binding(&self) -> u64 {
        let limits = &self.0.limits;
        let binding = limits.max_storage_buffer_binding_size;
        // Sizes of bindings are whole words.
        binding.min(limits.max_buffer_size).min(MAX_BINDING) / 4 * 4
    }

    /// Whether it computes on the CPU.
    pub fn is_software(&self) -> bool {
        self.0.adapter.kind() == AdapterKind::Software
    }

    /// The device, for what this crate does not wrap.
    pub fn device(&self) -> &wgpu::Device {
        &self.0.device
    }

    /// Its queue.
    pub fn queue(&self) -> &wgpu::Queue {
        &self.0.queue
    }

    /// Bytes of compiled kernels that were found on disk when it was opened.
    pub fn cached(&self) -> u64 {
        self.0.cache.as_ref().map_or(0, PipelineCache::found)
    }

    /// Brings what was compiled so far to disk, if it was opened for that. Dropping the last handle does so too, but not every
    /// program ends that way.
    pub fn save_cache(&self) {
        if let Some(cache) = &self.0.cache {
            cache.save();
        }
    }

    pub(crate) fn cache(&self) -> Option<&wgpu::PipelineCache> {
        self.0.cache.as_ref().map(PipelineCache::to_compile)
    }

    pub(crate) fn pipelines(&self) -> &Pipelines {
        &self.0.pipelines
    }

    pub(crate) fn shared(&self) -> &Arc<Shared> {
        &self.0.shared
    }

    /// Counts `bytes` more that are staged, and gives the sum.
    pub(crate) fn staged(&self, bytes: u64) -> u64 {
        self.0.staged.fetch_add(bytes, Ordering::Relaxed) + bytes
    }

    pub(crate) fn reset_staged(&self) {
        self.0.staged.store(0, Ordering::Relaxed);
    }

    /// Bytes of all buffers that kernels see and that somebody holds. What brings bytes to the host and back is not among them.
    pub fn allocated(&self) -> u64 {
        self.0.shared.allocated.load(Ordering::Relaxed)
    }

    /// A buffer of `bytes` for kernels, filled with zeros.
    ///
    /// # Errors
    /// [`Error::OutOfMemory`] naming `what`, or [`Error::TooLarge`] if kernels could not see all of it.
    pub fn buffer(&self, what: &str, bytes: u64) -> Result<Buffer, Error> {
        Buffer::new(self, what, bytes)
    }

    /// Fails with the first fault that the device reported since it was opened.
    ///
    /// # Errors
    /// The fault. It stays: a device that failed once is not to be trusted again.
    pub fn check(&self) -> Result<(), Error> {
        match &*lock(&self.0.shared.fault) {
            Some(fault) => Err(fault.clone()),
            None => Ok(()),
        }
    }

    /// Waits for all submitted work.
    ///
    /// # Errors
    /// Whatever the device reports meanwhile.
    pub fn wait(&self) -> Result<(), Error> {
        self.wait_for(None)
    }

    /// Waits for a submission and all before it; for all that there are, if for none of them.
    pub(crate) fn wait_for(&self, submission: Option<wgpu::SubmissionIndex>) -> Result<(), Error> {
        let device = &self.0.device;
        let polled = device.poll(wgpu::PollType::Wait {
            submission_index: submission,
            timeout: None,
        });
        if polled.is_err() {
            // A lost device, asked for work that it refused, does not say that it is lost.
            _ = device.poll(wgpu::PollType::Poll);
        }
        self.check()?;
        match polled {
            Ok(_) => Ok(()),
            Err(error) => Err(Error::Lost(error.to_string())),
        }
    }
}

impl std::fmt::Debug for Gpu {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Gpu")
            .field("adapter", &self.adapter().name())
            .field("options", &self.options())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn features_are_asked_for_where_they_are_there() {
        let plain = Options::default();
        let least = Features::IMMEDIATES;
        assert_eq!(features("x", least, plain).unwrap(), least);
        let found = features("x", Features::all(), plain).unwrap();
        assert!(found.contains(Features::SUBGROUP | Features::SHADER_F16));
        assert!(!found.contains(Features::TEXTURE_COMPRESSION_BC));
        let without = Options {
            without_subgroups: true,
            ..plain
        };
        let found = features("x", Features::all(), without).unwrap();
        assert!(!found.intersects(Features::SUBGROUP | Features::EXPERIMENTAL_COOPERATIVE_MATRIX));
    }

    #[test]
    fn what_is_missing_is_named_with_a_way_out() {
        let error = features(
            "Old Card",
            Features::all() - Features::IMMEDIATES,
            Options::default(),
        )
        .unwrap_err();
        assert!(matches!(error, Error::MissingFeature { .. }));
        let text = error.to_string();
        assert!(text.starts_with("Old Card lacks immediate data"), "{text}");
        assert!(
            text.contains("update its driver, or choose another device"),
            "{text}"
        );
    }
}
