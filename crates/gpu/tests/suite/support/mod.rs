//! Opens a device for tests, if there is one.

use std::sync::{Mutex, PoisonError};

use treillage_gpu::{Adapter, AdapterKind, Adapters, Context, Gpu, Mode, Options};

/// A device that tests share, so that they compile kernels once: one that was opened before with these options, as
/// [`open_alone`] opens it. Software compiles a kernel when it is first run, and one at a time for a device: there, tests take turns
/// at two.
pub(crate) fn open(options: Options) -> Option<Gpu> {
    static SHARED: Mutex<(Vec<Gpu>, usize)> = Mutex::new((Vec::new(), 0));
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    let (opened, turn) = &mut *shared;
    let same: Vec<_> = (opened.iter())
        .filter(|gpu| gpu.options() == options)
        .collect();
    let wanted = match same.first() {
        Some(gpu) if gpu.adapter().kind() == AdapterKind::Software => 2,
        _ => 1,
    };
    if same.len() >= wanted {
        *turn += 1;
        return Some(same[*turn % wanted].clone());
    }
    let gpu = open_alone(options)?;
    opened.push(gpu.clone());
    Some(gpu)
}

/// A device of the test's own, to be broken and counted on, or `None`, said aloud, where there is no adapter. With
/// `TREILLAGE_REQUIRE_GPU` set that is a failure. `TREILLAGE_GPU` chooses an adapter by its number.
pub(crate) fn open_alone(options: Options) -> Option<Gpu> {
    let adapter = adapter()?;
    match Gpu::open(&adapter, options) {
        Ok(gpu) => Some(gpu),
        Err(error) => panic!("{error}"),
    }
}

/// Runs `test` without run-time checks and with them, where [`open`] finds a device.
pub(crate) fn each_mode(test: impl Fn(&Context, Mode)) {
    for mode in [Mode::Trusted, Mode::Checked] {
        let options = Options {
            mode,
            ..Options::default()
        };
        if let Some(gpu) = open(options) {
            test(&Context::new(&gpu), mode);
        }
    }
}

/// An adapter, or `None` as for [`open`].
pub(crate) fn adapter() -> Option<Adapter> {
    let adapters = Adapters::find();
    let number = std::env::var("TREILLAGE_GPU").ok();
    let found = match number.map(|n| n.parse::<usize>()) {
        Some(Ok(index)) => adapters.get(index),
        Some(Err(error)) => panic!("TREILLAGE_GPU: {error}"),
        None => adapters.first(),
    };
    match found {
        Ok(adapter) => Some(adapter.clone()),
        Err(error) => {
            assert!(
                std::env::var_os("TREILLAGE_REQUIRE_GPU").is_none(),
                "{error}"
            );
            eprintln!("skipped: {error}");
            None
        }
    }
}
