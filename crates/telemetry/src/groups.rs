use serde::{Deserialize, Serialize};

use crate::Counter;

/// A group as it counts and as it was counted, so that its list of names is written once.
macro_rules! group {
    (
        $(#[$about:meta])* $counting:ident, $counted:ident {
            $($(#[$field_about:meta])* $field:ident,)*
        }
    ) => {
        $(#[$about])*
        #[derive(Debug, Default)]
        pub struct $counting {
            $($(#[$field_about])* pub $field: Counter,)*
        }

        $(#[$about])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
        pub struct $counted {
            $($(#[$field_about])* pub $field: u64,)*
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
    }
}

group! {
    /// Routing tokens to experts.
    MoeDispatch, MoeDispatchCounts {
        /// Batches that a GPU was asked to route.
        gpu_router_calls,
        /// Of these, routed there.
        gpu_router_success,
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
        /// Layers that ran all of their active experts in one dispatch per projection.
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
}

/// What [`Telemetry`] counted, under the names that reports have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counts {
    /// See [`Grouping`].
    pub trellis_mixed_bpw_grouping: GroupingCounts,
    /// See [`MoeDispatch`].
    pub trellis_moe_dispatch: MoeDispatchCounts,
    /// See [`MoeMetrics`].
    pub trellis_moe_metrics: MoeMetricsCounts,
}

impl Telemetry {
    /// The numbers of now.
    pub fn counts(&self) -> Counts {
        Counts {
            trellis_mixed_bpw_grouping: self.grouping.counts(),
            trellis_moe_dispatch: self.moe_dispatch.counts(),
            trellis_moe_metrics: self.moe_metrics.counts(),
        }
    }

    /// Starts all of them over.
    pub fn reset(&self) {
        self.grouping.reset();
        self.moe_dispatch.reset();
        self.moe_metrics.reset();
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
    fn names_are_those_that_dashboards_know() {
        let telemetry = Telemetry::default();
        telemetry.grouping.grouping_calls_total.add(1);
        telemetry.moe_dispatch.total_experts_activated.add(8);
        telemetry.moe_metrics.fallback_used.add(3);
        let counts = telemetry.counts();
        let json = serde_json::to_value(counts).expect("numbers");
        assert_eq!(
            json,
            serde_json::json!({
                "trellis_mixed_bpw_grouping": {
                    "grouping_calls_total": 1,
                    "grouping_gpu_primary_success_total": 0,
                    "grouping_cpu_fallback_total": 0,
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
            })
        );
        assert_eq!(counts.fallbacks(), 3);
        let back: Counts = serde_json::from_value(json).expect("the same");
        assert_eq!(back, counts);
    }
}
