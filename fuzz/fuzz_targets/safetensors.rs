//! Any bytes as a safetensors file and as an index of shards.

#![no_main]

use std::{cell::RefCell, fs::File, io::Write};

use libfuzzer_sys::fuzz_target;
use treillage_checkpoint::{Header, Safetensors, check_index};

thread_local! {
    static DIR: RefCell<tempfile::TempDir> = RefCell::new(tempfile::tempdir().unwrap());
}

fuzz_target!(|data: &[u8]| {
    let _ = check_index(data);
    let Ok(header) = Header::parse(data) else {
        return;
    };
    // What passes is read: the tensors lie in the file, do not overlap and leave nothing out.
    DIR.with_borrow(|dir| {
        let path = dir.path().join("model.safetensors");
        File::create(&path).unwrap().write_all(data).unwrap();
        let file = Safetensors::open(&path).unwrap();
        let tensors = header.names().map(|name| file.tensor(name).unwrap());
        let bytes: usize = tensors
            .map(|tensor| {
                assert_eq!(tensor.dtype().span(tensor.shape()), Some(tensor.bytes().len()));
                tensor.bytes().len()
            })
            .sum();
        let header_bytes = u64::from_le_bytes(data[..8].try_into().unwrap()) as usize;
        assert_eq!(8 + header_bytes + bytes, data.len());
    });
});
