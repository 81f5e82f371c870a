//! Who may import whom. Imports run downwards only; a new edge is a decision, made here.

use crate::metadata::{Metadata, Package};

/// The workspace's crates, bottom up, each with those it may name. Development dependencies are free.
const EDGES: &[(&str, &[&str])] = &[
    ("treillage-telemetry", &[]),
    // Reads what programs leave behind, and knows none of them.
    ("treillage-report", &["treillage-telemetry"]),
    ("treillage-linalg", &[]),
    ("treillage-shaders", &[]),
    ("treillage-moe", &[]),
    ("treillage-trellis", &["treillage-linalg"]),
    ("treillage-gptq", &["treillage-linalg"]),
    (
        "treillage-checkpoint",
        &["treillage-trellis", "treillage-gptq"],
    ),
    (
        "treillage-backend",
        &[
            "treillage-linalg",
            "treillage-trellis",
            "treillage-gptq",
            "treillage-moe",
        ],
    ),
    (
        "treillage-cpu",
        &[
            "treillage-backend",
            "treillage-telemetry",
            "treillage-linalg",
            "treillage-trellis",
            "treillage-gptq",
            "treillage-moe",
        ],
    ),
    (
        "treillage-gpu",
        &[
            "treillage-backend",
            "treillage-shaders",
            "treillage-telemetry",
            "treillage-linalg",
            "treillage-trellis",
            "treillage-gptq",
            "treillage-moe",
        ],
    ),
    // Architectures and calibration are written over `backend`: the driver alone chooses one.
    (
        "treillage-model",
        &[
            "treillage-backend",
            "treillage-checkpoint",
            "treillage-moe",
            "treillage-trellis",
            "treillage-gptq",
        ],
    ),
    (
        "treillage-quantize",
        &[
            "treillage-model",
            "treillage-backend",
            "treillage-checkpoint",
            "treillage-linalg",
            "treillage-moe",
            "treillage-trellis",
            "treillage-gptq",
        ],
    ),
    (
        "treillage",
        &[
            "treillage-quantize",
            "treillage-model",
            "treillage-cpu",
            "treillage-gpu",
            "treillage-backend",
            "treillage-checkpoint",
            "treillage-trellis",
            "treillage-gptq",
            "treillage-telemetry",
        ],
    ),
    (
        "treillage-benches",
        &[
            "treillage-quantize",
            "treillage-report",
            "treillage-model",
            "treillage-cpu",
            "treillage-gpu",
            "treillage-backend",
            "treillage-checkpoint",
            "treillage-linalg",
            "treillage-moe",
            "treillage-trellis",
            "treillage-gptq",
        ],
    ),
    // Counts instructions and names nothing outside of tests: it builds without GPUs, models and files.
    ("treillage-instructions", &[]),
    ("xtask", &["treillage-report"]),
];

/// Outside crates that only these may name, so that they can be replaced in one place.
const KEPT_INSIDE: &[(&str, &[&str])] = &[
    ("faer", &["treillage-linalg"]),
    ("memmap2", &["treillage-checkpoint"]),
    ("minijinja", &["treillage-model"]),
    ("tokenizers", &["treillage-model"]),
    ("wgpu", &["treillage-gpu"]),
    ("naga", &["treillage-shaders"]),
    ("maud", &["treillage-report"]),
    ("indicatif", &["treillage"]),
    ("clap", &["treillage", "treillage-benches", "xtask"]),
    ("anyhow", &["treillage", "treillage-benches", "xtask"]),
];

/// What must not end up in the binary: C code to compile, network, asynchronous runtimes.
const NOT_IN_THE_DRIVER: &[&str] = &[
    "cc",
    "cmake",
    "onig",
    "onig_sys",
    "openssl-sys",
    "reqwest",
    "tokio",
];

pub(crate) fn check(metadata: &Metadata) -> Vec<String> {
    let mut problems = Vec::new();
    for package in metadata.members() {
        check_edges(metadata, package, &mut problems);
    }
    for (name, _) in EDGES {
        if !metadata.members().any(|package| package.name == *name) {
            problems.push(format!("the table of edges names {name}, which is gone"));
        }
    }
    problems
}

fn check_edges(metadata: &Metadata, package: &Package, problems: &mut Vec<String>) {
    let name = package.name.as_str();
    let Some((_, allowed)) = EDGES.iter().find(|(member, _)| *member == name) else {
        problems.push(format!("{name} is missing in the table of edges"));
        return;
    };
    for dependency in metadata.direct(package) {
        let dependency_name = dependency.name.as_str();
        if dependency.member && !allowed.contains(&dependency_name) {
            problems.push(format!("{name} must not import {dependency_name}"));
        }
        let owners = KEPT_INSIDE
            .iter()
            .find(|(kept, _)| *kept == dependency_name);
        if let Some((_, owners)) = owners
            && !owners.contains(&name)
        {
            problems.push(format!(
                "{name} must not name {dependency_name}: it stays inside {}",
                owners.join(", ")
            ));
        }
    }
    if name == "treillage" {
        let reached = metadata.reachable(package);
        for banned in NOT_IN_THE_DRIVER {
            if reached.contains(banned) {
                problems.push(format!("{banned} ends up in the binary"));
            }
        }
    }
}
