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

impl Error {
    /// What `error`, which the device reported, means; it was about `bytes` bytes for `what`.
    pub(crate) fn reported(error: wgpu::Error, what: &str, bytes: u64) -> Self {
        match error {
            wgpu::Error::OutOfMemory { .. } => Self::OutOfMemory {
                what: what.to_owned(),
                bytes,
            },
            other => Self::Refused(other.to_string()),
        }
    }
}

impl From<Error> for treillage_backend::Error {
    fn from(error: Error) -> Self {
        Self::Device(error.to_string())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reports_become_errors_that_say_what_to_do() {
        let memory = wgpu::Error::OutOfMemory {
            source: "no more".into(),
        };
        let error = Error::reported(memory, "the cache of keys", 1 << 30);
        assert!(
            matches!(&error, Error::OutOfMemory { what, bytes: 0x4000_0000 } if what == "the cache of keys")
        );
        let text = error.to_string();
        for words in [
            "1073741824 bytes",
            "fewer bits per weight",
            "shorter --context",
        ] {
            assert!(text.contains(words), "{text}");
        }
        let refused = wgpu::Error::Validation {
            source: "no".into(),
            description: "two writers".to_owned(),
        };
        let error = Error::reported(refused, "", 0);
        assert!(error.to_string().contains("two writers"), "{error}");
    }
}
