//! Every kernel with every set of constants, without a device: naga accepts it, MSL and SPIR-V can say it with run-time
//! checks and without, and what is hot stays as lean as it is written.
// Helpers outside of test functions are test code too.
#![allow(clippy::unwrap_used)]

use std::{collections::BTreeSet, fs, path::Path};

use treillage_shaders::encode::TrellisEncode;
use treillage_shaders::trellis::TrellisMatmul;
use treillage_shaders::{
    check::{Checks, Validated},
    kernels, sources,
};

#[test]
fn every_file_is_registered() {
    let mut files = BTreeSet::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("wgsl");
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let name = path.strip_prefix(&root).unwrap().with_extension("");
                files.insert(name.to_str().unwrap().replace('\\', "/"));
            }
        }
    }
    let registered: Vec<String> = sources().map(|source| source.name.to_owned()).collect();
    let unique: BTreeSet<String> = registered.iter().cloned().collect();
    assert_eq!(unique.len(), registered.len(), "a source is there twice");
    assert_eq!(unique, files);
}

#[test]
fn every_specialization_translates() {
    for kernel in kernels() {
        let specializations = (kernel.specializations)();
        assert!(!specializations.is_empty(), "{}", kernel.name);
        for specialization in specializations {
            let what = format!("{} {:?}", kernel.name, specialization.constants());
            let wgsl = specialization
                .compose(kernel.name)
                .unwrap_or_else(|error| panic!("{what}: {error}"));
            let module = Validated::new(&wgsl).unwrap_or_else(|error| panic!("{what}: {error}"));
            check_conventions(&what, module.module());
            for checks in [Checks::On, Checks::Off] {
                let msl = module.to_msl(checks).unwrap();
                assert!(!module.to_spirv(checks).unwrap().is_empty());
                if checks == Checks::Off && kernel.hot {
                    for burden in ["loop_bound", "_buffer_sizes.size", "metal::min(unsigned("] {
                        assert!(!msl.contains(burden), "{what}: {burden}");
                    }
                }
            }
        }
    }
}

/// The calling convention: storage buffers 0.. of group 0, at most eight; scalars as at most 128 B of immediates; at
/// most 16 KiB of workgroup memory, 256 invocations.
fn check_conventions(what: &str, module: &naga::Module) {
    let entries: Vec<_> = module.entry_points.iter().collect();
    assert_eq!(entries.len(), 1, "{what}");
    assert_eq!(entries[0].name, "main", "{what}");
    let size: u32 = entries[0].workgroup_size.iter().product();
    let most = if what.starts_with(TrellisEncode::SOURCE) {
        1024
    } else {
        256
    };
    assert!(size <= most, "{what}: {size} invocations");
    let (mut bindings, mut workgroup) = (BTreeSet::new(), 0);
    for (_, variable) in module.global_variables.iter() {
        let bytes = module.types[variable.ty].inner.size(module.to_ctx());
        match variable.space {
            naga::AddressSpace::Storage { .. } => {
                let binding = variable.binding.unwrap();
                assert_eq!(binding.group, 0, "{what}");
                bindings.insert(binding.binding);
            }
            naga::AddressSpace::Immediate => {
                assert!(bytes <= 128, "{what}: {bytes} B of immediates")
            }
            naga::AddressSpace::WorkGroup => workgroup += bytes,
            naga::AddressSpace::Private => {}
            space => panic!("{what}: a variable in {space:?}"),
        }
    }
    let count = bindings.len() as u32;
    assert!((1..=8).contains(&count), "{what}: {count} bindings");
    assert!(
        bindings.into_iter().eq(0..count),
        "{what}: gaps in the bindings"
    );
    // What desktop drivers and Metal give; kernels of the trellis are chosen by the device's limits.
    let most = match what {
        _ if what.starts_with(TrellisMatmul::SOURCE) => TrellisMatmul::WORKGROUP_BYTES,
        _ if what.starts_with("linear/") || what.starts_with("encode/") => 32 << 10,
        _ => 16 << 10,
    };
    assert!(
        workgroup <= most,
        "{what}: {workgroup} B of workgroup memory"
    );
}

#[test]
fn hot_kernels_translate_as_recorded() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("goldens");
    let write = std::env::var_os("TREILLAGE_WRITE_GOLDENS").is_some();
    let mut expected = BTreeSet::new();
    for kernel in kernels().filter(|kernel| kernel.hot) {
        let specialization = &(kernel.specializations)()[0];
        let module = Validated::new(&specialization.compose(kernel.name).unwrap()).unwrap();
        let msl = module.to_msl(Checks::Off).unwrap();
        let name = format!("{}.msl", kernel.name.replace('/', "_"));
        let path = folder.join(&name);
        if write {
            fs::write(&path, &msl).unwrap();
        }
        let golden = fs::read_to_string(&path).unwrap_or_default();
        assert!(
            msl == golden,
            "{name} differs from the translation; look at the difference, then set TREILLAGE_WRITE_GOLDENS=1"
        );
        expected.insert(name);
    }
    let found: BTreeSet<String> = fs::read_dir(&folder)
        .unwrap()
        .map(|entry| entry.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(found, expected, "golden files without a hot kernel");
}
