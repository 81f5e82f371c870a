use serde::{Deserialize, Serialize};

use crate::{
    evidence::{Decoded, Evidence},
    figure::Figure,
    results::{Device, Kernel, Path, Spread},
};

/// Where the time of a part of a run went.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Profile {
    /// The run.
    pub run: String,
    /// `decode`, for a token; `prefill`, for a prompt.
    pub part: String,
    /// Bytes a second of a kernel that copies, measured on the device.
    pub bytes_per_second: Figure,
    /// Operations a second of a kernel that multiplies and adds in f32, measured on the device.
    pub operations_per_second: Figure,
    /// Seconds of all kernels.
    pub seconds: f64,
    /// The kernel that loses most time comes first.
    pub kernels: Vec<KernelRow>,
}

/// A kernel in a [`Profile`].
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct KernelRow {
    /// What was measured and what had to be done.
    #[serde(flatten)]
    pub kernel: Kernel,
    /// Of the time of all kernels, from 0 to 1.
    pub share: f64,
    /// Bytes a second over the device's, from 0 to 1; more where caches help.
    pub of_bandwidth: Figure,
    /// Operations a second over the device's, from 0 to 1; more where it multiplies in narrower numbers or by matrix.
    pub of_rate: Figure,
    /// Seconds beyond what the device needs for these bytes, or these operations if they take longer.
    pub lost_seconds: Figure,
}

pub(super) fn profiles(evidence: &Evidence) -> Vec<Profile> {
    let mut profiles = Vec::new();
    for decoded in &evidence.decoded {
        for (part, kernels) in decoded.result.profiles.iter().flatten() {
            let kernels = Vec::<Kernel>::deserialize(kernels).unwrap_or_default();
            if !kernels.is_empty() {
                profiles.push(Profile::new(decoded, part, kernels));
            }
        }
    }
    // What most time goes into comes first.
    profiles.sort_by_key(|profile| profile.part != "decode");
    profiles
}

/// The reason why nothing was profiled.
pub(super) fn why_none(evidence: &Evidence) -> String {
    let on_gpu = evidence.decoded.iter().any(|d| d.device == Device::Gpu);
    match on_gpu {
        true => "no run on a GPU was profiled (--profile), or its device has no clock for kernels"
            .to_owned(),
        false => {
            let (path, bits) = (Some(Path::Optimized), Some(Spread::Uniform));
            let reason = evidence.reason("decode", Device::Gpu, None, path, bits);
            format!("kernels are timed on a GPU: {reason}")
        }
    }
}

impl Profile {
    fn new(decoded: &Decoded, part: &str, kernels: Vec<Kernel>) -> Self {
        let limit = |measured: Option<f64>, what: &str| match measured {
            Some(value) => Figure::Measured(value),
            None => Figure::unavailable(format!("the artifact has no {what} of the device")),
        };
        let bytes_per_second = limit(decoded.result.copy_bytes_per_second, "bandwidth");
        let operations_per_second = limit(decoded.result.f32_operations_per_second, "rate");
        let seconds: f64 = kernels.iter().map(|kernel| kernel.seconds).sum();
        let row = |kernel: Kernel| {
            let moving = bytes_per_second.map(|limit| kernel.bytes / limit);
            let computing = operations_per_second.map(|limit| kernel.operations / limit);
            // Without a rate, bytes alone still say what a kernel must take at the least.
            let least = moving.map(|moving| moving.max(computing.value().unwrap_or(0.0)));
            KernelRow {
                share: match seconds > 0.0 {
                    true => kernel.seconds / seconds,
                    false => 0.0,
                },
                of_bandwidth: moving.map(|least| least / kernel.seconds),
                of_rate: computing.map(|least| least / kernel.seconds),
                lost_seconds: least.map(|least| (kernel.seconds - least).max(0.0)),
                kernel,
            }
        };
        let mut kernels: Vec<KernelRow> = kernels.into_iter().map(row).collect();
        let key = |row: &KernelRow| (row.lost_seconds.value().unwrap_or(0.0), row.kernel.seconds);
        kernels.sort_by(|a, b| {
            let ((a_lost, a_seconds), (b_lost, b_seconds)) = (key(a), key(b));
            b_lost
                .total_cmp(&a_lost)
                .then(b_seconds.total_cmp(&a_seconds))
        });
        Self {
            run: super::run_name(decoded),
            part: part.to_owned(),
            bytes_per_second,
            operations_per_second,
            seconds,
            kernels,
        }
    }
}
