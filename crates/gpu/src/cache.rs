//! What a driver made of kernels, kept on disk: compiling takes seconds, reading does not.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use crate::Adapter;

/// Begins a file, and says how it goes on: a key of 8 bytes, a sum of 8 bytes, what the driver made.
const MAGIC: &[u8; 8] = b"TRELPC01";
const HEADER: usize = 24;
/// Files that are larger are not read: nothing of ours is.
const LARGEST: u64 = 256 << 20;

/// The folder for what may be lost, of the user that runs this, with a folder of ours in it. `None` where the environment does not
/// say.
pub fn user_cache() -> Option<PathBuf> {
    let folder = |name: &str| {
        let path = PathBuf::from(std::env::var_os(name)?);
        path.is_absolute().then_some(path)
    };
    let caches = if cfg!(windows) {
        folder("LOCALAPPDATA")
    } else if cfg!(target_os = "macos") {
        folder("HOME").map(|home| home.join("Library/Caches"))
    } else {
        folder("XDG_CACHE_HOME").or_else(|| folder("HOME").map(|home| home.join(".cache")))
    };
    caches.map(|caches| caches.join("treillage"))
}

/// The compiled kernels of a device, from a file and for it.
#[derive(Debug)]
pub(crate) struct PipelineCache {
    raw: wgpu::PipelineCache,
    file: PathBuf,
    key: u64,
    /// Bytes that the file had for this device.
    found: u64,
    /// Whether a kernel was compiled since.
    grown: AtomicBool,
}

impl PipelineCache {
    /// That of `device` in `folder`; `None` where the driver has no such thing. A file that is damaged, or of another driver or
    /// version, is as none.
    pub(crate) fn open(device: &wgpu::Device, adapter: &Adapter, folder: &Path) -> Option<Self> {
        let has = device.features().contains(wgpu::Features::PIPELINE_CACHE);
        let name = wgpu::util::pipeline_cache_key(adapter.info()).filter(|_| has)?;
        let file = folder.join(name);
        let parts = [
            env!("CARGO_PKG_VERSION"),
            adapter.name(),
            &adapter.driver(),
            adapter.api(),
        ];
        let key = sum(parts.join("\n").as_bytes());
        let data = read(&file, key);
        let scope = device.push_error_scope(wgpu::ErrorFilter::Validation);
        // SAFETY: the bytes are those that wgpu gave for this adapter, driver and version: their sum and key say so. What the
        // driver does not take, it is asked to do without.
        let raw = unsafe {
            device.create_pipeline_cache(&wgpu::PipelineCacheDescriptor {
                label: Some("kernels"),
                data: data.as_deref(),
                fallback: true,
            })
        };
        if pollster::block_on(scope.pop()).is_some() {
            return None;
        }
        Some(Self {
            raw,
            file,
            key,
            found: data.map_or(0, |data| data.len() as u64),
            grown: AtomicBool::new(false),
        })
    }

    /// For a kernel that is about to be compiled.
    pub(crate) fn to_compile(&self) -> &wgpu::PipelineCache {
        self.grown.store(true, Ordering::Relaxed);
        &self.raw
    }

    pub(crate) fn found(&self) -> u64 {
        self.found
    }

    /// Brings what was compiled since the last call to disk. That it cannot be is no reason to fail.
    pub(crate) fn save(&self) {
        if !self.grown.swap(false, Ordering::Relaxed) {
            return;
        }
        if let Some(data) = self.raw.get_data() {
            _ = write(&self.file, self.key, &data);
        }
    }
}

/// What the driver made, if `file` has it whole and under `key`.
fn read(file: &Path, key: u64) -> Option<Vec<u8>> {
    let size = fs::metadata(file).ok()?.len();
    if !(HEADER as u64..=LARGEST).contains(&size) {
        return None;
    }
    let mut bytes = fs::read(file).ok()?;
    let header = bytes.get(..HEADER)?;
    let whole = header == self::header(key, bytes.get(HEADER..)?);
    whole.then(|| bytes.split_off(HEADER))
}

/// Writes beside `file`, then in its place: whoever reads sees one or the other.
fn write(file: &Path, key: u64, data: &[u8]) -> std::io::Result<()> {
    if let Some(folder) = file.parent() {
        fs::create_dir_all(folder)?;
    }
    let beside = file.with_extension(format!("{}.tmp", std::process::id()));
    let written = fs::File::create(&beside).and_then(|mut to| {
        to.write_all(&header(key, data))?;
        to.write_all(data)
    });
    let written = written.and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        _ = fs::remove_file(&beside);
    }
    written
}

fn header(key: u64, data: &[u8]) -> [u8; HEADER] {
    let mut header = [0; HEADER];
    header[..8].copy_from_slice(MAGIC);
    header[8..16].copy_from_slice(&key.to_le_bytes());
    header[16..].copy_from_slice(&sum(data).to_le_bytes());
    header
}

/// FNV-1a (Fowler, Noll, Vo), 64 bits: for accidents, not for malice, which whoever writes there has no need of.
fn sum(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |sum, &byte| {
        (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_files_of_the_right_key_are_read() {
        let folder = std::env::temp_dir().join(format!("treillage-cache-{}", std::process::id()));
        let file = folder.join("kernels");
        assert_eq!(read(&file, 7), None);
        let data: Vec<u8> = (0..1000).map(|i| i as u8).collect();
        write(&file, 7, &data).unwrap();
        assert_eq!(read(&file, 7), Some(data.clone()));
        assert_eq!(read(&file, 8), None);
        let whole = fs::read(&file).unwrap();
        for damage in [0, 10, 20, HEADER, whole.len() - 1] {
            let mut damaged = whole.clone();
            damaged[damage] ^= 1;
            fs::write(&file, &damaged).unwrap();
            assert_eq!(read(&file, 7), None, "{damage}");
        }
        for size in [0, 5, HEADER, whole.len() - 1] {
            fs::write(&file, &whole[..size]).unwrap();
            assert_eq!(read(&file, 7), None, "{size}");
        }
        write(&file, 7, &data).unwrap();
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
        assert_eq!(read(&file, 7), Some(data));
        fs::remove_dir_all(&folder).unwrap();
    }
}
