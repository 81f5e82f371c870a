//! What a device counted while it ran a model.

use anyhow::{Context, Result};
use serde_json::Value;
use treillage_telemetry::Counts;

use crate::{output, runtime::Runs, table::Table};

/// Tells people what `backend` counted.
pub(crate) fn tell(backend: &impl Runs) -> Result<()> {
    output::note(table(&backend.counts())?);
    Ok(())
}

/// Every counter, whether or not it moved.
fn table(counts: &Counts) -> Result<Table> {
    let groups = serde_json::to_value(counts).context("cannot write counters")?;
    let mut table = Table::new(&["counter", ""]);
    for (group, counters) in groups.as_object().into_iter().flatten() {
        for (name, value) in counters.as_object().into_iter().flatten() {
            let value = match value {
                Value::Null => "none".to_owned(),
                Value::Array(values) if values.is_empty() => "none".to_owned(),
                other => other.to_string(),
            };
            table.row([format!("{group}.{name}"), value]);
        }
    }
    Ok(table)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_counter_is_told() {
        let telemetry = treillage_telemetry::Telemetry::default();
        telemetry.moe_dispatch.gpu_router_calls.add(7);
        let text = table(&telemetry.counts()).unwrap().to_string();
        let line = |name: &str| text.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line("trellis_moe_dispatch.gpu_router_calls").ends_with(" 7"));
        assert!(line("trellis_mixed_bpw_grouping.grouping_cpu_fallback_total").ends_with(" 0"));
        assert!(line("trellis_moe_metrics.nan_detected").ends_with(" 0"));
        assert!(line("trellis_nan_guard.most_affected_layer").ends_with(" none"));
        assert!(line("trellis_nan_guard.sample_triggering_inputs").ends_with(" none"));
    }
}
