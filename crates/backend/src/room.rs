use crate::Error;

/// The capacity of a cache and the tokens in it, for those who implement caches.
#[derive(Clone, Copy, Debug)]
pub struct Room {
    /// Tokens that fit.
    pub capacity: usize,
    /// Tokens that are in it.
    pub len: usize,
}

impl Room {
    /// For up to `capacity` tokens, and none in it.
    pub fn new(capacity: usize) -> Self {
        Self { capacity, len: 0 }
    }

    /// Whether `tokens` more fit.
    ///
    /// # Errors
    /// [`Error::CacheFull`] if they do not.
    pub fn check(self, tokens: usize) -> Result<(), Error> {
        let needed = self.len + tokens;
        if needed > self.capacity {
            return Err(Error::CacheFull {
                capacity: self.capacity,
                needed,
            });
        }
        Ok(())
    }

    /// Forgets all but the first `len` tokens.
    pub fn truncate(&mut self, len: usize) {
        self.len = self.len.min(len);
    }
}
