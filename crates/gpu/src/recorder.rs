//! Recording work: dispatches are appended to one command buffer until something is to be read.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::buffer::BufferId;
use crate::profile::{Profile, Span, Timer, Work};
use crate::{Error, Gpu, Pipeline, Slice};

/// Bind groups kept; beyond it all are forgotten and made anew as needed.
const MAX_GROUPS: usize = 1 << 14;

/// Records dispatches and copies, in order, and submits them together.
///
/// All of its calls may come from any thread; the order is that of the calls.
#[derive(Debug)]
pub struct Recorder {
    gpu: Gpu,
    state: Mutex<State>,
    staging: Staging,
}

/// Buffers that bytes came to the host in, to be used again, by size.
type Staging = Arc<Mutex<HashMap<u64, Vec<wgpu::Buffer>>>>;

#[derive(Debug, Default)]
struct State {
    open: Option<Open>,
    groups: HashMap<GroupKey, wgpu::BindGroup>,
    timer: Option<Timer>,
    /// The timer rests.
    untimed: bool,
    counts: Counts,
}

/// Work that is not submitted yet. The pass is gone before the encoder finishes.
#[derive(Debug)]
struct Open {
    pass: Option<wgpu::ComputePass<'static>>,
    encoder: wgpu::CommandEncoder,
    /// The pipeline that the pass has now.
    pipeline: Option<u32>,
}

type GroupKey = (u32, Vec<(BufferId, u64, u64)>);

/// How much a [`Recorder`] did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// Kernels dispatched.
    pub dispatches: u64,
    /// Command buffers submitted.
    pub submissions: u64,
    /// Bind groups made; in the long run, none.
    pub bind_groups: u64,
}

/// One kernel to run.
#[derive(Clone, Copy, Debug)]
pub struct Dispatch<'a> {
    /// The kernel.
    pub pipeline: &'a Pipeline,
    /// What it binds, in the order of its bindings. What it writes must not share a buffer with what it reads.
    pub slices: &'a [&'a Slice],
    /// Its scalars: at most [`MAX_IMMEDIATES`](crate::MAX_IMMEDIATES) bytes, a multiple of four.
    pub immediates: &'a [u8],
    /// Workgroups; nothing runs if one is zero.
    pub grid: [u32; 3],
    /// What it takes at the least, for profiles.
    pub work: Work,
}

impl Recorder {
    /// Nothing recorded yet.
    pub fn new(gpu: &Gpu) -> Self {
        let state = State {
            timer: Timer::new(gpu),
            ..State::default()
        };
        Self {
            gpu: gpu.clone(),
            state: Mutex::new(state),
            staging: Staging::default(),
        }
    }

    /// The device.
    pub fn gpu(&self) -> &Gpu {
        &self.gpu
    }

    /// What it did since it was made.
    pub fn counts(&self) -> Counts {
        self.lock().counts
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        locked(&self.state)
    }

    /// Appends a kernel whose work a profile takes to be what it binds.
    pub fn dispatch(
        &self,
        pipeline: &Pipeline,
        slices: &[&Slice],
        immediates: &[u8],
        grid: [u32; 3],
    ) {
        self.record(&Dispatch {
            pipeline,
            slices,
            immediates,
            grid,
            work: Work::moving(slices.iter().copied()),
        });
    }

    /// Appends a kernel. What the device refuses is reported by the next read.
    pub fn record(&self, dispatch: &Dispatch<'_>) {
        if dispatch.grid.contains(&0) {
            return;
        }
        let mut state = self.lock();
        let timed = !state.untimed;
        if timed && state.timer.as_ref().is_some_and(Timer::is_full) {
            state.submit(&self.gpu);
        }
        let group = state.group(&self.gpu, dispatch.pipeline, dispatch.slices);
        let State {
            open,
            timer,
            counts,
            ..
        } = &mut *state;
        let open = open.get_or_insert_with(|| Open::new(&self.gpu));
        let timed = timer.as_mut().filter(|_| timed).map(|timer| {
            let span = timer.start(dispatch.pipeline.name(), dispatch.work);
            (&*timer, span)
        });
        open.dispatch(dispatch, &group, timed);
        counts.dispatches += 1;
    }

