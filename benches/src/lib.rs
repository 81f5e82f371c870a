//! Measurements that `cargo xtask bench` runs, and the inputs they share with the criterion benches.
