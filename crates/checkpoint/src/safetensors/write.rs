use std::io::{self, Write};

use serde::{Serialize, Serializer, ser::SerializeMap};

use crate::Dtype;

/// What a header says of a tensor about to be written.
pub(crate) struct Entry<'a> {
    pub(crate) name: &'a str,
    pub(crate) dtype: Dtype,
    pub(crate) shape: &'a [usize],
    /// Bytes it takes.
    pub(crate) len: usize,
}

/// Writes the length and header of a file whose data are `entries`, back to back in the order given.
///
/// The header is padded with spaces to a multiple of eight bytes, so that the data begin aligned.
pub(crate) fn write_header(out: &mut impl Write, entries: &[Entry<'_>]) -> io::Result<()> {
    let mut header = serde_json::to_vec(&Table(entries))?;
    header.resize(header.len().next_multiple_of(8), b' ');
    out.write_all(&(header.len() as u64).to_le_bytes())?;
    out.write_all(&header)
}

struct Table<'a>(&'a [Entry<'a>]);

#[derive(Serialize)]
struct Metadata {
    /// PyTorch's layout; what loaders look for.
    format: &'static str,
}

#[derive(Serialize)]
struct Description<'a> {
    dtype: &'static str,
    shape: &'a [usize],
    data_offsets: [usize; 2],
}

impl Serialize for Table<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.0.len() + 1))?;
        map.serialize_entry("__metadata__", &Metadata { format: "pt" })?;
        let mut begin = 0;
        for entry in self.0 {
            let end = begin + entry.len;
            let description = Description {
                dtype: entry.dtype.name(),
                shape: entry.shape,
                data_offsets: [begin, end],
            };
            map.serialize_entry(entry.name, &description)?;
            begin = end;
        }
        map.end()
    }
}
