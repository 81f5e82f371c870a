/// Why a device could not be had, or failed.
///
/// What a user can do about it is part of the message.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// No adapter at all.
    #[error(
        "no GPU found: install a Vulkan, Metal or DX12 driver, or compute on the CPU (--device cpu)"
    )]
    NoAdapter,
    /// An adapter that is not there.
    #[error("there is no GPU {index}: {count} found, numbered from 0 (treillage devices)")]
    NoSuchAdapter {
        /// What was asked for.
        index: usize,
        /// How many there are.
        count: usize,
    },
    /// The adapter cannot do something that kernels need.
    #[error("{adapter} lacks {feature}: update its driver, or choose another device")]
    MissingFeature {
        /// Its name.
        adapter: String,
        /// What it lacks.
        feature: String,
    },
    /// The adapter does not give a device.
    #[error("cannot open {adapter}: {reason}")]
    Open {
        /// Its name.
        adapter: String,
        /// What the driver says.
        reason: String,
    },
    /// The device has no memory left.
    #[error(
        "out of device memory at {bytes} bytes for {what}: use fewer bits per weight, a shorter --context, \
         or another device"
    )]
    OutOfMemory {
        /// What the memory was for.
        what: String,
        /// How much was asked for.
        bytes: u64,
    },
    /// More bytes than a kernel can see at once on this device.
    #[error(
        "{what} takes {bytes} bytes, kernels on this device see {limit} at once: choose another device"
    )]
    TooLarge {
        /// What is too large.
        what: String,
        /// Its size.
        bytes: u64,
        /// The largest that a binding can be.
        limit: u64,
    },
    /// The device went away: unplugged, reset, or stopped for taking too long.
    #[error("the device is lost ({0}): run again, and if it persists, update its driver")]
    Lost(String),
    /// A kernel that the device's compiler or the validation refuses.
    #[error("kernel {kernel}: {reason}")]
    Kernel {
        /// Its name.
        kernel: String,
        /// Why.
        reason: String,
    },
    /// A call that wgpu refuses, which is a mistake in this crate.
    #[error("the device refuses a call: {0}")]
    Refused(String),
}

impl From<Error> for treillage_backend::Error {
    fn from(error: Error) -> Self {
        Self::Device(error.to_string())
    }
}
