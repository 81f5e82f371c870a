//! What a measurement ran at, and what the machine has left.

use std::{fs, process::Command};

/// The checkout's commit, and whether tracked files differ from it.
pub fn commit() -> (Option<String>, bool) {
    let git = |args: &[&str]| {
        let output = Command::new("git").args(args).output().ok()?;
        let text = String::from_utf8(output.stdout).ok()?;
        output.status.success().then(|| text.trim().to_owned())
    };
    let status = git(&["status", "--porcelain", "--untracked-files=no"]);
    (
        git(&["rev-parse", "HEAD"]),
        status.is_some_and(|status| !status.is_empty()),
    )
}

/// Bytes of memory that programs may still take, where the system says.
pub fn available_memory() -> Option<u64> {
    let text = fs::read_to_string("/proc/meminfo").ok()?;
    let value = text
        .lines()
        .find_map(|line| line.strip_prefix("MemAvailable:"))?;
    let kib: u64 = value.trim().strip_suffix("kB")?.trim().parse().ok()?;
    Some(kib << 10)
}
