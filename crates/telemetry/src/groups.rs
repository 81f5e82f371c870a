use serde::{Deserialize, Serialize};

use crate::{Counter, NanGuard, NanGuardCounts};

/// A counter of a group: its name, what it counts, how far it came.
pub(crate) type Named = (&'static str, &'static str, u64);

/// A group as it counts and as it was counted, so that its list of names is written once. `name = "earlier"` is also read under the
/// name that other versions write.
macro_rules! group {
    (
        $(#[$about:meta])* $counting:ident, $counted:ident {
            $(#[doc = $field_about:literal] $field:ident $(= $earlier:literal)?,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $counting {
            $(#[doc = $field_about] pub $field: Counter,)*
        }

        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $counted {
            $(#[doc = $field_about] $(#[serde(alias = $earlier)])? pub $field: u64,)*
        }

        impl $counted {
            /// Every counter.
            pub(crate) fn named(&self) -> Vec<Named> {
                vec![$((stringify!($field), $field_about.trim_ascii(), self.$field)),*]
            }
        }

        impl $counting {
            /// The numbers of now.
            pub fn counts(&self) -> $counted {
                $counted { $($field: self.$field.get(),)* }
            }

            /// Starts all of them over.
            pub fn reset(&self) {
                $(self.$field.reset();)*
            }
        }
    };
}

group! {
    /// Sorting the rows of a batch by expert, where experts may have different bits per weight.
    Grouping, GroupingCounts {
        /// Batches to sort.
        grouping_calls_total,
        /// Of these, sorted and multiplied in grouped dispatches on the GPU.
        grouping_gpu_primary_success_total,
        /// Of these, sorted on the CPU or multiplied expert by expert.
        grouping_cpu_fallback_total,
        /// Of these, because there are more experts than the GPU sorts by.
        grouping_cpu_fallback_reason_too_many_experts,
        /// Of these, because of a form of weights that no kernel of the GPU knows.
        grouping_cpu_fallback_reason_unknown_weights,
        /// Of these, because the GPU had no memory for it.
        grouping_cpu_fallback_reason_out_of_memory,
    }
}

group! {
    /// Routing tokens to experts.
    MoeDispatch, MoeDispatchCounts {
        /// Batches that a GPU was asked to route.
        gpu_router_calls = "metal_router_calls",
        /// Of these, routed there.
        gpu_router_success = "metal_router_success",
        /// Of these, routed on the CPU.
        cpu_router_fallback,
        /// Tokens in them.
        total_tokens_processed,
        /// Experts that these tokens went to, each counted for each token.
        total_experts_activated,
    }
}

group! {
    /// Running layers of experts.
    MoeMetrics, MoeMetricsCounts {
        /// Tokens that went through a layer of experts, each counted for each layer.
        tokens_processed,
        /// Layers that ran all of their active experts in one dispatch per projection and form of weights.
        fast_path_used,
        /// Layers that did not.
        fallback_used,
        /// Results with a value that is not finite.
        nan_detected,
    }
}

/// The counters of a backend.
#[derive(Debug, Default)]
pub struct Telemetry {
    /// See [`Grouping`].
    pub grouping: Grouping,
    /// See [`MoeDispatch`].
    pub moe_dispatch: MoeDispatch,
    /// See [`MoeMetrics`].
    pub moe_metrics: MoeMetrics,
    /// See [`NanGuard`].
    pub nan_guard: NanGuard,
}

/// What [`Telemetry`] counted, under the names that reports have.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Counts {
    /// See [`Grouping`].
    pub trellis_mixed_bpw_grouping: GroupingCounts,
    /// See [`MoeDispatch`].
    pub trellis_moe_dispatch: MoeDispatchCounts,
    /// See [`MoeMetrics`].
    pub trellis_moe_metrics: MoeMetricsCounts,
    /// See [`NanGuard`].
    pub trellis_nan_guard: NanGuardCounts,
}

impl Telemetry {
    /// The numbers of now.
    pub fn counts(&self) -> Counts {
        Counts {
            trellis_mixed_bpw_grouping: self.grouping.counts(),
            trellis_moe_dispatch: self.moe_dispatch.counts(),
            trellis_moe_metrics: self.moe_metrics.counts(),
            trellis_nan_guard: self.nan_guard.counts(),
        }
    }

    /// Starts all of them over.
    pub fn reset(&self) {
        self.grouping.reset();
        self.moe_dispatch.reset();
        self.moe_metrics.reset();
        self.nan_guard.reset();
    }
}

/// Why a batch was not sorted and multiplied on the GPU.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fallback {
    /// There are more experts than the GPU sorts by.
    TooManyExperts,
    /// A form of weights that no kernel of the GPU knows.
    UnknownWeights,
    /// The GPU had no memory for it.
    OutOfMemory,
}

impl Grouping {
    /// Counts a batch that was sorted on the CPU or multiplied expert by expert, and why.
    pub fn fall_back(&self, reason: Fallback) {
        self.grouping_cpu_fallback_total.add(1);
        let counter = match reason {
            Fallback::TooManyExperts => &self.grouping_cpu_fallback_reason_too_many_experts,
            Fallback::UnknownWeights => &self.grouping_cpu_fallback_reason_unknown_weights,
            Fallback::OutOfMemory => &self.grouping_cpu_fallback_reason_out_of_memory,
        };
        counter.add(1);
    }
}

impl Counts {
    /// Everything that was asked of a GPU and did not run there as it should.
    pub fn fallbacks(&self) -> u64 {
        self.trellis_mixed_bpw_grouping.grouping_cpu_fallback_total
            + self.trellis_moe_dispatch.cpu_router_fallback
            + self.trellis_moe_metrics.fallback_used
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_fallback_has_a_reason() {
        let grouping = Grouping::default();
        grouping.fall_back(Fallback::UnknownWeights);
        grouping.fall_back(Fallback::UnknownWeights);
        let counts = grouping.counts();
        assert_eq!(counts.grouping_cpu_fallback_total, 2);
        assert_eq!(counts.grouping_cpu_fallback_reason_unknown_weights, 2);
        assert_eq!(counts.grouping_cpu_fallback_reason_out_of_memory, 0);
    }

    #[test]
    fn names_are_those_that_dashboards_know() {
        let telemetry = Telemetry::default();
        telemetry.grouping.grouping_calls_total.add(1);
        telemetry.moe_dispatch.total_experts_activated.add(8);
        telemetry.moe_metrics.fallback_used.add(3);
        let counts = telemetry.counts();
        let json = serde_json::to_value(&counts).expect("numbers");
        assert_eq!(
            json,
            serde_json::json!({
                "trellis_mixed_bpw_grouping": {
                    "grouping_calls_total": 1,
                    "grouping_gpu_primary_success_total": 0,
                    "grouping_cpu_fallback_total": 0,
                    "grouping_cpu_fallback_reason_too_many_experts": 0,
                    "grouping_cpu_fallback_reason_unknown_weights": 0,
                    "grouping_cpu_fallback_reason_out_of_memory": 0,
                },
                "trellis_moe_dispatch": {
                    "gpu_router_calls": 0,
                    "gpu_router_success": 0,
                    "cpu_router_fallback": 0,
                    "total_tokens_processed": 0,
                    "total_experts_activated": 8,
                },
                "trellis_moe_metrics": {
                    "tokens_processed": 0,
                    "fast_path_used": 0,
                    "fallback_used": 3,
                    "nan_detected": 0,
                },
                "trellis_nan_guard": {
                    "total_failures": 0,
                    "total_recoveries": 0,
                    "layers_affected": 0,
                    "most_affected_layer": null,
                    "last_nan_timestamp": null,
                    "sample_triggering_inputs": [],
                },
            })
        );
        assert_eq!(counts.fallbacks(), 3);
        let back: Counts = serde_json::from_value(json).expect("the same");
        assert_eq!(back, counts);
    }

    #[test]
    fn names_of_other_versions_are_read() {
        let mut json = serde_json::to_value(Counts::default()).expect("numbers");
        let group = json["trellis_moe_dispatch"]
            .as_object_mut()
            .expect("a group");
        for (name, other, count) in [
            ("gpu_router_calls", "metal_router_calls", 5),
            ("gpu_router_success", "metal_router_success", 4),
        ] {
            group.remove(name);
            group.insert(other.to_owned(), count.into());
        }
        let counts: Counts = serde_json::from_value(json).expect("counters");
        assert_eq!(counts.trellis_moe_dispatch.gpu_router_calls, 5);
        assert_eq!(counts.trellis_moe_dispatch.gpu_router_success, 4);
    }
}
