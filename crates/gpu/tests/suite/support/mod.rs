//! Opens a device for tests, if there is one.

use std::sync::{Mutex, PoisonError};

use treillage_gpu::{Adapter, Adapters, Context, Gpu, Mode, Options};

/// A device that tests share, so that they compile kernels once: the one that was opened before with these options, as
/// [`open_alone`] opens it.
pub(crate) fn open(options: Options) -> Option<Gpu> {
    static SHARED: Mutex<Vec<Gpu>> = Mutex::new(Vec::new());
    let mut shared = SHARED.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(gpu) = shared.iter().find(|gpu| gpu.options() == options) {
        return Some(gpu.clone());
    }
    let gpu = open_alone(options)?;
    shared.push(gpu.clone());
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
