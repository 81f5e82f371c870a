//! What a measurement ran on.

use std::{fs, process::Command};

use treillage_report::Machine;

/// The processor, its SIMD extensions, cores and load.
pub fn describe() -> Machine {
    Machine {
        processor: processor(),
        features: features().into_iter().map(str::to_owned).collect(),
        cores: std::thread::available_parallelism().map_or(1, usize::from),
        architecture: std::env::consts::ARCH.to_owned(),
        system: std::env::consts::OS.to_owned(),
        load_average: load_average(),
    }
}

/// The checkout's commit, and whether tracked files differ from it.
pub fn commit() -> (Option<String>, bool) {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let status = git(&["status", "--porcelain", "--untracked-files=no"]);
    (
        git(&["rev-parse", "HEAD"]),
        status.is_some_and(|status| !status.is_empty()),
    )
}

/// Bytes of memory that programs may still take, where the system says.
pub fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}

fn processor() -> Option<String> {
    let text = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

/// The load of the last minute: a busy machine measures other work too.
fn load_average() -> Option<f64> {
    let text = fs::read_to_string("/proc/loadavg").ok()?;
    text.split_whitespace().next()?.parse().ok()
}

#[cfg(target_arch = "x86_64")]
fn features() -> Vec<&'static str> {
    macro_rules! detected {
        ($($name:tt),*) => {
            [$((std::arch::is_x86_feature_detected!($name), $name)),*]
        };
    }
    detected!(
        "avx2",
        "fma",
        "avxvnni",
        "avx512f",
        "avx512bw",
        "avx512vl",
        "avx512vbmi",
        "avx512vnni",
        "avx512bf16"
    )
    .into_iter()
    .filter_map(|(present, name)| present.then_some(name))
    .collect()
}

#[cfg(target_arch = "aarch64")]
fn features() -> Vec<&'static str> {
    let dot_product = std::arch::is_aarch64_feature_detected!("dotprod");
    let mut features = vec!["neon"];
    features.extend(dot_product.then_some("dotprod"));
    features
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn features() -> Vec<&'static str> {
    Vec::new()
}
