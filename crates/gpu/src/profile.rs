//! Where a device's time goes.

use std::collections::BTreeMap;
use std::time::Duration;

use wgpu::{BufferUsages, Features};

use crate::{Error, Gpu, Slice};

/// Kernels that are timed between two submissions.
const SPANS: u32 = 1024;

/// What a kernel takes at the least, to hold its time against.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Work {
    /// Bytes that it must move to and from memory.
    pub bytes: u64,
    /// Operations: a multiplication with its addition counts two.
    pub operations: u64,
}

/// Time and work by kernel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Profile {
    kernels: BTreeMap<String, KernelProfile>,
    elapsed: Duration,
}

/// Time and work of one kernel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KernelProfile {
    /// How often it ran.
    pub dispatches: u64,
    /// How long, all in all, on the device.
    pub time: Duration,
    /// What all of these dispatches take at the least.
    pub work: Work,
}

impl Work {
    /// Moving all of `slices`, and computing nothing worth counting.
    pub fn moving<'a>(slices: impl IntoIterator<Item = &'a Slice>) -> Self {
        Self {
            bytes: slices.into_iter().map(Slice::size).sum(),
            operations: 0,
        }
    }
}

impl Profile {
    /// Kernels by name.
    pub fn kernels(&self) -> impl Iterator<Item = (&str, &KernelProfile)> {
        self.kernels.iter().map(|(name, k)| (name.as_str(), k))
    }

    /// The time of all kernels.
    pub fn time(&self) -> Duration {
        self.kernels.values().map(|k| k.time).sum()
    }

    /// From the start of the first timed kernel of a submission to the end of the last, of all submissions, with what ran untimed
    /// between.
    pub fn elapsed(&self) -> Duration {
        self.elapsed
    }

    fn add(&mut self, name: &str, work: Work, time: Duration) {
        let kernel = self.kernels.entry(name.to_owned()).or_default();
        kernel.dispatches += 1;
        kernel.time += time;
        kernel.work.bytes += work.bytes;
        kernel.work.operations += work.operations;
    }
}

impl KernelProfile {
    /// Bytes per second.
    pub fn bandwidth(&self) -> f64 {
        self.work.bytes as f64 / self.time.as_secs_f64()
    }

    /// Operations per second.
    pub fn rate(&self) -> f64 {
        self.work.operations as f64 / self.time.as_secs_f64()
    }
}

/// Times kernels with the device's clock, two timestamps each.
#[derive(Debug)]
pub(crate) struct Timer {
    queries: wgpu::QuerySet,
    resolved: wgpu::Buffer,
    host: wgpu::Buffer,
    inside_passes: bool,
    spans: Vec<(String, Work)>,
    profile: Profile,
}

/// Where the two timestamps of a kernel go.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Span {
    pub(crate) begin: u32,
    pub(crate) end: u32,
}

impl Timer {
    /// `None` if profiles are not asked for, or the device has no clock.
    pub(crate) fn new(gpu: &Gpu) -> Option<Self> {
        let timed = gpu.options().profile && gpu.features().contains(Features::TIMESTAMP_QUERY);
        if !timed {
            return None;
        }
        let bytes = u64::from(2 * SPANS) * 8;
        let buffer = |label, usage| {
            gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some(label),
                size: bytes,
                usage,
                mapped_at_creation: false,
            })
        };
        Some(Self {
            queries: gpu.device().create_query_set(&wgpu::QuerySetDescriptor {
                label: Some("timestamps"),
                ty: wgpu::QueryType::Timestamp,
                count: 2 * SPANS,
            }),
            resolved: buffer(
                "timestamps",
                BufferUsages::QUERY_RESOLVE | BufferUsages::COPY_SRC,
            ),
            host: buffer(
                "read timestamps",
                BufferUsages::MAP_READ | BufferUsages::COPY_DST,
            ),
            inside_passes: gpu
                .features()
                .contains(Features::TIMESTAMP_QUERY_INSIDE_PASSES),
            spans: Vec::new(),
            profile: Profile::default(),
        })
    }

    /// Whether no further kernel can be timed before a submission.
    pub(crate) fn is_full(&self) -> bool {
        self.spans.len() as u32 == SPANS
    }

    /// Notes a kernel, and gives the places of its timestamps.
    pub(crate) fn start(&mut self, name: &str, work: Work) -> Span {
        let begin = 2 * self.spans.len() as u32;
        self.spans.push((name.to_owned(), work));
        Span {
            begin,
            end: begin + 1,
        }
    }

    pub(crate) fn queries(&self) -> &wgpu::QuerySet {
        &self.queries
    }

    /// Whether a pass can hold several timed kernels.
    pub(crate) fn inside_passes(&self) -> bool {
        self.inside_passes
    }

    /// Appends to `encoder` what brings the timestamps to the host.
    pub(crate) fn resolve(&self, encoder: &mut wgpu::CommandEncoder) {
        let count = 2 * self.spans.len() as u32;
        if count > 0 {
            encoder.resolve_query_set(&self.queries, 0..count, &self.resolved, 0);
            encoder.copy_buffer_to_buffer(&self.resolved, 0, &self.host, 0, u64::from(count) * 8);
        }
    }

    /// Waits for the submission that [`Timer::resolve`] was part of, and adds its times up.
    pub(crate) fn collect(&mut self, gpu: &Gpu) -> Result<(), Error> {
        if self.spans.is_empty() {
            return Ok(());
        }
        let bytes = self.spans.len() as u64 * 16;
        let slice = self.host.slice(..bytes);
        slice.map_async(wgpu::MapMode::Read, |_| ());
        gpu.wait()?;
        let period = f64::from(gpu.queue().get_timestamp_period());
        {
            let mapped = slice
                .get_mapped_range()
                .map_err(|error| Error::Lost(error.to_string()))?;
            let stamps: &[[u64; 2]] = bytemuck::cast_slice(&mapped);
            let time = |begin: u64, end: u64| {
                Duration::from_nanos((end.saturating_sub(begin) as f64 * period) as u64)
            };
            if let (Some([begin, _]), Some([_, end])) = (stamps.first(), stamps.last()) {
                self.profile.elapsed += time(*begin, *end);
            }
            for ((name, work), [begin, end]) in self.spans.drain(..).zip(stamps) {
                self.profile.add(&name, work, time(*begin, *end));
            }
        }
        self.host.unmap();
        Ok(())
    }

    /// What was gathered, leaving nothing.
    pub(crate) fn take(&mut self) -> Profile {
        std::mem::take(&mut self.profile)
    }
}
