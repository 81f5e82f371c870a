use std::fmt::Write;

use crate::{Counts, NanGuardCounts, StageTime};

/// Counters and times in Prometheus' text format, version 0.0.4: `treillage_<group>_<counter>`, and `treillage_stage_…` with a label
/// that names the stage. What there is no value of is left out: a layer that was never affected is not layer 0.
///
/// <https://prometheus.io/docs/instrumenting/exposition_formats/>
pub fn prometheus(counts: Option<&Counts>, stages: &[StageTime]) -> String {
    let mut text = Exposition::default();
    if let Some(counts) = counts {
        let groups = [
            (
                "trellis_mixed_bpw_grouping",
                counts.trellis_mixed_bpw_grouping.named(),
            ),
            ("trellis_moe_dispatch", counts.trellis_moe_dispatch.named()),
            ("trellis_moe_metrics", counts.trellis_moe_metrics.named()),
        ];
        for (group, counters) in groups {
            for (name, about, value) in counters {
                text.head(&format!("{group}_{name}"), about, "counter");
                text.sample("", &[], value);
            }
        }
        text.guard(&counts.trellis_nan_guard);
    }
    text.stages(stages);
    text.text
}

/// Text in the making.
#[derive(Default)]
struct Exposition {
    text: String,
    /// The metric that samples belong to.
    metric: String,
}

impl Exposition {
    /// Begins a metric. Writing to a string cannot fail, here and below.
    fn head(&mut self, name: &str, about: &str, kind: &str) {
        self.metric = format!("treillage_{name}");
        let about = about.replace('\\', "\\\\").replace('\n', "\\n");
        _ = writeln!(self.text, "# HELP {} {about}", self.metric);
        _ = writeln!(self.text, "# TYPE {} {kind}", self.metric);
    }

    /// A value of the metric.
    fn sample(&mut self, suffix: &str, labels: &[(&str, String)], value: impl std::fmt::Display) {
        self.text.push_str(&self.metric);
        self.text.push_str(suffix);
        let mut before = '{';
        for (name, label) in labels {
            _ = write!(self.text, "{before}{name}=\"{}\"", escaped(label));
            before = ',';
        }
        if !labels.is_empty() {
            self.text.push('}');
        }
        _ = writeln!(self.text, " {value}");
    }

    fn guard(&mut self, guard: &NanGuardCounts) {
        let counters = [
            (
                "total_failures",
                "Results with a value that is not finite.",
                guard.total_failures,
            ),
            (
                "total_recoveries",
                "Of these, layers that were computed again and then were finite.",
                guard.total_recoveries,
            ),
            (
                "layers_affected",
                "Layers that were the first to meet such a value, each once.",
                guard.layers_affected,
            ),
        ];
        for (name, about, value) in counters {
            self.head(&format!("trellis_nan_guard_{name}"), about, "counter");
            self.sample("", &[], value);
        }
        let gauges = [
            (
                "most_affected_layer",
                "Of these layers, the one that was it most often.",
                guard.most_affected_layer.map(|layer| layer as u64),
            ),
            (
                "last_nan_timestamp",
                "When the last one was seen, in seconds since 1970.",
                guard.last_nan_timestamp,
            ),
        ];
        for (name, about, value) in gauges {
            if let Some(value) = value {
                self.head(&format!("trellis_nan_guard_{name}"), about, "gauge");
                self.sample("", &[], value);
            }
        }
        if !guard.sample_triggering_inputs.is_empty() {
            self.head(
                "trellis_nan_guard_sample_triggering_inputs",
                "The largest finite magnitude of what a layer was given.",
                "gauge",
            );
        }
        for (number, input) in guard.sample_triggering_inputs.iter().enumerate() {
            let mut labels = vec![("sample", number.to_string())];
            labels.extend(input.layer.map(|layer| ("layer", layer.to_string())));
            labels.push(("row", input.row.to_string()));
            labels.push(("not_finite", input.not_finite.to_string()));
            // Prometheus has words of its own for what is not a number.
            let largest = match input.largest_finite {
                value if value.is_nan() => "NaN".to_owned(),
                f32::INFINITY => "+Inf".to_owned(),
                f32::NEG_INFINITY => "-Inf".to_owned(),
                value => value.to_string(),
            };
            self.sample("", &labels, largest);
        }
    }

