//! Counters of what a backend did, in groups whose names are fixed: they are what dashboards key on.
//!
//! A [`Telemetry`] belongs to a backend, and is reset for each run. It counts with atomics, so that whoever computes can add
//! from any thread; [`Telemetry::counts`] gives plain numbers to print and to store. Nothing here knows what is counted.
//!
//! ```
//! use treillage_telemetry::Telemetry;
//!
//! let telemetry = Telemetry::default();
//! telemetry.moe_dispatch.gpu_router_calls.add(2);
//! let counts = telemetry.counts();
//! assert_eq!(counts.trellis_moe_dispatch.gpu_router_calls, 2);
//! assert_eq!(counts.fallbacks(), 0);
//! telemetry.reset();
//! assert_eq!(telemetry.counts(), Default::default());
//! ```
//!
//! # Modules
//! | module | |
//! |---|---|
//! | `counter` | one counter |
//! | `groups` | the groups, counting and counted |
//! | `guard` | the group of what is not finite, with the layers that met it |
#![forbid(unsafe_code)]

mod counter;
mod groups;
mod guard;

pub use counter::Counter;
pub use groups::{
    Counts, Fallback, Grouping, GroupingCounts, MoeDispatch, MoeDispatchCounts, MoeMetrics,
    MoeMetricsCounts, Telemetry,
};
pub use guard::{NanGuard, NanGuardCounts, TriggeringInput};
