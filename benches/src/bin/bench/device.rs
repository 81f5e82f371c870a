//! Where to measure, and what the memory there can do.

use std::{str::FromStr, time::Instant};

use anyhow::Result;
use treillage_gpu::{Context, Gpu, Recorder};

/// What computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Device {
    Cpu,
    /// Number N of `treillage devices`.
    Gpu(usize),
}

impl FromStr for Device {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "cpu" => Ok(Device::Cpu),
            "gpu" => Ok(Device::Gpu(0)),
            _ => {
                let number = text.strip_prefix("gpu:").and_then(|n| n.parse().ok());
                number.map(Device::Gpu).ok_or("expected cpu, gpu or gpu:N")
            }
        }
    }
}

/// Prints how long each kernel took since the last profile, if `context` was opened for profiles.
pub(crate) fn print_profile(context: &Context) {
    let profile = context.recorder.take_profile().unwrap_or_default();
    for (name, kernel) in profile.kernels() {
        println!(
            "      {name:<24}  {:>9.3} ms in {} dispatches",
            1e3 * kernel.time.as_secs_f64(),
            kernel.dispatches
        );
    }
}

/// Bytes read and written a second by a kernel that copies, at best: what to hold other kernels against.
pub(crate) fn copy_bandwidth(gpu: &Gpu) -> Result<f64> {
    const SOURCE: &str = "
@group(0) @binding(0) var<storage, read> a: array<vec4<u32>>;
@group(0) @binding(1) var<storage, read_write> b: array<vec4<u32>>;
@compute @workgroup_size(256)
fn main(
    @builtin(workgroup_id) group: vec3<u32>,
    @builtin(num_workgroups) groups: vec3<u32>,
    @builtin(local_invocation_index) at: u32,
) {
    let i = 1024u * (group.y * groups.x + group.x) + at;
    b[i] = a[i];
    b[i + 256u] = a[i + 256u];
    b[i + 512u] = a[i + 512u];
    b[i + 768u] = a[i + 768u];
}
";
    // Of 1024 vectors of 16 bytes a workgroup, in rows of 256.
    let bytes = gpu.max_binding().min(512 << 20) >> 22 << 22;
    let groups = (bytes >> 14) as u32;
    let (from, to) = (
        gpu.buffer("copied", bytes)?.slice(),
        gpu.buffer("copy", bytes)?.slice(),
    );
    let pipeline = gpu.pipeline("copy", SOURCE, &[])?;
    let recorder = Recorder::new(gpu);
    recorder.time_kernels(false);
    let mut best = 0.0f64;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < 0.3 {
        const COPIES: u64 = 16;
        for _ in 0..COPIES {
            recorder.dispatch(&pipeline, &[&from, &to], &[], [256, groups / 256, 1]);
        }
        let submitted = Instant::now();
        recorder.submit();
        gpu.wait()?;
        best = best.max((2 * COPIES * bytes) as f64 / submitted.elapsed().as_secs_f64());
    }
    Ok(best)
}

/// Operations a second of a kernel that multiplies and adds in f32, at best: two for each value and step.
pub(crate) fn f32_rate(gpu: &Gpu) -> Result<f64> {
    const SOURCE: &str = "
@group(0) @binding(0) var<storage, read_write> y: array<f32>;
@compute @workgroup_size(256)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) at: u32) {
    let factor = vec4(1.0 - 1e-6 * f32(at));
    let term = vec4(1e-3 * f32(group.x & 7u));
    var a = vec4(f32(at));
    var b = a + 1.0;
    var c = a + 2.0;
    var d = a + 3.0;
    for (var i = 0u; i < 512u; i++) {
        a = fma(a, factor, term);
        b = fma(b, factor, term);
        c = fma(c, factor, term);
        d = fma(d, factor, term);
    }
    let sum = a + b + c + d;
    y[256u * group.x + at] = sum.x + sum.y + sum.z + sum.w;
}
";
    // Enough workgroups for several on each of some hundred cores, whose last ones do not show.
    const GROUPS: u32 = 4096;
    const DISPATCHES: u64 = 8;
    const OPERATIONS: u64 = DISPATCHES * GROUPS as u64 * 256 * 512 * 16 * 2;
    let sums = gpu.buffer("sums", u64::from(GROUPS) * 256 * 4)?.slice();
    let pipeline = gpu.pipeline("multiply and add", SOURCE, &[])?;
    let recorder = Recorder::new(gpu);
    recorder.time_kernels(false);
    let mut best = 0.0f64;
    let start = Instant::now();
    while start.elapsed().as_secs_f64() < 0.3 {
        for _ in 0..DISPATCHES {
            recorder.dispatch(&pipeline, &[&sums], &[], [GROUPS, 1, 1]);
        }
        let submitted = Instant::now();
        recorder.submit();
        gpu.wait()?;
        best = best.max(OPERATIONS as f64 / submitted.elapsed().as_secs_f64());
    }
    Ok(best)
}