    /// Appends a copy of `bytes` to the beginning of `slice`. A multiple of four.
    pub fn write(&self, slice: &Slice, bytes: &[u8]) {
        let mut state = self.lock();
        let to = slice.buffer().raw();
        let Some(open) = &mut state.open else {
            // Nothing recorded can see it: the queue takes it along with the next submission.
            self.gpu.queue().write_buffer(to, slice.offset(), bytes);
            return;
        };
        let staging = self.gpu.device().create_buffer(&wgpu::BufferDescriptor {
            label: Some("staging"),
            size: bytes.len() as u64,
            usage: wgpu::BufferUsages::COPY_SRC | wgpu::BufferUsages::MAP_WRITE,
            mapped_at_creation: true,
        });
        match staging.get_mapped_range_mut(..) {
            Ok(mut mapped) => mapped.copy_from_slice(bytes),
            // The device reports why, to the next read.
            Err(_) => return,
        }
        staging.unmap();
        let size = bytes.len() as u64;
        open.encoder()
            .copy_buffer_to_buffer(&staging, 0, to, slice.offset(), size);
    }

    /// Appends a copy of `from` to the beginning of `to`, which is of another buffer and not smaller.
    pub fn copy(&self, from: &Slice, to: &Slice) {
        let mut state = self.lock();
        let open = state.open.get_or_insert_with(|| Open::new(&self.gpu));
        open.encoder().copy_buffer_to_buffer(
            from.buffer().raw(),
            from.offset(),
            to.buffer().raw(),
            to.offset(),
            from.size(),
        );
    }

    /// Appends zeros all over `slice`.
    pub fn clear(&self, slice: &Slice) {
        let mut state = self.lock();
        let open = state.open.get_or_insert_with(|| Open::new(&self.gpu));
        let raw = slice.buffer().raw();
        open.encoder()
            .clear_buffer(raw, slice.offset(), Some(slice.size()));
    }

    /// Submits what is recorded, without waiting for it.
    pub fn submit(&self) {
        self.lock().submit(&self.gpu);
    }

    /// Appends copies of `slices` to the host and submits all that is recorded, without waiting for it.
    pub fn download<const N: usize>(&self, slices: [&Slice; N]) -> Download<N> {
        let mut total = 0;
        let ends = slices.map(|slice| {
            total += slice.size();
            total
        });
        let class = total.next_power_of_two().max(4);
        let pooled = locked(&self.staging).get_mut(&class).and_then(Vec::pop);
        let host = pooled.unwrap_or_else(|| {
            self.gpu.device().create_buffer(&wgpu::BufferDescriptor {
                label: Some("download"),
                size: class,
                usage: wgpu::BufferUsages::COPY_DST | wgpu::BufferUsages::MAP_READ,
                mapped_at_creation: false,
            })
        });
        let mut state = self.lock();
        let open = state.open.get_or_insert_with(|| Open::new(&self.gpu));
        let encoder = open.encoder();
        for (slice, end) in slices.iter().zip(&ends) {
            let (from, size) = (slice.buffer().raw(), slice.size());
            encoder.copy_buffer_to_buffer(from, slice.offset(), &host, end - size, size);
        }
        let submission = state.submit(&self.gpu);
        host.map_async(wgpu::MapMode::Read, ..class, |_| ());
        Download {
            gpu: self.gpu.clone(),
            staging: Arc::clone(&self.staging),
            host,
            ends,
            submission,
        }
    }

    /// Submits all that is recorded, waits for it, and gives the bytes of `slice`.
    ///
    /// # Errors
    /// What the device reported since it was opened.
    pub fn read(&self, slice: &Slice) -> Result<Vec<u8>, Error> {
        let [bytes] = self.download([slice]).wait()?;
        Ok(bytes)
    }

    /// Whether kernels recorded from here on are timed, if the device was opened for profiles: at first they are. Untimed they run
    /// as they would without a profile.
    pub fn time_kernels(&self, on: bool) {
        self.lock().untimed = !on;
    }

    /// The times of all kernels submitted since the last call, if the device was opened for profiles and has a clock.
    pub fn take_profile(&self) -> Option<Profile> {
        let mut state = self.lock();
        state.submit(&self.gpu);
        state.timer.as_mut().map(Timer::take)
    }
}

/// Bytes on their way to the host.
#[derive(Debug)]
#[must_use = "bytes arrive when they are waited for"]
pub struct Download<const N: usize> {
    gpu: Gpu,
    staging: Staging,
    host: wgpu::Buffer,
    /// Where each slice ends.
    ends: [u64; N],
    submission: Option<wgpu::SubmissionIndex>,
}

impl<const N: usize> Download<N> {
    /// Waits for them, those of each slice; work submitted later goes on.
    ///
    /// # Errors
    /// What the device reported since it was opened.
    pub fn wait(self) -> Result<[Vec<u8>; N], Error> {
        self.gpu.wait_for(self.submission)?;
        let mapped = self.host.get_mapped_range(..);
        let mapped = mapped.map_err(|error| Error::Lost(error.to_string()))?;
        let mut start = 0;
        let slices = self.ends.map(|end| {
            let bytes = mapped[start..end as usize].to_vec();
            start = end as usize;
            bytes
        });
        drop(mapped);
        self.host.unmap();
        let class = self.host.size();
        let mut staging = locked(&self.staging);
        staging.entry(class).or_default().push(self.host);
        drop(staging);
        Ok(slices)
    }
}

