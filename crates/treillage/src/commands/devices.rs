//! `treillage devices`

use std::fmt;

use anyhow::Result;
use serde::Serialize;
use treillage_gpu::{Adapter, AdapterKind, Adapters, Features};

use crate::{
    output,
    table::{Table, bytes},
};

pub(crate) fn run(json: bool) -> Result<()> {
    let adapters = Adapters::find();
    let devices: Vec<Device> = (0..)
        .zip(adapters.iter())
        .map(|(number, adapter)| Device::of(number, adapter))
        .collect();
    let software = AdapterKind::Software.name();
    let auto = devices
        .iter()
        .find(|device| device.kind != software)
        .map_or_else(|| "cpu".to_owned(), |device| device.device.clone());
    output::print(&Report { devices, auto }, json)
}

/// What there is to compute on beside the CPU.
#[derive(Serialize)]
struct Report {
    devices: Vec<Device>,
    /// What `--device auto` chooses.
    auto: String,
}

/// An adapter, with the features and limits that matter.
#[derive(Serialize)]
struct Device {
    /// What `--device` calls it.
    device: String,
    name: String,
    kind: &'static str,
    api: &'static str,
    driver: String,
    /// Whether models run on it at all.
    usable: bool,
    /// Fewest and most invocations of a subgroup; `None` without subgroup operations.
    subgroup: Option<(u32, u32)>,
    f16: bool,
    /// Sizes `M × N × K` that subgroups multiply in half precision.
    matrices: Vec<[u32; 3]>,
    timestamps: bool,
    max_buffer_bytes: u64,
    /// What a kernel sees of a buffer at once.
    max_binding_bytes: u64,
    workgroup_bytes: u32,
}

impl Device {
    fn of(number: usize, adapter: &Adapter) -> Self {
        let (features, limits) = (adapter.features(), adapter.limits());
        let mut matrices: Vec<[u32; 3]> = adapter
            .cooperative_matrices()
            .iter()
            .map(|m| [m.m_size, m.n_size, m.k_size])
            .collect();
        matrices.sort_unstable();
        matrices.dedup();
        Self {
            device: format!("gpu:{number}"),
            name: adapter.name().to_owned(),
            kind: adapter.kind().name(),
            api: adapter.api(),
            driver: adapter.driver(),
            usable: features.contains(Features::IMMEDIATES),
            subgroup: features
                .contains(Features::SUBGROUP)
                .then(|| adapter.subgroup_sizes()),
            f16: features.contains(Features::SHADER_F16),
            matrices,
            timestamps: features.contains(Features::TIMESTAMP_QUERY),
            max_buffer_bytes: limits.max_buffer_size,
            max_binding_bytes: limits.max_storage_buffer_binding_size,
            workgroup_bytes: limits.max_compute_workgroup_storage_size,
        }
    }

    fn subgroup_text(&self) -> String {
        match self.subgroup {
            None => "none".to_owned(),
            Some((min, max)) if min == max => min.to_string(),
            Some((min, max)) => format!("{min}-{max}"),
        }
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = Table::new(&[
            "device",
            "name",
            "kind",
            "api",
            "subgroup",
            "f16",
            "matrices",
            "binding",
            "workgroup",
        ]);
        let yes = |holds: bool| if holds { "yes" } else { "no" }.to_owned();
        for device in &self.devices {
            table.row([
                device.device.clone(),
                device.name.clone(),
                if device.usable {
                    device.kind.to_owned()
                } else {
                    format!("{}, unusable", device.kind)
                },
                device.api.to_owned(),
                device.subgroup_text(),
                yes(device.f16),
                yes(!device.matrices.is_empty()),
                bytes(device.max_binding_bytes),
                bytes(device.workgroup_bytes.into()),
            ]);
        }
        if self.devices.is_empty() {
            writeln!(f, "no GPU found\n")?;
        } else {
            writeln!(f, "{table}")?;
        }
        write!(f, "--device auto is {}", self.auto)
    }
}
