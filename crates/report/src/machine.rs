//! What a measurement ran on.

use std::fs;

use serde::{Deserialize, Serialize};

/// What a measurement ran on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name, where the system says.
    pub processor: Option<String>,
    /// Its SIMD extensions.
    pub features: Vec<String>,
    /// Cores that the program may use.
    pub cores: usize,
    /// Instruction set.
    pub architecture: String,
    /// Operating system.
    pub system: String,
    /// Load of the last minute: a busy machine measures other work too.
    pub load_average: Option<f64>,
}

impl Machine {
    /// The one that this program runs on.
    pub fn here() -> Self {
        Self {
            processor: processor(),
            features: features().into_iter().map(str::to_owned).collect(),
            cores: std::thread::available_parallelism().map_or(1, usize::from),
            architecture: std::env::consts::ARCH.to_owned(),
            system: std::env::consts::OS.to_owned(),
            load_average: load_average(),
        }
    }
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
