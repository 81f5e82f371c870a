//! Where the device's time goes.

use anyhow::Result;
use serde_json::{Value, json};
use treillage_gpu::{GpuBackend, KernelProfile, Profile};

use super::rounds::Rounds;

/// Runs a round with every kernel timed, and prints and gives the profiles of its parts.
pub(super) fn take(
    backend: &GpuBackend,
    rounds: &mut Rounds<'_, GpuBackend>,
    bandwidth: f64,
) -> Result<Value> {
    if backend.take_profile().is_none() {
        println!("no profile: the device has no clock for kernels");
        return Ok(Value::Null);
    }
    backend.time_kernels(true);
    let mut parts = serde_json::Map::new();
    let mut part = |name: &str, of: &str, count: usize| {
        let profile = backend.take_profile().unwrap_or_default();
        let title = format!("{name}, by kernel, for a {of}");
        print(&title, &profile, count, bandwidth);
        parts.insert(name.to_owned(), to_json(&profile, count));
    };
    let (_, first) = rounds.read_prompt()?;
    part("prefill", "prompt", 1);
    rounds.decode(first)?;
    part("decode", "token", rounds.tokens());
    if rounds.read_long()?.is_some() {
        part("long prefill", "prompt", 1);
    }
    backend.time_kernels(false);
    Ok(parts.into())
}

/// Kernels, the longest first.
fn sorted(profile: &Profile) -> Vec<(&str, &KernelProfile)> {
    let mut kernels: Vec<_> = profile.kernels().collect();
    kernels.sort_by_key(|(_, kernel)| std::cmp::Reverse(kernel.time));
    kernels
}

fn print(title: &str, profile: &Profile, count: usize, bandwidth: f64) {
    println!(
        "{title:<46}  times   us each        us  share   GB/s  of {:.0}  TFLOP/s",
        bandwidth / 1e9
    );
    let all = profile.time().as_secs_f64();
    let mut total = KernelProfile::default();
    let line = |name: &str, kernel: &KernelProfile| {
        let seconds = kernel.time.as_secs_f64();
        println!(
            "{name:<46}  {:>5.0}  {:>8.2}  {:>8.1}  {:>4.1}%  {:>5.0}  {:>6.1}%  {:>7.2}",
            kernel.dispatches as f64 / count as f64,
            1e6 * seconds / kernel.dispatches as f64,
            1e6 * seconds / count as f64,
            100.0 * seconds / all,
            kernel.bandwidth() / 1e9,
            100.0 * kernel.bandwidth() / bandwidth,
            kernel.rate() / 1e12,
        );
    };
    for (name, kernel) in sorted(profile) {
        line(name, kernel);
        total.dispatches += kernel.dispatches;
        total.time += kernel.time;
        total.work.bytes += kernel.work.bytes;
        total.work.operations += kernel.work.operations;
    }
    line("all", &total);
}

fn to_json(profile: &Profile, count: usize) -> Value {
    let each = |value: f64| value / count as f64;
    let kernels = sorted(profile).into_iter().map(|(name, kernel)| {
        json!({
            "kernel": name,
            "dispatches": each(kernel.dispatches as f64),
            "seconds": each(kernel.time.as_secs_f64()),
            "bytes": each(kernel.work.bytes as f64),
            "operations": each(kernel.work.operations as f64),
        })
    });
    kernels.collect()
}
