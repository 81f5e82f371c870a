/// A tile's ring of bits, back to front, so that any run of it is a little-endian number: byte `n` holds bits
/// `8 n..8 n + 8` counted from the end of the ring. The bits of the ring's end follow once more, before its beginning, for
/// runs that go round.
///
/// Thread `t` owns the `8 K` bits that start at byte `K (31 − t)`; the state of its element `e` starts `K (7 − e)` bits
/// further on.
#[repr(C, align(64))]
#[derive(Clone, Debug)]
pub struct Ring([u8; Ring::BYTES]);

impl Ring {
    /// The largest tile, and a 16-byte read that starts at any thread's first byte or shortly after.
    const BYTES: usize = 32 * 8 + 32;

    /// A ring without content.
    pub const fn new() -> Self {
        Self([0; Self::BYTES])
    }

    /// Fills the ring with the words of a tile.
    #[inline(always)]
    pub(super) fn fill<const K: usize>(&mut self, words: &[u16]) {
        let (pairs, _) = words[..16 * K].as_chunks::<2>();
        let (ring, _) = self.0.as_chunks_mut::<4>();
        // Within 32-bit words the bits run from the highest down already.
        let bytes =
            |&[low, high]: &[u16; 2]| (u32::from(high) << 16 | u32::from(low)).to_le_bytes();
        for (to, from) in ring.iter_mut().zip(pairs.iter().rev()) {
            *to = bytes(from);
        }
        ring[8 * K] = bytes(&pairs[8 * K - 1]);
    }

    /// `N` bytes from byte `start` on.
    #[inline(always)]
    pub(super) fn run<const N: usize>(&self, start: usize) -> &[u8; N] {
        let (run, _) = self.0[start..]
            .split_first_chunk()
            .expect("no run starts in the last 16 bytes");
        run
    }
}

impl Default for Ring {
    fn default() -> Self {
        Self::new()
    }
}

/// Byte of the ring where thread `thread`'s bits start.
#[inline(always)]
pub(super) const fn thread_start(k: usize, thread: usize) -> usize {
    k * (31 - thread)
}

/// Whether a thread's eight windows, `16 + 7 K` bits, are too long for 64 bits. Then those of elements 0, 1, 4 and 5 are
/// taken from the 64 bits that start [`upper_offset`] bytes further on.
#[inline(always)]
pub(super) const fn is_wide(k: usize) -> bool {
    16 + 7 * k > 64
}

/// Bytes between a thread's first and those that hold the windows of vectors 0 and 1.
#[inline(always)]
pub(super) const fn upper_offset(k: usize) -> usize {
    // Element 5 starts first, 2 K bits after the thread's first bit.
    if is_wide(k) { 2 * k / 8 } else { 0 }
}

/// Where the window of `element` starts in the 64 bits that hold it.
#[inline(always)]
pub(super) const fn window_shift(k: usize, element: usize) -> usize {
    let offset = if element % 4 < 2 { upper_offset(k) } else { 0 };
    k * (7 - element) - 8 * offset
}