/// What is behind `mutex`, whole whatever became of the thread that had it last.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl State {
    /// The bind group of `pipeline` with `slices`, made once.
    fn group(&mut self, gpu: &Gpu, pipeline: &Pipeline, slices: &[&Slice]) -> wgpu::BindGroup {
        let key = (
            pipeline.id(),
            slices.iter().map(|slice| slice.key()).collect(),
        );
        if let Some(group) = self.groups.get(&key) {
            return group.clone();
        }
        let entries: Vec<_> = (0..)
            .zip(slices)
            .map(|(binding, slice)| wgpu::BindGroupEntry {
                binding,
                resource: wgpu::BindingResource::Buffer(wgpu::BufferBinding {
                    buffer: slice.buffer().raw(),
                    offset: slice.offset(),
                    size: wgpu::BufferSize::new(slice.size()),
                }),
            })
            .collect();
        let group = gpu.device().create_bind_group(&wgpu::BindGroupDescriptor {
            label: Some(pipeline.name()),
            layout: pipeline.layout(),
            entries: &entries,
        });
        if self.groups.len() >= MAX_GROUPS {
            self.groups.clear();
        }
        self.counts.bind_groups += 1;
        self.groups.insert(key, group.clone());
        group
    }

    /// Submits what is recorded, if there is anything.
    fn submit(&mut self, gpu: &Gpu) -> Option<wgpu::SubmissionIndex> {
        let dead = gpu.shared().take_dead();
        if !dead.is_empty() {
            let is_dead = |&(id, _, _): &(BufferId, u64, u64)| dead.contains(&id);
            self.groups
                .retain(|(_, slices), _| !slices.iter().any(is_dead));
        }
        let mut open = self.open.take()?;
        if let Some(timer) = &self.timer {
            timer.resolve(open.encoder());
        }
        let Open { pass, encoder, .. } = open;
        drop(pass);
        let index = gpu.queue().submit([encoder.finish()]);
        self.counts.submissions += 1;
        if let Some(timer) = &mut self.timer {
            // A fault stays, and the read that follows reports it.
            _ = timer.collect(gpu);
        }
        Some(index)
    }
}

impl Open {
    fn new(gpu: &Gpu) -> Self {
        let descriptor = wgpu::CommandEncoderDescriptor {
            label: Some("recorder"),
        };
        Self {
            pass: None,
            encoder: gpu.device().create_command_encoder(&descriptor),
            pipeline: None,
        }
    }

    /// The encoder, outside of any pass.
    fn encoder(&mut self) -> &mut wgpu::CommandEncoder {
        self.pass = None;
        self.pipeline = None;
        &mut self.encoder
    }

    fn dispatch(
        &mut self,
        dispatch: &Dispatch<'_>,
        group: &wgpu::BindGroup,
        timed: Option<(&Timer, Span)>,
    ) {
        let mut writes = None;
        if let Some((timer, span)) = timed
            && !timer.inside_passes()
        {
            // Only passes have timestamps: one for each kernel.
            self.encoder();
            writes = Some(wgpu::ComputePassTimestampWrites {
                query_set: timer.queries(),
                beginning_of_pass_write_index: Some(span.begin),
                end_of_pass_write_index: Some(span.end),
            });
        }
        let Self {
            pass,
            encoder,
            pipeline,
        } = self;
        let inside = timed.filter(|(timer, _)| timer.inside_passes());
        let pass = pass.get_or_insert_with(|| {
            let descriptor = wgpu::ComputePassDescriptor {
                label: None,
                timestamp_writes: writes,
            };
            encoder.begin_compute_pass(&descriptor).forget_lifetime()
        });
        if *pipeline != Some(dispatch.pipeline.id()) {
            pass.set_pipeline(dispatch.pipeline.raw());
            *pipeline = Some(dispatch.pipeline.id());
        }
        pass.set_bind_group(0, group, &[]);
        if !dispatch.immediates.is_empty() {
            pass.set_immediates(0, dispatch.immediates);
        }
        if let Some((timer, span)) = inside {
            pass.write_timestamp(timer.queries(), span.begin);
        }
        let [x, y, z] = dispatch.grid;
        pass.dispatch_workgroups(x, y, z);
        if let Some((timer, span)) = inside {
            pass.write_timestamp(timer.queries(), span.end);
        }
    }
}
