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
//! [`Stages`] are the clock beside the counters: how often a stage of a run came, and how long it took. Both leave as JSON through
//! serde, and as Prometheus reads them through [`prometheus`].
//!
//! # Modules
//! | module | |
//! |---|---|
//! | `counter` | one counter |
//! | `groups` | the groups, counting and counted |
//! | `guard` | the group of what is not finite, with the layers that met it |
//! | `plain_path` | whether a backend computes plainly, and what is counted when it repeats what was not finite |
//! | `stages` | times of stages |
//! | `exposition` | both as Prometheus reads them |
#![forbid(unsafe_code)]

mod counter;
mod exposition;
mod groups;
mod guard;
mod plain_path;
mod stages;

pub use counter::Counter;
pub use exposition::prometheus;
pub use groups::{
    Counts, Fallback, Grouping, GroupingCounts, MoeDispatch, MoeDispatchCounts, MoeMetrics,
    MoeMetricsCounts, Telemetry,
};
pub use guard::{NanGuard, NanGuardCounts, TriggeringInput};
pub use plain_path::PlainPath;
pub use stages::{Stage, StageTime, Stages};
