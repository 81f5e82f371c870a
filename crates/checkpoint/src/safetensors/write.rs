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

#[cfg(test)]
mod tests {
    use proptest::{collection::vec, prelude::*};

    use super::*;
    use crate::Header;

    const DTYPES: [Dtype; 5] = [Dtype::F4, Dtype::U8, Dtype::Bf16, Dtype::F32, Dtype::I64];

    proptest! {
        /// What is written is a valid header that says the same.
        #[test]
        fn headers_read_back(
            tensors in vec((0..DTYPES.len(), vec(0..6_usize, 0..4), "[a-z\"\\\\é.]{0,8}"), 0..12)
        ) {
            let tensors: Vec<_> = tensors
                .into_iter()
                .enumerate()
                .map(|(i, (dtype, shape, name))| (DTYPES[dtype], shape, format!("{name}.{i}")))
                .filter_map(|(dtype, shape, name)| Some((dtype.span(&shape)?, dtype, shape, name)))
                .collect();
            let entries: Vec<_> = tensors
                .iter()
                .map(|(len, dtype, shape, name)| Entry { name, dtype: *dtype, shape, len: *len })
                .collect();
            let mut file = Vec::new();
            write_header(&mut file, &entries).unwrap();
            prop_assert_eq!(file.len() % 8, 0);
            let data = file.len();
            file.resize(data + entries.iter().map(|entry| entry.len).sum::<usize>(), 0);

            let header = Header::parse(&file).unwrap();
            prop_assert_eq!(&header.metadata()["format"], "pt");
            prop_assert_eq!(header.tensors.len(), entries.len());
            let mut begin = data;
            for entry in &entries {
                let read = header.tensors.iter().find(|t| &*t.name == entry.name).unwrap();
                prop_assert_eq!(read.dtype, entry.dtype);
                prop_assert_eq!(&*read.shape, entry.shape);
                prop_assert_eq!(&read.range, &(begin..begin + entry.len));
                begin += entry.len;
            }
        }
    }
}