    fn stages(&mut self, stages: &[StageTime]) {
        if stages.is_empty() {
            return;
        }
        self.head("stage_seconds", "Time of the stages of the run.", "summary");
        let label = |time: &StageTime| [("stage", time.stage.clone())];
        for time in stages {
            self.sample("_sum", &label(time), time.total_seconds);
            self.sample("_count", &label(time), time.count);
        }
        self.head(
            "stage_longest_seconds",
            "The longest time of a stage.",
            "gauge",
        );
        for time in stages {
            self.sample("", &label(time), time.longest_seconds);
        }
    }
}

/// A label's value between its quotes.
fn escaped(label: &str) -> String {
    label
        .replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Telemetry, TriggeringInput};

    #[test]
    fn counters_have_names_help_and_types() {
        let telemetry = Telemetry::default();
        telemetry.moe_dispatch.gpu_router_calls.add(7);
        let text = prometheus(Some(&telemetry.counts()), &[]);
        let expected = "\
# HELP treillage_trellis_moe_dispatch_gpu_router_calls Batches that a GPU was asked to route.
# TYPE treillage_trellis_moe_dispatch_gpu_router_calls counter
treillage_trellis_moe_dispatch_gpu_router_calls 7
";
        assert!(text.contains(expected), "{text}");
        // Every counter that JSON has, and what has no value is not there.
        let json = serde_json::to_value(telemetry.counts()).expect("numbers");
        for (group, counters) in json.as_object().expect("groups") {
            for (name, value) in counters.as_object().expect("counters") {
                let sample = format!("\ntreillage_{group}_{name} ");
                assert_eq!(text.contains(&sample), value.is_number(), "{sample}");
            }
        }
        assert!(!text.contains("stage"), "{text}");
    }

    #[test]
    fn what_is_not_finite_has_gauges() {
        let telemetry = Telemetry::default();
        for layer in [Some(3), None] {
            telemetry.nan_guard.fail(TriggeringInput {
                layer,
                row: 1,
                not_finite: 2,
                largest_finite: 3.5,
            });
        }
        let text = prometheus(Some(&telemetry.counts()), &[]);
        let metric = "treillage_trellis_nan_guard_";
        for line in [
            format!("# TYPE {metric}most_affected_layer gauge\n{metric}most_affected_layer 3\n"),
            format!("# TYPE {metric}last_nan_timestamp gauge\n"),
            format!(
                "{metric}sample_triggering_inputs{{sample=\"0\",layer=\"3\",row=\"1\",not_finite=\"2\"}} 3.5\n"
            ),
            format!(
                "{metric}sample_triggering_inputs{{sample=\"1\",row=\"1\",not_finite=\"2\"}} 3.5\n"
            ),
        ] {
            assert!(text.contains(&line), "{line}\n{text}");
        }
    }

    #[test]
    fn stages_are_labelled() {
        let time = StageTime {
            stage: "a \"b\\c\"\nd".to_owned(),
            count: 2,
            total_seconds: 1.5,
            longest_seconds: 1.0,
        };
        let text = prometheus(None, &[time]);
        let label = r#"{stage="a \"b\\c\"\nd"}"#;
        let expected = format!(
            "\
# HELP treillage_stage_seconds Time of the stages of the run.
# TYPE treillage_stage_seconds summary
treillage_stage_seconds_sum{label} 1.5
treillage_stage_seconds_count{label} 2
# HELP treillage_stage_longest_seconds The longest time of a stage.
# TYPE treillage_stage_longest_seconds gauge
treillage_stage_longest_seconds{label} 1
"
        );
        assert_eq!(text, expected);
    }
}
